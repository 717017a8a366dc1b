"""Which rows of an outbox make the next batch, and reading them.

Rule kept here: what cannot go now (its key is missing, its class has nothing left of the day) takes no room from what
can. Neighbours: `outbox` asks, `payloads` reads.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.messages import Alert, Event
from edgeloop.transport.payloads import Payloads
from edgeloop.transport.worth import ALERT


class Queued(msgspec.Struct, frozen=True):
    """A row that waits to go up. size_bytes: as it lies in the queue."""

    row: int
    event: Event
    size_bytes: int


class Batch(NamedTuple):
    """What was found. broken, locked: rows that cannot be read for good, or for want of their key, and why."""

    found: list[Queued]
    broken: dict[int, str]
    locked: dict[int, str]


class Room:
    """What a batch may hold: rows, bytes, and of each class what may go today."""

    def __init__(self, limit: int, max_bytes: int, allowed_bytes: Mapping[str, int]) -> None:
        self._rows = limit
        self._looks = limit * 4
        self._bytes = max_bytes
        self._allowed_bytes = dict(allowed_bytes)
        self._is_empty = True

    def queries(self, *, oldest_first: bool, but: Collection[int]) -> Iterator[tuple[str, tuple[str | int, ...]]]:
        """Rows that wait, as (id, kind, size_bytes, payload): alerts, then the others that may be small enough; none
        of `but`."""
        columns = "SELECT id, kind, size_bytes, payload FROM events WHERE acknowledged_ms IS NULL"
        others = (to_json(sorted(but)).decode(),) if but else ()
        if but:
            columns += " AND id NOT IN (SELECT value FROM json_each(?))"
        yield f"{columns} AND kind = ? ORDER BY id", (*others, ALERT)
        named = [one for pair in self._allowed_bytes.items() for one in pair]
        fits = " AND NOT (kind = ? AND size_bytes > ?)" * len(self._allowed_bytes)
        yield f"{columns} AND kind != ?{fits} ORDER BY id {'ASC' if oldest_first else 'DESC'}", (*others, ALERT, *named)

    def is_full(self, size_bytes: int) -> bool:
        """Whether a row of this size ends the batch."""
        self._looks -= 1
        return self._rows <= 0 or self._looks < 0 or (size_bytes > self._bytes and not self._is_empty)

    def has_for(self, kind: str, size_bytes: int) -> bool:
        """Whether a row's class has enough left."""
        return size_bytes <= self._allowed_bytes.get(kind, size_bytes)

    def take(self, kind: str, size_bytes: int) -> None:
        """A row goes."""
        if kind in self._allowed_bytes:
            self._allowed_bytes[kind] -= size_bytes
        self._rows -= 1
        self._bytes -= size_bytes
        self._is_empty = False


def next_batch(
    connection: sqlite3.Connection, payloads: Payloads, room: Room, *, oldest_first: bool, but: Collection[int]
) -> Batch:
    """The rows that fill this room, alerts first, each in the order in which they came; none of `but`."""
    batch = Batch([], {}, {})
    for query, values in room.queries(oldest_first=oldest_first, but=but):
        for row, kind, size_bytes, payload in connection.execute(query, values):
            if room.is_full(size_bytes):
                break
            if not room.has_for(kind, size_bytes):
                continue
            try:
                event = payloads.read(payload)
            except (Corrupt, InvalidInput) as error:
                batch.broken[row] = str(error)
            except Unavailable as error:
                batch.locked[row] = str(error)
            else:
                room.take(kind, size_bytes)
                batch.found.append(Queued(row, event, size_bytes))
    batch.found.sort(key=lambda one: (not isinstance(one.event.body, Alert), one.row))
    return batch
