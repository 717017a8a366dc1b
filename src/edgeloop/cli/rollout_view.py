"""A rollout as a person sees it: how many devices came to what, and those that are worth a line.

Rule kept here: pure; `rollout` fetches and prints.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeloop.cli.say import printable
from edgeloop.contracts.api import RolloutDevice, RolloutView

_ORDER = ("confirmed", "refused", "rolled_back", "unreachable", "at work", "queued", "later")
_STYLES = {"confirmed": "green", "refused": "red", "rolled_back": "red", "unreachable": "yellow"}
_ROWS = 20


def place(device: RolloutDevice, view: RolloutView) -> str:
    """Where a device is, in one word of the order that people are shown."""
    if device.outcome is not None:
        return str(device.outcome)
    if device.behind is not None:
        return "queued"
    return "later" if device.wave > view.wave else "at work"


def counts(view: RolloutView) -> dict[str, int]:
    """How many devices are where; those of later waves of a rollout that is over never began."""
    found = Counter(place(device, view) for device in view.devices)
    return {word: found[word] for word in _ORDER if found[word]}


def told(device: RolloutDevice) -> str:
    """What there is to say of a device: its reason, what it waits for, or what it counts on watch."""
    if device.watch is not None and device.outcome is None:
        seen = device.watch
        return (
            f"{seen.readings} readings on watch, {seen.disagreements} of {seen.compared} differ, "
            f"{seen.errors} failed, {seen.latency_p50_ms:.1f} ms (old {seen.shadow_latency_p50_ms:.1f})"
        )
    if device.behind is not None:
        return f"until rollout {device.behind} is done with it"
    return device.reason


def changes(before: RolloutView | None, now: RolloutView) -> dict[str, Any] | None:
    """What a machine is told when anything changed: one object; None if nothing did."""
    if before == now:
        return None
    known = {} if before is None else {device.device_id: device for device in before.devices}
    return {
        "rollout_id": now.rollout_id,
        "bundle": now.bundle,
        "state": now.state,
        "wave": now.wave,
        "waves": now.waves,
        "reason": now.reason,
        "counts": counts(now),
        "changed": [msgspec.to_builtins(one) for one in now.devices if known.get(one.device_id) != one],
    }


def render(view: RolloutView, *, now_s: float | None = None, note: str = "") -> RenderableType:
    """Title, counts, and the devices that are at work, failed, or wait; the others are in the counts."""
    now_s = time.time() if now_s is None else now_s
    line = Text()
    for word, count in counts(view).items():
        line.append(f"{count} {word.replace('_', ' ')}   ", style=_STYLES.get(word, ""))
    parts: list[RenderableType] = [Text(_title(view), style="bold"), line]
    shown = _worth_a_line(view)
    if shown:
        parts.append(_table(shown[:_ROWS], view, now_s))
    if len(shown) > _ROWS:
        parts.append(Text(f"and {len(shown) - _ROWS} more", style="dim"))
    parts += [Text(printable(one), style="dim") for one in (view.reason, note) if one]
    return Group(*parts)


def _title(view: RolloutView) -> str:
    hours = f", in the hours {view.window}" if view.window is not None else ""
    return f"rollout {view.rollout_id}: {view.bundle} to {view.group}, {view.state}, {_wave(view)}{hours}"


def _wave(view: RolloutView) -> str:
    return f"wave {view.wave} of {len(view.waves)}"


def _worth_a_line(view: RolloutView) -> list[RolloutDevice]:
    order = {"refused": 0, "rolled_back": 0, "at work": 1, "unreachable": 2, "queued": 3}
    ranked = [(order.get(place(one, view)), one.device_id, one) for one in view.devices]
    return [one for rank, _, one in sorted(ranked, key=lambda row: (row[0] or 0, row[1])) if rank is not None]


def _table(shown: Sequence[RolloutDevice], view: RolloutView, now_s: float) -> Table:
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("device", "wave", "is", "for", "what it says"):
        table.add_column(name, no_wrap=name == "device")
    for one in shown:
        word = place(one, view)
        state = str(one.state or "no answer yet") if word == "at work" else word
        since = "-" if one.since_s is None or one.outcome is not None else _age(now_s - one.since_s)
        styled = Text(state, style=_STYLES.get(word, ""))
        table.add_row(one.device_id, str(one.wave), styled, since, printable(told(one)))
    return table


def _age(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"


def is_done(view: RolloutView) -> bool:
    """True when nothing more will change but by devices that come back."""
    at_work = any(one.outcome is None and one.since_s is not None for one in view.devices)
    return view.state.is_final and not at_work
