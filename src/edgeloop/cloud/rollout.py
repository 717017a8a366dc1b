"""What a rollout does next: a pure decision over what its devices have come to.

Rules kept here: a wave begins only when every device of the waves before it has come to an end, somebody among them
was reached, and no more have failed than the gate allows; one failure more ends the rollout, and so does a new version
that labelled samples show to be worse, or a wave of which nobody came to an end in time. A device takes rollouts one
after another, in the order in which they were started: while it has not come to an end with an older one it waits for
its turn, and its wave with it. Never "in progress" for ever: a device that is silent, or does not move on, or is not
done by its wave's deadline, is left behind. That is no failure of one that had not begun to run the version; one that
had, and then came to no end, counts as failed: a version that hangs devices looks exactly so from here.
"""

import math
import re

import msgspec

from edgeloop.contracts.api import Gate
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.states import Outcome, UpdateState
from edgeloop.contracts.window import DAY_S

_FAILED = (Outcome.REFUSED, Outcome.ROLLED_BACK)
_RUN = (UpdateState.ACCEPTING, UpdateState.ACTIVE)
"""The new version runs on the device: on its golden samples, or on watch."""

_Z_BOUND = 1.645
"""Of the standard normal distribution, 5 % lie above."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout. wave counts from 1. is_given: the bundle was assigned to it. has_turn: no older rollout
    holds it."""

    device_id: str
    wave: int
    state: UpdateState | None
    outcome: Outcome | None = None
    reason: str = ""
    is_given: bool = True
    has_turn: bool = True

    @property
    def fell_silent(self) -> bool:
        """The version ran there, and no end of it was heard of."""
        return self.outcome is Outcome.UNREACHABLE and self.state in _RUN

    @property
    def failed(self) -> bool:
        """What the gate counts."""
        return self.outcome in _FAILED or self.fell_silent


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout is. wave: 0 before the first. wave_age_s: since the last device of it was given the bundle."""

    wave: int
    wave_age_s: float
    is_paused: bool = False
    has_window: bool = False


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """How long a device that was given the bundle is waited for, in seconds.

    for_s: since it was given it. unmoved_s: since it moved on last. silent_s: since it was heard of last. has_window:
    of its rollout.
    """

    state: UpdateState | None
    for_s: float
    unmoved_s: float
    silent_s: float
    has_window: bool = False


class Labelled(msgspec.Struct, frozen=True):
    """How many samples people labelled, and how many of them a version had right."""

    labelled: int
    right: int


UNLABELLED = Labelled(0, 0)


class Hold(msgspec.Struct, frozen=True):
    """Nothing to do yet."""


class NextWave(msgspec.Struct, frozen=True):
    """Begin this wave."""

    wave: int


class Give(msgspec.Struct, frozen=True):
    """The turn of these devices has come."""

    device_ids: tuple[str, ...]


class Complete(msgspec.Struct, frozen=True):
    """Every device has come to an end within the gate."""

    reason: str


class Abort(msgspec.Struct, frozen=True):
    """Stop; devices that have not confirmed go back to what they had."""

    reason: str


Decision = Hold | NextWave | Give | Complete | Abort


def decide(
    members: tuple[Member, ...],
    stage: Stage,
    gate: Gate,
    *,
    old: Labelled = UNLABELLED,
    new: Labelled = UNLABELLED,
) -> Decision:
    """The next step of a rollout that is not over. old, new: the versions' labelled samples on its devices."""
    begun = [member for member in members if member.wave <= stage.wave]
    failed = [member for member in begun if member.failed]
    if len(failed) > max(gate.max_failed, math.floor(gate.max_failed_share * len(members))):
        return Abort(_failures(failed))
    worse = accuracy_drop(old, new, gate)
    if worse is not None:
        return Abort(worse)
    if stage.is_paused:
        return Hold()
    if stage.wave == 0:
        return NextWave(1) if any(member.has_turn for member in members if member.wave == 1) else Hold()
    due = tuple(m.device_id for m in begun if not m.is_given and m.outcome is None and m.has_turn)
    if due:
        return Give(due)
    return _at_work(begun, stage, gate) or _after(members, begun, stage)


def _at_work(begun: list[Member], stage: Stage, gate: Gate) -> Decision | None:
    """While somebody is waited for."""
    waiting = [member for member in begun if member.outcome is None]
    if waiting:
        return Hold()  # each has deadlines of its own, or an older rollout that has
    if all(member.outcome is Outcome.UNREACHABLE for member in begun):
        deadline_s = _deadline_s(gate, has_window=stage.has_window)
        if stage.wave_age_s <= deadline_s:
            return Hold()
        names = ", ".join(f"{m.device_id} ({m.state or 'no answer'})" for m in begun[:5])
        return Abort(f"none of {len(begun)} devices came to an end within {deadline_s:.0f} s: {names}")
    return None


def _after(members: tuple[Member, ...], begun: list[Member], stage: Stage) -> Decision:
    if len(begun) < len(members):
        return NextWave(stage.wave + 1)
    confirmed = sum(member.outcome is Outcome.CONFIRMED for member in members)
    silent = sum(member.fell_silent for member in members)
    missed = sum(member.outcome is Outcome.UNREACHABLE for member in members) - silent
    told = f"{confirmed} of {len(members)} devices confirmed"
    told += f", {missed} could not be reached" if missed else ""
    return Complete(told + (f", {silent} fell silent with it" if silent else ""))


def _failures(failed: list[Member]) -> str:
    first = failed[0]
    came_to = f"ran it ({first.state}) and came to no end" if first.fell_silent else first.outcome
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first.device_id} {came_to}: {first.reason}{more}"


def _deadline_s(gate: Gate, *, has_window: bool) -> float:
    return gate.wave_deadline_s + (DAY_S if has_window else 0.0)


def accuracy_drop(old: Labelled, new: Labelled, gate: Gate) -> str | None:
    """Why labelled samples speak against the new version, None if they do not.

    It must be worse by more than the gate allows, and by more than chance shows in 5 % of cases: two-proportion z test
    with pooled variance, one-sided.
    """
    bound = gate.max_accuracy_drop
    if bound is None or min(old.labelled, new.labelled) < gate.min_labelled:
        return None
    was, now = old.right / old.labelled, new.right / new.labelled
    pooled = (old.right + new.right) / (old.labelled + new.labelled)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / old.labelled + 1 / new.labelled))
    if was - now <= bound or was - now <= _Z_BOUND * deviation:
        return None
    return (
        f"right on {now:.0%} of {new.labelled} labelled samples, the version before on {was:.0%} of {old.labelled}; "
        f"allowed is a drop of {bound:.0%}"
    )


def unreachable(waited: Waited, gate: Gate) -> str | None:
    """Why a device that was given the bundle is left behind, None if it is not."""
    if min(waited.silent_s, waited.unmoved_s) > gate.unreachable_after_s:
        return f"not heard of for {min(waited.silent_s, waited.unmoved_s):.0f} s"
    doing = waited.state or "without an answer"
    # A window opens once a day.
    if waited.unmoved_s > gate.stuck_after_s + (DAY_S if waited.state is UpdateState.WAITING else 0.0):
        return f"heard of, but {doing} for {waited.unmoved_s:.0f} s"
    # Its watch ends by itself: whoever gave it longer than the wave wants to hear its verdict.
    is_on_watch = waited.state is UpdateState.ACTIVE and waited.unmoved_s <= gate.watch.deadline_s
    if waited.for_s > _deadline_s(gate, has_window=waited.has_window) and not is_on_watch:
        return f"heard of, but still {doing} {waited.for_s:.0f} s after it was told"
    return None


def wave_sizes(waves: tuple[str, ...], devices: int) -> tuple[int, ...]:
    """Cumulative device counts. waves: counts or shares such as "25%", growing, the last "100%".

    Shares are rounded up, so that a wave is never empty. Raises InvalidInput.
    """
    sizes = []
    for wave in waves:
        found = re.fullmatch(r"([0-9]{1,9})(%?)", wave.strip())
        if found is None or (found[2] and int(found[1]) > 100) or int(found[1]) == 0:
            raise InvalidInput(f"wave {wave!r} is neither a count nor a share; write waves such as 1,25%,100%")
        size = math.ceil(devices * int(found[1]) / 100) if found[2] else int(found[1])
        sizes.append(min(size, devices))
    if not waves or waves[-1].strip() != "100%":
        raise InvalidInput(f"the last wave must be 100%, got {','.join(waves) or 'none'}")
    if sizes != sorted(sizes):
        raise InvalidInput(f"waves are cumulative and must grow, got {','.join(waves)} for {devices} devices")
    return tuple(dict.fromkeys(sizes))


def order_devices(devices: list[str], *, first: tuple[str, ...]) -> list[str]:
    """The order in which devices are taken: those named first, then by id. Raises InvalidInput on a stranger."""
    strangers = [name for name in first if name not in devices]
    if strangers:
        raise InvalidInput(f"{strangers[0]!r} is to go first but is not in the group: {', '.join(devices)}")
    return [*dict.fromkeys(first), *sorted(set(devices) - set(first))]


def labels_of(group: str) -> dict[str, str]:
    """What labels a group's devices have, all of them: none for "all". Raises InvalidInput.

    >>> labels_of("site=north,kind=cam")
    {'site': 'north', 'kind': 'cam'}
    """
    if group == "all":
        return {}
    wanted: dict[str, str] = {}
    for part in group.split(","):
        label, sign, value = (word.strip() for word in part.partition("="))
        if not (label and sign and value):
            raise InvalidInput(f"group {group!r} is neither 'all' nor LABEL=VALUE, or several with commas between")
        if wanted.setdefault(label, value) != value:
            raise InvalidInput(f"group {group!r} wants two values of {label!r}; a device has one")
    return wanted
