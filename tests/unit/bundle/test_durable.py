import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from edgeloop.bundle.durable import storage_error, translated, write_durable
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Unavailable

_WRITE_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Unavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_durable(Path(sys.argv[1]), bytes(100_000))
except Unavailable as error:
    print(error)
    sys.exit(7)
"""

_WRITE_FOR_EVER = """
import sys
from pathlib import Path
from edgeloop.bundle.durable import write_durable
while True:
    for letter in (b"a", b"b"):
        write_durable(Path(sys.argv[1]), letter * 1_000_000)
        print(letter, flush=True)
"""


def _without_room(path: Path) -> subprocess.CompletedProcess[str]:
    """Write in a process whose files may not grow beyond 1,000 bytes: the kernel answers EFBIG."""
    return subprocess.run(
        [sys.executable, "-c", _WRITE_WITHOUT_ROOM, str(path)], capture_output=True, text=True, check=False, timeout=60
    )


def test_written_bytes_are_there(tmp_path: Path) -> None:
    write_durable(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_old_content_is_replaced(tmp_path: Path) -> None:
    write_durable(tmp_path / "a", b"a long old content")
    write_durable(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_durable(tmp_path / "x" / "y" / "a", b"data")
    assert (tmp_path / "x" / "y" / "a").read_bytes() == b"data"


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    write_durable(tmp_path / "a", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_file_has_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    write_durable(tmp_path / "a", b"data", mode=mode)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_name_as_long_as_the_file_system_takes_is_written(tmp_path: Path) -> None:
    write_durable(tmp_path / ("n" * 255), b"data")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"data"


def test_reader_that_has_the_old_file_open_keeps_reading_it(tmp_path: Path) -> None:
    write_durable(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as file:
        write_durable(tmp_path / "a", b"new")
        assert file.read() == b"old"


def test_place_below_a_file_is_invalid_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot write"):
        write_durable(tmp_path / "file" / "a", b"data")


def test_folder_in_the_way_is_invalid_input(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="cannot write"):
        write_durable(tmp_path / "a", b"data")


def test_refused_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InvalidInput):
        write_durable(tmp_path / "a", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_full_disk_is_unavailable_and_says_how_much_was_wanted(tmp_path: Path) -> None:
    done = _without_room(tmp_path / "a")
    assert (done.returncode, "100,000 bytes" in done.stdout) == (7, True), done.stderr


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    _without_room(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_content(tmp_path: Path) -> None:
    write_durable(tmp_path / "a", b"old")
    _without_room(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_interrupted_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_durable(tmp_path / "a", "text, not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_kill_while_writing_leaves_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", _WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    assert path.read_bytes() in (b"a" * 1_000_000, b"b" * 1_000_000)


@pytest.mark.parametrize("doing", ["read", "write"])
@pytest.mark.parametrize(
    ("code", "kind", "said", "advice"),
    [
        (errno.ENOSPC, Unavailable, "no room for 7 bytes", "Free some space"),
        (errno.EDQUOT, Unavailable, "no room for 7 bytes", "Free some space"),
        (errno.EIO, Unavailable, "the disk failed (Input/output error)", "'dmesg'"),
        (errno.ENODEV, Unavailable, "the disk failed (No such device)", "'dmesg'"),
        (errno.EROFS, Unavailable, "its disk is read-only (Read-only file system)", "Mount it for writing"),
        (errno.EACCES, InvalidInput, "Permission denied", "Give this user the right"),
        (errno.EPERM, InvalidInput, "Operation not permitted", "Give this user the right"),
        (errno.ENOTDIR, InvalidInput, "Not a directory", "Choose another place"),
        (errno.ENAMETOOLONG, InvalidInput, "File name too long", "Choose another place"),
    ],
    ids=lambda one: errno.errorcode[one] if isinstance(one, int) else "",
)
def test_error_of_the_disk_is_told_as_what_it_is_with_what_to_do(
    code: int, kind: type[EdgeloopError], said: str, advice: str, doing: Literal["read", "write"]
) -> None:
    found = storage_error(OSError(code, os.strerror(code)), Path("/disk/a"), size_bytes=7, doing=doing)
    assert type(found) is kind
    assert said in str(found)
    assert "/disk/a" in str(found)
    others = {"Free some space", "'dmesg'", "Mount it for writing", "Give this user", "Choose another place"}
    alien = {one for one in others if one in str(found) and not advice.startswith(one)}
    assert advice in str(found)
    assert code == errno.EROFS or not alien


def test_file_that_the_disk_does_not_give_back_is_not_called_damaged(tmp_path: Path) -> None:
    """A real EIO: a process' memory has nothing at address 0."""
    (tmp_path / "a").symlink_to("/proc/self/mem")
    with pytest.raises(Unavailable, match="the disk failed"), translated(tmp_path / "a", doing="read"):
        (tmp_path / "a").read_bytes()
