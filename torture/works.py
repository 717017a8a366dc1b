"""The works of the bench: each breaks something so often as it is told, and says what came of it in rows.

With large numbers they are `make torture`, with small ones tests of the suite.
"""

import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import msgspec

from torture import clocks, cloud_cuts, cuts, disk, full, kills, links, points, suites
from torture.rows import Row
from torture.warm import Warm


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How often. trials: cuts while a version is tried in a process of its own. until_s: the monotonic time at which a
    work that is not done yet leaves it at what it has. is_large: the suite's own tests with large numbers, too.
    """

    kills: int
    cuts_each: int
    trials: int
    points: tuple[str, ...]
    jumps: int
    absences: int
    until_s: float
    is_large: bool = True


Work = Callable[[Warm, Path, Scale], Iterator[Row]]


def large(*, minutes: float) -> Scale:
    """The numbers of `make torture`."""
    until_s = time.monotonic() + 60 * minutes
    every = tuple(points.POINTS)
    return Scale(kills=500, cuts_each=500, trials=50, points=every, jumps=20, absences=20, until_s=until_s)


def small(scale: Scale) -> Scale:
    """The suite's numbers."""
    return msgspec.structs.replace(scale, kills=24, cuts_each=20, trials=3, jumps=4, absences=2, is_large=False)


def _unless(why_not: Callable[[], str], *, work: str, test: str) -> Callable[[Work], Work]:
    """A work that this machine may not allow: a row says why it was skipped."""

    def guard(run: Work) -> Work:
        @wraps(run)
        def guarded(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
            if reason := why_not():
                yield Row(work=work, test=test, note=f"skipped: {reason}")
                return
            yield from run(warm, folder, scale)

        return guarded

    return guard


def killed(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """SIGKILL of cloud, node and devices; two controls."""
    done = kills.run(warm, folder / "kills", kills=scale.kills, until_s=scale.until_s)
    early = kills.control(warm, folder / "early", fault="acknowledge_before_commit")
    keyless = kills.control(warm, folder / "keyless", fault="no_idempotency_key")
    yield Row(
        work="kills",
        test="SIGKILL of cloud, node, device at random instants, 2 % resets",
        runs=done.kills,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.acknowledged:,} acknowledged, {done.samples} "
        f"samples and {done.alerts} alerts among them; {done.confirmed} updates confirmed, {done.rolled_back} rolled "
        f"back{f'; {done.late} frames still wait in the spool' if done.late else ''}",
        target="0 lost, 0 doubled, every update ends, some confirmed and some rolled back",
        met=_met(done.is_sound, done.kills, scale.kills),
        control_failed=early.lost > 0 and keyless.doubled > 0,
        note="; ".join(
            (
                f"{done.resets} resets, {done.frames:,} frames",
                f"acknowledging before commit lost {early.lost}, no idempotency key doubled {keyless.doubled}",
                *done.why,
            )
        ),
    )


@_unless(disk.why_not, work="cuts", test="power cuts")
def powerless(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Power cuts in each step of a device; controls without fsync."""
    done = cuts.run(warm, folder / "cuts", each=scale.cuts_each, until_s=scale.until_s)
    caught = cuts.control(warm, folder / "control")
    for step in cuts.STEPS:
        at = caught[step]
        told = f"{cuts.CONTROLS[step]} was caught by cut {at}" if at else f"{cuts.CONTROLS[step]} was not caught"
        notes = (f"over {done.versions} versions", f"control: {told}")
        yield _cut_row("cuts", done, step, scale.cuts_each, control_failed=at > 0, notes=notes)


@_unless(disk.why_not, work="trials", test="power cuts of trials")
def powerless_in_trials(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Power cuts while a version is tried in a process of its own."""
    tried = cuts.run(warm, folder / "trials", each=scale.trials, steps=cuts.TRIAL, until_s=scale.until_s)
    for step in cuts.TRIAL:
        yield _cut_row("trials", tried, step, scale.trials, notes=("with the real processes for trying and answering",))


def _cut_row(
    work: str, done: cuts.Cuts, step: str, wanted: int, *, notes: tuple[str, ...], control_failed: bool | None = None
) -> Row:
    wrong = [one for one in done.found if one.step == step]
    corrupt, lost = sum(bool(one.corrupt) or one.none_whole for one in wrong), sum(one.lost for one in wrong)
    return Row(
        work=work,
        test=f"power cut during {step}",
        runs=done.cuts[step],
        result=f"{corrupt} corrupt, {lost} rows lost",
        target="0 corrupt, a whole version, 0 lost",
        met=_met(not wrong, done.cuts[step], wanted),
        control_failed=control_failed,
        note="; ".join((*notes, *(str(one) for one in wrong[:3]))),
    )


@_unless(disk.why_not, work="cloud", test="power cuts of a cloud")
def powerless_above(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Power cuts of a cloud; controls without fsync."""
    done = cloud_cuts.run(warm, folder / "cloud", cuts=scale.cuts_each, until_s=scale.until_s)
    faulty = {fault: cloud_cuts.control(warm, folder / fault, fault=fault) for fault in cloud_cuts.FAULTS}
    told = ", ".join(f"{fault} lost {one.lost} in {one.cuts} cuts" for fault, one in faulty.items())
    yield Row(
        work="cloud",
        test="power cut of a cloud that takes in events and samples",
        runs=done.cuts,
        result=f"{done.lost} lost of {done.acknowledged:,} acknowledged",
        target="0 lost",
        met=_met(not done.why, done.cuts, scale.cuts_each),
        control_failed=all(one.lost > 0 for one in faulty.values()),
        note="; ".join((told, *done.why[:3])),
    )


@_unless(disk.why_not, work="full", test="disk full at each write point")
def crowded(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """Disks that are full at each write point."""
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


@_unless(clocks.why_not, work="clocks", test="clock jumps")
def out_of_time(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """A device's clock that jumps by years."""
    done = clocks.run(folder / "clocks", jumps=scale.jumps)
    yield Row(
        work="clocks",
        test="device's clock jumps to 1970 and to 2040 and back, under way",
        runs=done.jumps,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.frames:,}; "
        f"{'as it should' if not done.why else 'something is missing'}",
        target="0 lost, 0 doubled, frames answered at each hour, updates at once but at 2040",
        met=done.is_sound,
        note="; ".join((f"taken at once: {done.told()}; those at 2040 wait", *done.why)),
    )


@_unless(links.why_not, work="links", test="network cut between node and device")
def cut_off(warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """A device in a network of its own, whose cable is pulled."""
    done = links.run(warm, folder / "links", absences=scale.absences)
    yield Row(
        work="links",
        test="network cut between node and device (a namespace and its cable)",
        runs=done.absences,
        result=f"{done.lost} lost, {done.doubled} doubled of {done.frames:,}; {done.read_while_away:,} read while away",
        target="0 lost, 0 doubled, catches up",
        met=done.lost + done.doubled == 0 and done.read_while_away > 0,
    )


def once_more(_warm: Warm, folder: Path, scale: Scale) -> Iterator[Row]:
    """The suite's own tests of the table's other rows, with large numbers where the table has them."""
    yield from suites.rows(folder / "suites", is_large=scale.is_large, until_s=scale.until_s)


WORKS: dict[str, Work] = {
    "kills": killed,
    "trials": powerless_in_trials,
    "cloud": powerless_above,
    "full": crowded,
    "clocks": out_of_time,
    "links": cut_off,
    "suites": once_more,
    "cuts": powerless,
}
"""By name, in the order of the table; last what takes all the time that is left."""


def _met(is_good: bool, runs: int, wanted: int) -> bool | None:
    """Bad is bad after any number of runs; good is good only after all of them."""
    return False if not is_good else True if runs >= wanted else None
