"""Under what numbers an outbox's own events go up, and under what others where a hub says that those are used.

Rules kept here: sequences count up, whatever the epoch; what is numbered anew keeps its sequence, under an epoch that
is drawn for the one that it had, so that no two events come to one number and none comes behind another's reading.
Neighbour: `outbox` asks within its transactions. See ADR 0034.
"""

import secrets
import sqlite3
from typing import NamedTuple

from edgeloop.contracts.codec import from_json, to_json
from edgeloop.transport.meta import Meta

REUSED = (
    "the hub has other events under this device's numbers: its disk went back to an earlier state, or two devices run "
    "from copies of one disk. What waits and what comes is numbered anew. If there are two devices, enrol one of them "
    "under an id of its own."
)
REUSED_AGAIN = (
    "the hub says that its number is used, also of the one that was drawn for it since: the hub is wrong, and takes it "
    "under none"
)

_REMEMBERED = 16


class Drawn(NamedTuple):
    """An epoch that was drawn in the place of another. last_row: the newest row that was there at that time."""

    of: int
    epoch: int
    last_row: int


class Numbering:
    """The numbers of one device's own events."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, device_id: str) -> None:
        self._connection = connection
        self._meta = meta
        self._device_id = device_id

    def epoch(self) -> int | None:
        """That of what is to come; None before the first was drawn."""
        known = self._meta.get("epoch")
        return None if known is None else int(known)

    def draw(self) -> int:
        """An epoch for what is to come."""
        epoch = secrets.randbits(62)
        self._meta.set("epoch", str(epoch))
        return epoch

    def following(self) -> tuple[int, int]:
        """Epoch and sequence of the next event; `took` says that it is given."""
        epoch = self.epoch()
        assert epoch is not None, "it is drawn when the outbox is opened"
        query = "SELECT coalesce(max(sequence), 0) FROM events WHERE device_id = ? AND epoch = ?"
        (highest,) = self._connection.execute(query, (self._device_id, epoch)).fetchone()
        return epoch, 1 + max(int(self._meta.get("last_sequence") or 0), int(highest))

    def took(self, sequence: int) -> None:
        """All up to this are given."""
        self._meta.set("last_sequence", str(sequence))

    def is_anew(self, row: int, epoch: int) -> bool:
        """Whether this epoch was drawn for the row, after another number of it turned out to be used."""
        return any(one.epoch == epoch and row <= one.last_row for one in self._drawn())

    def anew(self, epoch: int) -> int:
        """The epoch for what was numbered under this one and is numbered anew; for what is to come, too, if this one
        was."""
        drawn = self._drawn()
        for one in drawn:
            if one.of == epoch:
                return one.epoch
        new = self.draw() if epoch == self.epoch() else secrets.randbits(62)
        (last_row,) = self._connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
        # Of one that is forgotten another is drawn, which is as good.
        kept = [*drawn, Drawn(epoch, new, int(last_row))][-_REMEMBERED:]
        self._meta.set("drawn", to_json(kept).decode())
        return new

    def _drawn(self) -> list[Drawn]:
        known = self._meta.get("drawn")
        return [] if known is None else from_json(known.encode(), list[Drawn], what="the epochs of the outbox")
