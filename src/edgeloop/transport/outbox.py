"""The disk queue for what goes up, at the device and at the node: what was appended is there after a power cut.

Rules kept here: a row leaves only when the hub has acknowledged it after its own commit, or when the bound forces
the least valuable out, which is counted; an append with a known (device, epoch, sequence) changes nothing.
Acknowledged rows stay as the device's own record until their room is needed.
"""

import math
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert, Body, Event, Reading, Sample
from edgeloop.transport.sqlite import open_durable, reading, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    value REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    payload BLOB NOT NULL,
    acknowledged_ms INTEGER,
    rejected TEXT,
    UNIQUE (device_id, epoch, sequence)
) STRICT;
CREATE INDEX IF NOT EXISTS pending ON events (id) WHERE acknowledged_ms IS NULL;
CREATE INDEX IF NOT EXISTS acknowledged ON events (id) WHERE acknowledged_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_value ON events (value, id) WHERE acknowledged_ms IS NULL;
CREATE TABLE IF NOT EXISTS evicted (kind TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
"""

_INSERT = (
    "INSERT OR IGNORE INTO events (device_id, epoch, sequence, kind, value, size_bytes, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_EVICT_ROWS = 500
_DEFAULT_MAX_BYTES = 256 * 1024 * 1024


class Queued(msgspec.Struct, frozen=True):
    """A row that waits to go up."""

    row: int
    event: Event


class OutboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """What is queued, what was forced out."""

    pending_rows: int
    pending_bytes: int
    acknowledged_rows: int
    evicted_rows: int


class Outbox:
    """A bounded, durable queue of events. Safe to use from many threads."""

    def __init__(self, path: Path, device_id: str, *, max_bytes: int = _DEFAULT_MAX_BYTES) -> None:
        self.device_id = device_id
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        fix = "Move it away; the device makes a new one."
        self._connection = open_durable(path, _SCHEMA, fix=fix)
        self.epoch = self._own_epoch()
        self._next = 1 + self._scalar(
            "SELECT coalesce(max(sequence), 0) FROM events WHERE device_id = ? AND epoch = ?", device_id, self.epoch
        )
        self._next = max(self._next, 1 + int(self._meta("last_sequence") or 0))
        self._bytes = self._scalar("SELECT coalesce(sum(size_bytes), 0) FROM events")

    def append(self, bodies: Iterable[Body], *, at_ms: int) -> list[int]:
        """Add events of this device's own in one transaction, durable on return; returns their sequences.

        Raises Unavailable when the disk is full: then nothing of it was added.
        """
        with self._lock:
            events = [
                Event(device_id=self.device_id, epoch=self.epoch, sequence=self._next + i, at_ms=at_ms, body=body)
                for i, body in enumerate(bodies)
            ]
            if self._insert(events) != len(events):
                raise Unavailable(
                    "another process writes to this outbox: its sequences are taken. Run one agent a state folder."
                )
            self._next += len(events)
            return [event.sequence for event in events]

    def accept(self, events: Iterable[Event]) -> tuple[int, int]:
        """Add events of others in one transaction, durable on return; returns (new, repeated)."""
        with self._lock:
            given = list(events)
            added = self._insert(given)
            return added, len(given) - added

    def pending(self, *, limit: int, max_bytes: int) -> list[Queued]:
        """The next rows to send: alerts first, then oldest first; at least one if there is any."""
        query = "SELECT id, payload FROM events WHERE acknowledged_ms IS NULL ORDER BY kind = 'alert' DESC, id LIMIT ?"
        found: list[Queued] = []
        total_bytes = 0
        with self._reading():
            for row, payload in self._connection.execute(query, (limit,)):
                total_bytes += len(payload)
                if found and total_bytes > max_bytes:
                    break
                found.append(Queued(row, from_msgpack(payload, Event, what="an outbox row")))
        return found

    def acknowledge(self, rows: Iterable[int], *, rejected: dict[int, str] | None = None) -> None:
        """Mark rows as taken by the hub; `rejected` gives the hub's reason for rows that it will never take."""
        now_ms = int(time.time() * 1000)
        reasons = rejected or {}
        with self._lock, transaction(self._connection, what="the outbox"):
            self._connection.executemany(
                "UPDATE events SET acknowledged_ms = ?, rejected = ? WHERE id = ?",
                [(now_ms, reasons.get(row), row) for row in rows],
            )

    def events(self) -> Iterator[Event]:
        """Every row that is still kept, acknowledged or not, oldest first: the device's own record."""
        with self._reading():
            payloads = self._connection.execute("SELECT payload FROM events ORDER BY id").fetchall()
        return (from_msgpack(payload, Event, what="an outbox row") for (payload,) in payloads)

    def last_source(self) -> str:
        """What the newest reading of this device's own was read from; empty when there is none."""
        query = "SELECT payload FROM events WHERE device_id = ? AND kind = 'reading' ORDER BY id DESC LIMIT 1"
        with self._reading():
            row = self._connection.execute(query, (self.device_id,)).fetchone()
        if row is None:
            return ""
        body = from_msgpack(row[0], Event, what="an outbox row").body
        return body.source if isinstance(body, Reading) else ""

    def stats(self) -> OutboxStats:
        """Counts over the whole outbox."""
        with self._reading():
            pending, pending_bytes, kept = self._connection.execute(
                "SELECT coalesce(sum(acknowledged_ms IS NULL), 0), "
                "coalesce(sum(CASE WHEN acknowledged_ms IS NULL THEN size_bytes ELSE 0 END), 0), "
                "coalesce(sum(acknowledged_ms IS NOT NULL), 0) FROM events"
            ).fetchone()
            (evicted,) = self._connection.execute("SELECT coalesce(sum(rows), 0) FROM evicted").fetchone()
        return OutboxStats(
            pending_rows=pending, pending_bytes=pending_bytes, acknowledged_rows=kept, evicted_rows=evicted
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _insert(self, events: list[Event]) -> int:
        rows = [_row(event) for event in events]
        added = added_bytes = 0
        with transaction(self._connection, what="the outbox"):
            for row in rows:
                if self._connection.execute(_INSERT, row).rowcount:
                    added += 1
                    added_bytes += row[5]
            freed_bytes = self._make_room(added_bytes)
            own = [event.sequence for event in events if event.device_id == self.device_id]
            if own:
                self._set_meta("last_sequence", str(max(own)))
        self._bytes += added_bytes - freed_bytes
        return added

    def _make_room(self, wanted_bytes: int) -> int:
        """Forget acknowledged rows first, then evict the least valuable, counting what is lost."""
        excess = self._bytes + wanted_bytes - self._max_bytes
        if excess <= 0:
            return 0
        freed = self._delete("acknowledged_ms IS NOT NULL ORDER BY id", excess, count=False)
        if excess > freed:
            freed += self._delete("acknowledged_ms IS NULL ORDER BY value, id", excess - freed, count=True)
        return freed

    def _delete(self, which: str, excess_bytes: int, *, count: bool) -> int:
        freed = 0
        query = f"SELECT id, kind, size_bytes FROM events WHERE {which} LIMIT {_EVICT_ROWS}"  # noqa: S608 - literals
        while freed < excess_bytes and (rows := self._connection.execute(query).fetchall()):
            freed += self._delete_rows(rows, excess_bytes - freed, count=count)
        return freed

    def _delete_rows(self, rows: list[tuple[int, str, int]], excess_bytes: int, *, count: bool) -> int:
        freed = 0
        for row, kind, size_bytes in rows:
            if freed >= excess_bytes:
                break
            self._connection.execute("DELETE FROM events WHERE id = ?", (row,))
            freed += size_bytes
            if count:
                self._connection.execute(
                    "INSERT INTO evicted VALUES (?, 1, ?) ON CONFLICT (kind) "
                    "DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes",
                    (kind, size_bytes),
                )
        return freed

    def _own_epoch(self) -> int:
        epoch = self._meta("epoch")
        if epoch is None:
            epoch = str(secrets.randbits(62))
            with transaction(self._connection, what="the outbox"):
                self._set_meta("epoch", epoch)
        return int(epoch)

    def _meta(self, key: str) -> str | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _set_meta(self, key: str, value: str) -> None:
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    def _scalar(self, query: str, *values: object) -> int:
        return int(self._connection.execute(query, values).fetchone()[0])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, reading(what="the outbox"):
            yield


def _row(event: Event) -> tuple[str, int, int, str, float, int, bytes]:
    payload = to_msgpack(event)
    kind, value = _worth(event.body)
    return event.device_id, event.epoch, event.sequence, kind, value, len(payload), payload


def _worth(body: Body) -> tuple[str, float]:
    """Kind, and how much is lost if it goes: alerts over samples over readings, unsure readings over sure ones."""
    if isinstance(body, Alert):
        return "alert", 100.0
    if isinstance(body, Sample):
        return "sample", 50.0
    assert isinstance(body, Reading)
    margin = body.prediction.margin
    return "reading", 10.0 * (1.0 - margin) if math.isfinite(margin) else 10.0
