"""Exact accounts of an outbox: what became of every row, by device and class, in the transaction that moved the row.

Rules kept here: a row is in one fate at a time; appended is the sum of all fates; what memory says is what the file
says, also after another process changed it. Neighbour: `outbox` moves the rows.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from edgeloop.contracts.messages import Account, Amount

_ADD = (
    "INSERT INTO account VALUES (?, ?, ?, ?, ?) ON CONFLICT (device_id, kind, fate) "
    "DO UPDATE SET rows = rows + excluded.rows, bytes = bytes + excluded.bytes"
)


class Fate(StrEnum):
    """Where a row is, or how it went. Those but the first and the last add up to the first."""

    APPENDED = "appended"
    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"
    EVICTED = "evicted"
    EXPIRED = "expired"
    REJECTED = "rejected"
    DROPPED = "dropped"
    RECORD = "record"
    """Acknowledged, and still on the disk as the device's own record."""


_ON_DISK = (Fate.PENDING, Fate.REJECTED, Fate.RECORD)


class Row(NamedTuple):
    """What of a row its accounts need. tier: see `worth`."""

    row: int
    device_id: str
    kind: str
    tier: int
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


class Change:
    """What one transaction does to the accounts; written with it, known to memory once it is committed."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, str, Fate]] = Counter()
        self.bytes: Counter[tuple[str, str, Fate]] = Counter()
        self.held: Counter[tuple[int, str]] = Counter()
        self.disk_rows = self.disk_bytes = 0

    def move(self, row: Row, *, out_of: Fate | None, into: Iterable[Fate]) -> None:
        """A row goes from one fate to others."""
        for fate in into:
            self._count(row, fate, 1)
        if out_of is not None:
            self._count(row, out_of, -1)

    def _count(self, row: Row, fate: Fate, sign: int) -> None:
        key, size_bytes = (row.device_id, row.kind, fate), sign * row.size_bytes
        self.rows[key] += sign
        self.bytes[key] += size_bytes
        if fate is Fate.PENDING:
            self.held[row.tier, row.device_id] += size_bytes
        if fate in _ON_DISK:
            self.disk_rows += sign
            self.disk_bytes += size_bytes

    def retier(self, row: Row, tier: int) -> None:
        """A row that waits is worth more, or less, than before."""
        self.held[row.tier, row.device_id] -= row.size_bytes
        self.held[tier, row.device_id] += row.size_bytes


class Ledger:
    """The accounts of one outbox. Not to be used from two threads at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = -1
        self._rows: Counter[tuple[str, str, Fate]] = Counter()
        self._bytes: Counter[tuple[str, str, Fate]] = Counter()
        self._held: Counter[tuple[int, str]] = Counter()
        self.disk_rows = self.disk_bytes = 0
        self.refresh()

    def refresh(self) -> None:
        """Read it anew if another connection has written since."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return
        self._rows.clear()
        self._bytes.clear()
        for device_id, kind, fate, rows, size_bytes in self._connection.execute("SELECT * FROM account"):
            self._rows[device_id, kind, Fate(fate)] = rows
            self._bytes[device_id, kind, Fate(fate)] = size_bytes
        self.disk_rows = sum(rows for key, rows in self._rows.items() if key[2] in _ON_DISK)
        self.disk_bytes = sum(size_bytes for key, size_bytes in self._bytes.items() if key[2] in _ON_DISK)
        self._held.clear()
        query = "SELECT tier, device_id, sum(size_bytes) FROM events WHERE acknowledged_ms IS NULL GROUP BY 1, 2"
        for tier, device_id, size_bytes in self._connection.execute(query):
            self._held[tier, device_id] = size_bytes
        self._seen = version

    def distrust(self) -> None:
        """Read it anew at the next refresh, whoever wrote last."""
        self._seen = -1

    def write(self, change: Change) -> None:
        """Within the transaction."""
        keys = [key for key, rows in change.rows.items() if rows or change.bytes[key]]
        self._connection.executemany(_ADD, [(*key, change.rows[key], change.bytes[key]) for key in keys])

    def commit(self, change: Change) -> None:
        """After the transaction."""
        self._rows.update(change.rows)
        self._bytes.update(change.bytes)
        self._held.update(change.held)
        self.disk_rows += change.disk_rows
        self.disk_bytes += change.disk_bytes

    def amount(self, *fates: Fate, kind: str | None = None) -> Amount:
        """What is in these fates, of a class or of all."""
        keys = [key for key in self._rows if key[2] in fates and kind in (None, key[1])]
        return Amount(rows=sum(self._rows[key] for key in keys), size_bytes=sum(self._bytes[key] for key in keys))

    def held_bytes(self, tier: int, device_id: str, change: Change) -> int:
        """What a device has waiting in a tier."""
        return self._held[tier, device_id] + change.held[tier, device_id]

    def largest(self, tier: int, change: Change, *, but: str | None = None) -> tuple[str | None, int]:
        """The device, but for this one, that has most bytes waiting in a tier, and how many; the first by name of two
        alike; None where nothing waits."""
        devices = {device_id for held in (self._held, change.held) for of, device_id in held if of == tier}
        found = [(self.held_bytes(tier, one, change), one) for one in sorted(devices - {but})]
        size_bytes, device_id = max(found, key=lambda one: one[0], default=(0, None))
        return (device_id, size_bytes) if size_bytes > 0 else (None, 0)

    def accounts(self, device_id: str | None = None) -> dict[str, Account]:
        """By class; of one device, or of all together."""
        found: dict[str, dict[str, Amount]] = {}
        for (device, kind, fate), rows in self._rows.items():
            if fate is Fate.RECORD or not rows or device_id not in (None, device):
                continue
            before = found.setdefault(kind, {}).get(fate, Amount())
            size_bytes = before.size_bytes + self._bytes[device, kind, fate]
            found[kind][fate] = Amount(rows=before.rows + rows, size_bytes=size_bytes)
        return {kind: Account(**fates) for kind, fates in sorted(found.items())}

    def stats(self, device_id: str | None = None) -> OutboxStats:
        """Counts over the whole outbox; accounts of one device, or of all together."""
        pending = self.amount(Fate.PENDING)
        return OutboxStats(
            pending_rows=pending.rows,
            pending_bytes=pending.size_bytes,
            acknowledged_rows=self.amount(Fate.ACKNOWLEDGED).rows,
            kept_rows=self.amount(Fate.RECORD).rows,
            evicted_rows=self.amount(Fate.EVICTED).rows,
            expired_rows=self.amount(Fate.EXPIRED).rows,
            aside_rows=self.amount(Fate.REJECTED).rows,
            accounts=self.accounts(device_id),
        )

    def devices(self) -> list[str]:
        """Whose events came here."""
        return sorted({device_id for device_id, _, _ in self._rows})
