"""The disk queue for what goes up, at the device and at the node: what was appended is there after a power cut.

Rules kept here: a row leaves only when the hub has acknowledged it after its own commit, when the bound forces the
least valuable out, when it has waited for longer than its class may, or when it is broken, and then into a table of
its own; each is counted in the same transaction; an append with a known (device, epoch, sequence) changes nothing.
Acknowledged rows stay as the device's own record until their room is needed. What waits is given up tier by tier (see
`worth`), and within a tier by the device that holds the most of it: a node's devices cannot push one another out.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import MAX_BODY_BYTES, Alert, Body, Event, Reading
from edgeloop.transport.audits import Audits
from edgeloop.transport.batch import Queued, Room, next_batch
from edgeloop.transport.bounding import ROW, Bounding
from edgeloop.transport.ledger import Aside, Change, Fate, Ledger, OutboxStats, Row
from edgeloop.transport.meta import Meta
from edgeloop.transport.numbering import REUSED, REUSED_AGAIN, Numbering
from edgeloop.transport.outbox_schema import SCHEMA
from edgeloop.transport.payloads import Payloads
from edgeloop.transport.salvage import begin_anew, made_sound
from edgeloop.transport.seal import Keyring
from edgeloop.transport.sqlite import MENDED_AT_START, Damaged, open_durable, reading, transaction
from edgeloop.transport.worth import ALERT, ALERTS, ORDINARY, READING, Bounds, is_audit, worth

_log = structlog.get_logger(__name__)

_INSERT = (
    "INSERT OR IGNORE INTO events "
    "(device_id, epoch, sequence, kind, value, size_bytes, payload, tier, label, since_ms) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_IDENTITY = "device_id = ? AND epoch = ? AND sequence = ?"
_CRAMPED = "the disk is nearly full: the outbox does not grow, and gives up what is worth least"

_BROKEN_NEVER_WAIT = MAX_BODY_BYTES - 64 * 1024
_EXPIRE_EVERY_MS = 60_000
LONGEST_REASON = 300
"""Characters that are kept of why a row was set aside: a hub says what it likes, and no bound counts it."""


class Outbox:
    """A bounded, durable queue of events. Safe to use from many threads, and beside other processes.

    clock_s: seconds that pass, from anywhere: what rows' ages are counted by, since a device's clock may say 1970. Time
    in which the process does not run ages nothing. mends: damage that is met is mended at the next call; for the one
    process whose outbox it is.
    """

    def __init__(
        self,
        path: Path,
        device_id: str,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        keyring: Keyring | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        mends: bool = False,
    ) -> None:
        self.device_id = device_id
        self._mends = mends
        self._path = path
        self._bounds = bounds
        self._payloads = Payloads(keyring)
        self._clock_s = clock_s
        self._lock = threading.Lock()
        # Rows whose key is missing, and what of the batch under way was given up meanwhile.
        self._locked: set[int] = set()
        self._under_way: frozenset[int] = frozenset()
        self._gone: dict[int, tuple[Row, Fate]] = {}
        self._is_damaged = False
        self._open()

    def _open(self) -> None:
        self._connection = open_durable(self._path, SCHEMA, fix=MENDED_AT_START)
        self._opened_s = self._clock_s()
        self._expired_at_ms = -_EXPIRE_EVERY_MS
        self._meta = Meta(self._connection)
        self._numbering = Numbering(self._connection, self._meta, self.device_id)
        try:
            with reading(what="the outbox"):
                self._age_ms = int(self._meta.get("age_ms") or 0)
                self.epoch = self._own_epoch()
                self._ledger = Ledger(self._connection)
        except BaseException:
            self._connection.close()  # now: once another file has this name, SQLite would remove what is beside that
            raise
        kept = (self._connection, self._ledger)
        self._audits = Audits(*kept, self._payloads, max_bytes=self._bounds.max_bytes)
        self._bounding = Bounding(*kept, self._bounds, self._path, give_up=self._give_up)

    # ---- in

    def append(self, bodies: Iterable[Body], *, at_ms: int) -> list[int]:
        """Add events of this device's own in one transaction, durable on return; returns their sequences.

        Raises Unavailable when the disk is full: then nothing of it was added.
        """
        with self._changing() as change:
            return self._append(list(bodies), at_ms, change)

    def accept(self, events: Iterable[Event]) -> tuple[int, int]:
        """Add events of others in one transaction, durable on return; returns (new, repeated)."""
        given = list(events)
        with self._changing() as change:
            added = self._insert(given, change)
        return added, len(given) - added

    def reused(self, events: Iterable[Event]) -> list[Event]:
        """Those of these events, accepted before, under whose identity another one is here."""
        with self._reading():
            return [event for event in events if self._is_another(event)]

    # ---- out

    def pending(
        self,
        *,
        limit: int,
        max_bytes: int,
        oldest_first: bool = True,
        allowed_bytes: Mapping[str, int] | None = None,
        but: Collection[int] = (),
    ) -> list[Queued]:
        """The next rows to send, alerts before all others, each in the order in which they came; at least one if any
        may go. They are under way until this is asked again.

        oldest_first: of what is no alert, the oldest; else the newest. allowed_bytes: by class, what may go today; a
        row that is larger than what is left for its class is passed over; a class that is not named goes free. but:
        rows to pass over. A row that cannot be read is set aside; one whose key is missing waits, and takes no room.
        """
        room = Room(limit, max_bytes, allowed_bytes or {})
        with self._reading():
            passed_over = self._locked.union(but)
            batch = next_batch(self._connection, self._payloads, room, oldest_first=oldest_first, but=passed_over)
            self._begin_way(batch.found)
            is_first = not self._locked
            self._locked |= batch.locked.keys()
        if is_first and batch.locked:
            _log.error("outbox_rows_wait_for_their_key", detail=next(iter(batch.locked.values())))
        if batch.broken:
            self.set_aside(batch.broken)
        return batch.found

    def look(self, row: int) -> Queued | None:
        """One row, under way from now on; None if it does not wait any more, or cannot be read."""
        query = "SELECT payload, size_bytes FROM events WHERE acknowledged_ms IS NULL AND id = ?"
        with self._reading():
            found = self._connection.execute(query, (row,)).fetchone()
            event = None if found is None else self._payloads.read_or_none(found[0])
            queued = None if event is None else Queued(row, event, found[1])
            self._begin_way([] if queued is None else [queued])
        return queued

    def acknowledge(
        self, rows: Iterable[int], *, rejected: Mapping[int, str] | None = None, reused: Collection[int] = ()
    ) -> None:
        """Mark rows as taken by the hub, also those that were given up while they were under way.

        rejected: the hub's reason for rows that it will never take. reused: rows of this device's own under whose
        identity the hub has another event: they get a new epoch, as all that is to come, and wait; the second time
        they are set aside.
        """
        now_ms = int(time.time() * 1000)
        reasons = rejected or {}
        taken = [one for one in rows if one not in reasons and one not in reused]
        with self._changing() as change:
            waiting = self._waiting(taken)
            for row in waiting:
                mark = "UPDATE events SET acknowledged_ms = ? WHERE id = ?"
                self._take_out(row, mark, (now_ms, row.row), change, into=(Fate.ACKNOWLEDGED, Fate.RECORD))
            for one in set(taken).difference(row.row for row in waiting) & self._gone.keys():
                row, fate = self._gone[one]
                change.move(row, out_of=fate, into=(Fate.ACKNOWLEDGED,))
            self._set_aside(reasons, change)
            epoch = self._renumber(reused, now_ms, change)
        self._gone.clear()
        self.epoch = epoch

    # ---- what is broken

    def set_aside(self, reasons: Mapping[int, str]) -> None:
        """Take rows out of the queue, each with the reason; an alert tells of the first, the second, the fourth, ..."""
        with self._changing() as change:
            self._set_aside(reasons, change)

    def aside(self) -> list[Aside]:
        """What was set aside, in the order in which it was."""
        query = "SELECT id, device_id, epoch, sequence, kind, size_bytes, reason, at_ms FROM aside ORDER BY id"
        with self._reading():
            return [
                Aside(**dict(zip(Aside.__struct_fields__, row, strict=True))) for row in self._connection.execute(query)
            ]

    def retry(self, rows: Iterable[int]) -> int:
        """Queue rows again that were set aside; returns how many. Raises NotFound, or Corrupt if one cannot be read."""
        with self._changing() as change:
            moved = [self._taken_back(row) for row in rows]
            for aside, payload in moved:
                event = self._payloads.read(payload)
                back = self._put(event, payload, change, is_new=False)
                assert back is not None, "what is set aside is in no other place"
                change.move(aside, out_of=Fate.REJECTED, into=())
        return len(moved)

    def drop(self, rows: Iterable[int]) -> int:
        """Give up rows that were set aside; returns how many. Raises NotFound."""
        with self._changing() as change:
            moved = [self._taken_back(row) for row in rows]
            for aside, _ in moved:
                change.move(aside, out_of=Fate.REJECTED, into=(Fate.DROPPED,))
        return len(moved)

    # ---- what is there

    def expire(self) -> None:
        """Give up what has waited for longer than its class may; looks once a minute."""
        if self._is_expiry_due():
            with self._changing():
                pass

    def events(self) -> Iterator[Event]:
        """Every row that is still kept, acknowledged or not, oldest first: the device's own record."""
        with self._reading():
            payloads = self._connection.execute("SELECT payload FROM events ORDER BY id").fetchall()
        return (self._payloads.read(payload) for (payload,) in payloads)

    def last_source(self) -> str:
        """What the newest reading of this device's own was read from, also if it has left; empty when there is none."""
        query = f"SELECT payload FROM events WHERE device_id = ? AND kind = '{READING}' ORDER BY id DESC LIMIT 1"  # noqa: S608 - a literal
        with self._reading():
            known = self._meta.get("last_source")
            row = None if known is not None else self._connection.execute(query, (self.device_id,)).fetchone()
        if row is None:
            return known or ""
        body = self._payloads.read(row[0]).body
        return body.source if isinstance(body, Reading) else ""

    def stats(self, device_id: str | None = None) -> OutboxStats:
        """Counts over the whole outbox; accounts of one device, or of all together."""
        with self._reading():
            self._ledger.refresh()
            return self._ledger.stats(device_id)

    @property
    def trouble(self) -> str:
        """Why it does not grow; empty while it may."""
        return _CRAMPED if self._bounding.is_cramped else ""

    def waiting_bytes(self, kind: str) -> int:
        """What waits of a class, from memory: asked for each input."""
        with self._lock:
            return self._ledger.amount(Fate.PENDING, kind=kind).size_bytes

    def devices(self) -> list[str]:
        """Whose events came here."""
        with self._reading():
            self._ledger.refresh()
            return [one for one in self._ledger.devices() if one]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # ---- one row's way

    def _begin_way(self, batch: Iterable[Queued]) -> None:
        self._under_way = frozenset(one.row for one in batch)
        self._gone.clear()

    def _append(self, bodies: list[Body], at_ms: int, change: Change) -> list[int]:
        epoch, first = self._numbering.following()
        events = [
            Event(device_id=self.device_id, epoch=epoch, sequence=first + i, at_ms=at_ms, body=body)
            for i, body in enumerate(bodies)
        ]
        if events:
            self._numbering.took(events[-1].sequence)  # first: what is too large is told by an alert with the next one
        added = self._insert(events, change)
        assert added == len(events), "sequences are drawn within the transaction"
        sources = [body.source for body in bodies if isinstance(body, Reading)]
        if sources:
            self._meta.set("last_source", sources[-1])
        return [event.sequence for event in events]

    def _insert(self, events: Sequence[Event], change: Change) -> int:
        """Returns how many were new."""
        (is_any_aside,) = self._connection.execute("SELECT EXISTS (SELECT 1 FROM aside)").fetchone()
        new = [event for event in events if not self._is_aside(event)] if is_any_aside else events
        rows = [self._put(event, self._payloads.write(event), change, is_new=True) for event in new]
        added = [row for row in rows if row is not None]
        too_large = [row for row in added if row.size_bytes > _BROKEN_NEVER_WAIT]
        self._set_aside(
            {row.row: f"it is {row.size_bytes:,} bytes; a hub takes {_BROKEN_NEVER_WAIT:,}" for row in too_large},
            change,
        )
        return len(added)

    def _is_aside(self, event: Event) -> bool:
        identity = (event.device_id, event.epoch, event.sequence)
        found = self._connection.execute(f"SELECT 1 FROM aside WHERE {_IDENTITY}", identity)  # noqa: S608 - literals
        return found.fetchone() is not None

    def _is_another(self, event: Event) -> bool:
        identity = (event.device_id, event.epoch, event.sequence)
        query = f"SELECT payload FROM events WHERE {_IDENTITY} UNION ALL SELECT payload FROM aside WHERE {_IDENTITY}"  # noqa: S608 - literals
        found = self._connection.execute(query, (*identity, *identity)).fetchone()
        return found is not None and self._payloads.differs(found[0], event)

    def _put(self, event: Event, payload: bytes, change: Change, *, is_new: bool) -> Row | None:
        """Queue one event; None if it is known already. is_new: and count it as appended."""
        kind, value, _ = worth(event.body)
        label = self._audits.label(event) if is_audit(event.body) else None
        tier = ALERTS if kind == ALERT else ORDINARY
        identity = (event.device_id, event.epoch, event.sequence)
        values = (*identity, kind, value, len(payload), payload, tier, label, self._now_ms())
        cursor = self._connection.execute(_INSERT, values)
        if not cursor.rowcount:
            return None
        row = Row(int(cursor.lastrowid or 0), event.device_id, kind, tier, len(payload))
        change.move(row, out_of=None, into=(Fate.APPENDED, Fate.PENDING) if is_new else (Fate.PENDING,))
        if label is not None:
            self._audits.guard(event.device_id, label, change)
        return row

    def _take_out(
        self, row: Row, statement: str, values: tuple[int, ...], change: Change, *, into: Iterable[Fate]
    ) -> None:
        """A row no longer waits; if it was the audit sample that stays, another one does."""
        row, label = self._audits.standing(row)
        self._connection.execute(statement, values)
        change.move(row, out_of=Fate.PENDING, into=into)
        if label is not None:
            self._audits.guard(row.device_id, label, change)

    def _give_up(self, row: Row, fate: Fate, change: Change) -> None:
        """Delete a row that waits."""
        self._take_out(row, "DELETE FROM events WHERE id = ?", (row.row,), change, into=(fate,))
        if row.row in self._under_way:
            self._gone[row.row] = (row, fate)

    def _set_aside(self, reasons: Mapping[int, str], change: Change) -> None:
        rows = self._waiting(reasons)
        if not rows:
            return
        now_ms = int(time.time() * 1000)
        for row in rows:
            self._connection.execute(
                "INSERT INTO aside (device_id, epoch, sequence, kind, size_bytes, payload, reason, at_ms) "
                "SELECT device_id, epoch, sequence, kind, size_bytes, payload, ?, ? FROM events WHERE id = ?",
                (reasons[row.row][:LONGEST_REASON], now_ms, row.row),
            )
            self._give_up(row, Fate.REJECTED, change)
        so_far, is_told = self._meta.count("set_aside", len(rows))
        if is_told:  # else a hub that takes nothing would be a flood, and alerts that are set aside themselves
            last = rows[-1]
            detail = f"{so_far} so far; the last, {last.kind} of {last.device_id}: {reasons[last.row][:LONGEST_REASON]}"
            self._append([Alert(what="set_aside", detail=detail)], now_ms, change)

    def _renumber(self, rows: Collection[int], now_ms: int, change: Change) -> int:
        """Number rows anew, but for those that were before; returns the epoch of what is to come."""
        events = {row.row: self._payloads.read(self._payload(row.row)) for row in self._waiting(rows)}
        again = {row for row, event in events.items() if self._numbering.is_anew(row, event.epoch)}
        for row in events.keys() - again:
            event = msgspec.structs.replace(events[row], epoch=self._numbering.anew(events[row].epoch))
            values = (event.epoch, self._payloads.write(event), row)
            self._connection.execute("UPDATE events SET epoch = ?, payload = ? WHERE id = ?", values)
        epoch, _ = self._numbering.following()
        if epoch != self.epoch:
            so_far, is_told = self._meta.count("epochs_drawn")
            _log.error("outbox_begins_a_new_epoch", before=self.epoch, rows=len(events), so_far=so_far)
            if is_told:
                detail = REUSED if so_far == 1 else f"{REUSED} It is so for the {so_far}th time."
                self._append([Alert(what="identity", detail=detail)], now_ms, change)
        self._set_aside(dict.fromkeys(again, REUSED_AGAIN), change)
        return epoch

    def _payload(self, row: int) -> bytes:
        return bytes(self._connection.execute("SELECT payload FROM events WHERE id = ?", (row,)).fetchone()[0])

    def _taken_back(self, row: int) -> tuple[Row, bytes]:
        """Remove a row from those set aside. Raises NotFound."""
        query = "SELECT id, device_id, kind, size_bytes, payload FROM aside WHERE id = ?"
        found = self._connection.execute(query, (row,)).fetchone()
        if found is None:
            raise NotFound(f"no row {row} is set aside; 'edgeloop device outbox' lists those that are")
        self._connection.execute("DELETE FROM aside WHERE id = ?", (row,))
        number, device_id, kind, size_bytes, payload = found
        return Row(number, device_id, kind, ORDINARY, size_bytes), payload

    def _waiting(self, rows: Iterable[int]) -> list[Row]:
        """Those of these rows that still wait."""
        query = f"SELECT {ROW} FROM events WHERE acknowledged_ms IS NULL AND id = ?"  # noqa: S608 - literals
        found = (self._connection.execute(query, (row,)).fetchone() for row in rows)
        return [Row(*one) for one in found if one is not None]

    # ---- the file

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        """One transaction: what is changed, what it makes necessary, and the accounts of both."""
        with self._at_file(), self._in_transaction() as change:
            yield change

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._at_file(), reading(what="the outbox"):
            yield

    @contextmanager
    def _at_file(self) -> Iterator[None]:
        """Alone at the file. Damage that is found is mended before the next one's turn."""
        with self._lock:
            if self._is_damaged:
                self._mend()
            try:
                yield
            except Damaged:
                self._is_damaged = self._mends
                raise

    @contextmanager
    def _in_transaction(self) -> Iterator[Change]:
        change = Change()
        expired_at_ms = self._expired_at_ms
        try:
            with transaction(self._connection, what="the outbox"):
                self._ledger.refresh()
                yield change
                if self._is_expiry_due():
                    self._expired_at_ms = self._now_ms()
                    self._bounding.expire(self._expired_at_ms, change)
                self._bounding.make_room(change)
                self._ledger.write(change)
                self._meta.set("age_ms", str(self._now_ms()))
        except BaseException:
            self._expired_at_ms = expired_at_ms
            raise
        self._ledger.commit(change)

    def _mend(self) -> None:
        """Go on with what can be read of a file that is damaged, and tell. Raises Unavailable where its disk has no
        room for that."""
        detail = made_sound(self._connection)
        if not detail:
            detail = begin_anew(self._path)
            self._connection.close()
            self._open()
        self._is_damaged = False
        _log.error("outbox_mended", path=str(self._path), detail=detail)
        with self._in_transaction() as change:
            self._append([Alert(what="storage", detail=detail)], int(time.time() * 1000), change)

    def _is_expiry_due(self) -> bool:
        return self._now_ms() - self._expired_at_ms >= _EXPIRE_EVERY_MS

    def _now_ms(self) -> int:
        """For how long this outbox has been at work, over all its processes."""
        return self._age_ms + int((self._clock_s() - self._opened_s) * 1000)

    def _own_epoch(self) -> int:
        known = self._numbering.epoch()
        if known is not None:
            return known
        with transaction(self._connection, what="the outbox"):
            return self._numbering.draw()
