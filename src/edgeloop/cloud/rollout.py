"""What a rollout does next: a pure decision over what its devices have come to.

Rules kept here: a wave begins only when every device of the waves before it has confirmed (or failed within what
the gate allows); one failure more than allowed ends the rollout; so does a wave that outlives its deadline. Never
"in progress" for ever.
"""

import math
import re

import msgspec

from edgeloop.contracts.api import Gate
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.states import UpdateState

_FAILED = (UpdateState.REFUSED, UpdateState.ROLLED_BACK)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout. wave counts from 1."""

    device_id: str
    wave: int
    state: UpdateState | None
    reason: str = ""


class Hold(msgspec.Struct, frozen=True):
    """Nothing to do yet."""


class NextWave(msgspec.Struct, frozen=True):
    """Begin this wave."""

    wave: int


class Complete(msgspec.Struct, frozen=True):
    """Every device has come to an end within the gate."""

    reason: str


class Abort(msgspec.Struct, frozen=True):
    """Stop; devices that have not confirmed go back to what they had."""

    reason: str


Decision = Hold | NextWave | Complete | Abort


def decide(members: tuple[Member, ...], *, wave: int, gate: Gate, wave_age_s: float) -> Decision:
    """The next step of a running rollout that is in `wave`."""
    begun = [member for member in members if member.wave <= wave]
    failed = [member for member in begun if member.state in _FAILED]
    if len(failed) > gate.max_failed:
        return Abort(_failures(failed))
    waiting = [member for member in begun if member.state is not UpdateState.CONFIRMED and member not in failed]
    if waiting:
        if wave_age_s <= gate.wave_deadline_s:
            return Hold()
        names = ", ".join(f"{m.device_id} ({m.state or 'no answer'})" for m in waiting[:5])
        return Abort(f"wave {wave} did not end within {gate.wave_deadline_s:.0f} s: {names}")
    if any(member.wave > wave for member in members):
        return NextWave(wave + 1)
    confirmed = len(members) - len(failed)
    return Complete(f"{confirmed} of {len(members)} devices confirmed")


def _failures(failed: list[Member]) -> str:
    first = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first.device_id} {first.state}: {first.reason}{more}"


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
