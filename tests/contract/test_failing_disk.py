"""Everything that keeps something on a disk, on real disks that fail, are read-only or may not be written.

What the disk does is told as what it is, with what to do about it: never as damage, and never as a lack of room.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torture.disk import Disk, why_not

from builders import make_bundle, make_parts
from edgeloop.bundle.archive import digest, open_bundle
from edgeloop.bundle.durable import write_durable
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert
from edgeloop.contracts.names import BundleRef
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox

DATA = b"bytes that were kept" * 100
SHA256 = digest(DATA)
ALERT = Alert(what="drift", detail="seen")
FAILED = r"the disk failed \(.*\)\. Look at the system's log \('dmesg'\)"


class Held:
    """One of everything in a folder, open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = Shelf(folder / "bundles")
        self.shelf.put(SHA256, DATA)
        self.shelf.append_part("a" * 64, DATA)
        self.ref = self.shelf.put_manifest(to_json(make_parts().manifest))
        self.archive = make_bundle(folder)
        self.keep = Keep(folder / "device.db")
        self.keep.set({"count": 1})
        self.outbox = Outbox(folder / "outbox.db", "camera-1")
        self.outbox.append([ALERT], at_ms=0)

    def close(self) -> None:
        """Let go of the files."""
        self.keep.close()
        self.outbox.close()


def _refs(held: Held) -> BundleRef:
    return held.shelf.open(held.ref).manifest.ref


WRITES: dict[str, Callable[[Held], object]] = {
    "a whole file": lambda held: write_durable(held.folder / "new", b"data"),
    "a part of a download": lambda held: held.shelf.append_part("a" * 64, b"more"),
    "a part that is thrown away": lambda held: held.shelf.discard_part("a" * 64),
    "a manifest": lambda held: held.shelf.put_manifest(to_json(make_parts(version="1.1.0").manifest)),
    "the keep": lambda held: held.keep.set({"count": 2}),
    "the outbox": lambda held: held.outbox.append([ALERT], at_ms=1),
}
READS: dict[str, Callable[[Held], object]] = {
    "a file of the shelf": lambda held: held.shelf.read(SHA256),
    "a download that is finished": lambda held: held.shelf.finish_part("a" * 64),
    "a manifest of the shelf": _refs,
    "a bundle": lambda held: open_bundle(held.archive),
}
OPENINGS: dict[str, Callable[[Held], object]] = {
    "a keep": lambda held: Keep(held.folder / "other.db"),
    "an outbox": lambda held: Outbox(held.folder / "other.db", "camera-1"),
}


@pytest.fixture(scope="module")
def failing() -> Iterator[Held]:
    """A disk that has just failed: it answers EIO to everything."""
    if why_not():
        pytest.skip(why_not())
    with Disk() as disk:
        held = Held(disk.path / "state")
        disk.cut()
        yield held
        held.close()


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A disk that was made read-only under the feet of who writes there, as a failing one is."""
    folder = tmp_path_factory.mktemp("disk")
    if not _is_done("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)):
        pytest.skip("mounting a disk is not permitted here")
    held = Held(folder / "state")
    held.close()
    try:
        assert _is_done("mount", "-o", "remount,ro", str(folder))
        yield held
    finally:
        _is_done("umount", "--lazy", str(folder))


def _is_done(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", [*WRITES, *READS, *OPENINGS])
def test_disk_that_fails_is_told_as_that(failing: Held, name: str) -> None:
    with pytest.raises(Unavailable, match=FAILED):
        (WRITES | READS | OPENINGS)[name](failing)


@pytest.mark.parametrize("name", ["a whole file", "a part of a download", "a manifest", *OPENINGS])
def test_disk_that_is_read_only_is_told_as_that(read_only: Held, name: str) -> None:
    with pytest.raises(Unavailable, match=r"its disk is read-only \(Read-only file system\)\. Mount it for writing"):
        (WRITES | OPENINGS)[name](read_only)


@pytest.mark.parametrize("name", ["a file of the shelf", "a manifest of the shelf", "a bundle"])
def test_disk_that_is_read_only_is_read(read_only: Held, name: str) -> None:
    READS[name](read_only)


def test_keep_on_a_disk_that_is_read_only_says_what_to_do(read_only: Held) -> None:
    with pytest.raises(Unavailable, match=r"cannot (open|write).*(Mount its disk for writing|Check the disk)"):
        _write_to(read_only.folder / "device.db")


def _write_to(path: Path) -> None:
    keep = Keep(path)
    try:
        keep.set({"count": 2})
    finally:
        keep.close()


# ---- permissions


_AS_NOBODY = """
import os, sys
from pathlib import Path
from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.durable import write_durable
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import InvalidInput
os.setgroups([])
os.setegid(65534)
os.seteuid(65534)
folder = Path(sys.argv[1])
for act in (
    lambda: write_durable(folder / "new", b"data"),
    lambda: Shelf(folder / "bundles").append_part("a" * 64, b"more"),
    lambda: Shelf(folder / "bundles").read(sys.argv[2]),
    lambda: open_bundle(folder / "tiny-1.0.0.edgeloop"),
):
    try:
        act()
    except InvalidInput as error:
        print(error)
"""


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Let others reach a folder of a test."""
    above = [one for one in folder.parents if one.stat().st_mode & 0o001 == 0]
    before = {one: one.stat().st_mode for one in above}
    for one in above:
        one.chmod(before[one] | 0o001)
    try:
        yield
    finally:
        for one, mode in before.items():
            one.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_this_user_may_not_do_is_told_as_that(tmp_path: Path) -> None:
    held = Held(tmp_path / "state")
    held.close()
    for path in held.folder.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    held.folder.chmod(0o755)
    with _readable(held.folder):
        command = [sys.executable, "-c", _AS_NOBODY, str(held.folder), SHA256]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = done.stdout.splitlines()
    assert len(told) == 4, done.stderr
    assert ["Permission denied" in one and "Give this user the right to" in one for one in told] == [True] * 4
