"""A target profile: what a device has, what it runs, and how fast, each with its source; and what follows for a model.

Rules: a figure has a source, or it is not there; a latency that was not measured on the device says *estimated*, by
which method, and between which bounds it may lie; where no figure is trusted the answer is unknown.
Neighbours: `known` holds the boards, `measure` makes a profile of this machine, `open` finds one by name or path.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName, Precision

_COMPUTES_AS = {
    Precision.FLOAT16: Precision.FLOAT32,
    Precision.INT8_WEIGHTS: Precision.FLOAT32,
    Precision.INT4_WEIGHTS: Precision.FLOAT32,
}
"""What is only stored small is computed in float, so float figures hold for it."""

_FEWEST_FOR_OVERHEAD = 3

_OTHER_KINDS = 4.0
"""How far off a network of another kind than those behind a speed may be, at least. Measured: a line through the
probes put int8 and float32 files of MLPerf Tiny at 0.6 to 1.6 times what they took on the same machine, and old uint8
files of MobileNet, for which LiteRT has slower kernels, at 0.2 to 0.4 times."""

Above0 = Annotated[float, msgspec.Meta(gt=0)]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One network that was timed. multiply_adds: of one inference. source: where both figures come from."""

    network: str
    multiply_adds: Above0
    latency_ms: Above0
    source: str


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one engine multiplies at one precision, on one thread.

    latency = overhead_ms + multiply_adds / multiply_adds_per_s, from `points`. measured: on the device itself by
    `edgeloop profile measure`, not taken from a document.
    """

    engine: EngineName
    precision: Precision
    multiply_adds_per_s: Above0
    overhead_ms: float
    points: tuple[Point, ...]
    measured: bool

    def latency_ms(self, multiply_adds: float) -> float:
        """Of a network with so many."""
        return self.overhead_ms + 1e3 * multiply_adds / self.multiply_adds_per_s

    @property
    def error_ratios(self) -> tuple[float, float]:
        """By which factors the points themselves lie off the line: the smallest and the largest, around 1."""
        ratios = [point.latency_ms / self.latency_ms(point.multiply_adds) for point in self.points]
        return min(ratios), max(ratios)


class TargetProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A device to make models for.

    memory_bytes: what a program may have of it, on a board that is sold with several sizes the smallest that is
    named in `sources`. storage_bytes: None where a card or disk of any size goes in. micro: its LiteRT files run on
    LiteRT for Microcontrollers, linked in as a C array, with all tensors in an arena in memory. accelerated:
    precisions that its hardware has instructions or circuits for, beyond plain float32. notes: what else a person
    must know. sources: of everything here that is not in a point.
    """

    name: str
    title: str
    memory_bytes: int
    storage_bytes: int | None
    engines: tuple[EngineName, ...]
    precisions: tuple[Precision, ...]
    accelerated: tuple[Precision, ...] = ()
    speeds: tuple[Speed, ...] = ()
    micro: bool = False
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    schema: int = SCHEMA

    def speed(self, engine: EngineName, precision: Precision) -> Speed | None:
        """What is known of it: for the precision itself, or for what it is computed in."""
        for wanted in (precision, _COMPUTES_AS.get(precision)):
            for speed in self.speeds:
                if (speed.engine, speed.precision) == (engine, wanted):
                    return speed
        return None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A latency that was not measured on the device.

    latency_ms: None when unknown. low_ms, high_ms: between which it may lie, as far as the figures behind it and
    networks of other kinds show. method: how it came about, or why it is unknown.
    """

    latency_ms: float | None
    method: str
    low_ms: float | None = None
    high_ms: float | None = None


def speed_from(
    points: Sequence[Point], *, engine: EngineName, precision: Precision, measured: bool, with_overhead: bool
) -> Speed:
    """A line through the points, as often above as below them: its ratios to them have the geometric mean 1.

    with_overhead: fit a constant part too (never below 0), by least squares of relative errors; else it is 0. Raises
    InvalidInput on too few points.
    """
    if len(points) < (_FEWEST_FOR_OVERHEAD if with_overhead else 1):
        raise InvalidInput(f"{len(points)} timed networks are too few to tell a speed from")
    overhead_ms, ms_each = _line(points) if with_overhead else (0.0, 1.0)
    if overhead_ms <= 0 or ms_each <= 0:
        overhead_ms, ms_each = 0.0, 1.0
    # Least squares of relative errors prefers to be too low: those errors end at 1, the others do not.
    ratios = [math.log(one.latency_ms / (overhead_ms + ms_each * one.multiply_adds)) for one in points]
    factor = math.exp(sum(ratios) / len(ratios))
    return Speed(
        engine=engine,
        precision=precision,
        multiply_adds_per_s=1e3 / (factor * ms_each),
        overhead_ms=factor * overhead_ms,
        points=tuple(points),
        measured=measured,
    )


def _line(points: Sequence[Point]) -> tuple[float, float]:
    """overhead_ms and milliseconds a multiply-add that minimise the sum of ((predicted - timed) / timed)^2: two normal
    equations. Zeros if the points do not tell the two apart."""
    u = [1 / point.latency_ms for point in points]
    v = [point.multiply_adds / point.latency_ms for point in points]
    uu, uv, vv = (sum(a * b for a, b in zip(p, q, strict=True)) for p, q in ((u, u), (u, v), (v, v)))
    determinant = uu * vv - uv * uv
    if determinant <= 1e-12 * uu * vv:
        return 0.0, 0.0
    overhead_ms = (vv * sum(u) - uv * sum(v)) / determinant
    return overhead_ms, (uu * sum(v) - uv * sum(u)) / determinant


def estimate_latency(
    profile: TargetProfile, multiply_adds: Mapping[Precision, int], *, engine: EngineName = EngineName.LITERT
) -> Estimate:
    """How long one inference would take on the device, one thread; unknown where nothing is known.

    multiply_adds: by the numbers that they are computed in; of a model that mixes them each part takes its own time,
    and the overhead comes once. Empty where they cannot be counted.
    """
    if not multiply_adds:
        return Estimate(latency_ms=None, method="unknown: the multiply-adds of this model cannot be counted")
    found = {precision: profile.speed(engine, precision) for precision in multiply_adds}
    unknown = [precision for precision, speed in found.items() if speed is None]
    if unknown:
        return Estimate(
            latency_ms=None, method=f"unknown: no trusted figure for {engine} {unknown[0]} on {profile.title}"
        )
    speeds = {precision: speed for precision, speed in found.items() if speed is not None}
    work_ms = (speed.latency_ms(multiply_adds[one]) - speed.overhead_ms for one, speed in speeds.items())
    latency_ms = max(speed.overhead_ms for speed in speeds.values()) + sum(work_ms)
    lows, highs = zip(*(speed.error_ratios for speed in speeds.values()), strict=True)
    return Estimate(
        latency_ms=latency_ms,
        method="; ".join(dict.fromkeys(map(_method, speeds.values()))),
        low_ms=latency_ms * min(*lows, 1 / _OTHER_KINDS),
        high_ms=latency_ms * max(*highs, _OTHER_KINDS),
    )


def _method(speed: Speed) -> str:
    rate = f"{speed.multiply_adds_per_s / 1e9:.2f} billion multiply-adds a second"
    overhead = f" after {speed.overhead_ms:.3f} ms" if speed.overhead_ms else ""
    if speed.measured:
        behind = f"measured there with {len(speed.points)} networks"
    else:
        behind = f"published for {', '.join(point.network for point in speed.points)}"
    return f"estimated: {rate}{overhead}, one thread, {speed.engine} {speed.precision}, {behind}"


def fits(
    profile: TargetProfile,
    *,
    size_bytes: int,
    precision: Precision | None,
    engine: EngineName | None,
    peak_memory_bytes: int | None = None,
) -> tuple[str, ...]:
    """Why a model does not fit the device; empty if it does.

    precision, engine: None where it cannot be told, then they are not judged. peak_memory_bytes: of the whole
    process; on a microcontroller, of the arena; None where it is not known yet.
    """
    reasons = []
    if engine is not None and engine not in profile.engines:
        reasons.append(f"it runs {_names(profile.engines)}, not {engine}")
    if precision is not None and precision not in profile.precisions:
        reasons.append(f"it computes in {_names(profile.precisions)}, not in {precision}")
    if profile.storage_bytes is not None and size_bytes > profile.storage_bytes:
        reasons.append(f"the file has {size_bytes:,} bytes, its storage {profile.storage_bytes:,}")
    if not profile.micro and size_bytes > profile.memory_bytes:
        reasons.append(f"the file has {size_bytes:,} bytes, its memory {profile.memory_bytes:,}")
    if peak_memory_bytes is not None and peak_memory_bytes > profile.memory_bytes:
        reasons.append(f"running it takes {peak_memory_bytes:,} bytes, its memory has {profile.memory_bytes:,}")
    return tuple(reasons)


def _names(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)
