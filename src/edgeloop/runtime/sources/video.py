"""Video files: frame by frame, none dropped, read ahead on a thread of their own."""

import threading
import time
from collections.abc import Callable, Iterator

from edgeloop.contracts.errors import Corrupt, EdgeloopError, Unavailable
from edgeloop.runtime.sources.capture import Capture, rgb
from edgeloop.runtime.sources.pace import Pace
from edgeloop.runtime.sources.port import Frame, FrameError, Tally
from edgeloop.runtime.sources.pump import Pump

_AHEAD = 2
_COMPLETE = 0.9  # containers without an index guess their number of frames from length and rate
_TRIES = 100  # where a file does not say how many frames it has
_QUICK_S = 1.0  # what fails after longer waited for a network, and would again


class VideoFile:
    """Every frame of a video file, or rate_hz of them for each second of the video; a Reader.

    name: what frames and errors call it. opened: opens it, or returns None. is_remote: it lies on a server.
    """

    has_own_time = True

    def __init__(
        self, name: str, opened: Callable[[], Capture | None], *, rate_hz: float = 0.0, is_remote: bool = False
    ) -> None:
        self._name = name
        self._is_remote = is_remote
        self._opened = opened
        self._rate_hz = rate_hz

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader. Yields a FrameError of Corrupt if it is no video, or ends long before it says; of
        Unavailable if it is a server's and cannot be opened."""
        yield from Pump[Frame | FrameError](lambda pump: self._fill(pump, tally), name="video", room=_AHEAD).items(stop)

    def _fill(self, pump: Pump[Frame | FrameError], tally: Tally) -> None:
        capture = self._opened()
        if capture is None:
            pump.put(FrameError(self._name, self._not_opened(), 0.0, is_lost=self._is_remote))
            return
        try:
            self._drain(capture, pump, tally)
        finally:
            capture.close()

    def _not_opened(self) -> EdgeloopError:
        wanted = "a video that FFmpeg reads, such as H.264 in MP4"
        if self._is_remote:  # FFmpeg does not say which of the two it was
            return Unavailable(f"{self._name}: its server does not answer, or not with {wanted}; try again")
        return Corrupt(f"{self._name} is no video that can be read; expected {wanted}")

    def _drain(self, capture: Capture, pump: Pump[Frame | FrameError], tally: Tally) -> None:
        pace, said = Pace(self._rate_hz), capture.frame_count()
        place, missed, at_s = 0, 0, 0.0
        while not pump.is_ended and (lost := _go_on(capture, pump, most=max(said - place, _TRIES))) is not None:
            place += lost + 1
            missed += lost
            at_s = capture.at_s()
            name = f"{self._name}#{place:06d}"
            if lost:
                told = f"before {name}, {lost} of the frames cannot be decoded; the file is damaged there"
                pump.put(FrameError(self._name, Corrupt(told), at_s))
            if not pace.is_due(at_s):
                tally.add(skipped=1)
                missed += 1
                continue
            pixels = capture.pixels()
            if pixels is None:
                pump.put(FrameError(name, Corrupt(f"{name} cannot be decoded"), at_s))
            else:
                pump.put(Frame(name, rgb(pixels), at_s, "image/raw", missed))
            missed = 0
        if not pump.is_ended and place < _COMPLETE * said:
            told = f"{self._name} ends after {place} of {said} frames; it was cut short or is damaged"
            pump.put(FrameError(self._name, Corrupt(told), at_s))


def _go_on(capture: Capture, pump: Pump[Frame | FrameError], *, most: int) -> int | None:
    """Go to the next frame that can be decoded: how many before it cannot, or None if there are no more.

    OpenCV says of a damaged frame what it says of the end; asked again, it goes on behind the damage, a frame a try.
    """
    for lost in range(most + 1):
        began_s = time.monotonic()
        if capture.grab():
            return lost
        if pump.is_ended or time.monotonic() - began_s > _QUICK_S:
            return None
    return None
