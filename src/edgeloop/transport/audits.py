"""Of each label one audit sample, the newest, outlives all other samples of an outbox.

Neighbours: `outbox` asks within its transactions, `worth` says what is an audit sample.
"""

import sqlite3

from edgeloop.contracts.messages import Event, Reading
from edgeloop.transport.bounding import ROW
from edgeloop.transport.ledger import Change, Ledger, Row
from edgeloop.transport.payloads import Payloads
from edgeloop.transport.worth import LAST_AUDIT, ORDINARY, READING, SAMPLE

_SHARE = 4
"""Audit samples that stay may hold one part in so many of an outbox."""


class Audits:
    """The audit samples of one outbox."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger, payloads: Payloads, *, max_bytes: int) -> None:
        self._connection = connection
        self._ledger = ledger
        self._payloads = payloads
        self._most_bytes = max_bytes // _SHARE

    def label(self, event: Event) -> str:
        """What the reading before a sample says; empty if that is not here, or says nothing."""
        identity = (event.device_id, event.epoch, event.sequence - 1)
        query = f"SELECT payload FROM events WHERE kind = '{READING}' AND device_id = ? AND epoch = ? AND sequence = ?"  # noqa: S608 - literals
        row = self._connection.execute(query, identity).fetchone()
        before = self._payloads.read_or_none(row[0]) if row else None
        body = None if before is None else before.body
        return (body.prediction.label or "") if isinstance(body, Reading) else ""

    def standing(self, row: Row) -> tuple[Row, str | None]:
        """A row in the tier in which it is by now, and the label for which it stays; None if it may go as others.

        By now: another sample that left in the same transaction may have made this one the last of its label.
        """
        if row.kind != SAMPLE:
            return row, None
        tier, label = self._connection.execute("SELECT tier, label FROM events WHERE id = ?", (row.row,)).fetchone()
        return row._replace(tier=tier), str(label) if tier == LAST_AUDIT else None

    def guard(self, device_id: str, label: str, change: Change) -> None:
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
        if self._ledger.held_bytes(LAST_AUDIT, device_id, change) + row.size_bytes <= self._most_bytes:
            self._connection.execute("UPDATE events SET tier = ? WHERE id = ?", (LAST_AUDIT, row.row))
            change.retier(row, LAST_AUDIT)
