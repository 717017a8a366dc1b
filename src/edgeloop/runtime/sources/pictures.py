"""Images: each file or array is a frame; a stream of bytes is one image, or JPEGs one after another.

Source of the JPEG syntax: ITU-T T.81, annex B. Neighbour: `runtime.input.images` decodes.
"""

from collections.abc import Callable, Iterator

from edgeloop.contracts.errors import Corrupt
from edgeloop.runtime.input.encoded import IMAGE_SUFFIXES
from edgeloop.runtime.sources.pieces import each_a_frame
from edgeloop.runtime.sources.port import Arrays, Frame, FrameError, Parts

MOST_BYTES = 2**28
"""Of one encoded image."""

_SOI, _EOI = b"\xff\xd8", 0xD9
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_MAGIC = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"BM", "image/bmp"))


class PictureCut:
    """Images; a Cut. sequence: a stream of bytes holds JPEGs one after another, as cameras' programs write them."""

    suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    has_own_time = False

    def __init__(self, *, sequence: bool = False) -> None:
        self.can_follow = sequence

    def of_bytes(self, name: str, parts: Parts, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. Raises Corrupt if what should be JPEGs is something else."""
        for part in parts:
            if self.can_follow:
                for number, image in enumerate(jpegs(part, what=name), start=1):
                    yield Frame(f"{name}#{number:06d}", image, now_s(), "image/jpeg")
            else:
                data = joined(part, MOST_BYTES, what=name)
                yield Frame(name, data, now_s(), media_of(data))

    def of_arrays(self, name: str, arrays: Arrays, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut; names are `name`#1, #2, ..."""
        return each_a_frame(name, arrays, now_s, media="image/raw")


def media_of(data: bytes) -> str:
    """The MIME type of an encoded image, by its first bytes; "application/octet-stream" if it is unknown.

    >>> media_of(bytes.fromhex("ffd8ffe0")), media_of(b"P5 3 2 255 ......")
    ('image/jpeg', 'image/x-portable-graymap')
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:2] in (b"P5", b"P6"):
        return "image/x-portable-graymap" if data[:2] == b"P5" else "image/x-portable-pixmap"
    return next((media for magic, media in _MAGIC if data.startswith(magic)), "application/octet-stream")


def joined(blocks: Iterator[bytes], most_bytes: int, *, what: str) -> bytes:
    """All blocks as one. Raises Corrupt if there is more than anyone takes."""
    made = bytearray()
    for block in blocks:
        made += block
        if len(made) > most_bytes:
            raise Corrupt(f"{what} holds more than {most_bytes:,} bytes; expected one input")
    return bytes(made)


def jpegs(blocks: Iterator[bytes], *, what: str) -> Iterator[bytes]:
    """Each JPEG of a stream, as soon as its last byte has come; one that was cut short by the end is left out.

    Raises Corrupt where no JPEG begins.
    """
    held = bytearray()
    place = 0
    for block in blocks:
        held += block
        while True:
            if held[:2] not in (_SOI, _SOI[:1], b""):
                raise Corrupt(f"{what}: {bytes(held[:8])!r} is no beginning of a JPEG; expected one after another")
            place, is_whole = _scan(held, max(place, 2))
            if not is_whole:
                break
            yield bytes(held[:place])
            del held[:place]
            place = 0
        if len(held) > MOST_BYTES:
            raise Corrupt(f"{what} holds a JPEG of more than {MOST_BYTES:,} bytes")


def _scan(data: bytearray, place: int) -> tuple[int, bool]:
    """Go on from a place between two segments; returns the next such place, or the end of the image and True.

    A segment that is not all there yet is left for later. Entropy-coded data holds 0xFF only before 0 or RSTn.
    """
    while place + 4 <= len(data) or data[place : place + 2] == bytes((0xFF, _EOI)):
        if data[place] != 0xFF:
            following = data.find(b"\xff", place)
            if following < 0:
                return len(data), False
            place = following
            continue
        marker = data[place + 1]
        if marker == _EOI:
            return place + 2, True
        if marker == 0 or marker in _ALONE:
            place += 2
        elif marker == 0xFF:
            place += 1
        else:
            length = int.from_bytes(data[place + 2 : place + 4], "big")
            if place + 2 + length > len(data):
                break
            place += 2 + length
    return place, False
