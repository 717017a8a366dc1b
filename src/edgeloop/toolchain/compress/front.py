"""The front: candidates that no other beats in everything, who meets the bounds, and by how much the others miss."""

from collections.abc import Sequence

import msgspec

from edgeloop.contracts.manifest import Measured
from edgeloop.toolchain.compress.plan import Plan
from edgeloop.toolchain.package import Bounds


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A trial's model as it was measured at the end, on held-out data and in a process of its own.

    number: of the trial. lost_points: of accuracy on held-out data against the source. latency_is: "measured" here,
    or "estimated" for another device, by `method`. memory_bytes: the peak of a process that runs it here, or the
    arena on a microcontroller. misfits: why it does not fit the profile; misses: those, and the bounds it misses.
    bundle: its file, empty where it misses a bound.
    """

    number: int
    plan: Plan
    title: str
    size_bytes: int
    lost_points: float
    multiply_adds: int | None
    measured: Measured
    memory_bytes: int
    target_latency_ms: float | None
    latency_is: str
    method: str
    misfits: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    on_front: bool = False
    bundle: str = ""


def misses(candidate: Candidate, bounds: Bounds) -> tuple[str, ...]:
    """By how much it misses each bound that it misses; empty when it keeps to all of them."""
    found = list(candidate.misfits)
    drop, size, latency = bounds.max_drop_points, bounds.max_size_bytes, bounds.max_latency_p50_ms
    if drop is not None and candidate.lost_points > drop:
        found.append(f"loses {candidate.lost_points:.2f} points, {candidate.lost_points - drop:.2f} too many")
    if size is not None and candidate.size_bytes > size:
        found.append(f"has {candidate.size_bytes:,} bytes, {candidate.size_bytes - size:,} too many")
    if latency is not None:
        took = candidate.target_latency_ms
        if took is None:
            found.append(f"its latency is not known there ({candidate.method})")
        elif took > latency:
            found.append(f"takes {took:.3g} ms ({candidate.latency_is}), {took - latency:.3g} too many")
    most = bounds.max_memory_bytes
    if most is not None and candidate.memory_bytes > most:
        found.append(f"peaks at {candidate.memory_bytes:,} bytes, {candidate.memory_bytes - most:,} too many")
    return tuple(found)


def objectives(candidate: Candidate, *, clock: str = "target") -> tuple[float, ...]:
    """What is to be small: bytes, median latency (the target's where known), points lost, peak memory.

    clock: "target" where all candidates have a latency there, else "here": two clocks are not compared. Memory to two
    digits: a process's peak moves by some pages from run to run, and a page wins no place.
    """
    there = candidate.target_latency_ms
    return (
        float(candidate.size_bytes),
        there if clock == "target" and there is not None else candidate.measured.latency_p50_ms,
        candidate.lost_points,
        float(f"{candidate.memory_bytes:.1e}"),
    )


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether `first` is nowhere larger and somewhere smaller."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


def with_front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """All of them, each marked whether it is on the front; the smallest first."""
    clock = "target" if all(candidate.target_latency_ms is not None for candidate in candidates) else "here"
    points = [objectives(candidate, clock=clock) for candidate in candidates]
    marked = [
        msgspec.structs.replace(candidate, on_front=not any(dominates(other, point) for other in points))
        for candidate, point in zip(candidates, points, strict=True)
    ]
    return tuple(sorted(marked, key=lambda candidate: (candidate.size_bytes, candidate.number)))


def undominated(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Indices of the points that no other dominates; of equal points, the first."""
    return [
        index
        for index, point in enumerate(points)
        if not any(dominates(other, point) for other in points) and point not in points[:index]
    ]
