"""Image files written by hand from their specifications, and not by the library that reads them."""

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 100) -> bytes:
    """A JPEG of (H, W) or BGR (H, W, 3), without EXIF."""
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def turned(plain: bytes, orientation: int, *, order: str = "little") -> bytes:
    """A JPEG with an EXIF orientation tag (EXIF 2.3, tag 0x0112), in bytes of either order."""
    mark, sign = (b"II*\0", "<") if order == "little" else (b"MM\0*", ">")
    tiff = mark + struct.pack(f"{sign}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What a picture looks like whose stored rows and columns mean this (EXIF 2.3, 4.6.4, table of orientations)."""
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: stored.swapaxes(0, 1)[::-1],
    }
    return turns[orientation]


def png(rows: list[bytes], *, width: int, depth: int, kind: int, palette: bytes = b"", clear: bytes = b"") -> bytes:
    """A PNG of packed rows. depth: bits a sample. kind: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))]
    parts += [(b"PLTE", palette)] if palette else []
    parts += [(b"tRNS", clear)] if clear else []
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for name, body in parts:
        made += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return made
