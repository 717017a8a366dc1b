"""From what a person or sensor hands over to an array of pixels."""

import os
from pathlib import Path
from typing import Any

# OpenCV reads its bound when it is loaded, and checks it before it allocates: a small file can claim many pixels.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "64000000")

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm")
MAX_PIXELS = 64_000_000

Image = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) RGB, uint8, 0..255."""


def decode_image(data: bytes, *, what: str) -> Image:
    """Decode PNG, JPEG, WebP, BMP or PNM bytes; EXIF orientation is applied, alpha is dropped.

    Returns (H, W) for a grey image, else (H, W, 3) in RGB order. Raises Corrupt if it is no image.
    """
    if not data:
        raise Corrupt(f"{what} is empty; expected an image ({', '.join(IMAGE_SUFFIXES)})")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise Corrupt(f"{what} cannot be decoded as an image: {error.err}") from error
    if pixels is None:
        raise Corrupt(
            f"{what} is no image that can be read (its first bytes: {data[:8]!r}); expected PNG, JPEG, WebP or BMP"
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise InvalidInput(f"{what} has {pixels.shape[0]}x{pixels.shape[1]} pixels; at most {MAX_PIXELS:,} are taken")
    if pixels.ndim == 3:
        return np.ascontiguousarray(pixels[:, :, ::-1], dtype=np.uint8)
    return np.asarray(pixels, dtype=np.uint8)


def encode_png(image: Image) -> bytes:
    """PNG bytes of an (H, W) or RGB (H, W, 3) image."""
    pixels = image if image.ndim == 2 else image[:, :, ::-1]
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])


def read_image(source: str | os.PathLike[str]) -> Image:
    """Read an image file. Raises NotFound, or Corrupt if it is no image."""
    path = Path(source)
    if not path.is_file():
        raise NotFound(f"no image at {path}")
    return decode_image(path.read_bytes(), what=str(path))


def as_image(value: bytes | str | os.PathLike[str] | NDArray[Any], *, what: str = "input") -> Image:
    """Bytes, a path or an array as an Image.

    Arrays: uint8 of (H, W), (H, W, 1) or (H, W, 3). Raises InvalidInput on any other array.
    """
    if isinstance(value, bytes):
        return decode_image(value, what=what)
    if not isinstance(value, np.ndarray):
        return read_image(value)
    if value.dtype != np.uint8 or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (1, 3)):
        raise InvalidInput(
            f"{what} must be a uint8 array of (H, W), (H, W, 1) or (H, W, 3) in RGB order, "
            f"got {value.dtype.name} {value.shape}"
        )
    if 0 in value.shape:
        raise InvalidInput(f"{what} has no pixels: its shape is {value.shape}")
    return value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value
