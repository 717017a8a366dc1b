"""Devices, join tokens and assignments in the database. Functions of a connection; `database` runs them."""

import math
import secrets

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.tables import api_tokens, assignments, devices, join_tokens
from edgeloop.contracts.api import DeviceView, JoinTokenRequest
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.join import secret_hash
from edgeloop.contracts.messages import Assignment, DeviceReport, EnrolRequest, UpdateReport
from edgeloop.contracts.states import Kind


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """A device's newest assignment; generation 0 and None before its first."""

    generation: int
    assigned_at_s: float
    assignment: Assignment | None


def is_api_token(connection: sa.Connection, secret: str) -> bool:
    """True when the secret is an operator's."""
    query = sa.select(api_tokens.c.name).where(api_tokens.c.secret_hash == secret_hash(secret))
    return connection.execute(query).first() is not None


def make_join_token(connection: sa.Connection, request: JoinTokenRequest, *, now_s: float) -> str:
    """A new secret; only its hash is kept."""
    secret = secrets.token_urlsafe(32)
    connection.execute(
        join_tokens.insert().values(
            secret_hash=secret_hash(secret),
            uses_left=request.uses,
            expires_at_s=now_s + request.valid_s,
            labels=to_json(request.labels).decode(),
        )
    )
    return secret


def enrol(connection: sa.Connection, request: EnrolRequest, *, now_s: float) -> None:
    """Admit a device. A repeat with the same key, id and way is let through without using the token again; moving
    to another node takes a good token like joining does.
    """
    _check_carrier(connection, request)
    known = connection.execute(sa.select(devices).where(devices.c.device_id == request.device_id)).first()
    if known is not None:
        _check_same(known, request)
        if known.via == request.via:
            return
        _use_token(connection, request.join_secret, now_s)
        connection.execute(
            devices.update().where(devices.c.device_id == request.device_id).values(via=request.via, kind=request.kind)
        )
        return
    labels = _use_token(connection, request.join_secret, now_s)
    connection.execute(
        devices.insert().values(
            device_id=request.device_id,
            public_key=request.public_key,
            kind=request.kind,
            via=request.via,
            labels=labels,
            enrolled_at_s=now_s,
        )
    )


def _check_carrier(connection: sa.Connection, request: EnrolRequest) -> None:
    if request.via is None:
        return
    kind = connection.execute(sa.select(devices.c.kind).where(devices.c.device_id == request.via)).scalar()
    if kind != Kind.NODE:
        raise Refused(f"{request.via!r} is no node here and carries for nobody")


def _check_same(known: sa.Row[tuple[object, ...]], request: EnrolRequest) -> None:
    if known.public_key != request.public_key:
        raise Refused(
            f"the id {request.device_id!r} is enrolled with another key; choose another id for this device (--id)"
        )


def _use_token(connection: sa.Connection, secret: str, now_s: float) -> str:
    token = connection.execute(sa.select(join_tokens).where(join_tokens.c.secret_hash == secret_hash(secret))).first()
    how = "; make one with 'edgeloop fleet token'"
    if token is None:
        raise Refused(f"this cloud never made that join token{how}")
    if token.expires_at_s < now_s:
        raise Refused(f"the join token expired {now_s - token.expires_at_s:.0f} s ago{how}")
    if token.uses_left < 1:
        raise Refused(f"the join token is used up{how}, with more --uses")
    connection.execute(
        join_tokens.update()
        .where(join_tokens.c.secret_hash == secret_hash(secret))
        .values(uses_left=join_tokens.c.uses_left - 1)
    )
    return str(token.labels)


def public_key(connection: sa.Connection, device_id: str) -> bytes | None:
    """The key of an enrolled device."""
    query = sa.select(devices.c.public_key).where(devices.c.device_id == device_id)
    row = connection.execute(query).first()
    return None if row is None else bytes(row.public_key)


def carried_by(connection: sa.Connection, node_id: str) -> set[str]:
    """The devices that enrolled through a node, and the node itself."""
    rows = connection.execute(sa.select(devices.c.device_id).where(devices.c.via == node_id))
    return {str(row.device_id) for row in rows} | {node_id}


def save_reports(connection: sa.Connection, reports: tuple[DeviceReport, ...], *, now_s: float) -> None:
    """Keep what devices say of themselves; a report without a profile keeps the one that is known."""
    for report in reports:
        if not math.isfinite(report.age_s) or not _is_finite(report.update):
            raise InvalidInput(f"the report of {report.device_id!r} holds a number that is not finite")
        kept = report
        if report.profile is None:
            query = sa.select(devices.c.report).where(devices.c.device_id == report.device_id)
            before = connection.execute(query).scalar()
            if before is not None:
                kept = msgspec.structs.replace(report, profile=_report(before).profile)
        connection.execute(
            devices.update()
            .where(devices.c.device_id == report.device_id)
            .values(report=to_json(kept).decode(), last_seen_s=now_s - report.age_s)
        )


def newer_generations(connection: sa.Connection, sender: str, known: dict[str, int]) -> dict[str, int]:
    """The sender, and devices that it carries for, whose desired state is newer than it knows of."""
    query = (
        sa.select(assignments.c.device_id, assignments.c.generation)
        .join_from(assignments, devices)
        .where(sa.or_(devices.c.device_id == sender, devices.c.via == sender))
    )
    rows = connection.execute(query)
    return {row.device_id: row.generation for row in rows if row.generation > known.get(row.device_id, 0)}


def with_carriers(connection: sa.Connection, device_ids: set[str]) -> set[str]:
    """These devices and the nodes that carry for them: whose syncs have news of them."""
    query = sa.select(devices.c.via).where(devices.c.device_id.in_(device_ids), devices.c.via.is_not(None))
    return device_ids | {str(row.via) for row in connection.execute(query)}


def assigned(connection: sa.Connection, device_id: str) -> Assigned:
    """What a device was given last. Raises NotFound if it is not enrolled."""
    query = (
        sa.select(devices.c.enrolled_at_s, assignments.c.generation, assignments.c.assigned_at_s, assignments.c.body)
        .join_from(devices, assignments, isouter=True)
        .where(devices.c.device_id == device_id)
    )
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"there is no device {device_id!r}; 'edgeloop fleet list' shows those there are")
    if row.generation is None:
        return Assigned(generation=0, assigned_at_s=row.enrolled_at_s, assignment=None)
    return Assigned(
        generation=row.generation,
        assigned_at_s=row.assigned_at_s,
        assignment=None if row.body is None else from_json(row.body.encode(), Assignment, what="an assignment"),
    )


def assign(connection: sa.Connection, device_id: str, wanted: Assignment | None, *, now_s: float) -> int:
    """Give a device something to run, or nothing; returns the new generation, which also goes into the body."""
    before = assigned(connection, device_id)
    generation = before.generation + 1
    body = None if wanted is None else to_json(msgspec.structs.replace(wanted, generation=generation)).decode()
    values = {"generation": generation, "assigned_at_s": now_s, "body": body}
    if before.generation:
        connection.execute(assignments.update().where(assignments.c.device_id == device_id).values(**values))
    else:
        connection.execute(assignments.insert().values(device_id=device_id, **values))
    return generation


def list_devices(connection: sa.Connection) -> list[DeviceView]:
    """Everything that is enrolled, by id."""
    query = (
        sa.select(devices, assignments.c.body)
        .join_from(devices, assignments, isouter=True)
        .order_by(devices.c.device_id)
    )
    return [_view(row) for row in connection.execute(query)]


def _view(row: sa.Row[tuple[object, ...]]) -> DeviceView:
    wanted = None if row.body is None else from_json(row.body.encode(), Assignment, what="an assignment").bundle
    return DeviceView(
        device_id=row.device_id,
        kind=Kind(row.kind),
        via=row.via,
        labels=msgspec.json.decode(row.labels),
        enrolled_at_s=row.enrolled_at_s,
        last_seen_s=row.last_seen_s,
        desired=wanted,
        report=None if row.report is None else _report(row.report),
    )


def _is_finite(update: UpdateReport | None) -> bool:
    """MessagePack carries NaN and infinity, JSON does not: such a report could be stored but never read again."""
    if update is None or update.watch is None:
        return True
    return math.isfinite(update.watch.latency_p50_ms) and math.isfinite(update.watch.shadow_latency_p50_ms)


def _report(text: str) -> DeviceReport:
    return from_json(text.encode(), DeviceReport, what="a stored report")
