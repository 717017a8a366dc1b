"""Outboxes whose files are damaged while they are at work: real SQLite files with pages overwritten."""

import contextlib
import gc
import sqlite3
from pathlib import Path

import pytest

from damage import INDEX_LEAF, TABLE_LEAF, damage_pages
from edgeloop.contracts.errors import Corrupt, EdgeloopError, Unavailable
from edgeloop.contracts.messages import Alert, Event, Reading
from edgeloop.transport import salvage
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.reopen import open_or_begin_anew
from edgeloop.transport.worth import NO_BOUNDS, Bounds
from small_cloud import reading

ROWS = 3000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An outbox of some readings, closed."""
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, "camera-1")
    outbox.append([reading() for _ in range(ROWS)], at_ms=0)
    outbox.close()
    return path


def _all(outbox: Outbox) -> list[Event]:
    """What can be sent, the damage met on the way: the call that meets it fails, the next one goes on."""
    for _ in range(3):
        with contextlib.suppress(Corrupt):
            return [one.event for one in outbox.pending(limit=10**6, max_bytes=10**9)]
    raise AssertionError("it still fails")


def _told(events: list[Event]) -> list[str]:
    return [event.body.detail for event in events if isinstance(event.body, Alert)]


def _readings(events: list[Event]) -> set[int]:
    return {event.sequence for event in events if isinstance(event.body, Reading)}


def _is_sound(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_damaged_page_of_rows_costs_those_rows_alone(path: Path) -> None:
    outbox = Outbox(path, "camera-1", mends=True)
    damage_pages(path, kind=TABLE_LEAF)
    epoch = outbox.epoch
    found = _all(outbox)
    assert ROWS - 100 < len(_readings(found)) < ROWS
    lost = ROWS - len(_readings(found))
    assert f"of {ROWS:,} events that wait, {lost} could not be read" in _told(_all(outbox))[0]
    account = outbox.stats().accounts["reading"]
    assert account.pending.rows == account.appended.rows == ROWS - lost
    assert outbox.append([reading()], at_ms=1) == [ROWS + 2]
    assert outbox.epoch == epoch
    outbox.close()
    assert _is_sound(path)
    assert path.with_name("outbox.db.damaged").exists()


@pytest.mark.parametrize("count", [1, 5])
def test_damaged_index_costs_nothing(path: Path, count: int) -> None:
    damage_pages(path, kind=INDEX_LEAF, count=count)
    outbox = open_or_begin_anew(path, "camera-1", bounds=Bounds())
    with contextlib.suppress(EdgeloopError):
        outbox.append([reading()], at_ms=1)
    found = _all(outbox)
    outbox.close()
    assert set(range(1, ROWS + 1)) <= _readings(found)
    assert _is_sound(path)


def test_damage_that_another_run_left_costs_what_it_hit(path: Path) -> None:
    damage_pages(path, kind=TABLE_LEAF, count=3)
    outbox = open_or_begin_anew(path, "camera-1", bounds=Bounds())
    found = _all(outbox)
    outbox.close()
    assert ROWS - 300 < len(_readings(found)) < ROWS


def test_damage_waits_for_room_and_the_file_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has no room for a copy: nothing is given up for that."""
    outbox = Outbox(path, "camera-1", mends=True)
    damage_pages(path, kind=TABLE_LEAF)
    with pytest.raises(Corrupt):
        outbox.pending(limit=10**6, max_bytes=10**9)
    full = type(salvage.shutil.disk_usage(path.parent))(10**9, 10**9, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(salvage.shutil, "disk_usage", lambda _: full)
        for _ in range(2):
            with pytest.raises(Unavailable, match="Free some space"):
                outbox.pending(limit=10**6, max_bytes=10**9)
    found = _all(outbox)
    outbox.close()
    assert ROWS - 100 < len(_readings(found)) < ROWS


def test_who_only_looks_into_a_damaged_outbox_changes_nothing(path: Path) -> None:
    outbox = Outbox(path, "camera-1", bounds=NO_BOUNDS)
    damage_pages(path, kind=TABLE_LEAF)
    for _ in range(2):
        with pytest.raises(Corrupt):
            outbox.pending(limit=10**6, max_bytes=10**9)
    outbox.close()
    assert not path.with_name("outbox.db.damaged").exists()


def test_what_is_appended_after_damage_was_found_at_the_start_is_kept(path: Path) -> None:
    """Nothing of the damaged file's own files beside it is mistaken for the new one's."""
    damage_pages(path, kind=INDEX_LEAF, count=5)
    outbox = open_or_begin_anew(path, "camera-1", bounds=Bounds())
    gc.collect()
    outbox.append([reading() for _ in range(50)], at_ms=1)
    beside = [one.name for one in path.parent.glob("outbox.db-*")]
    before = outbox.stats().pending_rows
    looking = Outbox(path, "camera-1", bounds=NO_BOUNDS)
    found = looking.stats().pending_rows
    looking.close()
    outbox.close()
    assert (sorted(beside), found) == (["outbox.db-shm", "outbox.db-wal"], before)
