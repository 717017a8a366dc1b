"""Rollouts and how each of their devices does."""

import secrets

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.tables import rollout_devices, rollouts
from edgeloop.contracts.api import Gate, RolloutDevice, RolloutView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import UpdateReport
from edgeloop.contracts.states import RolloutState, UpdateState


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that goes on, with what the decision needs."""

    view: RolloutView
    gate: Gate
    wave_started_at_s: float


def add_rollout(
    connection: sa.Connection,
    *,
    bundle: str,
    group: str,
    gate: Gate,
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
            group_name=group,
            waves=to_json(sizes).decode(),
            gate=to_json(gate).decode(),
            wave=0,
            wave_started_at_s=now_s,
            state=RolloutState.RUNNING,
            reason="",
            started_at_s=now_s,
        )
    )
    for index, device_id in enumerate(devices):
        wave = 1 + next(number for number, size in enumerate(sizes) if index < size)
        connection.execute(
            rollout_devices.insert().values(rollout_id=rollout_id, device_id=device_id, wave=wave, reason="")
        )
    return rollout_id


def running(connection: sa.Connection) -> list[Running]:
    """Rollouts that go on, oldest first."""
    rows = connection.execute(
        sa.select(rollouts).where(rollouts.c.state == RolloutState.RUNNING).order_by(rollouts.c.started_at_s)
    ).all()
    return [
        Running(
            view=_view(connection, row),
            gate=from_json(row.gate.encode(), Gate, what="a gate"),
            wave_started_at_s=row.wave_started_at_s,
        )
        for row in rows
    ]


def begin_wave(connection: sa.Connection, rollout_id: str, wave: int, *, now_s: float) -> None:
    """Note that a wave began."""
    connection.execute(
        rollouts.update().where(rollouts.c.rollout_id == rollout_id).values(wave=wave, wave_started_at_s=now_s)
    )


def note_assigned(
    connection: sa.Connection, rollout_id: str, device_id: str, *, generation: int, before: str | None
) -> None:
    """Note what a device was given, and the assignment (as JSON) that it had before."""
    connection.execute(
        rollout_devices.update().where(_member(rollout_id, device_id)).values(generation=generation, before=before)
    )


def note_reports(connection: sa.Connection, reports: list[tuple[str, UpdateReport]]) -> bool:
    """Keep what devices say of their updates, by the generation that they say it of; True if any of it is news."""
    news = False
    for device_id, report in reports:
        mine = sa.and_(
            _member(report.rollout_id, device_id),
            rollout_devices.c.generation == report.generation,
            sa.or_(rollout_devices.c.state.is_(None), rollout_devices.c.state != report.state),
        )
        done = connection.execute(
            rollout_devices.update().where(mine).values(state=report.state, reason=report.reason[:2000])
        )
        news = news or bool(done.rowcount)
    return news


def end_rollout(connection: sa.Connection, rollout_id: str, state: RolloutState, reason: str, *, now_s: float) -> None:
    """Note how it ended."""
    connection.execute(
        rollouts.update()
        .where(rollouts.c.rollout_id == rollout_id)
        .values(state=state, reason=reason, ended_at_s=now_s)
    )


def befores(connection: sa.Connection, rollout_id: str) -> dict[str, str | None]:
    """What each device that was given the bundle had before, as JSON."""
    query = sa.select(rollout_devices).where(
        rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.generation.is_not(None)
    )
    return {row.device_id: row.before for row in connection.execute(query)}


def get_rollout(connection: sa.Connection, rollout_id: str) -> RolloutView:
    """One rollout. Raises NotFound."""
    row = connection.execute(sa.select(rollouts).where(rollouts.c.rollout_id == rollout_id)).first()
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id!r}; 'edgeloop rollout list' shows those there are")
    return _view(connection, row)


def list_rollouts(connection: sa.Connection) -> list[RolloutView]:
    """All, oldest first."""
    rows = connection.execute(sa.select(rollouts).order_by(rollouts.c.started_at_s)).all()
    return [_view(connection, row) for row in rows]


def _member(rollout_id: str, device_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(rollout_devices.c.rollout_id == rollout_id, rollout_devices.c.device_id == device_id)


def _view(connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> RolloutView:
    members = connection.execute(
        sa.select(rollout_devices)
        .where(rollout_devices.c.rollout_id == row.rollout_id)
        .order_by(rollout_devices.c.wave, rollout_devices.c.device_id)
    )
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
        devices=tuple(
            RolloutDevice(
                device_id=one.device_id,
                wave=one.wave,
                state=None if one.state is None else UpdateState(one.state),
                reason=one.reason,
            )
            for one in members
        ),
    )
