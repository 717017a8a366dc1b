"""Native libraries greet on standard error, below Python and with no switch; this lets only their news through."""

import atexit
import ctypes
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

_CHATTER = (
    b"INFO: Created ",  # LiteRT, at the first delegate
    b"INFO: [",  # LiteRT, what its environment looks for
    b"WARNING: [npu_registry.cc",  # LiteRT, that there is no NPU
    b"WARNING: All log messages before absl::InitializeLog()",  # TensorFlow, at import
    b"I0000 ",
    b"W0000 ",
)
_LOCATION = re.compile(r"^(ERROR: )?(\[[^\]\s]*:\d+\]\s*)?")
_busy = threading.Lock()


@contextmanager
def without_native_chatter() -> Iterator[None]:
    """Hold back standard error, drop lines that are known to say nothing, pass on all others.

    One caller at a time; another one meanwhile goes unfiltered.
    """
    if not _busy.acquire(blocking=False):
        yield
        return
    try:
        sys.stderr.flush()
        kept = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                said.seek(0)
                lines = [line for line in said.read().splitlines(keepends=True) if not line.startswith(_CHATTER)]
                os.write(2, b"".join(lines))
    finally:
        _busy.release()


class StdioMuted(Protocol):
    """To be entered around a native call, as often and by as many threads at once as one likes."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@cache
def stdio_muted() -> StdioMuted:
    """While it is entered, what native code prints through C's `stderr` is dropped; 0.3 us.

    For libraries that print what they also report, and know no switch for it (libjpeg, libpng). Python's own standard
    error and the process's file descriptor 2 stay as they are, so nothing that anybody else says or hands to a child
    is touched; but for the moment, other threads' native code is not heard either. Does nothing where C's library is
    not the GNU one: elsewhere that variable may lie in memory that cannot be written.
    """
    if not sys.platform.startswith("linux"):
        return _Unmuted()
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return _Unmuted()
    library.fopen.restype = ctypes.c_void_p
    nowhere = library.fopen(os.fsencode(os.devnull), b"w")
    if nowhere is None:
        return _Unmuted()
    return _Muted(ctypes.c_void_p.in_dll(library, "stderr"), nowhere)


class _Unmuted:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Muted:
    """Whoever enters points C's `stderr` at nowhere; the last one who leaves points it back.

    Without a lock, which would double the cost: if a thread enters in the instant in which the last one leaves, it may
    be heard; but `stderr` is always back when nobody is inside.
    """

    __slots__ = ("_inside", "_nowhere", "_stderr", "_usual")

    def __init__(self, stderr: Any, nowhere: int) -> None:
        self._stderr = stderr
        self._usual = stderr.value
        self._nowhere = nowhere
        self._inside: list[None] = []

    def __enter__(self) -> None:
        self._inside.append(None)
        self._stderr.value = self._nowhere

    def __exit__(self, *_: object) -> None:
        self._inside.pop()
        if not self._inside:
            self._stderr.value = self._usual


def without_native_farewell() -> None:
    """From now on, what native libraries say on standard error after Python's own end is dropped; Python is heard.

    Some report, when the process ends, on each object that they then destroy.
    """
    atexit.register(_mute_native)


def _mute_native() -> None:
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def said(error: Exception) -> str:
    """A native library's last line that says something, without where in its source it was said."""
    return _last_words(str(error).splitlines()) or f"{type(error).__name__} without a reason"


def complaint(lines: list[str]) -> str:
    """The first line that a native library printed as an error; empty if none is."""
    return next((words for line in lines if line.startswith("ERROR") and (words := _last_words([line]))), "")


def _last_words(lines: list[str]) -> str:
    bare = [_LOCATION.sub("", line.strip(" \t└")) for line in lines]
    return next((line for line in reversed(bare) if line), "")
