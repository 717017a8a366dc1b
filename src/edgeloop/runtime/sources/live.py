"""Live video: a camera or a network stream, which stalls, drops and comes back.

Rules kept here: the newest frame wins, and what gave way is counted; a source that is lost is opened again for as long
as it is wanted, after waits that double up to a bound; each loss is told once; a read that hangs is left behind with
its thread, and a new one is made.
"""

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec
import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.sources.capture import Capture, Pixels, rgb
from edgeloop.runtime.sources.pace import Pace
from edgeloop.runtime.sources.port import Frame, FrameError, Tally
from edgeloop.runtime.sources.pump import POLL_S, Pump

_log = structlog.get_logger(__name__)
_MOST_LEFT_BEHIND = 3
_NEARLY = 0.9  # of stall_s: a time-out is told from a lost connection by how long it took


class Patience(msgspec.Struct, frozen=True):
    """How long a live source is waited for.

    open_s: for its first answer. stall_s: for the next frame, before it counts as lost. grace_s: how much longer a
    read may take than it was told, before it counts as hung. first_wait_s, longest_wait_s: before it is opened again.
    steady_s: a source that was lost sooner than this is waited for ever longer.
    """

    open_s: float = 10.0
    stall_s: float = 10.0
    grace_s: float = 3.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 10.0
    steady_s: float = 10.0


class LiveVideo:
    """Frames of a live source, until `stop`; a Reader.

    name: what frames and logs call it. opened: opens it, or returns None. rate_hz: at most so many frames a second;
    those in between are not even decoded.
    """

    has_own_time = False

    def __init__(
        self,
        name: str,
        opened: Callable[[], Capture | None],
        *,
        rate_hz: float = 0.0,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._opened = opened
        self._rate_hz = rate_hz
        self._patience = patience
        self._draw = draw

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader."""
        link = _Link(self._name, self._patience, self._draw, tally)
        reading = self._start(link)
        left_behind: list[_Reading] = []
        last = skipped = 0
        try:
            while not stop.is_set():
                # Before the slot is looked into, so that no frame of before a loss comes after it.
                told = link.told()
                shot = reading.pump.take(0.0 if told else POLL_S)
                if shot is None or (told and shot.at_s > told[0].at_s):
                    yield from told
                    told = []
                if shot is not None:
                    dropped = shot.number - last - 1
                    missed = dropped + shot.skipped - skipped
                    last, skipped = shot.number, shot.skipped
                    tally.add(dropped=dropped)
                    yield Frame(f"{self._name}#{shot.number:06d}", rgb(shot.pixels), shot.at_s, "image/raw", missed)
                    yield from told
                elif reading.is_hung:
                    left_behind = [one for one in left_behind if one.pump.is_alive]
                    if len(left_behind) < _MOST_LEFT_BEHIND:
                        left_behind.append(reading)
                        reading = self._replace(reading, link, tally)
        finally:
            reading.pump.end()

    def _start(self, link: "_Link") -> "_Reading":
        reading = _Reading(self._opened, link, Pace(self._rate_hz), self._patience)
        reading.pump.start()
        return reading

    def _replace(self, hung: "_Reading", link: "_Link", tally: Tally) -> "_Reading":
        hung.pump.end(join_s=0.0)
        tally.add(stalled=1)
        link.lost("a read hangs, and was left behind")
        return self._start(link)


class _Shot(msgspec.Struct, frozen=True):
    """number: of those that were taken, from 1. skipped: how many were not, so far."""

    number: int
    skipped: int
    pixels: Pixels
    at_s: float


class _Link:
    """How it stands with the source, whichever thread reads it."""

    def __init__(self, name: str, patience: Patience, draw: Callable[[], float], tally: Tally) -> None:
        self._name = name
        self._patience = patience
        self._backoff = Backoff(first_s=patience.first_wait_s, longest_s=patience.longest_wait_s, draw=draw)
        self._began_s = time.monotonic()
        self._seen_s: float | None = None
        self._is_lost = False
        self._was_seen = False
        self.tally = tally
        self.numbers = itertools.count(1)
        self.skipped = 0
        self._errors: deque[FrameError] = deque()

    def now_s(self) -> float:
        """Since the stream was started."""
        return time.monotonic() - self._began_s

    def told(self) -> list[FrameError]:
        """What was lost since this was asked last."""
        return [self._errors.popleft() for _ in range(len(self._errors))]

    def seen(self) -> None:
        """A connection gave its first frame."""
        self._seen_s = self.now_s()
        if self._was_seen and self._is_lost:
            self.tally.add(reopened=1)
        _log.info("source_open", source=self._name, again=self._was_seen)
        self._was_seen = True
        self._is_lost = False

    def lost(self, why: str) -> float:
        """The connection is gone, or there was none; returns for how long to wait."""
        if self._seen_s is not None and self.now_s() - self._seen_s >= self._patience.steady_s:
            self._backoff.succeeded()
        self._seen_s = None
        wait_s = self._backoff.failed()
        _log.warning("source_lost", source=self._name, detail=why, retry_in_s=round(wait_s, 2))
        if not self._is_lost:
            self._is_lost = True
            error = Unavailable(f"{self._name}: {why}; it is opened again until it answers")
            self._errors.append(FrameError(self._name, error, self.now_s(), is_lost=True))
        return wait_s


class _Reading:
    """One thread that opens and reads the source, again and again."""

    def __init__(self, opened: Callable[[], Capture | None], link: _Link, pace: Pace, patience: Patience) -> None:
        self._opened = opened
        self._link = link
        self._pace = pace
        self._patience = patience
        self._sign_s = time.monotonic()
        self.pump: Pump[_Shot] = Pump(self._fill, name="live video", newest_wins=True)

    @property
    def is_hung(self) -> bool:
        """Whether the thread has been in one call for longer than that call may take."""
        allowed_s = max(self._patience.open_s, self._patience.stall_s) + self._patience.grace_s
        return time.monotonic() - self._sign_s > allowed_s

    def _fill(self, pump: Pump[_Shot]) -> None:
        while not pump.is_ended:
            self._sign_s = time.monotonic()
            capture = self._opened()
            if capture is None:
                why = "cannot be opened, or does not answer"
            else:
                try:
                    why = self._drain(capture, pump)
                finally:
                    capture.close()
            if not pump.is_ended:
                wait_s = self._link.lost(why)
                self._sign_s = time.monotonic() + wait_s
                pump.wait(wait_s)

    def _drain(self, capture: Capture, pump: Pump[_Shot]) -> str:
        """Hand over frames for as long as they come; returns why they do not any more."""
        is_first = True
        while True:
            self._sign_s = began_s = time.monotonic()
            came = capture.grab()
            took_s = time.monotonic() - began_s
            # After a time-out a decoder may still hand over a frame that it had kept back: an old one, not the next.
            is_stalled = took_s >= (self._patience.stall_s if came else _NEARLY * self._patience.stall_s)
            if not came and not is_stalled:
                return "the connection was lost"
            if is_stalled:
                if not pump.is_ended:
                    self._link.tally.add(stalled=1)
                return f"no frame came for {took_s:.1f} s"
            if pump.is_ended:
                return "nobody wants it any more"
            if is_first:
                is_first = False
                self._link.seen()
            at_s = self._link.now_s()
            if not self._pace.is_due(at_s):
                self._link.skipped += 1
                self._link.tally.add(skipped=1)
                continue
            pixels = capture.pixels()
            if pixels is None:
                return "a frame could not be decoded"
            pump.put(_Shot(next(self._link.numbers), self._link.skipped, pixels, at_s))
