"""A small durable record: named JSON values in SQLite, each change on the disk when it returns.

The device's and the node's state; `sqlite` says how it survives.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Unavailable
from edgeloop.transport.sqlite import MENDED_AT_START, Damaged, open_durable, reading, transaction

_log = structlog.get_logger(__name__)
_SCHEMA = ("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",)

T = TypeVar("T")


class Keep:
    """Named values. Safe to use from many threads; a set of changes is made in full or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = open_durable(path, _SCHEMA, fix=MENDED_AT_START)
        self._unwritten: dict[str, bytes | None] = {}

    def get(self, name: str, kind: type[T]) -> T | None:
        """The value, or None if there is none."""
        with self._lock, reading(what=str(self._path)):
            data = self._unwritten.get(name)
            if name not in self._unwritten:
                row = self._connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
                data = None if row is None else row[0]
        return None if data is None else from_json(data, kind, what=f"{self._path.name}:{name}")

    def under(self, prefix: str, kind: type[T]) -> dict[str, T]:
        """All values whose names begin so, by the rest of the name."""
        query = "SELECT name, value FROM kept WHERE substr(name, 1, ?) = ? ORDER BY name"
        with self._lock, reading(what=str(self._path)):
            found: dict[str, bytes | None] = dict(self._connection.execute(query, (len(prefix), prefix)))
            found |= {name: data for name, data in self._unwritten.items() if name.startswith(prefix)}
        return {
            name.removeprefix(prefix): from_json(data, kind, what=f"{self._path.name}:{name}")
            for name, data in found.items()
            if data is not None
        }

    def set(self, changes: Mapping[str, Any]) -> None:
        """Make all these changes at once; None removes a name. Raises Unavailable if the disk is full."""
        with self._lock:
            self._write(self._unwritten | _encoded(changes))

    def put_in_force(self, changes: Mapping[str, Any]) -> None:
        """The same for what must not wait for the disk: where that takes nothing, who asks here hears it all the same,
        and it is written with the next change, or by `save`."""
        with self._lock:
            self._unwritten |= _encoded(changes)
            try:
                self._write(self._unwritten)
            except Unavailable as error:
                _log.error("change_not_written", names=sorted(changes), detail=str(error))

    def save(self) -> None:
        """Write what is in force and not written yet. Raises Unavailable if the disk still takes nothing."""
        with self._lock:
            if self._unwritten:
                self._write(self._unwritten)

    def require_sound(self) -> None:
        """Read all of it. Raises Corrupt if any of it is damaged, Unavailable if it cannot be read."""
        with self._lock, reading(what=str(self._path)):
            (found,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise Damaged(f"{self._path} is damaged: {found}. {MENDED_AT_START}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _write(self, changes: Mapping[str, bytes | None]) -> None:
        """These, among them all that is not written yet."""
        with transaction(self._connection, what=str(self._path)):
            for name, data in changes.items():
                self._change(name, data)
        self._unwritten = {}

    def _change(self, name: str, data: bytes | None) -> None:
        if data is None:
            self._connection.execute("DELETE FROM kept WHERE name = ?", (name,))
            return
        self._connection.execute(
            "INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, data)
        )


def open_sound(path: Path) -> Keep:
    """The record of this file, which is read in full first. Raises what `Keep` and its `require_sound` do."""
    keep = Keep(path)
    try:
        keep.require_sound()
    except BaseException:
        keep.close()
        raise
    return keep


def _encoded(changes: Mapping[str, Any]) -> dict[str, bytes | None]:
    return {name: None if value is None else to_json(value) for name, value in changes.items()}
