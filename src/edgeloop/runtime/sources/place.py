"""Where in a folder or a growing table an earlier run stopped, read from what its last frame was called.

Rule kept here: a file's frames are called as the file is, or FILE#000042 (a row, from 1), or FILE@00001.500s (a time).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edgeloop.runtime.sources.port import Frame, FrameError

_WITHIN = re.compile(r"(?P<file>.+)(?:#(?P<row>\d{6,})|@(?P<second>\d{5,}\.\d{3})s)")
_BLOCK_BYTES = 2**20


class Place(msgspec.Struct, frozen=True):
    """A frame's file, and how far into it the frame begins; None of a frame that is its whole file."""

    file: str = ""
    within: float | None = None

    def beyond(self, frames: Iterable[Frame | FrameError]) -> Iterator[Frame | FrameError]:
        """The frames of this file that come after this place, with the errors among them."""
        is_beyond = self.within is None
        for one in frames:
            if not is_beyond and isinstance(one, Frame):
                found = place_of(one.name, (Path(self.file).suffix.lower(),))
                is_beyond = found.file != self.file or found.within is None or found.within > (self.within or 0.0)
            if is_beyond:
                yield one


def place_of(name: str, suffixes: tuple[str, ...]) -> Place:
    """The place of a frame with this name; an empty one if no file with one of these suffixes has such frames.

    >>> place_of("clip.wav@00001.500s", (".wav",))
    Place(file='clip.wav', within=1.5)
    >>> place_of("a#1.png", (".png",)), place_of("door#000042", (".png",))
    (Place(file='a#1.png', within=None), Place(file='', within=None))
    """
    if Path(name).suffix.lower() in suffixes:
        return Place(name)
    match = _WITHIN.fullmatch(name)
    if match is None or Path(match["file"]).suffix.lower() not in suffixes:
        return Place()
    return Place(match["file"], float(match["row"] or match["second"]))


def has_lines(path: Path, count: float) -> bool:
    """Whether a file has at least so many lines that have ended; False if it cannot be read."""
    found = 0
    try:
        with path.open("rb") as file:
            while found < count and (block := file.read(_BLOCK_BYTES)):
                found += block.count(b"\n")
    except OSError:
        return False
    return found >= count
