"""Where readings come from. A source yields frames; the loop asks for the next when it is ready."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from edgeloop.contracts.errors import NotFound

_log = structlog.get_logger(__name__)
_POLL_S = 0.2


class Frame(msgspec.Struct, frozen=True):
    """One input: what the source calls it, and its encoded bytes."""

    name: str
    data: bytes
    media: str


class Source(Protocol):
    """A stream of frames."""

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames until `stop` is set or the source ends."""
        ...


class FolderSource:
    """Image files of a folder in name order, each once; new files are picked up as they arrive.

    Names must grow with time, as cameras and loggers number them: a file that sorts before the last one read is
    passed over. rate_hz: at most so many a second; 0 for as fast as they are asked for. after: the last name that
    was read in an earlier run.
    """

    def __init__(self, folder: Path, *, rate_hz: float = 0.0, after: str = "") -> None:
        if not folder.is_dir():
            raise NotFound(f"there is no folder {folder} to read images from; make it, or name another with --source")
        self._folder = folder
        self._interval_s = 1.0 / rate_hz if rate_hz > 0 else 0.0
        self._after = after

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See Source.frames."""
        next_s = time.monotonic()
        while not stop.is_set():
            names = self._waiting()
            if not names:
                stop.wait(_POLL_S)
                continue
            for name in names:
                next_s = max(next_s + self._interval_s, time.monotonic() - self._interval_s)
                if stop.wait(max(0.0, next_s - time.monotonic())):
                    return
                path = self._folder / name
                self._after = name
                try:
                    data = path.read_bytes()
                except OSError as error:
                    _log.warning("frame_gone", source=name, detail=str(error))
                    continue
                yield Frame(name, data, _media(path.suffix))

    def _waiting(self) -> list[str]:
        from edgeloop.runtime.input.images import IMAGE_SUFFIXES  # brings OpenCV: not before there is a model

        try:
            found = [path.name for path in self._folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except OSError as error:
            _log.warning("source_gone", folder=str(self._folder), detail=str(error))
            return []
        return sorted(name for name in found if name > self._after)


def _media(suffix: str) -> str:
    kind = suffix.lower().removeprefix(".").replace("jpg", "jpeg")
    return f"image/{kind}"
