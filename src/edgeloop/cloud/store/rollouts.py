"""Rollouts and how each of their devices does.

A device belongs to the oldest open rollout in which it has not come to an end: the others wait for it.
"""

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.glance import first_in, run_in
from edgeloop.cloud.store.tables import COMES_STILL, assignments, devices, rollout_devices, rollouts
from edgeloop.contracts.api import Gate, RolloutDevice, RolloutRequest, RolloutView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import UpdateReport, WatchStats
from edgeloop.contracts.states import Outcome, RolloutState, UpdateState
from edgeloop.contracts.window import Window

_OPEN = (RolloutState.QUEUED, RolloutState.RUNNING, RolloutState.PAUSED)
_IS_OPEN = rollouts.c.state.in_([sa.literal_column(f"'{state}'") for state in _OPEN])
_OLDEST_FIRST = (rollouts.c.started_at_s, rollouts.c.rollout_id)
_STATES: dict[str | None, UpdateState | None] = {None: None, **{state.value: state for state in UpdateState}}
_OUTCOMES: dict[str | None, Outcome | None] = {None: None, **{outcome.value: outcome for outcome in Outcome}}
_AT_ONCE = 500
_REASON = 2000
_OF_ROLLOUT = rollout_devices.c.rollout_id == sa.bindparam("rollout")
_MEMBER = sa.and_(_OF_ROLLOUT, rollout_devices.c.device_id == sa.bindparam("device"))

# Put together once: every sync of a device that was ever updated asks it.
_NOTE_REPORT = (
    rollout_devices.update()
    .where(
        _MEMBER,
        rollout_devices.c.generation == sa.bindparam("of"),
        sa.or_(rollout_devices.c.state.is_(None), rollout_devices.c.state != sa.bindparam("state")),
    )
    .values({name: sa.bindparam(name) for name in ("state", "outcome", "reason", "since_s")})
)

# Put together once, and asked in plain rows: each look at a rollout reads all of its devices, 10,000 where there are so
# many, and SQLAlchemy's rows took five times as long.
_COLUMNS = ("rollout_id", "device_id", "wave", "generation", "state", "outcome", "reason", "since_s")
_MEMBERS = (
    sa.select(*(rollout_devices.c[name] for name in _COLUMNS))
    .where(_OF_ROLLOUT)
    .order_by(rollout_devices.c.wave, rollout_devices.c.device_id)
)
_ONE_MEMBER = sa.select(*(rollout_devices.c[name] for name in _COLUMNS)).where(_MEMBER)
_CAME_TO = sa.select(rollout_devices.c.outcome, rollout_devices.c.before).where(_MEMBER)
_HOLDERS = (
    sa.select(rollout_devices.c.device_id, rollouts.c.rollout_id)
    .join_from(rollout_devices, rollouts)
    .where(_IS_OPEN, rollout_devices.c.outcome.is_(None))
    .order_by(*_OLDEST_FIRST)
)
_WAITED_FOR = (
    sa.select(
        rollout_devices.c.rollout_id,
        rollout_devices.c.device_id,
        rollout_devices.c.wave,
        rollout_devices.c.state,
        rollout_devices.c.outcome,
        rollout_devices.c.since_s,
        devices.c.last_seen_s,
        assignments.c.assigned_at_s,
    )
    .join_from(rollout_devices, devices)
    .join(assignments, assignments.c.device_id == rollout_devices.c.device_id)
    .where(rollout_devices.c.generation == assignments.c.generation, COMES_STILL)
)
_ABOUT = sa.select(
    rollouts.c.rollout_id,
    rollouts.c.gate,
    rollouts.c.time_window,
    rollouts.c.paused_at_s,
    rollouts.c.wave,
    rollouts.c.wave_started_at_s,
).where(rollouts.c.rollout_id.in_(sa.select(rollout_devices.c.rollout_id).where(COMES_STILL)))
_NOTE_OUTCOME = (
    rollout_devices.update()
    .where(
        _MEMBER,
        rollout_devices.c.state.is_not_distinct_from(sa.bindparam("was_state")),
        rollout_devices.c.outcome.is_not_distinct_from(sa.bindparam("was_outcome")),
    )
    .values({name: sa.bindparam(name) for name in ("outcome", "reason")})
)
_NOTE_ASSIGNED = (
    rollout_devices.update()
    .where(_MEMBER)
    .values({name: sa.bindparam(name) for name in ("generation", "before", "since_s")})
)


class Row(NamedTuple):
    """One device of a rollout, as it is kept. generation: of its assignment, None before it was given."""

    rollout_id: str
    device_id: str
    wave: int
    generation: int | None
    state: UpdateState | None
    outcome: Outcome | None
    reason: str
    since_s: float | None


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that is not over, with what the decision needs."""

    rollout_id: str
    bundle: str
    state: RolloutState
    wave: int
    wave_started_at_s: float
    paused_at_s: float | None
    gate: Gate
    window: Window | None
    rows: tuple[Row, ...]


class Given(NamedTuple):
    """A device that was given a bundle and has not come to an end with it, or was left behind as unreachable.

    given_at_s: when it was assigned, or in the wave that is under way the last of its devices: as the wave's age does,
    what counts from it stands still over pauses. since_s: when it moved on last.
    """

    rollout_id: str
    device_id: str
    state: UpdateState | None
    outcome: Outcome | None
    given_at_s: float
    since_s: float
    last_seen_s: float | None
    gate: Gate
    has_window: bool
    is_paused: bool


def add_rollout(
    connection: sa.Connection,
    request: RolloutRequest,
    *,
    bundle: str,
    sizes: tuple[int, ...],
    devices: list[str],
    now_s: float,
) -> str:
    """Keep a new rollout that has not begun its first wave; returns its id."""
    rollout_id = secrets.token_hex(6)
    connection.execute(
        rollouts.insert().values(
            rollout_id=rollout_id,
            bundle=bundle,
            group_name=request.group,
            waves=to_json(sizes).decode(),
            gate=to_json(request.gate).decode(),
            time_window=None if request.window is None else to_json(request.window).decode(),
            wave=0,
            wave_started_at_s=now_s,
            state=RolloutState.QUEUED,
            reason="",
            started_at_s=now_s,
        )
    )
    rows = []
    for index, device_id in enumerate(devices):
        wave = 1 + next(number for number, size in enumerate(sizes) if index < size)
        rows.append({"rollout_id": rollout_id, "device_id": device_id, "wave": wave, "reason": ""})
    connection.execute(rollout_devices.insert(), rows)
    return rollout_id


def open_rollouts(connection: sa.Connection) -> list[Open]:
    """Rollouts that are not over, oldest first."""
    found = connection.execute(sa.select(rollouts).where(_IS_OPEN).order_by(*_OLDEST_FIRST)).all()
    return [
        Open(
            rollout_id=row.rollout_id,
            bundle=row.bundle,
            state=RolloutState(row.state),
            wave=row.wave,
            wave_started_at_s=row.wave_started_at_s,
            paused_at_s=row.paused_at_s,
            gate=_gate(row.gate),
            window=_window(row.time_window),
            rows=_rows(connection, row.rollout_id),
        )
        for row in found
    ]


def holders(connection: sa.Connection) -> dict[str, str]:
    """Which open rollout each device belongs to now."""
    found: dict[str, str] = {}
    for device_id, rollout_id in run_in(connection, _HOLDERS, {}):
        found.setdefault(device_id, rollout_id)
    return found


def given(connection: sa.Connection) -> list[Given]:
    """Everyone who is waited for, or whose return is; in rollouts that are over, too."""
    found = run_in(connection, _WAITED_FOR, {})
    about = _about(connection) if found else {}
    return [
        Given(
            rollout_id,
            device_id,
            _STATES[state],
            _OUTCOMES[outcome],
            max(assigned_at_s, its.wave_started_at_s) if wave == its.wave else assigned_at_s,
            since_s or 0.0,
            last_seen_s,
            its.gate,
            its.has_window,
            its.is_paused,
        )
        for rollout_id, device_id, wave, state, outcome, since_s, last_seen_s, assigned_at_s in found
        for its in (about[rollout_id],)
    ]


def pause_all(connection: sa.Connection, reason: str, *, now_s: float) -> None:
    """Pause all that is not over, for this reason; what is paused already stays so since then."""
    for row in connection.execute(sa.select(rollouts).where(rollouts.c.state.in_(_OPEN))).all():
        changes = {"reason": reason, "paused_at_s": now_s if row.paused_at_s is None else row.paused_at_s}
        set_state(connection, row.rollout_id, RolloutState.PAUSED, **changes)


def set_state(connection: sa.Connection, rollout_id: str, state: RolloutState, **changes: float | str | None) -> None:
    """Note where a rollout is; changes: other columns, too."""
    connection.execute(rollouts.update().where(rollouts.c.rollout_id == rollout_id).values(state=state, **changes))


def begin_wave(connection: sa.Connection, rollout_id: str, wave: int, *, now_s: float) -> None:
    """Note that a wave began, or that its last device was given the bundle now."""
    connection.execute(
        rollouts.update()
        .where(rollouts.c.rollout_id == rollout_id)
        .values(wave=wave, wave_started_at_s=now_s, state=RolloutState.RUNNING)
    )


class _About(NamedTuple):
    """What of a rollout counts for each of its devices that are waited for."""

    gate: Gate
    has_window: bool
    is_paused: bool
    wave: int
    wave_started_at_s: float


def _about(connection: sa.Connection) -> dict[str, _About]:
    """By rollout, of all that have such devices: those that are over, too, of which there may be many alike."""
    gates: dict[str, Gate] = {}
    return {
        rollout_id: _About(
            gates.get(gate) or gates.setdefault(gate, _gate(gate)),
            window is not None,
            paused_at_s is not None,
            wave,
            wave_started_at_s,
        )
        for rollout_id, gate, window, paused_at_s, wave, wave_started_at_s in run_in(connection, _ABOUT, {})
    }


def note_assigned(
    connection: sa.Connection,
    rollout_id: str,
    device_id: str,
    *,
    generation: int,
    before: str | None,
    now_s: float,
) -> None:
    """Note what a device was given, and the assignment (as JSON) that it had before."""
    member = {"rollout": rollout_id, "device": device_id}
    run_in(connection, _NOTE_ASSIGNED, {**member, "generation": generation, "before": before, "since_s": now_s})


def note_outcome(connection: sa.Connection, was: Row | Given, outcome: Outcome | None, reason: str) -> bool:
    """Note what it came to on a device, by the cloud's own judgement of what was read; False if that has changed.

    Another replica may have heard of the device since: its own word counts. From here on it waits for the commit.
    """
    judged = {
        "rollout": was.rollout_id,
        "device": was.device_id,
        "was_state": was.state,
        "was_outcome": was.outcome,
        "outcome": outcome,
        "reason": reason[:_REASON],
    }
    return bool(connection.execute(_NOTE_OUTCOME, judged).rowcount)


def newest_wave_s(connection: sa.Connection) -> float:
    """When an open rollout's wave was begun, or it was paused, last; 0 with none."""
    times = sa.func.max(rollouts.c.wave_started_at_s), sa.func.max(rollouts.c.paused_at_s)
    row = connection.execute(sa.select(*times).where(rollouts.c.state.in_(_OPEN))).one()
    return max(row[0] or 0.0, row[1] or 0.0)


def set_back(connection: sa.Connection, *, now_s: float) -> None:
    """Times that have not come yet become now: what counts from them would not end before they had."""
    for table, name in (
        (rollouts, "wave_started_at_s"),
        (rollouts, "paused_at_s"),
        (rollout_devices, "since_s"),
        (assignments, "assigned_at_s"),
        (devices, "last_seen_s"),
    ):
        connection.execute(table.update().where(table.c[name] > now_s).values({name: now_s}))


def set_on(connection: sa.Connection, rollout_id: str, pause_s: float, *, now_s: float) -> None:
    """A pause ends: the time that its devices have not moved on for goes on from where it stood."""
    mine = sa.and_(rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.since_s.is_not(None))
    later_s = rollout_devices.c.since_s + pause_s
    connection.execute(
        rollout_devices.update().where(mine).values(since_s=sa.case((later_s > now_s, now_s), else_=later_s))
    )


def note_reports(connection: sa.Connection, reports: list[tuple[str, UpdateReport]], *, now_s: float) -> bool:
    """Keep what devices say of their updates, by the generation that they say it of; True if any of it is news."""
    news = False
    for device_id, report in reports:
        said = {
            "rollout": report.rollout_id,
            "device": device_id,
            "of": report.generation,
            "state": report.state,
            "outcome": Outcome.of(report.state),
            "reason": report.reason[:_REASON].replace("\0", "\ufffd"),  # PostgreSQL keeps no NUL
            "since_s": now_s,
        }
        news = bool(connection.execute(_NOTE_REPORT, said).rowcount) or news
    return news


def end_rollout(connection: sa.Connection, rollout_id: str, state: RolloutState, reason: str, *, now_s: float) -> None:
    """Note how it ended."""
    connection.execute(
        rollouts.update()
        .where(rollouts.c.rollout_id == rollout_id)
        .values(state=state, reason=reason, ended_at_s=now_s, paused_at_s=None)
    )


def befores(connection: sa.Connection, rollout_id: str) -> dict[str, str | None]:
    """What each device that was given the bundle had before, as JSON."""
    query = sa.select(rollout_devices).where(
        rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.generation.is_not(None)
    )
    return {row.device_id: row.before for row in connection.execute(query)}


def get_row(connection: sa.Connection, rollout_id: str, device_id: str) -> Row:
    """One device of a rollout. Raises NotFound."""
    row = first_in(connection, _ONE_MEMBER, {"rollout": rollout_id, "device": device_id})
    if row is None:
        raise NotFound(f"device {device_id!r} is not in rollout {rollout_id!r}")
    return _row(row)


def came_to(connection: sa.Connection, rollout_id: str, device_id: str) -> tuple[Outcome | None, str | None]:
    """What a rollout came to on a device, and what that device had before it (as JSON); None twice if never given."""
    row = first_in(connection, _CAME_TO, {"rollout": rollout_id, "device": device_id})
    return (None, None) if row is None else (_OUTCOMES[row[0]], row[1])


def get_rollout(connection: sa.Connection, rollout_id: str) -> RolloutView:
    """One rollout. Raises NotFound."""
    row = connection.execute(sa.select(rollouts).where(rollouts.c.rollout_id == rollout_id)).first()
    if row is None:
        raise _no_rollout(rollout_id)
    return _view(connection, row, holders(connection))


def list_rollouts(
    connection: sa.Connection, *, after: str | None = None, limit: int | None = None
) -> list[RolloutView]:
    """Oldest first: all, or so many that were started after that one. Raises NotFound if there is none such."""
    query = sa.select(rollouts).order_by(*_OLDEST_FIRST).limit(limit)
    if after is not None:
        row = connection.execute(sa.select(*_OLDEST_FIRST).where(rollouts.c.rollout_id == after)).first()
        if row is None:
            raise _no_rollout(after)
        query = query.where(sa.tuple_(*_OLDEST_FIRST) > sa.tuple_(*row))
    held = holders(connection)
    return [_view(connection, row, held) for row in connection.execute(query).all()]


def _no_rollout(rollout_id: str) -> NotFound:
    return NotFound(f"there is no rollout {rollout_id!r}; 'edgeloop rollout list' shows those there are")


def _rows(connection: sa.Connection, rollout_id: str) -> tuple[Row, ...]:
    return tuple(map(_row, run_in(connection, _MEMBERS, {"rollout": rollout_id})))


def _row(row: Sequence[Any]) -> Row:
    rollout_id, device_id, wave, generation, state, outcome, reason, since_s = row
    return Row(rollout_id, device_id, wave, generation, _STATES[state], _OUTCOMES[outcome], reason, since_s)


def _view(connection: sa.Connection, row: sa.Row[tuple[object, ...]], held: dict[str, str]) -> RolloutView:
    members = _rows(connection, row.rollout_id)
    is_open = RolloutState(row.state) in _OPEN
    on_watch = _on_watch(connection, [one.device_id for one in members if one.state is UpdateState.ACTIVE])
    return RolloutView(
        rollout_id=row.rollout_id,
        bundle=row.bundle,
        group=row.group_name,
        waves=tuple(msgspec.json.decode(row.waves)),
        wave=row.wave,
        state=RolloutState(row.state),
        reason=row.reason,
        started_at_s=row.started_at_s,
        ended_at_s=row.ended_at_s,
        window=_window(row.time_window),
        devices=tuple(
            RolloutDevice(
                device_id=one.device_id,
                wave=one.wave,
                state=one.state,
                reason=one.reason,
                outcome=one.outcome,
                behind=_behind(one, held.get(one.device_id), row.rollout_id) if is_open else None,
                since_s=one.since_s,
                watch=on_watch.get((one.device_id, one.generation)),
            )
            for one in members
        ),
    )


def _behind(one: Row, holder: str | None, rollout_id: str) -> str | None:
    waits = one.generation is None and one.outcome is None
    return holder if waits and holder != rollout_id else None


def _on_watch(connection: sa.Connection, device_ids: list[str]) -> dict[tuple[str, int | None], WatchStats]:
    """What devices count that are on watch, by device and generation."""
    found: dict[tuple[str, int | None], WatchStats] = {}
    for start in range(0, len(device_ids), _AT_ONCE):
        some = device_ids[start : start + _AT_ONCE]
        query = sa.select(devices.c.device_id, devices.c.report).where(devices.c.device_id.in_(some))
        for row in connection.execute(query):
            report, _ = fleet.stored_report(row.report)
            if report is not None and report.update is not None and report.update.watch is not None:
                found[row.device_id, report.update.generation] = report.update.watch
    return found


def _gate(text: str) -> Gate:
    return from_json(text.encode(), Gate, what="a gate")


def _window(text: str | None) -> Window | None:
    return None if text is None else from_json(text.encode(), Window, what="a maintenance window")
