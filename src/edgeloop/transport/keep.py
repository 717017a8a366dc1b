"""A small durable record: named JSON values in SQLite, each change on the disk when it returns.

The device's and the node's state; `sqlite` says how it survives.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeloop.contracts.codec import from_json, to_json
from edgeloop.transport.sqlite import open_durable, reading, transaction

_SCHEMA = ("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",)

T = TypeVar("T")


class Keep:
    """Named values. Safe to use from many threads; a set of changes is made in full or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        fix = "Move it away; what it remembered is lost, identity and outbox are not."
        self._connection = open_durable(path, _SCHEMA, fix=fix)

    def get(self, name: str, kind: type[T]) -> T | None:
        """The value, or None if there is none."""
        with self._lock, reading(what=str(self._path)):
            row = self._connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if row is None else from_json(row[0], kind, what=f"{self._path.name}:{name}")

    def set(self, changes: Mapping[str, Any]) -> None:
        """Make all these changes at once; None removes a name. Raises Unavailable if the disk is full."""
        with self._lock, transaction(self._connection, what=str(self._path)):
            for name, value in changes.items():
                self._change(name, value)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _change(self, name: str, value: Any) -> None:
        if value is None:
            self._connection.execute("DELETE FROM kept WHERE name = ?", (name,))
            return
        self._connection.execute(
            "INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, to_json(value)),
        )
