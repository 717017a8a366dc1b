"""The works of the bench: each breaks something so often as it is told, and says what came of it in rows.

With large numbers they are `make torture`, with small ones tests of the suite.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from torture import clocks, cuts, disk, full, kills, links, points, suites
from torture.rows import Row
from torture.warm import Warm


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How often. until_s: the monotonic time at which a work that is not done yet leaves it at what it has."""

    kills: int
    cuts_each: int
    points: tuple[str, ...]
    jumps: int
    absences: int
    until_s: float


def large(*, minutes: float) -> Scale:
    """The numbers of `make torture`."""
    until_s = time.monotonic() + 60 * minutes
    return Scale(kills=500, cuts_each=500, points=tuple(points.POINTS), jumps=20, absences=20, until_s=until_s)


def killed(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """SIGKILL of cloud, node and devices; two controls."""
    done = kills.run(warm, folder / "kills", kills=scale.kills, until_s=scale.until_s)
    early = kills.control(warm, folder / "early", fault="acknowledge_before_commit")
    keyless = kills.control(warm, folder / "keyless", fault="no_idempotency_key")
    yield Row(
        work="kills",
        test="SIGKILL of cloud, node, device at random instants, 2 % resets",
        runs=done.kills,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.acknowledged:,} acknowledged",
        target="0 lost, 0 doubled",
        met=_met(done.lost + done.doubled == 0, done.kills, scale.kills),
        control_failed=early.lost > 0 and keyless.doubled > 0,
        note=f"{done.resets} resets, {done.frames:,} frames; acknowledging before commit lost {early.lost}, no "
        f"idempotency key doubled {keyless.doubled}",
    )


def powerless(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Power cuts in each step; controls without fsync."""
    reason = disk.why_not()
    if reason:
        yield Row(work="cuts", test="power cuts", note=f"skipped: {reason}")
        return
    done = cuts.run(warm, folder / "cuts", each=scale.cuts_each, until_s=scale.until_s)
    files = cuts.control(warm, folder / "files", fault="files_without_fsync", steps=("download", "unpack", "switch"))
    rows = cuts.control(warm, folder / "rows", fault="no_fsync", steps=("outbox",))
    for step in cuts.STEPS:
        wrong = [one for one in done.found if one.step == step]
        unsynced = (
            f"without fsync {rows.lost} rows lost"
            if step == "outbox"
            else f"without fsync {files.corrupt} of {files.cuts.total()} cuts left damage"
        )
        corrupt, lost = sum(bool(one.corrupt) or one.none_whole for one in wrong), sum(one.lost for one in wrong)
        yield Row(
            work="cuts",
            test=f"power cut during {step}",
            runs=done.cuts[step],
            result=f"{corrupt} corrupt, {lost} rows lost",
            target="0 corrupt, a whole version, 0 lost",
            met=_met(not wrong, done.cuts[step], scale.cuts_each),
            control_failed=rows.lost > 0 if step == "outbox" else files.corrupt > 0,
            note="; ".join((f"over {done.versions} versions", unsynced, *(str(one) for one in wrong[:3]))),
        )


def crowded(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Disks that are full at each write point."""
    reason = disk.why_not()
    if reason:
        yield Row(work="full", test="disk full at each write point", note=f"skipped: {reason}")
        return
    found = full.run(warm, folder / "full", names=scale.points)
    unsound = [one for one in found if not one.is_sound]
    yield Row(
        work="full",
        test="disk full at each write point",
        runs=len(found),
        result=f"{len(found) - len(unsound)} of {len(found)} points sound",
        target="inference goes on; it is told; heals by itself",
        met=_met(not unsound, len(found), len(points.POINTS)),
        note="; ".join(str(one) for one in unsound),
    )


def out_of_time(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """A device's clock that jumps by years."""
    reason = clocks.why_not()
    if reason:
        yield Row(work="clocks", test="clock jumps", note=f"skipped: {reason}")
        return
    done = clocks.run(folder / "clocks", jumps=scale.jumps)
    yield Row(
        work="clocks",
        test="device's clock jumps to 1970 and to 2040 and back, under way",
        runs=done.jumps,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.frames:,}; "
        f"{'the newest' if not done.why else 'not the newest'} version at the end",
        target="0 lost, 0 doubled, updates go on",
        met=done.is_sound,
        note=done.why or f"{done.at_once} of {done.jumps + 1} updates before the next jump; those at 2040 wait",
    )


def cut_off(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """A device in a network of its own, whose cable is pulled."""
    reason = links.why_not()
    if reason:
        yield Row(work="links", test="network cut between node and device", note=f"skipped: {reason}")
        return
    done = links.run(warm, folder / "links", absences=scale.absences)
    yield Row(
        work="links",
        test="network cut between node and device (a namespace and its cable)",
        runs=done.absences,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.frames:,}; {done.read_while_away:,} read while away",
        target="0 lost, 0 doubled, catches up",
        met=done.lost + done.doubled == 0 and done.read_while_away > 0,
    )


def once_more(_warm: Warm, folder: Path, _scale: Scale) -> Iterator[Row]:
    """The suite's own tests of the table's other rows."""
    yield from suites.rows(folder / "suites")


WORKS: dict[str, Callable[[Warm, Path, Scale], Iterator[Row]]] = {
    "kills": killed,
    "cuts": powerless,
    "full": crowded,
    "clocks": out_of_time,
    "links": cut_off,
    "suites": once_more,
}
"""By name, in the order of the table."""


def _met(is_good: bool, runs: int, wanted: int) -> bool | None:
    """Bad is bad after any number of runs; good is good only after all of them."""
    return False if not is_good else True if runs >= wanted else None
