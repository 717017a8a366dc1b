"""What a stream of inputs is to those who answer it.

Neighbours: `open` makes the source that a person named; `stream` counts, keeps the rate and heeds `stop` for all of
them; the other modules each read one kind of thing.
"""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.runtime.input.port import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray  # see input.port


class Frame(msgspec.Struct, frozen=True):
    """One input of a stream.

    name: what the source calls it, growing with time. data: what `Predictor.predict` takes. at_s: when it began, in
    seconds of the stream's own time where it has one (a video file, a sound, a series with a rate), else since the
    stream was started. media: the MIME type of encoded bytes; of arrays "image/raw", "sound/raw", "series/raw" or
    "tensor/raw". missed: inputs that came between the last frame and this one, and were dropped or skipped.
    """

    name: str
    data: Source
    at_s: float
    media: str
    missed: int = 0


class FrameError(msgspec.Struct, frozen=True):
    """Something of a stream that could not be had; the stream goes on.

    is_lost: it is the source itself that is away, and waited for; else one input of it.
    """

    name: str
    error: EdgeloopError
    at_s: float
    is_lost: bool = False


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a stream so far.

    frames, errors: handed out. dropped: gave way to newer ones because the consumer was slow. skipped: passed over to
    keep to rate_hz. stalled: times that a live source gave nothing for too long. reopened: times that one which was
    lost came back.
    """

    frames: int = 0
    errors: int = 0
    dropped: int = 0
    skipped: int = 0
    stalled: int = 0
    reopened: int = 0


class FrameSource(Protocol):
    """A stream of inputs."""

    @property
    def counts(self) -> Counts:
        """So far; may be asked from any thread."""
        ...

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame | FrameError]:
        """One input after another until the source ends or `stop` is set, which is heeded within a second.

        One iteration at a time. Closing the iterator lets go of the source.
        """
        ...


class Reader(Protocol):
    """What a kind of source implements; `stream.Stream` makes a FrameSource of it.

    has_own_time: see Cut; known once `read` was called.
    """

    has_own_time: bool

    def read(self, stop: threading.Event, tally: "Tally") -> Iterator[Frame | FrameError]:
        """One input after another; returns when it ends or soon after `stop` is set."""
        ...


Parts = Iterator[Iterator[bytes]]
"""Bytes as they come. Each part begins anew (a file that took the place of another), and is read before the next."""


Arrays = Iterator["NDArray[Any] | FrameError"]
"""What a program hands over, one after another. An error stands for something that is no array; it is handed on."""


class Cut(Protocol):
    """How one kind of input is told apart in what keeps coming: what makes one frame.

    suffixes: of files that hold such inputs. has_own_time: frames say when they began by their place in the input.
    can_follow: frames come before their file or stream has ended.
    """

    suffixes: tuple[str, ...]
    has_own_time: bool
    can_follow: bool

    def of_bytes(self, name: str, parts: Parts, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """Frames of a file or a stream of bytes. Raises an EdgeloopError where nothing more can be had of it."""
        ...

    def of_arrays(self, name: str, arrays: Arrays, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """Frames of arrays that follow one another; what is wrong with one of them ends nothing."""
        ...


class Tally:
    """Counts that grow, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    def add(self, **more: int) -> None:
        """So many more of each, by the names of `Counts`."""
        with self._lock:
            grown = {name: getattr(self._counts, name) + number for name, number in more.items()}
            self._counts = msgspec.structs.replace(self._counts, **grown)

    @property
    def counts(self) -> Counts:
        """So far."""
        return self._counts
