"""Files: one, a growing one, or a folder of them in name order, also as they arrive.

Rules kept here: a file that is still being written is waited for, never read half; what is wrong with one file ends
nothing; of a folder, names must grow with time, as cameras and loggers number them.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import structlog

from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
from edgeloop.runtime.sources.flow import descriptor_parts, file_parts, grown_parts, unreadable
from edgeloop.runtime.sources.place import Place, has_lines, place_of
from edgeloop.runtime.sources.port import Cut, Frame, FrameError, Tally

_log = structlog.get_logger(__name__)
_POLL_S = 0.1
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB\x60\x82"}


class OneFile:
    """The frames of one file; a Reader.

    follow: and of what is appended to it. after: the last frame of an earlier run that followed it; a file that holds
    fewer lines than that run read has begun anew, and is read from its beginning.
    """

    def __init__(self, path: Path, cut: Cut, *, follow: bool = False, after: str = "") -> None:
        self.has_own_time = cut.has_own_time
        self._path = path
        self._cut = cut
        self._follow = follow
        self._after = place_of(after, cut.suffixes)

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader."""
        name = self._path.name
        if not self._follow:
            return guarded(name, partial(self._cut.of_bytes, name, file_parts(self._path)))
        return self._followed(name, stop, tally)

    def _followed(self, name: str, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """What is there and what comes; a file that is away is told once and waited for, and then read on after the
        last frame, or from its beginning if it is another one."""
        after, node = self._after, _node(self._path)
        while not stop.is_set():
            lost = None
            frames = guarded(name, partial(self._cut.of_bytes, name, grown_parts(self._path, stop)))
            was_read = after.file == name and after.within is not None
            for one in after.beyond(frames) if was_read and has_lines(self._path, after.within or 0.0) else frames:
                lost = one if isinstance(one, FrameError) and isinstance(one.error, NotFound | Unavailable) else None
                if isinstance(one, Frame):
                    after = place_of(one.name, self._cut.suffixes)
                    node = _node(self._path) or node
                yield one if lost is None else FrameError(name, lost.error, lost.at_s, is_lost=True)
            if lost is None:
                return
            while not self._path.is_file():
                if stop.wait(_POLL_S):
                    return
            tally.add(reopened=1)
            if _node(self._path) != node:
                after, node = Place(), _node(self._path)


class Descriptor:
    """The frames of what is read from a file descriptor; a Reader."""

    def __init__(self, name: str, descriptor: int, cut: Cut) -> None:
        self.has_own_time = cut.has_own_time
        self._name = name
        self._descriptor = descriptor
        self._cut = cut

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader."""
        parts = descriptor_parts(self._descriptor, stop)
        return guarded(self._name, partial(self._cut.of_bytes, self._name, parts))


class Folder:
    """The frames of each file of a folder that the cut can read, by name; a Reader.

    Windows do not reach from one file into the next. follow: new files are waited for; one that sorts before the last
    one read is passed over, and a folder that is away is waited for. after: the last frame of an earlier run.
    settle_s: a file that looks unfinished is taken once it has not changed for so long. patience_s: after so long it
    is passed over.
    """

    has_own_time = False

    def __init__(
        self,
        folder: Path,
        cut: Cut,
        *,
        follow: bool = False,
        after: str = "",
        settle_s: float = 2.0,
        patience_s: float = 60.0,
    ) -> None:
        self._folder = folder
        self._cut = cut
        self._follow = follow
        self._after = place_of(after, cut.suffixes)
        self._settle_s = settle_s
        self._patience_s = patience_s

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader."""
        began_s = time.monotonic()
        for path in self._paths(stop, tally):
            if isinstance(path, EdgeloopError):
                yield FrameError(self._folder.name, path, time.monotonic() - began_s, is_lost=True)
                continue
            trouble = self._wait_until_whole(path, stop)
            if stop.is_set():
                return
            if trouble is not None:
                yield FrameError(path.name, trouble, time.monotonic() - began_s)
                continue
            frames = guarded(path.name, partial(self._cut.of_bytes, path.name, file_parts(path)), began_s)
            yield from self._after.beyond(frames) if path.name == self._after.file else frames

    def _paths(self, stop: threading.Event, tally: Tally) -> Iterator[Path | EdgeloopError]:
        """One file after another, and, once, why the folder cannot be looked into."""
        after, seen_ns, is_lost = self._after.file, -1, False
        if self._after.within is not None and (self._folder / after).is_file():
            yield self._folder / after
        while not stop.is_set():
            try:
                stamp_ns, names = self._waiting(after, seen_ns)
            except OSError as error:
                stamp_ns, names = -1, []
                if not is_lost:
                    _log.warning("source_gone", folder=str(self._folder), detail=str(error))
                    yield unreadable(self._folder, error)
                is_lost = True
            else:
                tally.add(reopened=int(is_lost))
                is_lost = False
            seen_ns = stamp_ns
            for name in names:
                after = name
                yield self._folder / name
            if not self._follow:
                return
            if not names:
                stop.wait(_POLL_S)

    def _waiting(self, after: str, seen_ns: int) -> tuple[int, list[str]]:
        """When the folder changed last, -1 where it may change again without showing, and the names to come. None are
        looked for if it has not changed since seen_ns.
        """
        stamp_ns = self._folder.stat().st_mtime_ns
        if abs(time.time_ns() - stamp_ns) <= 2 * 10**9:  # its time has a grain
            stamp_ns = -1
        if stamp_ns == seen_ns >= 0 or not (seen := self._listed(after)):
            return stamp_ns, []
        # What comes while a folder is listed may be listed or not, in any order: ext4 goes by hashes of names. But what
        # was there before the newest of these is there now, and what a second look shows beyond it waits for the next.
        newest = max(seen)
        return stamp_ns, sorted(name for name in self._listed(after) if name <= newest)

    def _listed(self, after: str) -> list[str]:
        """Names to come that the cut can read, in no order."""
        to_come = (path for path in self._folder.iterdir() if path.name > after and not path.name.startswith("."))
        return [path.name for path in to_come if path.suffix.lower() in self._cut.suffixes and not path.is_dir()]

    def _wait_until_whole(self, path: Path, stop: threading.Event) -> EdgeloopError | None:
        """Wait for whoever writes the file. Returns why it cannot be had, if so."""
        began_s = changed_s = time.monotonic()
        seen = (-1, -1)
        while True:
            try:
                stat = path.stat()
                if time.time() - stat.st_mtime >= self._settle_s or looks_whole(path, stat.st_size):
                    return None
            except OSError as error:
                return unreadable(path, error)
            now_s = time.monotonic()
            if seen != (stat.st_size, stat.st_mtime_ns):
                seen, changed_s = (stat.st_size, stat.st_mtime_ns), now_s
            elif now_s - changed_s >= self._settle_s:
                return None
            if now_s - began_s > self._patience_s:
                told = f"{path.name} is still being written after {self._patience_s:g} s; it is passed over"
                return Unavailable(told)
            if stop.wait(min(_POLL_S, self._settle_s)):
                return None


def _node(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def guarded(
    name: str,
    frames: Callable[[Callable[[], float]], Iterator[Frame | FrameError]],
    began_s: float | None = None,
) -> Iterator[Frame | FrameError]:
    """What `frames(now_s)` yields; an error that ends it is handed over as a FrameError."""
    origin_s = time.monotonic() if began_s is None else began_s

    def now_s() -> float:
        return time.monotonic() - origin_s

    try:
        yield from frames(now_s)
    except EdgeloopError as error:
        yield FrameError(name, error, now_s())


def looks_whole(path: Path, size_bytes: int) -> bool:
    """Whether a file ends as its format ends, or is as long as it says; False where a format does not tell.

    Source: JPEG's EOI, PNG's IEND chunk, the sizes in a RIFF and a BMP header.
    """
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(max(0, size_bytes - 8))
        tail = file.read(8)
    if head[:4] == b"RIFF":
        return size_bytes >= 8 + int.from_bytes(head[4:8], "little") > 8
    if head[:2] == b"BM":
        return size_bytes == int.from_bytes(head[2:6], "little")
    end = _ENDS.get(head[:2])
    return end is not None and tail.endswith(end)
