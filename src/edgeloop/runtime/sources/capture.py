"""Video through OpenCV: one adapter for files, network streams and cameras.

Frames are (H, W, 3) in BGR order, uint8, as OpenCV gives them. Source of the time-outs: OpenCV's videoio,
cap_ffmpeg_impl.hpp (FFmpeg is asked every 100 ms whether it took too long).
"""

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeloop.runtime.input.opencv import cv2

Pixels = NDArray[np.uint8]


class Capture(Protocol):
    """An open video."""

    def grab(self) -> bool:
        """Go on to the next frame, and wait for it; False if there is none or it took too long."""
        ...

    def pixels(self) -> Pixels | None:
        """The frame that was grabbed, in BGR order; None if it cannot be decoded."""
        ...

    def at_s(self) -> float:
        """When the grabbed frame is shown, in seconds of a file's own time."""
        ...

    def frame_count(self) -> int:
        """How many frames a file says it has; 0 where that is unknown."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class OpenCvCapture:
    """A cv2.VideoCapture that is open."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def grab(self) -> bool:
        """See Capture."""
        return bool(self._capture.grab())

    def pixels(self) -> Pixels | None:
        """See Capture."""
        ok, pixels = self._capture.retrieve()
        return np.asarray(pixels, np.uint8) if ok else None

    def at_s(self) -> float:
        """See Capture."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def frame_count(self) -> int:
        """See Capture."""
        # For what it does not know FFmpeg's backend answers with a large negative number.
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def close(self) -> None:
        """See Capture."""
        self._capture.release()


def open_video(url: str, *, open_s: float, read_s: float) -> OpenCvCapture | None:
    """A video file or stream by FFmpeg; None if it cannot be opened in open_s. A read ends after read_s at the latest,
    unless FFmpeg itself hangs."""
    times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_s * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_s * 1000)]
    return _opened(cv2.VideoCapture(url, cv2.CAP_FFMPEG, times))


def open_camera(camera: int | str) -> OpenCvCapture | None:
    """A camera by its number or, on Linux, its path; None if it cannot be opened."""
    backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
    capture = cv2.VideoCapture(camera, backend)
    # One frame in the driver's queue: what waits there longer is old when it is read.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return _opened(capture)


def rgb(pixels: Pixels) -> Pixels:
    """BGR as RGB, contiguous; a grey (H, W) frame unchanged."""
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _opened(capture: Any) -> OpenCvCapture | None:
    if capture.isOpened():
        return OpenCvCapture(capture)
    capture.release()
    return None
