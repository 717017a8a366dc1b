"""Events whose numbers are used: what they are called then, and that no two are called alike."""

import contextlib
import sqlite3
from collections.abc import Collection
from pathlib import Path

from edgeloop.contracts.messages import Alert, Event
from edgeloop.transport.batch import Queued
from edgeloop.transport.outbox import Outbox


def _alerts(count: int) -> list[Alert]:
    return [Alert(what="drift", detail=str(number)) for number in range(count)]


def _waiting(outbox: Outbox) -> list[Queued]:
    return outbox.pending(limit=1000, max_bytes=10**9)


def _are_reused(outbox: Outbox, rows: Collection[int]) -> dict[int, Event]:
    """The hub says so of these rows; returns them as they are called then."""
    outbox.acknowledge(rows, reused=rows)
    return {one.row: one.event for one in _waiting(outbox) if one.row in rows}


def test_rows_of_two_epochs_with_the_same_sequences_are_numbered_apart(tmp_path: Path) -> None:
    """As after damage that cost the outbox its epoch: the next one counts from 1 again, beside what still waits."""
    first = Outbox(tmp_path / "o.db", "camera-1")
    first.append(_alerts(3), at_ms=0)
    first.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as connection, connection:
        connection.execute("DELETE FROM meta")
    outbox = Outbox(tmp_path / "o.db", "camera-1")
    outbox.append(_alerts(3), at_ms=1)
    rows = [one.row for one in _waiting(outbox)]
    old = _are_reused(outbox, rows[:3])
    found = _are_reused(outbox, rows[3:]) | old
    outbox.close()
    assert len({(event.epoch, event.sequence) for event in found.values()}) == 6
    assert [found[row].sequence for row in rows] == [1, 2, 3, 1, 2, 3]
    assert outbox.epoch in {found[row].epoch for row in rows[3:]}


def test_neighbours_that_are_numbered_anew_one_after_the_other_stay_neighbours(tmp_path: Path) -> None:
    """A sample is of the reading just before it, and a batch may end between the two."""
    outbox = Outbox(tmp_path / "o.db", "camera-1")
    outbox.append(_alerts(2), at_ms=0)
    rows = [one.row for one in _waiting(outbox)]
    found = _are_reused(outbox, rows[:1]) | _are_reused(outbox, rows[1:])
    outbox.close()
    assert len({event.epoch for event in found.values()}) == 1


def test_what_is_queued_again_by_hand_gets_one_more_number(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "camera-1")
    outbox.append(_alerts(1), at_ms=0)
    for _ in range(2):
        assert outbox.aside() == []
        _are_reused(outbox, [1])
    (aside,) = outbox.aside()
    outbox.retry([aside.row])
    (again,) = [one for one in _waiting(outbox) if one.event.body == _alerts(1)[0]]
    assert again.event.epoch == aside.epoch
    renamed = _are_reused(outbox, [again.row])
    outbox.close()
    assert renamed[again.row].epoch != aside.epoch
