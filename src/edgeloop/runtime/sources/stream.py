"""One FrameSource for all readers: counts, keeps the rate, heeds `stop`, lets go of what was open."""

import threading
import time
from collections.abc import Generator, Iterator

import msgspec

from edgeloop.runtime.sources.pace import Pace
from edgeloop.runtime.sources.port import Counts, Frame, FrameError, Reader, Tally


class Stream:
    """A FrameSource of a reader; see `port.FrameSource`.

    rate_hz: at most so many frames a second; 0 for as many as there are. Where frames have a time of their own
    (windows of a sound) those in between are skipped; else the next one is waited for.
    """

    def __init__(self, reader: Reader, *, rate_hz: float = 0.0) -> None:
        self._reader = reader
        self._rate_hz = rate_hz
        self._tally = Tally()

    @property
    def counts(self) -> Counts:
        """See FrameSource."""
        return self._tally.counts

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame | FrameError]:
        """See FrameSource."""
        stop = stop or threading.Event()
        read = self._reader.read(stop, self._tally)
        try:
            for one in self._kept(read, stop):
                if stop.is_set():
                    return
                self._tally.add(**({"frames": 1} if isinstance(one, Frame) else {"errors": 1}))
                yield one
        finally:
            if isinstance(read, Generator):
                read.close()

    def _kept(self, read: Iterator[Frame | FrameError], stop: threading.Event) -> Iterator[Frame | FrameError]:
        if self._rate_hz <= 0:
            return read
        return self._thinned(read) if self._reader.has_own_time else self._waited(read, stop)

    def _thinned(self, read: Iterator[Frame | FrameError]) -> Iterator[Frame | FrameError]:
        pace = Pace(self._rate_hz)
        missed = 0
        for one in read:
            if isinstance(one, FrameError):
                yield one
            elif pace.is_due(one.at_s):
                yield msgspec.structs.replace(one, missed=one.missed + missed)
                missed = 0
            else:
                missed += 1 + one.missed
                self._tally.add(skipped=1)

    def _waited(self, read: Iterator[Frame | FrameError], stop: threading.Event) -> Iterator[Frame | FrameError]:
        pace = Pace(self._rate_hz)
        for one in read:
            if isinstance(one, Frame):
                if stop.wait(pace.wait_s(time.monotonic())):
                    return
                pace.is_due(time.monotonic())
            yield one
