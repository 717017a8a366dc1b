"""What SQLite's errors mean to the caller, by result codes; what real disks make it say: contract/test_failing_disk."""

import sqlite3
from pathlib import Path

import pytest

from edgeloop.contracts.errors import Corrupt, EdgeloopError, Unavailable
from edgeloop.transport.keep import Keep
from edgeloop.transport.sqlite import reading, transaction
from small_disk import fill, small_disk


class Failure(sqlite3.OperationalError):
    """SQLite's error of a result code."""

    def __init__(self, code: int) -> None:
        super().__init__("so SQLite says")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (sqlite3.SQLITE_FULL, Unavailable, "Free some space"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Unavailable, "Free some space"),
        (sqlite3.SQLITE_IOERR, Unavailable, "the disk failed"),
        (sqlite3.SQLITE_IOERR_FSYNC, Unavailable, "the disk failed"),
        (sqlite3.SQLITE_IOERR_READ, Unavailable, "the disk failed"),
        (sqlite3.SQLITE_READONLY, Unavailable, "Mount its disk for writing"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, Unavailable, "Mount its disk for writing"),
        (sqlite3.SQLITE_BUSY, Unavailable, "Another process"),
        (sqlite3.SQLITE_LOCKED, Unavailable, "Another process"),
        (sqlite3.SQLITE_CANTOPEN, Unavailable, "Check the disk and its permissions"),
        (sqlite3.SQLITE_CORRUPT, Corrupt, "is damaged"),
        (sqlite3.SQLITE_NOTADB, Corrupt, "is damaged"),
    ],
)
def test_only_damage_is_called_damage(code: int, kind: type[EdgeloopError], advice: str) -> None:
    with pytest.raises(EdgeloopError, match=f"the keep.*{advice}") as found, reading(what="the keep"):
        raise Failure(code)
    assert isinstance(found.value, kind)
    said = {"Free some space", "the disk failed", "Mount its disk", "is damaged", "Another process"}
    assert {one for one in said if one in str(found.value)} <= {one for one in said if advice.startswith(one)}


def test_full_disk_says_that_room_is_needed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keep = Keep(disk / "device.db")
        fill(disk)
        with pytest.raises(Unavailable, match="Free some space"):
            keep.set({"large": "x" * 1_000_000})
        keep.close()


def test_file_that_another_process_holds_is_not_called_full() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(Unavailable, match="Another process"), transaction(connection, what="the keep"):
        raise Failure(sqlite3.SQLITE_BUSY)
    connection.close()
