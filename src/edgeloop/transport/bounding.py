"""Keeps an outbox within its bounds: what has waited for too long goes, then what has to make room.

Rules kept here: room is made of acknowledged rows first, then of what was set aside, then of what waits, tier by tier
(see `worth`), and within a tier of the device that holds the most of it. Neighbours: `outbox` says when, `ledger` what
there is.
"""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from edgeloop.contracts.errors import Unavailable
from edgeloop.transport.ledger import Change, Fate, Ledger, Row
from edgeloop.transport.worth import ALERTS, LAST_AUDIT, ORDINARY, Bounds

_log = structlog.get_logger(__name__)

LEAST_BYTES = 1024 * 1024
"""What an outbox may always hold, however little its disk has free."""

ROW_BYTES = 160
"""What a row takes on the disk beside its payload: its columns, and its places in the indexes."""

ROW = "id, device_id, kind, tier, size_bytes"
"""The columns of a ledger.Row."""

_AT_ONCE = 200


class Bounding:
    """The bounds of one outbox, within its transactions.

    give_up: deletes a row that waits and accounts for it. is_cramped: there was less free on the disk than is to stay
    free when something was added last.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        ledger: Ledger,
        bounds: Bounds,
        path: Path,
        *,
        give_up: Callable[[Row, Fate, Change], None],
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._bounds = bounds
        self._path = path
        self._give_up = give_up
        self.is_cramped = False

    def expire(self, now_ms: int, change: Change) -> None:
        """Give up what has waited for longer than its class may. now_ms: on the clock of the rows' since_ms."""
        for kind, ttl_s in self._bounds.ttl_s.items():
            self._expire_before(kind, now_ms - int(ttl_s * 1000), change)

    def _expire_before(self, kind: str, before_ms: int, change: Change) -> None:
        columns = f"SELECT since_ms, {ROW} FROM events"  # noqa: S608 - literals
        query = f"{columns} WHERE acknowledged_ms IS NULL AND kind = ? ORDER BY id LIMIT ?"
        while rows := self._connection.execute(query, (kind, _AT_ONCE)).fetchall():
            for since_ms, *row in rows:
                if since_ms >= before_ms:  # ages follow the order of rows
                    return
                self._give_up(Row(*row), Fate.EXPIRED, change)

    def make_room(self, change: Change) -> None:
        """Forget acknowledged rows first, then what was set aside, then give up the least valuable."""
        excess = self._excess_bytes(change)
        if excess > 0:
            excess -= self._delete("events WHERE acknowledged_ms IS NOT NULL", Fate.RECORD, (), excess, change)
        if excess > 0:
            excess -= self._delete("aside WHERE 1", Fate.REJECTED, (Fate.EVICTED,), excess, change)
        for tier in (ORDINARY, LAST_AUDIT, ALERTS):
            while excess > 0 and (device_id := self._ledger.largest(tier, change)[0]) is not None:
                freed = self._evict(tier, device_id, excess, change)
                if not freed:
                    # The lock is held: an account that is wrong may cost a bound its exactness, never a standstill.
                    _log.error("outbox_account_wrong", tier=tier, device_id=device_id)
                    self._ledger.distrust()
                    break
                excess -= freed

    def _excess_bytes(self, change: Change) -> int:
        """How many bytes there are beyond the bound, or beyond what the disk has to spare."""
        rows = self._ledger.disk_rows + change.disk_rows
        over = self._ledger.disk_bytes + change.disk_bytes + rows * ROW_BYTES - self._bounds.max_bytes
        grown = change.disk_bytes + change.disk_rows * ROW_BYTES
        if grown <= 0 or self._bounds.keep_free_bytes <= 0:
            return over
        beyond = grown - self._spare_bytes()
        self.is_cramped = beyond > 0
        return max(over, min(beyond, over + self._bounds.max_bytes - LEAST_BYTES))

    def _spare_bytes(self) -> int:
        """How much more may be written: free pages of the file, and what the disk has beyond what is to stay free."""
        (pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        (all_pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        try:
            free_bytes = shutil.disk_usage(self._path.parent).free
            # What stands in the log only will come into the file, and take its room there.
            to_come_bytes = max(0, all_pages * page_bytes - self._path.stat().st_size)
        except OSError as error:
            raise Unavailable(f"the outbox cannot ask its disk for room: {error}. Check the disk.") from error
        return int(pages * page_bytes + max(0, free_bytes - to_come_bytes - self._bounds.keep_free_bytes))

    def _evict(self, tier: int, device_id: str, excess_bytes: int, change: Change) -> int:
        """Rows of the device that holds most of a tier, for as long as it does; returns the bytes that were freed."""
        query = (
            f"SELECT {ROW} FROM events WHERE acknowledged_ms IS NULL AND tier = ? AND device_id = ? "  # noqa: S608 - literals
            "ORDER BY value, id LIMIT ?"
        )
        next_bytes = self._ledger.largest(tier, change, but=device_id)[1]
        freed = 0
        for found in self._connection.execute(query, (tier, device_id, _AT_ONCE)).fetchall():
            if freed >= excess_bytes or (freed and self._ledger.held_bytes(tier, device_id, change) < next_bytes):
                break
            row = Row(*found)
            self._give_up(row, Fate.EVICTED, change)
            freed += row.size_bytes + ROW_BYTES
        return freed

    def _delete(self, which: str, out_of: Fate, into: tuple[Fate, ...], excess_bytes: int, change: Change) -> int:
        """Rows that do not wait, oldest first; returns the bytes that were freed."""
        freed = 0
        query = f"SELECT id, device_id, kind, 0, size_bytes FROM {which} ORDER BY id LIMIT {_AT_ONCE}"  # noqa: S608 - literals
        table = which.split()[0]
        while freed < excess_bytes and (rows := self._connection.execute(query).fetchall()):
            for found in rows:
                if freed >= excess_bytes:
                    break
                row = Row(*found)
                change.move(row, out_of=out_of, into=into)
                self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (row.row,))  # noqa: S608 - literals
                freed += row.size_bytes + ROW_BYTES
        return freed
