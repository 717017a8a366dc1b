"""Devices, join tokens and assignments in the database. Functions of a connection; `database` runs them."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.glance import first_in, run_in
from edgeloop.cloud.store.news import tell
from edgeloop.cloud.store.restores import FLOOR
from edgeloop.cloud.store.tables import assignments, devices, join_tokens
from edgeloop.contracts.api import DeviceView, JoinTokenRequest, JoinTokenView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.contracts.join import secret_hash, token_id
from edgeloop.contracts.messages import Assignment, Desired, DeviceReport, EnrolRequest
from edgeloop.contracts.states import Kind

_MINE = sa.or_(devices.c.device_id == sa.bindparam("sender"), devices.c.via == sa.bindparam("sender"))
# What every request asks is put together once: that takes longer than asking.
PUBLIC_KEY = sa.select(devices.c.public_key).where(
    devices.c.device_id == sa.bindparam("device_id"), devices.c.revoked_at_s.is_(None)
)
"""The key of device `device_id`, unless it was revoked: for `Database.look`."""

_IN_GOOD_STANDING = sa.select(devices.c.device_id).where(_MINE, devices.c.revoked_at_s.is_(None))
ASSIGNED_TO = (
    sa.select(devices.c.device_id, assignments.c.generation, devices.c.revoked_at_s)
    .join_from(devices, assignments, isouter=True)
    .where(_MINE)
)
"""What `newer_desired` is told by, of device `sender` and of those that it carries for: for `Database.look`."""

_SAVE_REPORT = (
    devices.update()
    .where(devices.c.device_id == sa.bindparam("this"))
    .values(report=sa.bindparam("said"), last_seen_s=sa.bindparam("seen_s"))
)
_SAVE_BEAT = _SAVE_REPORT.where(
    devices.c.last_seen_s == sa.bindparam("before_s"), devices.c.revoked_at_s.is_(None)
).returning(devices.c.device_id)

_ASSIGNED = (
    sa.select(
        devices.c.enrolled_at_s,
        assignments.c.generation,
        assignments.c.assigned_at_s,
        assignments.c.body,
        FLOOR.label("floor"),
    )
    .join_from(devices, assignments, isouter=True)
    .where(devices.c.device_id == sa.bindparam("device_id"))
)
_VIA = sa.select(devices.c.via).where(devices.c.device_id == sa.bindparam("device_id"))
_NEW_ASSIGNMENT: dict[str, sa.BindParameter[object]] = {
    "generation": sa.bindparam("number"),
    "assigned_at_s": sa.bindparam("at_s"),
    "body": sa.bindparam("wanted"),
}
_ASSIGN_FIRST = assignments.insert().values(device_id=sa.bindparam("this"), **_NEW_ASSIGNMENT)
_REASSIGN = assignments.update().where(assignments.c.device_id == sa.bindparam("this")).values(**_NEW_ASSIGNMENT)


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """A device's newest assignment; generation 0 and None before its first. floor: see store.restores.FLOOR."""

    generation: int
    assigned_at_s: float
    assignment: Assignment | None
    floor: int


def make_join_token(connection: sa.Connection, request: JoinTokenRequest, *, now_s: float, by: str = "") -> str:
    """A new secret; only its hash is kept."""
    secret = secrets.token_urlsafe(32)
    connection.execute(
        join_tokens.insert().values(
            secret_hash=secret_hash(secret),
            uses=request.uses,
            uses_left=request.uses,
            expires_at_s=now_s + request.valid_s,
            labels=to_json(request.labels).decode(),
            made_at_s=now_s,
            made_by=by,
            note=request.note,
        )
    )
    return secret


def list_join_tokens(connection: sa.Connection) -> list[JoinTokenView]:
    """All join tokens, the newest first, with whom they admitted."""
    admitted: dict[str, list[str]] = {}
    for row in connection.execute(sa.select(devices.c.device_id, devices.c.joined_with).order_by(devices.c.device_id)):
        admitted.setdefault(row.joined_with or "", []).append(row.device_id)
    rows = connection.execute(sa.select(join_tokens).order_by(join_tokens.c.expires_at_s.desc()))
    return [
        JoinTokenView(
            token_id=token_id(row.secret_hash),
            note=row.note,
            labels=msgspec.json.decode(row.labels),
            uses=row.uses_left if row.uses is None else row.uses,
            uses_left=row.uses_left,
            made_at_s=row.made_at_s,
            made_by=row.made_by,
            expires_at_s=row.expires_at_s,
            revoked_at_s=row.revoked_at_s,
            admitted=tuple(admitted.get(token_id(row.secret_hash), ())),
        )
        for row in rows
    ]


def revoke_join_token(connection: sa.Connection, wanted: str, *, now_s: float) -> JoinTokenView:
    """Let nobody else in with a token; whom it admitted stays. Raises NotFound."""
    found = next((view for view in list_join_tokens(connection) if view.token_id == wanted), None)
    if found is None:
        raise NotFound(f"there is no join token {wanted!r}; 'edgeloop fleet tokens' shows those there are")
    if found.revoked_at_s is not None:
        return found
    connection.execute(
        join_tokens.update().where(join_tokens.c.secret_hash.startswith(wanted)).values(revoked_at_s=now_s)
    )
    return msgspec.structs.replace(found, revoked_at_s=now_s)


def enrol(connection: sa.Connection, request: EnrolRequest, *, now_s: float) -> None:
    """Admit a device. A repeat with the same key, id and way is let through without using the token again; moving
    to another node takes a good token like joining does, and so does coming back after a revocation, where that is
    allowed: then with whatever key the device has now. Both take a request that the device made after all its others:
    whoever carried an earlier one cannot use it to have the device back.
    """
    _check_carrier(connection, request)
    known = connection.execute(sa.select(devices).where(devices.c.device_id == request.device_id)).first()
    row: dict[str, object] = {"public_key": request.public_key, "kind": request.kind, "via": request.via}
    if request.fresh:
        row["asked_at_ms"] = request.made_at_ms
    if known is None:
        row |= {"device_id": request.device_id, "enrolled_at_s": now_s}
        connection.execute(devices.insert().values(**row, **_use_token(connection, request.join_secret, now_s)))
        return
    this = devices.update().where(devices.c.device_id == request.device_id)
    if known.revoked_at_s is not None:
        _check_may_rejoin(known, now_s)
        _check_newest(known, request)
        row |= {"enrolled_at_s": now_s, "revoked_at_s": None, "may_rejoin": False}
        connection.execute(this.values(**row, **_use_token(connection, request.join_secret, now_s)))
        return
    _check_same(known, request)
    if known.via != request.via:
        _check_newest(known, request)
        _use_token(connection, request.join_secret, now_s)
        connection.execute(this.values(**row))
    elif request.fresh and request.made_at_ms > (known.asked_at_ms or 0):
        connection.execute(this.values(asked_at_ms=request.made_at_ms))


def revoke(connection: sa.Connection, device_id: str, *, now_s: float) -> None:
    """Take nothing from a device from now on. Its desired state grows by one generation, which is how the node that
    carries for it hears of it. Raises NotFound.
    """
    known = assigned(connection, device_id)
    this = devices.update().where(devices.c.device_id == device_id)
    if connection.execute(this.where(devices.c.revoked_at_s.is_(None)).values(revoked_at_s=now_s)).rowcount:
        assign(connection, device_id, known.assignment, now_s=now_s)
    connection.execute(this.values(may_rejoin=False))


def allow_rejoin(connection: sa.Connection, device_id: str) -> None:
    """Let a revoked device enrol again, with a join token. Raises NotFound, or InvalidInput if it was not revoked."""
    assigned(connection, device_id)
    this = sa.and_(devices.c.device_id == device_id, devices.c.revoked_at_s.is_not(None))
    if not connection.execute(devices.update().where(this).values(may_rejoin=True)).rowcount:
        raise InvalidInput(f"{device_id!r} was not revoked; 'edgeloop fleet revoke' does that")


def get_device(connection: sa.Connection, device_id: str) -> DeviceView:
    """One device. Raises NotFound."""
    assigned(connection, device_id)
    return next(view for view in list_devices(connection) if view.device_id == device_id)


def _check_carrier(connection: sa.Connection, request: EnrolRequest) -> None:
    if request.via is None:
        return
    query = sa.select(devices.c.kind).where(devices.c.device_id == request.via, devices.c.revoked_at_s.is_(None))
    if connection.execute(query).scalar() != Kind.NODE:
        raise Refused(f"{request.via!r} is no node here and carries for nobody")


def _check_same(known: sa.Row[tuple[object, ...]], request: EnrolRequest) -> None:
    if known.public_key != request.public_key:
        raise Refused(
            f"the id {request.device_id!r} is enrolled with another key; choose another id for this device (--id), "
            f"or, if it lost its key, have it replaced ('edgeloop fleet revoke' and 'fleet allow {request.device_id}')"
        )


def _check_newest(known: sa.Row[tuple[object, ...]], request: EnrolRequest) -> None:
    if not request.fresh:
        raise Refused(
            f"{request.device_id!r} is known here, and its request does not say when it was made, so it may be an old "
            "one that is shown again; update edgeloop on the device and enrol it anew"
        )
    if known.asked_at_ms is not None and request.made_at_ms <= known.asked_at_ms:
        raise Refused(
            f"{request.device_id!r} asked at {known.asked_at_ms / 1000:.3f} s since 1970, this request of it is from "
            f"{request.made_at_ms / 1000:.3f} s: it was used already, or the device asked again since. Enrol it anew."
        )


def _check_may_rejoin(known: sa.Row[tuple[object, ...]], now_s: float) -> None:
    if not known.may_rejoin:
        raise Refused(
            f"{known.device_id!r} was revoked {now_s - known.revoked_at_s:.0f} s ago; it may come back after "
            f"'edgeloop fleet allow {known.device_id}', with a new join token"
        )


def _use_token(connection: sa.Connection, secret: str, now_s: float) -> dict[str, str]:
    """Use a join token once; returns what it gives to the device's row. Raises Refused if it is not good."""
    this = join_tokens.c.secret_hash == secret_hash(secret)
    token = connection.execute(sa.select(join_tokens).where(this)).first()
    how = "; make one with 'edgeloop fleet token'"
    if token is None:
        raise Refused(f"this cloud never made that join token{how}")
    if token.revoked_at_s is not None:
        raise Refused(f"the join token was revoked {now_s - token.revoked_at_s:.0f} s ago{how}")
    if token.expires_at_s < now_s:
        raise Refused(f"the join token expired {now_s - token.expires_at_s:.0f} s ago{how}")
    used = join_tokens.update().where(this, join_tokens.c.uses_left > 0)
    if not connection.execute(used.values(uses_left=join_tokens.c.uses_left - 1)).rowcount:
        raise Refused(f"the join token is used up{how}, with more --uses")
    return {"labels": str(token.labels), "joined_with": token_id(token.secret_hash)}


def public_key(connection: sa.Connection, device_id: str) -> bytes | None:
    """The key of an enrolled device; None also for one that was revoked."""
    found = first_in(connection, PUBLIC_KEY, {"device_id": device_id})
    return None if found is None else bytes(found[0])


def carried_by(connection: sa.Connection, node_id: str) -> set[str]:
    """The devices that enrolled through a node, and the node itself; also revoked ones, see `in_good_standing`."""
    rows = connection.execute(sa.select(devices.c.device_id).where(devices.c.via == node_id))
    return {str(row.device_id) for row in rows} | {node_id}


def in_good_standing(connection: sa.Connection, sender: str) -> set[str]:
    """Those for whom a sender may speak now: itself and whom it carries for, but for revoked ones."""
    return {str(device_id) for (device_id,) in run_in(connection, _IN_GOOD_STANDING, {"sender": sender})}


def require_good_standing(connection: sa.Connection, device_id: str) -> None:
    """Raise Refused if a device was revoked: also while its request was held open, or still on its way up."""
    if public_key(connection, device_id) is None:
        raise revoked(device_id)


def revoked(device_id: str) -> Refused:
    """What whoever was revoked is told."""
    return Refused(f"{device_id!r} was revoked; nothing is taken from it any more")


def save_reports(connection: sa.Connection, reports: tuple[DeviceReport, ...], *, now_s: float) -> None:
    """Keep what devices say of themselves, once hub.reports let it in; a report without a profile keeps the one that is
    known.
    """
    for report in reports:
        run_in(connection, _SAVE_REPORT, _said(connection, report, seen_s=now_s - report.age_s))


class Beat(msgspec.Struct, frozen=True):
    """A report that was put aside. seen_s: when it was said. before_s: the same of what was kept of its device then."""

    report: DeviceReport
    seen_s: float
    before_s: float


def save_beats(connection: sa.Connection, beats: Iterable[Beat]) -> set[str]:
    """Keep what devices say of themselves where nothing else was kept of them since, and they are not revoked; returns
    whose was kept.
    """
    rows = (
        run_in(
            connection,
            _SAVE_BEAT,
            {**_said(connection, beat.report, seen_s=beat.seen_s), "before_s": beat.before_s},
        )
        for beat in beats
    )
    return {str(device_id) for given in rows for (device_id,) in given}


def _said(connection: sa.Connection, report: DeviceReport, *, seen_s: float) -> dict[str, object]:
    kept = report
    if report.profile is None:
        query = sa.select(devices.c.report).where(devices.c.device_id == report.device_id).with_for_update()
        before = connection.execute(query).scalar()
        known, _ = stored_report(before)
        if known is not None:
            kept = msgspec.structs.replace(report, profile=known.profile)
    return {"this": report.device_id, "said": to_json(kept).decode(), "seen_s": seen_s}


def newer_desired(connection: sa.Connection, sender: str, known: dict[str, int]) -> tuple[Desired, ...]:
    """What is newer than it knows of for the sender and for devices that it carries for. Raises Refused if the sender
    was revoked: also while its request was held open, or still on its way up.
    """
    return newer_of(run_in(connection, ASSIGNED_TO, {"sender": sender}), sender, known)


def newer_of(rows: Sequence[Sequence[Any]], sender: str, known: dict[str, int]) -> tuple[Desired, ...]:
    """The same of the rows of ASSIGNED_TO."""
    if not any(device_id == sender and revoked_at_s is None for device_id, _, revoked_at_s in rows):
        raise revoked(sender)
    return tuple(
        Desired(device_id=device_id, generation=generation, revoked=revoked_at_s is not None)
        for device_id, generation, revoked_at_s in rows
        if generation is not None and generation > known.get(device_id, 0)
    )


def with_carriers(connection: sa.Connection, device_ids: set[str]) -> set[str]:
    """These devices and the nodes that carry for them: whose syncs have news of them."""
    query = sa.select(devices.c.via).where(devices.c.device_id.in_(device_ids), devices.c.via.is_not(None))
    return device_ids | {str(row.via) for row in connection.execute(query)}


def assigned(connection: sa.Connection, device_id: str) -> Assigned:
    """What a device was given last. Raises NotFound if it is not enrolled."""
    row = first_in(connection, _ASSIGNED, {"device_id": device_id})
    if row is None:
        raise NotFound(f"there is no device {device_id!r}; 'edgeloop fleet list' shows those there are")
    enrolled_at_s, generation, assigned_at_s, body, floor = row
    if generation is None:
        return Assigned(generation=0, assigned_at_s=enrolled_at_s, assignment=None, floor=floor)
    return Assigned(
        generation=generation,
        assigned_at_s=assigned_at_s,
        assignment=None if body is None else from_json(body.encode(), Assignment, what="an assignment"),
        floor=floor,
    )


def assign(connection: sa.Connection, device_id: str, wanted: Assignment | None, *, now_s: float) -> int:
    """Give a device something to run, or nothing; returns the new generation, which also goes into the body.

    Other replicas hear of it (`store.news`). In a restored cloud generations go on above those that it has forgotten.
    """
    before = assigned(connection, device_id)
    generation = max(before.generation, before.floor) + 1
    body = None if wanted is None else to_json(msgspec.structs.replace(wanted, generation=generation)).decode()
    values = {"this": device_id, "number": generation, "at_s": now_s, "wanted": body}
    run_in(connection, _REASSIGN if before.generation else _ASSIGN_FIRST, values)
    via = first_in(connection, _VIA, {"device_id": device_id})
    tell(connection, (device_id, None if via is None else via[0]))
    return generation


def list_devices(connection: sa.Connection) -> list[DeviceView]:
    """Everything that is enrolled, by id. A device whose stored report cannot be read is listed without it, and why."""
    query = (
        sa.select(devices, assignments.c.body)
        .join_from(devices, assignments, isouter=True)
        .order_by(devices.c.device_id)
    )
    return [_view(row) for row in connection.execute(query)]


def _view(row: sa.Row[tuple[object, ...]]) -> DeviceView:
    report, unreadable = stored_report(row.report)
    wanted = None if row.body is None else from_json(row.body.encode(), Assignment, what="an assignment").bundle
    return DeviceView(
        device_id=row.device_id,
        kind=Kind(row.kind),
        via=row.via,
        labels=msgspec.json.decode(row.labels),
        enrolled_at_s=row.enrolled_at_s,
        last_seen_s=row.last_seen_s,
        desired=wanted,
        report=report,
        unreadable=unreadable,
        revoked_at_s=row.revoked_at_s,
        may_rejoin=bool(row.may_rejoin),
        joined_with=row.joined_with,
    )


def stored_report(text: str | None) -> tuple[DeviceReport | None, str]:
    """A stored report, or why it cannot be read: one device's must not hide the others'."""
    if text is None:
        return None, ""
    try:
        return from_json(text.encode(), DeviceReport, what="the stored report"), ""
    except (InvalidInput, Corrupt) as error:
        return None, str(error)
