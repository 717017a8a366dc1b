import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.names import BundleRef
from edgeloop.transport.keep import Keep
from small_disk import fill, small_disk


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    opened = Keep(tmp_path / "state" / "device.db")
    yield opened
    opened.close()


def _again(keep: Keep, path: Path) -> Keep:
    keep.close()
    return Keep(path)


def test_unknown_name_has_no_value(keep: Keep) -> None:
    assert keep.get("nothing", int) is None


def test_value_comes_back_as_its_type(keep: Keep) -> None:
    keep.set({"floor": BundleRef("tiny", "1.0.0")})
    assert keep.get("floor", BundleRef) == BundleRef("tiny", "1.0.0")


def test_value_is_replaced(keep: Keep) -> None:
    keep.set({"count": 1})
    keep.set({"count": 2})
    assert keep.get("count", int) == 2


def test_none_removes_a_value(keep: Keep) -> None:
    keep.set({"count": 1})
    keep.set({"count": None})
    assert keep.get("count", int) is None


@pytest.mark.parametrize("value", [0, False, "", {}])
def test_falsy_value_is_a_value(keep: Keep, value: object) -> None:
    keep.set({"value": value})
    assert keep.get("value", type(value)) == value


def test_values_are_there_after_opening_again(keep: Keep, tmp_path: Path) -> None:
    keep.set({"count": 3})
    opened = _again(keep, tmp_path / "state" / "device.db")
    found = opened.get("count", int)
    opened.close()
    assert found == 3


def test_change_that_cannot_be_written_changes_nothing(keep: Keep) -> None:
    keep.set({"first": 1})
    with pytest.raises(TypeError):
        keep.set({"first": 2, "second": object()})
    assert (keep.get("first", int), keep.get("second", int)) == (1, None)


def test_set_of_changes_is_seen_in_full_or_not_at_all(keep: Keep, tmp_path: Path) -> None:
    keep.set({"a": 0, "b": 0})
    reader = Keep(tmp_path / "state" / "device.db")
    torn: list[tuple[int, int]] = []

    def write() -> None:
        for number in range(1, 60):
            keep.set({"a": number, "b": number})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        # b is read after a, so it may be newer, never older: unless a set was torn.
        a, b = reader.get("a", int) or 0, reader.get("b", int) or 0
        if b < a:
            torn.append((a, b))
    writer.join()
    reader.close()
    assert torn == []


def test_threads_may_write_at_once(keep: Keep) -> None:
    threads = [threading.Thread(target=keep.set, args=({f"name-{i}": i},)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [keep.get(f"name-{i}", int) for i in range(8)] == list(range(8))


def test_record_survives_a_power_cut_by_its_settings(keep: Keep, tmp_path: Path) -> None:
    # synchronous is of a connection and cannot be asked from outside; the journal mode stands in the file.
    connection = sqlite3.connect(tmp_path / "state" / "device.db")
    mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert mode == ("wal",)


def test_value_of_another_form_is_invalid(keep: Keep) -> None:
    keep.set({"floor": "not a ref"})
    with pytest.raises(InvalidInput, match=r"device\.db:floor"):
        keep.get("floor", BundleRef)


def test_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Corrupt, match=r"damaged.*Start the device or the node"):
        Keep(path)


def test_place_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "device.db").mkdir()
    with pytest.raises(Unavailable, match=r"Check the disk"):
        Keep(tmp_path / "device.db")


def test_parent_that_is_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(EdgeloopError):
        Keep(tmp_path / "state" / "device.db")


def test_file_damaged_in_its_middle_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    keep = Keep(path)
    keep.set({f"name-{i}": "x" * 1000 for i in range(200)})
    keep.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(Corrupt):
        _read_and_close(path)


def _read_and_close(path: Path) -> None:
    keep = Keep(path)
    try:
        keep.get("name-100", str)
    finally:
        keep.close()


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_record_on_a_full_disk_is_opened_read_and_written_once_there_is_room(tmp_path: Path, is_killed: bool) -> None:
    """SQLite removes its files beside the record at a clean end, and needs room for new ones."""
    with small_disk(tmp_path / "disk") as disk:
        before = Keep(disk / "device.db")
        before.set({"count": 1})
        held = sqlite3.connect(disk / "device.db") if is_killed else None  # whose files beside it stay
        if held is not None:
            held.execute("SELECT * FROM kept").fetchall()
        before.close()
        ballast = fill(disk)
        keep = Keep(disk / "device.db")
        assert keep.get("count", int) == 1
        with pytest.raises(Unavailable, match="Free some space"):
            keep.set({"count": 2, "long": "x" * 100_000})
        ballast.unlink()
        keep.set({"count": 3})
        keep.close()
        if held is not None:
            held.close()
        again = Keep(disk / "device.db")
        found = again.get("count", int)
        again.close()
        assert found == 3


def test_change_in_force_is_heard_while_the_disk_is_full_and_written_when_it_is_not(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keep = Keep(disk / "device.db")
        keep.set({"active": "1.1.0", "update": "on watch"})
        ballast = fill(disk)
        keep.put_in_force({"active": "1.0.0", "update": None})
        assert (keep.get("active", str), keep.get("update", str)) == ("1.0.0", None)
        assert keep.under("", str) == {"active": "1.0.0"}
        with pytest.raises(Unavailable):
            keep.save()
        with pytest.raises(Unavailable):
            keep.set({"count": 1})
        assert keep.get("count", int) is None, "what must be on the disk is not in force without it"
        ballast.unlink()
        keep.set({"count": 2})
        again = _again(keep, disk / "device.db")
        assert (again.get("active", str), again.get("update", str), again.get("count", int)) == ("1.0.0", None, 2)
        again.close()


def test_newer_change_stands_over_one_that_was_not_written_yet(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keep = Keep(disk / "device.db")
        keep.set({"active": "1.1.0"})
        ballast = fill(disk)
        keep.put_in_force({"active": "1.0.0"})
        ballast.unlink()
        keep.set({"active": "1.2.0"})
        keep.save()
        assert keep.get("active", str) == "1.2.0"
        keep.close()
