"""What can still be read of a damaged outbox, in a new file in its place; and of a damaged `keep`.

Rules kept here: nothing that is there is destroyed: the damaged file stays beside the new one, the newest of them only;
the accounts of the new file add up, and whoever asked is told what is missing. Neighbour: `outbox` asks, and tells.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from edgeloop.bundle.durable import fsync_folder, translated
from edgeloop.contracts.errors import Unavailable
from edgeloop.transport.outbox_schema import SCHEMA
from edgeloop.transport.sqlite import open_durable, transaction

_WAITING = "('pending', 'rejected')"
_ENDS = ("", "-wal", "-shm")
_BROUGHT_UP = (
    # What the second version of the tables made of the first one's rows; nothing is left to do for those of today.
    "UPDATE events SET tier = 2 WHERE kind = 'alert'",
    "INSERT OR IGNORE INTO aside (device_id, epoch, sequence, kind, size_bytes, payload, reason, at_ms) "
    "SELECT device_id, epoch, sequence, kind, size_bytes, payload, rejected, coalesce(acknowledged_ms, 0) FROM events "
    "WHERE rejected IS NOT NULL ORDER BY id",
    "DELETE FROM events WHERE rejected IS NOT NULL",
)
_COUNTS = (
    "INSERT INTO account SELECT device_id, kind, 'pending', count(*), sum(size_bytes) FROM events "
    "WHERE acknowledged_ms IS NULL GROUP BY 1, 2",
    "INSERT INTO account SELECT device_id, kind, 'record', count(*), sum(size_bytes) FROM events "
    "WHERE acknowledged_ms IS NOT NULL GROUP BY 1, 2",
    "INSERT INTO account SELECT device_id, kind, 'rejected', count(*), sum(size_bytes) FROM aside GROUP BY 1, 2",
    # What is known of rows that are gone; where that is lost, at least of those that are still here as a record.
    "INSERT OR IGNORE INTO account SELECT device_id, kind, fate, rows, bytes FROM before "
    "WHERE fate NOT IN ('appended', 'pending', 'record', 'rejected')",
    "INSERT OR IGNORE INTO account SELECT device_id, kind, 'acknowledged', rows, bytes FROM account "
    "WHERE fate = 'record'",
    "INSERT INTO account SELECT device_id, kind, 'appended', sum(rows), sum(bytes) FROM account "
    "WHERE fate != 'record' GROUP BY 1, 2",
)


def made_sound(connection: sqlite3.Connection) -> str:
    """Make the indexes anew, out of the rows; what to tell if that was all, empty if the damage is elsewhere."""
    try:
        connection.execute("REINDEX")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError:
        return ""
    return "an index of the outbox was damaged; it was made anew, and nothing is lost" if found == ("ok",) else ""


def begin_anew(path: Path) -> str:
    """Put what can be read of this file into a new one in its place, and the damaged one beside it; returns what to
    tell.

    Raises Unavailable where the disk has no room: then nothing was changed. Who has the file open opens it again.
    """
    fresh = path.with_name(f"{path.name}.mended")
    remove(fresh)
    _require_room(path)
    damaged = sqlite3.connect(path, isolation_level=None)
    try:
        missing = _copy(damaged, fresh)
    finally:
        damaged.close()
    beside = put_in_place(path, fresh)
    return f"the file of the outbox was damaged: {missing}. The damaged file lies beside it as {beside.name}."


def put_in_place(path: Path, fresh: Path) -> Path:
    """The file of fresh, which is closed, in the place of a damaged one; returns where that lies now, the newest only.

    Raises Unavailable.
    """
    beside = path.with_name(f"{path.name}.damaged")
    with translated(path, doing="write"):
        for end in _ENDS[1:]:
            _put_away(path.with_name(path.name + end), beside.with_name(beside.name + end))
        beside.unlink(missing_ok=True)
        os.link(path, beside)  # so that there is a file at any instant
        fresh.replace(path)
        fsync_folder(path.parent)
    return beside


def _copy(damaged: sqlite3.Connection, fresh: Path) -> str:
    """Returns what is missing, in words."""
    made = open_durable(fresh, SCHEMA, fix="Check the disk.")
    try:
        with transaction(made, what=str(fresh)):
            for table in ("meta", "events", "aside"):
                _copy_table(damaged, made, table)
            for change in _BROUGHT_UP:
                made.execute(change)
            made.execute("CREATE TEMP TABLE before AS SELECT * FROM account")
            known = _copy_table(damaged, made, "account", into="before")
            for count in _COUNTS:
                made.execute(count)
            (kept,) = made.execute(f"SELECT coalesce(sum(rows), 0) FROM account WHERE fate IN {_WAITING}").fetchone()  # noqa: S608 - literals
            (waited,) = made.execute(f"SELECT coalesce(sum(rows), 0) FROM before WHERE fate IN {_WAITING}").fetchone()  # noqa: S608 - literals
    finally:
        made.close()
    if not known:
        return f"{kept:,} events that wait could be read; how many are lost is not known"
    return f"of {waited:,} events that wait, {max(0, waited - kept):,} could not be read and are lost"


def named_values(path: Path) -> dict[str, bytes]:
    """What can be read of the named values of a damaged `keep`: JSON, each.

    Raises Unavailable where the disk has no room for a copy.
    """
    _require_room(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as damaged:
        rows = _readable(damaged, "kept", ["name", "value"])
        return {
            name: value
            for name, value in rows
            if isinstance(name, str) and isinstance(value, bytes) and _is_json(value)
        }


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _copy_table(damaged: sqlite3.Connection, made: sqlite3.Connection, table: str, *, into: str = "") -> bool:
    """All rows that can be read, and that are such rows, in the columns that an older file has, too; returns whether
    any could be."""
    there = _columns(damaged, table)
    columns = [name for name in _columns(made, into or table) if name in there]
    if not columns:
        return False
    insert = f"INSERT OR IGNORE INTO {into or table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - names of ours
    copied = False
    for row in _readable(damaged, table, columns):
        try:
            made.execute(insert, row)
            copied = True
        except (sqlite3.IntegrityError, sqlite3.InterfaceError):
            continue  # what damage made of a row
    return copied


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """None where there is no such table, or nothing of the file can be read."""
    try:
        return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    except sqlite3.DatabaseError:
        return []


def _readable(damaged: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
    """Rows from the first on up to the damage, then from the last on down to it."""
    is_numbered = table != "account"  # few rows, without a number: what can be read in one go
    key = "rowid" if is_numbered else columns[0]
    query = f"SELECT {key}, {', '.join(columns)} FROM {table} NOT INDEXED"  # noqa: S608 - names of ours
    if is_numbered:
        query += " ORDER BY rowid"
    last: object = None
    try:
        for number, *row in damaged.execute(query):
            last = number
            yield tuple(row)
    except sqlite3.DatabaseError:
        if not is_numbered:
            return
    else:
        return
    try:
        for number, *row in damaged.execute(f"{query} DESC"):
            if number == last:
                return
            yield tuple(row)
    except sqlite3.DatabaseError:
        return


def _require_room(path: Path) -> None:
    with translated(path, doing="read"):
        needed = sum(one.stat().st_size for end in _ENDS[:2] if (one := path.with_name(path.name + end)).exists())
        free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise Unavailable(
            f"{path} is damaged, and to copy what can be read of it takes {needed:,} bytes; its disk has {free:,}. "
            "Free some space."
        )


def remove(path: Path) -> None:
    """A file of SQLite and what belongs to it, if it is there. Raises Unavailable."""
    with translated(path, doing="write"):
        for end in _ENDS:
            path.with_name(path.name + end).unlink(missing_ok=True)


def _put_away(path: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    if path.exists():
        path.replace(place)
