"""Small values that an outbox keeps beside its rows: its epoch, its counters.

Neighbours: `outbox` and `numbering` use them within the outbox's transactions.
"""

import sqlite3


class Meta:
    """Named values of one outbox."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, key: str) -> str | None:
        """The value, None if there is none."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set(self, key: str, value: str) -> None:
        """Put it in the place of what was there."""
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    def count(self, key: str, more: int = 1) -> tuple[int, bool]:
        """Count what happened; returns how often so far, and whether people are to be told: at the first, the second,
        the fourth, ..., so that what happens without end is no flood."""
        before = int(self.get(key) or 0)
        after = before + more
        self.set(key, str(after))
        return after, after.bit_length() > before.bit_length()
