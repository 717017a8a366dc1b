"""The disk queue for what goes up, at the device and at the node: what was appended is there after a power cut.

Rules kept here: a row leaves only when the hub has acknowledged it after its own commit, when the bound forces the
least valuable out, when it has waited for longer than its class may, or when it is broken, and then into a table of
its own; each is counted in the same transaction; an append with a known (device, epoch, sequence) changes nothing.
Acknowledged rows stay as the device's own record until their room is needed. What waits is given up tier by tier (see
`worth`), and within a tier by the device that holds the most of it: a node's devices cannot push one another out.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from edgeloop.bundle.durable import storage_error
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.messages import MAX_BODY_BYTES, Account, Alert, Body, Event, Reading
from edgeloop.transport.batch import Room
from edgeloop.transport.bounding import ROW, Bounding
from edgeloop.transport.ledger import Change, Fate, Ledger, Row
from edgeloop.transport.outbox_schema import SCHEMA
from edgeloop.transport.payloads import Payloads
from edgeloop.transport.seal import Keyring
from edgeloop.transport.sqlite import open_durable, reading, transaction
from edgeloop.transport.worth import ALERT, ALERTS, LAST_AUDIT, ORDINARY, READING, Bounds, is_audit, worth

_log = structlog.get_logger(__name__)

_INSERT = (
    "INSERT OR IGNORE INTO events "
    "(device_id, epoch, sequence, kind, value, size_bytes, payload, tier, label, since_ms) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_IDENTITY = "device_id = ? AND epoch = ? AND sequence = ?"
_CRAMPED = "the disk is nearly full: the outbox does not grow, and gives up what is worth least"

_BROKEN_NEVER_WAIT = MAX_BODY_BYTES - 64 * 1024
_AUDIT_SHARE = 4
_EXPIRE_EVERY_MS = 60_000
_LONGEST_REASON = 300


class Queued(msgspec.Struct, frozen=True):
    """A row that waits to go up. size_bytes: as it lies in the queue."""

    row: int
    event: Event
    size_bytes: int


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was set aside, and why."""

    row: int
    device_id: str
    epoch: int
    sequence: int
    kind: str
    size_bytes: int
    reason: str
    at_ms: int


class OutboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """What is queued, and what became of the rest. kept_rows: acknowledged, and still here as a record."""

    pending_rows: int
    pending_bytes: int
    acknowledged_rows: int
    kept_rows: int
    evicted_rows: int
    expired_rows: int
    aside_rows: int
    accounts: dict[str, Account]


class Outbox:
    """A bounded, durable queue of events. Safe to use from many threads, and beside other processes.

    clock_s: seconds that pass, from anywhere: what rows' ages are counted by, since a device's clock may say 1970. Time
    in which the process does not run ages nothing.
    """

    def __init__(
        self,
        path: Path,
        device_id: str,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        keyring: Keyring | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device_id = device_id
        self._bounds = bounds
        self._payloads = Payloads(keyring)
        self._clock_s = clock_s
        self._lock = threading.Lock()
        fix = "Move it away; a new one is made."
        self._connection = open_durable(path, SCHEMA, fix=fix)
        self._opened_s = clock_s()
        self._expired_at_ms = -_EXPIRE_EVERY_MS
        self._locked = ""
        with reading(what="the outbox"):
            self._age_ms = int(self._meta("age_ms") or 0)
            self.epoch = self._own_epoch()
            self._ledger = Ledger(self._connection)
        self._bounding = Bounding(self._connection, self._ledger, bounds, path, give_up=self._give_up)

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

    # ---- out

    def pending(
        self,
        *,
        limit: int,
        max_bytes: int,
        oldest_first: bool = True,
        allowed_bytes: Mapping[str, int] | None = None,
    ) -> list[Queued]:
        """The next rows to send, alerts before all others, each in the order in which they came; at least one if any
        may go.

        oldest_first: of what is no alert, the oldest; else the newest. allowed_bytes: by class, what may go today; a
        row that is larger than what is left for its class is passed over; a class that is not named goes free. A row
        that cannot be read is set aside; one whose key is missing waits.
        """
        found: list[Queued] = []
        broken: dict[int, str] = {}
        locked = ""
        room = Room(limit, max_bytes, allowed_bytes or {})
        with self._reading():
            for query, values in room.queries(oldest_first=oldest_first):
                for row, kind, size_bytes, payload in self._connection.execute(query, values):
                    if room.is_full(size_bytes):
                        break
                    if not room.take(kind, size_bytes):
                        continue
                    try:
                        found.append(Queued(row, self._payloads.read(payload), size_bytes))
                    except (Corrupt, InvalidInput) as error:
                        broken[row] = str(error)
                    except Unavailable as error:
                        locked = str(error)
        if locked != self._locked:
            self._locked = locked
            _log.error("outbox_rows_wait_for_their_key", detail=locked)
        if broken:
            self.set_aside(broken)
        return sorted(found, key=lambda one: (not isinstance(one.event.body, Alert), one.row))

    def acknowledge(self, rows: Iterable[int], *, rejected: Mapping[int, str] | None = None) -> None:
        """Mark rows as taken by the hub; `rejected` gives the hub's reason for rows that it will never take."""
        now_ms = int(time.time() * 1000)
        with self._changing() as change:
            reasons = rejected or {}
            for row in self._waiting([one for one in rows if one not in reasons]):
                mark = "UPDATE events SET acknowledged_ms = ? WHERE id = ?"
                self._take_out(row, mark, (now_ms, row.row), change, into=(Fate.ACKNOWLEDGED, Fate.RECORD))
            self._set_aside(reasons, change)

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
            known = self._meta("last_source")
            row = None if known is not None else self._connection.execute(query, (self.device_id,)).fetchone()
        if row is None:
            return known or ""
        body = self._payloads.read(row[0]).body
        return body.source if isinstance(body, Reading) else ""

    def stats(self, device_id: str | None = None) -> OutboxStats:
        """Counts over the whole outbox; accounts of one device, or of all together."""
        with self._reading():
            ledger = self._ledger
            ledger.refresh()
            pending = ledger.amount(Fate.PENDING)
            return OutboxStats(
                pending_rows=pending.rows,
                pending_bytes=pending.size_bytes,
                acknowledged_rows=ledger.amount(Fate.ACKNOWLEDGED).rows,
                kept_rows=ledger.amount(Fate.RECORD).rows,
                evicted_rows=ledger.amount(Fate.EVICTED).rows,
                expired_rows=ledger.amount(Fate.EXPIRED).rows,
                aside_rows=ledger.amount(Fate.REJECTED).rows,
                accounts=ledger.accounts(device_id),
            )

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

    def _append(self, bodies: list[Body], at_ms: int, change: Change) -> list[int]:
        first = self._next()
        events = [
            Event(device_id=self.device_id, epoch=self.epoch, sequence=first + i, at_ms=at_ms, body=body)
            for i, body in enumerate(bodies)
        ]
        added = self._insert(events, change)
        assert added == len(events), "sequences are drawn within the transaction"
        if events:
            self._set_meta("last_sequence", str(events[-1].sequence))
        sources = [body.source for body in bodies if isinstance(body, Reading)]
        if sources:
            self._set_meta("last_source", sources[-1])
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

    def _put(self, event: Event, payload: bytes, change: Change, *, is_new: bool) -> Row | None:
        """Queue one event; None if it is known already. is_new: and count it as appended."""
        kind, value, _ = worth(event.body)
        label = self._label(event) if is_audit(event.body) else None
        tier = ALERTS if kind == ALERT else ORDINARY
        identity = (event.device_id, event.epoch, event.sequence)
        values = (*identity, kind, value, len(payload), payload, tier, label, self._now_ms())
        cursor = self._connection.execute(_INSERT, values)
        if not cursor.rowcount:
            return None
        row = Row(int(cursor.lastrowid or 0), event.device_id, kind, tier, len(payload))
        change.move(row, out_of=None, into=(Fate.APPENDED, Fate.PENDING) if is_new else (Fate.PENDING,))
        if label is not None:
            self._guard(event.device_id, label, change)
        return row

    def _label(self, event: Event) -> str:
        """What the reading before a sample says; empty if that is not here, or says nothing."""
        identity = (event.device_id, event.epoch, event.sequence - 1)
        query = f"SELECT payload FROM events WHERE kind = '{READING}' AND {_IDENTITY}"  # noqa: S608 - literals
        row = self._connection.execute(query, identity).fetchone()
        try:
            body = self._payloads.read(row[0]).body if row else None
        except (Corrupt, InvalidInput, Unavailable):
            return ""  # told when that reading's own turn comes
        return (body.prediction.label or "") if isinstance(body, Reading) else ""

    def _guard(self, device_id: str, label: str, change: Change) -> None:
        """See to it that one audit sample of a label, if any waits, outlives other samples: the newest."""
        waits = "FROM events WHERE acknowledged_ms IS NULL AND device_id = ? AND label = ? AND tier = ?"
        if self._connection.execute(f"SELECT 1 {waits}", (device_id, label, LAST_AUDIT)).fetchone():
            return
        found = self._connection.execute(
            f"SELECT {ROW} {waits} ORDER BY id DESC", (device_id, label, ORDINARY)
        ).fetchone()
        if found is None:
            return
        row = Row(*found)
        held_bytes = self._ledger.held_bytes(LAST_AUDIT, device_id, change)
        if held_bytes + row.size_bytes <= self._bounds.max_bytes // _AUDIT_SHARE:
            self._connection.execute("UPDATE events SET tier = ? WHERE id = ?", (LAST_AUDIT, row.row))
            change.retier(row, LAST_AUDIT)

    def _take_out(
        self, row: Row, statement: str, values: tuple[int, ...], change: Change, *, into: Iterable[Fate]
    ) -> None:
        """A row no longer waits; if it was the audit sample that stays, another one does."""
        label = None
        if row.tier == LAST_AUDIT:
            (label,) = self._connection.execute("SELECT label FROM events WHERE id = ?", (row.row,)).fetchone()
        self._connection.execute(statement, values)
        change.move(row, out_of=Fate.PENDING, into=into)
        if label is not None:
            self._guard(row.device_id, label, change)

    def _give_up(self, row: Row, fate: Fate, change: Change) -> None:
        """Delete a row that waits."""
        self._take_out(row, "DELETE FROM events WHERE id = ?", (row.row,), change, into=(fate,))

    def _set_aside(self, reasons: Mapping[int, str], change: Change) -> None:
        rows = self._waiting(reasons)
        if not rows:
            return
        now_ms = int(time.time() * 1000)
        for row in rows:
            self._connection.execute(
                "INSERT INTO aside (device_id, epoch, sequence, kind, size_bytes, payload, reason, at_ms) "
                "SELECT device_id, epoch, sequence, kind, size_bytes, payload, ?, ? FROM events WHERE id = ?",
                (reasons[row.row], now_ms, row.row),
            )
            self._give_up(row, Fate.REJECTED, change)
        before = int(self._meta("set_aside") or 0)
        after = before + len(rows)
        self._set_meta("set_aside", str(after))
        # At every doubling, so that a hub that takes nothing is no flood, nor alerts that are set aside themselves.
        if after.bit_length() > before.bit_length():
            last = rows[-1]
            detail = f"{after} so far; the last, {last.kind} of {last.device_id}: {reasons[last.row][:_LONGEST_REASON]}"
            self._append([Alert(what="set_aside", detail=detail)], now_ms, change)

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
        change = Change()
        with self._lock:
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
                    self._set_meta("age_ms", str(self._now_ms()))
            except BaseException:
                self._expired_at_ms = expired_at_ms
                raise
            self._ledger.commit(change)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, reading(what="the outbox"):
            yield

    def _is_expiry_due(self) -> bool:
        return self._now_ms() - self._expired_at_ms >= _EXPIRE_EVERY_MS

    def _now_ms(self) -> int:
        """For how long this outbox has been at work, over all its processes."""
        return self._age_ms + int((self._clock_s() - self._opened_s) * 1000)

    def _next(self) -> int:
        query = "SELECT coalesce(max(sequence), 0) FROM events WHERE device_id = ? AND epoch = ?"
        known = int(self._meta("last_sequence") or 0)
        (highest,) = self._connection.execute(query, (self.device_id, self.epoch)).fetchone()
        return 1 + max(known, int(highest))

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


def open_or_begin_anew(path: Path, device_id: str, *, bounds: Bounds, keyring: Keyring | None = None) -> Outbox:
    """The outbox of this file or, where that is damaged, a new one, so that nobody has to come and move a file away.

    The damaged file stays beside it, the newest one only, and an alert tells. Raises what Outbox does, but Corrupt.
    """
    try:
        return Outbox(path, device_id, bounds=bounds, keyring=keyring)
    except Corrupt as error:
        for end in ("", "-wal", "-shm"):
            _put_away(path.with_name(path.name + end), path.with_name(f"{path.name}.damaged{end}"))
        detail = f"{error} It lies beside as {path.name}.damaged; what it held is lost unless a person reads it."
        _log.error("outbox_begun_anew", path=str(path), detail=str(error))
        outbox = Outbox(path, device_id, bounds=bounds, keyring=keyring)
        outbox.append([Alert(what="storage", detail=detail)], at_ms=int(time.time() * 1000))
        return outbox


def _put_away(path: Path, place: Path) -> None:
    try:
        place.unlink(missing_ok=True)
        if path.exists():
            path.replace(place)
    except OSError as error:
        raise storage_error(error, place, size_bytes=0) from error
