"""What a JPEG's header says of its size, without decoding it.

Sources: ITU-T T.81, B.1 and B.2.2 (markers, frame header); EXIF 2.32, 4.6 (orientation).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""The orientations in which height and width change places."""
_DENOMINATORS = (8, 4, 2)


class JpegHead(NamedTuple):
    """Height and width as an image that is the right way up."""

    height_px: int
    width_px: int

    def denominator(self, height_px: int, width_px: int) -> int:
        """By which of 8, 4 and 2 it can be divided and still be as large as this on both sides; else 1."""
        for denominator in _DENOMINATORS:
            if self.height_px >= denominator * height_px and self.width_px >= denominator * width_px:
                return denominator
        return 1


def read_head(data: bytes) -> JpegHead | None:
    """Of a JPEG's bytes; None if they are none, or are damaged before the picture begins."""
    size_px: tuple[int, int] | None = None
    is_lying: bool | None = None
    for marker, start, end in _segments(data):
        if marker in _FRAMES and size_px is None and end - start >= 6:
            size_px = int.from_bytes(data[start + 1 : start + 3]), int.from_bytes(data[start + 3 : start + 5])
        elif marker == _APP1 and is_lying is None and data.startswith(_EXIF, start):
            is_lying = _orientation(data[start + len(_EXIF) : end]) in _LYING
    if size_px is None or 0 in size_px:
        return None
    return JpegHead(*(reversed(size_px) if is_lying else size_px))


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Height and width as a JPEG's first frame header states them; None if there is none before the first scan.

    Finds it where libjpeg would: that passes over whatever stands between two segments. In one go and not by
    `_segments`, since every JPEG is asked: 1 us.
    """
    at, last = 2, len(data) - 9
    while 0 <= (at := data.find(b"\xff", at)) <= last:
        marker = data[at + 1]
        if marker in _FRAMES:
            return data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
        if marker in (_SCAN, _END):
            return None
        if marker in (0, 0xFF):
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of what each segment holds, up to the first scan."""
    if not data.startswith(b"\xff\xd8"):
        return
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker in (_SCAN, _END) or length < 2 or at + 2 + length > len(data):
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + length


def _orientation(tiff: bytes) -> int:
    """1 to 8; 1 where there is none that can be read."""
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"
    first = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[first : first + 2], order)
    for at in range(first + 2, min(first + 2 + 12 * entries, len(tiff) - 11), 12):
        if int.from_bytes(tiff[at : at + 2], order) == _ORIENTATION:
            return int.from_bytes(tiff[at + 8 : at + 10], order)
    return 1
