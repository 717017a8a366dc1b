"""Which rows of an outbox make the next batch.

Neighbour: `outbox` reads them.
"""

from collections.abc import Iterator, Mapping

from edgeloop.transport.worth import ALERT


class Room:
    """What a batch may hold: rows, bytes, and of each class what may go today."""

    def __init__(self, limit: int, max_bytes: int, allowed_bytes: Mapping[str, int]) -> None:
        self._rows = limit
        self._looks = limit * 4
        self._bytes = max_bytes
        self._allowed_bytes = dict(allowed_bytes)
        self._is_empty = True

    def queries(self, *, oldest_first: bool) -> Iterator[tuple[str, tuple[str | int, ...]]]:
        """Rows that wait, as (id, kind, size_bytes, payload): alerts, then the others that may be small enough."""
        columns = "SELECT id, kind, size_bytes, payload FROM events WHERE acknowledged_ms IS NULL"
        yield f"{columns} AND kind = ? ORDER BY id", (ALERT,)
        named = [one for pair in self._allowed_bytes.items() for one in pair]
        fits = " AND NOT (kind = ? AND size_bytes > ?)" * len(self._allowed_bytes)
        yield f"{columns} AND kind != ?{fits} ORDER BY id {'ASC' if oldest_first else 'DESC'}", (ALERT, *named)

    def is_full(self, size_bytes: int) -> bool:
        """Whether a row of this size ends the batch."""
        self._looks -= 1
        return self._rows <= 0 or self._looks < 0 or (size_bytes > self._bytes and not self._is_empty)

    def take(self, kind: str, size_bytes: int) -> bool:
        """Make room for a row, if its class has enough left."""
        if size_bytes > self._allowed_bytes.get(kind, size_bytes):
            return False
        if kind in self._allowed_bytes:
            self._allowed_bytes[kind] -= size_bytes
        self._rows -= 1
        self._bytes -= size_bytes
        self._is_empty = False
        return True
