"""What an image's bytes claim of themselves, looked at before a decoder believes it.

Which formats OpenCV decodes depends on how it was built; here they are the same everywhere, told by their first bytes.
OpenCV has a bound of its own for pixels, which `opencv` sets; but it reads that when it is loaded, so that a program
which imports OpenCV first is without one. Sources: Portable Network Graphics (third edition, W3C 2025), 5.3 and 11.2.1;
RFC 9649 (WebP), 2.4 to 2.7; RFC 6386 (VP8), 9.1; BITMAPCOREHEADER and BITMAPINFOHEADER (Microsoft); Netpbm's pnm(5);
the first bytes of other formats: the file command's magic database. Neighbours: `images` decodes, `jpeg` reads a JPEG's
header.
"""

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.input.geometry import MAX_PIXELS
from edgeloop.runtime.input.jpeg import stored_size

TAKEN = "PNG, JPEG, WebP, BMP or PNM"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm")

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_AROUND_BYTES = 12
"""Of a PNG's chunk: its length, its type and its checksum."""
_CORE_HEADER_BYTES = 12
_PNM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_OTHERS = (
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("GIF", 0, (b"GIF8",)),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("JPEG XL", 0, (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    ("AVIF", 4, (b"ftypavif", b"ftypavis")),
    ("HEIF", 4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    ("OpenEXR", 0, (b"v/1\x01",)),
    ("Radiance HDR", 0, (b"#?RADIANCE", b"#?RGBE")),
    ("PFM", 0, (b"PF", b"Pf")),
    ("PAM", 0, (b"P7",)),
    ("Sun raster", 0, (b"\x59\xa6\x6a\x95",)),
    ("PDF", 0, (b"%PDF",)),
)
"""What else people take for an image: its name, and where which bytes stand."""


def check_claims(data: bytes, what: str) -> None:
    """Raise InvalidInput if an image says that it has too many pixels or is of a format that is not taken, Corrupt if
    it is no image, or a PNG has a chunk that claims more bytes than there are.

    OpenCV (5.0) allocates and clears what a chunk claims before it looks: up to 4 GB, in seconds, for a file of any
    size. It decodes a JPEG of 4 KB that claims 138 million pixels into 890 MB.
    """
    size = claimed_size(data)
    if size is None:
        _check_format(data, what)
    elif size[0] * size[1] > MAX_PIXELS:
        raise InvalidInput(f"{what} has {size[0]}x{size[1]} pixels; at most {MAX_PIXELS:,} are taken")
    if data.startswith(_PNG):
        _check_chunks(data, what)


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in pixels, as stored in the header of a JPEG, PNG, WebP or BMP; None where there is none.

    A PNM has no need of it: it cannot hold more pixels than bytes.
    """
    if data.startswith(_JPEG):
        return stored_size(data)
    if data.startswith(_PNG):
        return _big(data, 20, 4), _big(data, 16, 4)
    if data.startswith(b"BM"):
        return _bmp_size(data)
    return _webp_size(data) if _is_webp(data) else None


def _check_format(data: bytes, what: str) -> None:
    """Of bytes that state no size where one is known to stand."""
    if data.startswith((_JPEG, *_PNM)) or _is_webp(data):
        return
    for name, place, marks in _OTHERS:
        if data.startswith(marks, place):
            raise InvalidInput(f"{what} is {name}, which is not taken; convert it to {TAKEN}")
    raise Corrupt(f"{what} is no image that is known (its first bytes: {data[:8]!r}); expected {TAKEN}")


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data.startswith(b"WEBP", 8)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if _little(data, 14, 4) == _CORE_HEADER_BYTES:
        return _little(data, 20, 2), _little(data, 18, 2)
    # A height below 0 says that rows come from the top.
    return abs(int.from_bytes(data[22:26], "little", signed=True)), _little(data, 18, 4)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data, 27, 3) + 1, _little(data, 24, 3) + 1
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return (_little(data, 28, 2) & 0x3FFF, _little(data, 26, 2) & 0x3FFF) if kind == b"VP8 " else None


def _check_chunks(data: bytes, what: str) -> None:
    place = len(_PNG)
    while place + _AROUND_BYTES <= len(data):
        length = _big(data, place, 4)
        if place + _AROUND_BYTES + length > len(data):
            raise Corrupt(
                f"{what} is a damaged PNG: its chunk {data[place + 4 : place + 8]!r} claims {length:,} bytes, of which "
                f"{len(data) - place - _AROUND_BYTES:,} are there; fetch or make it again"
            )
        place += _AROUND_BYTES + length


def _big(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size])


def _little(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "little")
