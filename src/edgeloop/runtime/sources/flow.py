"""Bytes as they come: of a file, of a file that grows, of standard input.

Rules kept here: what is not there yet is waited for in short sleeps, so that `stop` is heeded; a growing file that is
cut off or replaced is read on from the new beginning, after the rest of the old one.
"""

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import structlog

from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
from edgeloop.runtime.sources.port import Parts
from edgeloop.runtime.sources.pump import Pump

BLOCK_BYTES = 65536

_log = structlog.get_logger(__name__)
_POLL_S = 0.1
GONE_S = 2.0
"""For how long a file that grows may have no name, as between the two steps of a rotation, before it is gone."""

_AHEAD = 4


def file_parts(path: Path) -> Parts:
    """A whole file, once. Raises NotFound or Unavailable if it cannot be read."""
    yield _file_blocks(path)


def grown_parts(path: Path, stop: threading.Event) -> Parts:
    """A file from its beginning and all that is appended to it, until `stop`; a new part each time it begins anew.

    It begins anew when it is shorter than what was read of it, or another file has its name. Raises NotFound or
    Unavailable once it has been away for longer than a rotation takes, when all of it was read.
    """
    gone_s: float | None = None
    while not stop.is_set():
        try:
            file = path.open("rb")
        except OSError as error:
            now_s = time.monotonic()
            gone_s = now_s if gone_s is None else gone_s
            if now_s - gone_s >= GONE_S:
                raise unreadable(path, error) from error
            stop.wait(_POLL_S)
            continue
        with file:
            yield _grown_blocks(path, file, stop)
        # Its blocks have ended because it began anew, or has been away for long enough.
        gone_s = None if path.exists() else -math.inf


def descriptor_parts(descriptor: int, stop: threading.Event) -> Parts:
    """What can be read from a file descriptor, such as standard input's, as soon as it can be."""
    # Not through sys.stdin: a thread that waits inside its buffer holds a lock that the end of the process wants.
    pump = Pump[bytes](lambda pump: _read_all(descriptor, pump), name="standard input", room=_AHEAD, join_s=0.0)
    yield pump.items(stop)


def _read_all(descriptor: int, pump: Pump[bytes]) -> None:
    while not pump.is_ended:
        try:
            block = os.read(descriptor, BLOCK_BYTES)
        except OSError as error:
            raise Unavailable(f"standard input cannot be read: {error}") from error
        if not block or not pump.put(block):
            return


def _file_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise unreadable(path, error) from error


def _grown_blocks(path: Path, file: BinaryIO, stop: threading.Event) -> Iterator[bytes]:
    read_bytes = 0
    gone_s: float | None = None
    while not stop.is_set():
        began_anew = _began_anew(path, file, read_bytes)
        if block := file.read(BLOCK_BYTES):
            read_bytes += len(block)
            yield block
        elif began_anew:
            _log.info("source_anew", source=path.name)
            return
        else:
            now_s = time.monotonic()
            gone_s = None if path.exists() else now_s if gone_s is None else gone_s
            if gone_s is not None and now_s - gone_s >= GONE_S:
                return
            stop.wait(_POLL_S)


def _began_anew(path: Path, file: BinaryIO, read_bytes: int) -> bool:
    """Asked before each read, so that what was appended before the change is read still."""
    mine = os.fstat(file.fileno())
    try:
        named = path.stat()
    except FileNotFoundError:
        return False  # between the two steps of a rotation
    return (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino) or mine.st_size < read_bytes


def unreadable(path: Path, error: OSError) -> EdgeloopError:
    """What an error of the system says to whoever named the file."""
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path.name} is no longer there")
    return Unavailable(f"{path.name} cannot be read: {error}")
