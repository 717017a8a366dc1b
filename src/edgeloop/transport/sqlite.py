"""SQLite files that survive a power cut: WAL and synchronous=FULL (measured: with NORMAL it lost up to 10,400 rows).

Neighbours: `outbox` and `keep` keep their rows in one each.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog

from edgeloop.bundle.durable import DISK_FAILED, is_of_storage, storage_error, translated
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable

_log = structlog.get_logger(__name__)
_LOG_PAGES = 256
"""Of 4 KB, before the log goes into the file: what stands there takes room twice, and small disks are full soon."""

MENDED_AT_START = (
    "Start the device or the node whose it is: what can be read is kept then, and the file stays beside the new one."
)

_PRIMARY = 0xFF
"""Of SQLite's result codes: what they extend."""


class Damaged(Corrupt):
    """A file that SQLite finds damaged."""


def open_durable(path: Path, schema: Sequence[str], *, fix: str) -> sqlite3.Connection:
    """Open or make the file and bring its tables up to date; any thread may use it, one at a time.

    schema: scripts, each of which brings the file from one version to the next; they are not changed once released.
    fix: what to do when the file is damaged. Where the disk has no room for what SQLite shares with other processes,
    these are kept out for as long as the file is open. Raises Unavailable if it cannot be opened, Corrupt if it is no
    such file, InvalidInput if a newer edgeloop made it.
    """
    with translated(path, doing="write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            return _opened(path, schema, is_alone=False)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHMSIZE:
                raise
            # A disk without a byte left is no reason not to work: what is there can be read, and is written to later.
            _log.error("disk_full_at_start", path=str(path), detail="until the next start no other process can look in")
            return _opened(path, schema, is_alone=True)
    except sqlite3.DatabaseError as error:
        raise _meant(error, str(path), "open", fix) from error


def _opened(path: Path, schema: Sequence[str], *, is_alone: bool) -> sqlite3.Connection:
    """is_alone: without the file that SQLite shares with other processes, which are kept out then."""
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
    except sqlite3.DatabaseError as error:
        why = _why_not_opened(path)
        if why is None:
            raise
        raise why from error
    try:
        if is_alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        _bring_up(connection, schema, path)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, what: str) -> Iterator[None]:
    """All of it on the disk, or none. Raises Unavailable when the disk is full, fails or cannot be written, Corrupt
    when what is on it is damaged.
    """
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
    except sqlite3.DatabaseError as error:
        raise _meant(error, what, "write") from error


@contextmanager
def reading(*, what: str) -> Iterator[None]:
    """Raises Unavailable when the file cannot be read now, Corrupt when it is damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _meant(error, what, "read") from error


def _meant(
    error: sqlite3.DatabaseError, what: str, doing: Literal["open", "read", "write"], fix: str = MENDED_AT_START
) -> EdgeloopError:
    """What SQLite's error means to the caller, by its result code. Source: sqlite.org/rescode.html.

    SQLite keeps the system's own errno to itself; ENOSPC it tells as SQLITE_FULL, but for its shared memory.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Unavailable(f"{what} cannot {doing}: {error}. Free some space on its disk; if there is, it failed.")
    match code & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"{what} cannot {doing}: {error}. Free some space on its disk.")
        case sqlite3.SQLITE_IOERR:
            return Unavailable(f"{what} cannot {doing}: the disk failed ({error}). {DISK_FAILED}.")
        case sqlite3.SQLITE_READONLY:
            return Unavailable(
                f"{what} cannot {doing}: {error}. Mount its disk for writing, or give this user the right to write "
                "there. If the disk became read-only by itself, it failed: look at the system's log ('dmesg')."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"{what} cannot {doing}: {error}. Another process is at work in it; try again.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged(f"{what} is damaged: {error}. {fix}")
        case sqlite3.SQLITE_CONSTRAINT:
            return EdgeloopError(f"{what} cannot {doing}: {error}. The fault is edgeloop's; please report it.")
    return Unavailable(f"{what} cannot {doing}: {error}. Check the disk and its permissions.")


def _why_not_opened(path: Path) -> EdgeloopError | None:
    """SQLite does not say why it could not open a file: what the system says; None if it has nothing against it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        return storage_error(error, path) if is_of_storage(error) else None
    return None


def _bring_up(connection: sqlite3.Connection, schema: Sequence[str], path: Path) -> None:
    """Each step in full or not at all; another process that does the same meanwhile is waited for."""
    if _version(connection) == len(schema):
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection)
        if version > len(schema):
            raise InvalidInput(
                f"{path} is of version {version}; this edgeloop reads up to {len(schema)}. Update edgeloop here."
            )
        for script in schema[version:]:
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(schema)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
