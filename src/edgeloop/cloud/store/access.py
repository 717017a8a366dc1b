"""API tokens and the log of what was done with them. Functions of a connection; `database` runs them.

Rules kept here: of a token only its SHA-256 is kept (it is 256 random bits, so there is nothing to guess and a slow
hash would add nothing); there is always an owner whose token does not expire; the log is only ever added to, which
the database enforces by triggers; but for `cutting`, which takes its oldest part off once that is exported.
"""

import secrets
from typing import Any

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.tables import access_log, access_outcomes, api_tokens
from edgeloop.contracts.access import AccessEntry, AccessRequest, AccessView, Role
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.join import secret_hash

_MOST_DETAIL = 500


class Caller(msgspec.Struct, frozen=True):
    """Whose token came with a request."""

    name: str
    role: Role


def find_caller(connection: sa.Connection, secret: str, *, now_s: float) -> Caller:
    """Whose token this is. Raises Refused if it is nobody's, or nobody's any more."""
    row = connection.execute(sa.select(api_tokens).where(api_tokens.c.secret_hash == secret_hash(secret))).first()
    if row is None:
        raise Refused(
            "this token is not one of this cloud's, or was revoked; use the operator file that 'cloud init' or "
            "'access add' wrote"
        )
    if row.expires_at_s is not None and row.expires_at_s <= now_s:
        raise Refused(
            f"the token of {row.name!r} expired {now_s - row.expires_at_s:.0f} s ago; an owner makes a new one with "
            "'edgeloop access add'"
        )
    return Caller(row.name, Role(row.role))


def add_token(connection: sa.Connection, request: AccessRequest, *, by: str, now_s: float) -> str:
    """A new token's secret; only its hash is kept. Raises InvalidInput if the name has one."""
    if connection.execute(sa.select(api_tokens.c.name).where(api_tokens.c.name == request.name)).first():
        raise InvalidInput(
            f"{request.name!r} has a token already; revoke it first ('edgeloop access revoke {request.name}'), or "
            "choose another name"
        )
    secret = secrets.token_urlsafe(32)
    connection.execute(
        api_tokens.insert().values(
            secret_hash=secret_hash(secret),
            name=request.name,
            role=request.role,
            created_at_s=now_s,
            created_by=by,
            expires_at_s=None if request.valid_s is None else now_s + request.valid_s,
        )
    )
    return secret


def recover(connection: sa.Connection, request: AccessRequest, *, now_s: float) -> str:
    """A token for somebody who sits at the database itself and has no other; the log says so."""
    here = Caller("recover", Role.OWNER)
    entry = note_request(connection, here, action="recover", target=request.name, address="this machine", now_s=now_s)
    token = add_token(connection, request, by=here.name, now_s=now_s)
    note_outcome(connection, entry, outcome="done", detail="", now_s=now_s)
    return token


def list_tokens(connection: sa.Connection) -> list[AccessView]:
    """Who has a token, by name."""
    return [
        AccessView(
            name=row.name,
            role=Role(row.role),
            created_at_s=row.created_at_s,
            created_by=row.created_by,
            expires_at_s=row.expires_at_s,
        )
        for row in connection.execute(sa.select(api_tokens).order_by(api_tokens.c.name))
    ]


def revoke_token(connection: sa.Connection, name: str) -> None:
    """Take a token back. Raises NotFound, or Refused if nobody were left to say who may do what."""
    row = connection.execute(sa.select(api_tokens).where(api_tokens.c.name == name)).first()
    if row is None:
        raise NotFound(f"nobody called {name!r} has a token; 'edgeloop access list' shows who has")
    lasting = sa.and_(api_tokens.c.role == Role.OWNER, api_tokens.c.expires_at_s.is_(None))
    # Locked where the database can, so that two replicas do not each remove what the other one counts on.
    owners = {one.name for one in connection.execute(sa.select(api_tokens.c.name).where(lasting).with_for_update())}
    if owners == {name}:
        raise Refused(
            f"{name!r} is the last owner whose token does not expire; make another one first ('edgeloop access add "
            "NAME --role owner')"
        )
    connection.execute(api_tokens.delete().where(api_tokens.c.name == name))


def note_request(
    connection: sa.Connection, caller: Caller, *, action: str, target: str, address: str, now_s: float
) -> int:
    """Write down what somebody is about to do; returns the entry's number."""
    added = connection.execute(
        access_log.insert().values(
            at_s=now_s, who=caller.name, role=caller.role, address=address[:64], action=action[:100], target=target
        )
    )
    (entry,) = added.inserted_primary_key or (0,)
    return int(entry)


def note_outcome(connection: sa.Connection, entry: int, *, outcome: str, detail: str, now_s: float) -> None:
    """Write down what came of it."""
    values = {"entry": entry, "at_s": now_s, "outcome": outcome, "detail": detail[:_MOST_DETAIL]}
    connection.execute(access_outcomes.insert().values(values))


LOG = sa.select(access_log, access_outcomes.c.outcome, access_outcomes.c.detail).join_from(
    access_log, access_outcomes, isouter=True
)
"""Lines of the log with what came of each; see `read_log`."""


def list_log(connection: sa.Connection, *, before: int | None, limit: int) -> list[AccessEntry]:
    """The newest entries first, or those before one."""
    query = LOG.order_by(access_log.c.entry.desc()).limit(limit)
    return read_log(connection, query if before is None else query.where(access_log.c.entry < before))


def read_log(connection: sa.Connection, query: sa.Select[Any]) -> list[AccessEntry]:
    """The lines that a query made of LOG finds."""
    return [
        AccessEntry(
            entry=row.entry,
            at_s=row.at_s,
            who=row.who,
            role=Role(row.role),
            address=row.address,
            action=row.action,
            target=row.target,
            outcome=row.outcome or "",
            detail=row.detail or "",
        )
        for row in connection.execute(query)
    ]
