"""A small durable record: named JSON values in SQLite, each change on the disk when it returns.

The device's and the node's state. WAL and synchronous=FULL, as in `outbox`, and for the same reason.
"""

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Corrupt, Unavailable

T = TypeVar("T")


class Keep:
    """Named values. Safe to use from many threads; a set of changes is made in full or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = _open(path)

    def get(self, name: str, kind: type[T]) -> T | None:
        """The value, or None if there is none."""
        with self._lock:
            row = self._connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if row is None else from_json(row[0], kind, what=f"{self._path.name}:{name}")

    def set(self, changes: Mapping[str, Any]) -> None:
        """Make all these changes at once; None removes a name. Raises Unavailable if the disk is full."""
        with self._lock:
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    for name, value in changes.items():
                        self._change(name, value)
            except sqlite3.OperationalError as error:
                raise Unavailable(f"cannot write {self._path}: {error}. Free some space on its disk.") from error

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


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT")
    except sqlite3.OperationalError as error:
        raise Unavailable(f"cannot open {path}: {error}. Check the disk and its permissions.") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(
            f"{path} is damaged: {error}. Move it away; what it remembered is lost, identity and outbox are not."
        ) from error
    return connection
