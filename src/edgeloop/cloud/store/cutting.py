"""The access log's older part, exported and then cut off: the one way in which a line leaves it.

Rules kept here: what is cut was exported before, is the oldest part without a gap, and the log says who had it cut, up
to which line, and what the export's hash is. The triggers that keep the log append-only are off within the cutting
transaction alone.
"""

import sqlalchemy as sa

from edgeloop.cloud.store.access import LOG, Caller, note_outcome, note_request, read_log
from edgeloop.cloud.store.engine import is_postgresql
from edgeloop.cloud.store.tables import access_log, access_outcomes
from edgeloop.contracts.access import AccessEntry, Role
from edgeloop.contracts.codec import to_json

_TABLES = (access_outcomes, access_log)
"""In the order in which rows may go."""

_MOST = 1_000_000
"""Lines of one export: they are held in memory."""


def older_than(connection: sa.Connection, before_s: float) -> list[AccessEntry]:
    """The lines from before a time, in seconds since 1970, oldest first; a million at most."""
    newer = sa.select(sa.func.min(access_log.c.entry)).where(access_log.c.at_s >= before_s).scalar_subquery()
    older = sa.and_(access_log.c.at_s < before_s, sa.or_(newer.is_(None), access_log.c.entry < newer))
    return read_log(connection, LOG.where(older).order_by(access_log.c.entry).limit(_MOST))


def as_lines(entries: list[AccessEntry]) -> bytes:
    """An export: a line of JSON for each entry."""
    return b"".join(to_json(entry) + b"\n" for entry in entries)


def cut(connection: sa.Connection, last: int, *, sha256: str, now_s: float) -> None:
    """Remove the lines up to number `last`, which were exported. sha256: of the export."""
    here = Caller("cut", Role.OWNER)
    entry = note_request(connection, here, action="cut-log", target=f"to {last}", address="this machine", now_s=now_s)
    note_outcome(connection, entry, outcome="done", detail=f"exported as {sha256}", now_s=now_s)
    for table in _TABLES:
        name = table.name
        if is_postgresql(connection):
            connection.execute(sa.text(f"ALTER TABLE {name} DISABLE TRIGGER {name}_append_only"))
            connection.execute(table.delete().where(table.c.entry <= last))
            connection.execute(sa.text(f"ALTER TABLE {name} ENABLE TRIGGER {name}_append_only"))
            continue
        trigger = f"{name}_no_delete"
        made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (trigger,)).scalar()
        connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
        connection.execute(table.delete().where(table.c.entry <= last))
        connection.exec_driver_sql(str(made))
