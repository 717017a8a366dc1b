"""Rows that are broken: set aside with the reason, told, and in nobody's way."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from damage import damage_table
from edgeloop.contracts.errors import Corrupt, NotFound
from edgeloop.contracts.messages import MAX_BODY_BYTES, Alert, Event, Sample
from edgeloop.contracts.states import Reason
from edgeloop.transport.ledger import Change
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.reopen import open_or_begin_anew
from edgeloop.transport.seal import Keyring
from edgeloop.transport.worth import ALERTS, NO_BOUNDS, Bounds

# What edgeloop 0.1.0 made.
_FIRST_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    kind TEXT NOT NULL, value REAL NOT NULL, size_bytes INTEGER NOT NULL, payload BLOB NOT NULL,
    acknowledged_ms INTEGER, rejected TEXT, UNIQUE (device_id, epoch, sequence)
) STRICT;
CREATE INDEX pending ON events (id) WHERE acknowledged_ms IS NULL;
CREATE INDEX acknowledged ON events (id) WHERE acknowledged_ms IS NOT NULL;
CREATE INDEX by_value ON events (value, id) WHERE acknowledged_ms IS NULL;
CREATE TABLE evicted (kind TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _alerts(count: int) -> list[Alert]:
    return [Alert(what="drift", detail=str(number)) for number in range(count)]


def _waiting(outbox: Outbox) -> list[Event]:
    return [one.event for one in outbox.pending(limit=1000, max_bytes=10**9)]


def _told(outbox: Outbox) -> list[str]:
    bodies = (event.body for event in outbox.events())
    return [body.detail for body in bodies if isinstance(body, Alert) and body.what == "set_aside"]


def _spoil(path: Path, sequence: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET payload = x'c1c1' WHERE sequence = ?", (sequence,))


def test_row_that_cannot_be_read_is_set_aside_and_the_others_go(outbox: Outbox, tmp_path: Path) -> None:
    outbox.append(_alerts(3), at_ms=0)
    _spoil(tmp_path / "outbox.db", 2)
    assert [event.sequence for event in _waiting(outbox)] == [1, 3]
    (aside,) = outbox.aside()
    assert (aside.sequence, aside.kind, "not MessagePack" in aside.reason) == (2, "alert", True)


def test_row_that_is_set_aside_is_counted_and_told(outbox: Outbox, tmp_path: Path) -> None:
    outbox.append(_alerts(3), at_ms=0)
    _spoil(tmp_path / "outbox.db", 2)
    _waiting(outbox)
    assert outbox.stats().accounts["alert"].rejected.rows == 1
    (detail,) = _told(outbox)
    assert detail.startswith("1 so far; the last, alert of camera-1: an outbox row is not MessagePack")


def test_flood_of_broken_rows_is_told_at_each_doubling(outbox: Outbox) -> None:
    outbox.append(_alerts(40), at_ms=0)
    for one in outbox.pending(limit=40, max_bytes=10**6):
        outbox.set_aside({one.row: "no"})
    assert [int(detail.split()[0]) for detail in _told(outbox)] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_event_too_large_for_any_request_never_waits(outbox: Outbox, place: int) -> None:
    bodies: list[Alert | Sample] = [*_alerts(1)]
    bodies.insert(place, Sample(source="door", reason=Reason.NOVEL, media="image/png", data=bytes(MAX_BODY_BYTES)))
    assert outbox.append(bodies, at_ms=0) == [1, 2]
    assert {event.sequence for event in _waiting(outbox)} == {1, 2, 3} - {place + 1}
    (aside,) = outbox.aside()
    assert (aside.sequence, "a hub takes" in aside.reason) == (place + 1, True)
    assert outbox.append(_alerts(1), at_ms=0) == [4]


def test_row_that_was_set_aside_can_be_queued_again(outbox: Outbox) -> None:
    outbox.append(_alerts(2), at_ms=0)
    first = outbox.pending(limit=1, max_bytes=10**6)[0]
    outbox.set_aside({first.row: "an older hub"})
    assert outbox.retry([one.row for one in outbox.aside()]) == 1
    assert first.event in _waiting(outbox)
    assert (outbox.aside(), outbox.stats().accounts["alert"].rejected.rows) == ([], 0)


def test_row_that_was_set_aside_can_be_given_up(outbox: Outbox) -> None:
    outbox.append(_alerts(1), at_ms=0)
    outbox.set_aside({outbox.pending(limit=1, max_bytes=10**6)[0].row: "no"})
    assert outbox.drop([one.row for one in outbox.aside()]) == 1
    assert (outbox.aside(), outbox.stats().accounts["alert"].dropped.rows) == ([], 1)


def test_row_that_cannot_be_read_stays_aside_when_it_is_retried(outbox: Outbox, tmp_path: Path) -> None:
    outbox.append(_alerts(1), at_ms=0)
    _spoil(tmp_path / "outbox.db", 1)
    _waiting(outbox)
    (aside,) = outbox.aside()
    with pytest.raises(Corrupt):
        outbox.retry([aside.row])
    assert outbox.aside() == [aside]


def test_row_that_is_not_aside_is_not_found(outbox: Outbox) -> None:
    with pytest.raises(NotFound, match="no row 7"):
        outbox.drop([7])


def test_repeat_of_an_event_that_is_aside_is_a_repeat(outbox: Outbox) -> None:
    event = Event(device_id="b", epoch=1, sequence=1, at_ms=0, body=_alerts(1)[0])
    outbox.accept([event])
    outbox.set_aside({outbox.pending(limit=1, max_bytes=10**6)[0].row: "no"})
    assert outbox.accept([event]) == (0, 1)


def test_another_process_may_settle_what_is_aside_while_the_agent_runs(outbox: Outbox, tmp_path: Path) -> None:
    outbox.append(_alerts(2), at_ms=0)
    outbox.set_aside({outbox.pending(limit=1, max_bytes=10**6)[0].row: "no"})
    command = Outbox(tmp_path / "outbox.db", "camera-1", bounds=NO_BOUNDS)
    command.retry([one.row for one in command.aside()])
    command.close()
    outbox.append(_alerts(1), at_ms=0)
    account = outbox.stats().accounts["alert"]
    assert (account.appended.rows, account.pending.rows, account.rejected.rows) == (4, 4, 0)


def test_what_is_aside_gives_way_before_what_waits(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "camera-1", bounds=Bounds(max_bytes=3_000, keep_free_bytes=0))
    outbox.append(_alerts(3), at_ms=0)
    outbox.set_aside({one.row: "no" for one in outbox.pending(limit=3, max_bytes=10**6)})
    outbox.append(_alerts(10), at_ms=0)
    account = outbox.stats().accounts["alert"]
    outbox.close()
    assert (account.rejected.rows, account.evicted.rows, account.pending.rows) == (0, 3, 11)


def test_row_whose_key_is_missing_waits_and_the_others_go(tmp_path: Path) -> None:
    sealing = Outbox(tmp_path / "o.db", "camera-1", keyring=Keyring((bytes(32),)))
    sealing.append([Sample(source="door", reason=Reason.NOVEL, media="image/png", data=b"pixels")], at_ms=0)
    sealing.append(_alerts(1), at_ms=0)
    sealing.close()
    keyless = Outbox(tmp_path / "o.db", "camera-1")
    found = [event.sequence for event in _waiting(keyless)], keyless.aside(), keyless.stats().pending_rows
    keyless.close()
    assert found == ([2], [], 2)


# ---- damaged files


def test_damaged_outbox_is_put_away_and_a_new_one_begins_and_tells(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for damage in (b"not a database" * 1000, b"and once more" * 1000):
        path.write_bytes(damage)
        outbox = open_or_begin_anew(path, "camera-1", bounds=Bounds())
        told = [event.body for event in outbox.events()]
        outbox.close()
        assert [body.what for body in told if isinstance(body, Alert)] == ["storage"]
        assert (tmp_path / "outbox.db.damaged").read_bytes() == damage


# ---- files of the first version


def _old_file(path: Path) -> None:
    """An outbox as 0.1.0 left it: one row that waits, one acknowledged, one rejected; four were evicted."""
    from edgeloop.contracts.codec import to_msgpack

    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_FIRST_SCHEMA)
        for sequence, (acknowledged_ms, rejected) in enumerate([(None, None), (5, None), (6, "too old")], start=1):
            event = Event(device_id="camera-1", epoch=9, sequence=sequence, at_ms=0, body=_alerts(1)[0])
            payload = to_msgpack(event)
            connection.execute(
                "INSERT INTO events (device_id, epoch, sequence, kind, value, size_bytes, payload, acknowledged_ms, "
                "rejected) VALUES ('camera-1', 9, ?, 'alert', 100.0, ?, ?, ?, ?)",
                (sequence, len(payload), payload, acknowledged_ms, rejected),
            )
        connection.execute("INSERT INTO meta VALUES ('epoch', '9'), ('last_sequence', '3')")
        connection.execute("INSERT INTO evicted VALUES ('reading', 4, 400)")


def test_outbox_of_the_first_version_is_taken_over_with_all_that_it_holds(tmp_path: Path) -> None:
    _old_file(tmp_path / "o.db")
    outbox = Outbox(tmp_path / "o.db", "camera-1")
    accounts = outbox.stats().accounts
    alerts = accounts["alert"]
    found = [event.sequence for event in _waiting(outbox)], [(one.sequence, one.reason) for one in outbox.aside()]
    following = outbox.append(_alerts(1), at_ms=0)
    outbox.close()
    assert (found, following) == (([1], [(3, "too old")]), [4])
    assert (alerts.appended.rows, alerts.pending.rows, alerts.acknowledged.rows, alerts.rejected.rows) == (3, 1, 1, 1)
    assert (accounts["reading"].appended.rows, accounts["reading"].evicted.rows) == (4, 4)


def test_damaged_outbox_of_the_first_version_is_taken_over_with_all_that_can_be_read(tmp_path: Path) -> None:
    _old_file(tmp_path / "o.db")
    damage_table(tmp_path / "o.db", "evicted")
    outbox = open_or_begin_anew(tmp_path / "o.db", "camera-1", bounds=Bounds())
    waiting = _waiting(outbox)
    account = outbox.stats().accounts["alert"]
    kept = outbox.epoch, outbox._ledger.held_bytes(ALERTS, "camera-1", Change())
    aside = [(one.sequence, one.reason) for one in outbox.aside()]
    outbox.close()
    assert [(event.sequence, event.body.what) for event in waiting] == [(1, "drift"), (4, "storage")]
    assert (aside, kept) == ([(3, "too old")], (9, account.pending.size_bytes))
    assert (account.acknowledged.rows, account.rejected.rows) == (1, 1)


def test_outbox_of_a_newer_edgeloop_is_refused_with_both_versions(tmp_path: Path) -> None:
    from edgeloop.contracts.errors import InvalidInput

    Outbox(tmp_path / "o.db", "camera-1").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InvalidInput, match="version 99; this edgeloop reads up to 2"):
        Outbox(tmp_path / "o.db", "camera-1")
