"""A disk whose power can be cut: ext4 in a file on a loop device, shut down by the filesystem's own ioctl.

The cut: EXT4_IOC_SHUTDOWN with NOLOGFLUSH. From then on nothing reaches the disk, not even the journal that lies in
memory; what was written and not synced is gone when it is mounted again. What it does not show: a drive that loses its
own write cache although it was told to flush it.

Mounted with noauto_da_alloc: ext4 would else sync a file that is renamed over another one, which other filesystems do
not do. Source: Linux, fs/ext4/ioctl.c, ext4_force_shutdown; Documentation/filesystems/ext4.
"""

import fcntl
import os
import struct
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Self

_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2
_MIB = 1024 * 1024
_BLOCK_BYTES = 1024
_BALLAST = "ballast"
_BUSY_S = 20.0
_MEMORY = Path("/dev/shm")  # noqa: S108 - a loop device on a real disk would wait for it at each sync


class Disk:
    """An ext4 of so many MiB, which must be more than an outbox leaves free.

    `with Disk() as disk` mounts it at disk.path, and leaves nothing behind.
    """

    def __init__(self, *, size_mib: int = 256) -> None:
        holder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="torture-disk-", dir=holder)
        self._image = Path(self._folder.name) / "image"
        self._saved = Path(self._folder.name) / "saved"
        self.path = Path(self._folder.name) / "mounted"
        self._size_mib = size_mib
        self._is_mounted = False
        self._device = ""

    def __enter__(self) -> Self:
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(self._size_mib * _MIB)  # of which only what is written takes room
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", str(self._image))
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_mounted:
            self.unmount()
        self._folder.cleanup()

    def mount(self) -> None:
        """Mount it; after a cut this plays back the journal.

        On a loop device of its own each time: where another process has a copy of our mounts, as in a namespace of its
        own, the filesystem that was shut down lives on there, and its device would bring it back.
        """
        self._device = _run("losetup", "--find", "--show", str(self._image)).strip()
        try:
            _run("mount", "-o", "noauto_da_alloc", self._device, str(self.path))
        except BaseException:
            _run("losetup", "--detach", self._device)
            raise
        self._is_mounted = True

    def unmount(self) -> None:
        """Unmount it: after a cut, with the loss of all that is in memory. Nobody may have a file open in it for long:
        what a killed process had started ends a moment after it.
        """
        until_s = time.monotonic() + _BUSY_S
        while True:
            try:
                _run("umount", str(self.path))
            except subprocess.CalledProcessError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
            else:
                break
        self._is_mounted = False
        _run("losetup", "--detach", self._device)  # at once, or once nobody uses it any more

    def cut(self) -> None:
        """Cut the power, here and now: who writes is told EIO."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(handle)

    def save(self) -> None:
        """Remember all of it as it is now, for `restore`."""
        self._copy(self._image, self._saved)

    def restore(self) -> None:
        """Bring it back to what was saved."""
        self._copy(self._saved, self._image)

    def _copy(self, source: Path, target: Path) -> None:
        self.unmount()
        _run("cp", "--sparse=always", str(source), str(target))
        self.mount()

    def fill(self) -> None:
        """Leave no block free."""
        fill(self.path)

    def free(self) -> None:
        """Take away what filled it."""
        (self.path / _BALLAST).unlink(missing_ok=True)


def fill(mounted: Path) -> None:
    """Leave no block free on the disk that is mounted here."""
    with (mounted / _BALLAST).open("ab", buffering=0) as file:
        size = 256 * _MIB
        while size >= _BLOCK_BYTES:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError:
                size //= 2


@cache
def why_not() -> str:
    """Why such a disk cannot be had here; empty if it can."""
    try:
        with Disk() as disk:
            disk.cut()
    except FileNotFoundError as error:
        return f"there is no {error.filename} here"
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} is not permitted here: {error.stderr.strip()[:200]}"
    except OSError as error:
        return f"the filesystem cannot be shut down here: {error.strerror}"
    return ""


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - literals, our own paths
    return done.stdout
