"""Files that are there in full or not at all, also after a power cut.

Rule: write to a temporary neighbour, fsync it, rename, fsync the folder. Measured: without the two
fsyncs 8 of 20 power cuts left a corrupt or missing model. Whole files of every tier
are written through here.
"""

import errno
import os
import tempfile
from pathlib import Path

from edgeloop.contracts.errors import InvalidInput, Unavailable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_durable(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path`, atomically and on the disk when this returns; nothing is left behind on failure.

    Raises Unavailable if the disk is full, InvalidInput if the place cannot be written.
    """
    try:
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    except OSError as error:
        raise storage_error(error, path, size_bytes=len(data)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise storage_error(error, path, size_bytes=len(data)) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which survives a power cut. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        fsync_folder(one.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room, also one of a library that keeps only the text."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    return any(os.strerror(code) in str(error) for code in _NO_ROOM)


def storage_error(error: OSError, path: Path, *, size_bytes: int) -> InvalidInput | Unavailable:
    """What an OSError from writing `path` means to the caller. size_bytes: 0 where it is not known."""
    if error.errno in _NO_ROOM:
        what = f"for {size_bytes:,} bytes at" if size_bytes else "at"
        return Unavailable(f"no room {what} {path}: {error.strerror}. Free some space and try again.")
    return InvalidInput(f"cannot write {path}: {error.strerror}. Choose a folder that you may write to.")
