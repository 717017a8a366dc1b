"""From what a person or sensor hands over to an array of pixels.

What stands in a file is decided here: EXIF orientation is applied, alpha is dropped and not blended, a palette
becomes its colours, CMYK becomes RGB, of 16 bits the upper 8 stay, and a file of one channel gives a grey image.
Neighbours: `encoded` looks at what a file claims, `jpeg` reads a JPEG's header, `pixels` prepares what `see` gives.
"""

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.engines.quiet import stdio_muted
from edgeloop.runtime.input.encoded import IMAGE_SUFFIXES, TAKEN, check_claims
from edgeloop.runtime.input.files import read_bounded
from edgeloop.runtime.input.geometry import MAX_PIXELS
from edgeloop.runtime.input.jpeg import JpegHead, read_head
from edgeloop.runtime.input.opencv import cv2
from edgeloop.runtime.input.port import Source

Image = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) RGB, uint8, 0..255."""

_MOST_BYTES = 2**28
# OpenCV's IMREAD_REDUCED_GRAYSCALE_n, which beside IMREAD_ANYCOLOR say only the size.
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
_UINT8 = np.dtype(np.uint8)
_muted = stdio_muted()  # libjpeg and libpng print what they think of a file


class Seen(NamedTuple):
    """An image as it lies in memory: pixels (H, W), or (H, W, 3) in RGB order, or in BGR order if is_bgr.

    height_px, width_px: of the original, which may have been decoded at a part of its size.
    """

    pixels: Image
    is_bgr: bool
    height_px: int
    width_px: int

    def rgb(self) -> Image:
        """The pixels in RGB order."""
        return _turned(self.pixels) if self.is_bgr else self.pixels

    def rgb_view(self) -> Image:
        """The same as a view: nothing is copied, and `see` knows its order again."""
        return self.pixels[:, :, ::-1] if self.is_bgr else self.pixels


def see(source: Source, *, what: str = "input", reduce_to: tuple[int, int] | None = None) -> Seen:
    """Bytes, a path or an array, with nothing moved in memory that need not be.

    reduce_to: height and width to which it will be resized: a JPEG that is much larger is decoded at a half, a
    quarter or an eighth, see Resize.reduced_decode. Raises what `as_image` raises.
    """
    if isinstance(source, np.ndarray):
        return _seen_array(source, what)
    if isinstance(source, bytes):
        return _decode(source, what, reduce_to)
    return _decode(_read(source), str(source), reduce_to)


def decode_image(data: bytes, *, what: str) -> Image:
    """Decode PNG, JPEG, WebP, BMP or PNM bytes; EXIF orientation is applied, alpha is dropped.

    Returns (H, W) for a grey image, else (H, W, 3) in RGB order. Raises Corrupt if it is no image, InvalidInput if it
    has too many pixels or is of another format.
    """
    return _decode(data, what, None).rgb()


def encode_png(image: Image, *, quick: bool = False) -> bytes:
    """PNG bytes of an (H, W) or RGB (H, W, 3) image, as few as can be.

    quick: a seventh more of them in a seventeenth of the time (measured on a photo of 640 by 480: 10 ms, not 175).
    """
    pixels = image if image.ndim == 2 else _turned(image)
    return bytes(cv2.imencode(".png", pixels, [] if quick else [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])


def encode_jpeg(image: Image, *, quality: int) -> bytes:
    """JPEG bytes of an (H, W) or RGB (H, W, 3) image. quality: 1 to 100, as libjpeg means it."""
    pixels = image if image.ndim == 2 else _turned(image)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def read_image(source: str | os.PathLike[str]) -> Image:
    """Read an image file. Raises what `read_bounded` and `decode_image` raise."""
    return decode_image(_read(source), what=str(source))


def as_image(value: Source, *, what: str = "input") -> Image:
    """Bytes, a path or an array as an Image.

    Arrays: uint8 of (H, W), (H, W, 1) or (H, W, 3). Raises InvalidInput on any other array, and what `read_image`
    raises.
    """
    return see(value, what=what).rgb()


def _seen_array(value: NDArray[Any], what: str) -> Seen:
    shape = value.shape
    if value.dtype != _UINT8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        raise InvalidInput(
            f"{what} must be a uint8 array of (H, W), (H, W, 1) or (H, W, 3) in RGB order, "
            f"got {value.dtype.name} {value.shape}"
        )
    height_px, width_px = shape[:2]
    if not 0 < height_px * width_px <= MAX_PIXELS:
        raise InvalidInput(f"{what} has {'too many' if height_px * width_px else 'no'} pixels: its shape is {shape}")
    if len(shape) == 2:
        return Seen(value, False, height_px, width_px)
    if shape[2] == 1:
        return Seen(value[:, :, 0], False, height_px, width_px)
    if value.strides[2] == -1:
        # bgr[:, :, ::-1], as everyone writes it: to copy it pixel by pixel takes longer than all the rest.
        return Seen(value[:, :, ::-1], True, height_px, width_px)
    return Seen(value, False, height_px, width_px)


def _read(source: str | os.PathLike[str]) -> bytes:
    if not isinstance(source, str | os.PathLike):
        raise InvalidInput(f"an image is bytes, a path or a uint8 array, got {type(source).__name__}")
    return read_bounded(source, what="image", most_bytes=_MOST_BYTES)


def _decode(data: bytes, what: str, reduce_to: tuple[int, int] | None) -> Seen:
    if not data:
        raise Corrupt(f"{what} is empty; expected an image ({', '.join(IMAGE_SUFFIXES)})")
    if reduce_to is not None and (head := read_head(data)) is not None:
        seen = _decode_reduced(data, what, head, reduce_to)
        if seen is not None:
            return seen
    pixels = _pixels(data, what, cv2.IMREAD_ANYCOLOR)
    return Seen(pixels, pixels.ndim == 3, *pixels.shape[:2])


def _decode_reduced(data: bytes, what: str, head: JpegHead, reduce_to: tuple[int, int]) -> Seen | None:
    """At a part of its size; None if it is not so much larger, or turns out not to be what its header says.

    Sides are rounded up, so what is read spans up to 7 pixels more than the original: at the far edge that moves the
    image by less than half a pixel of what it is resized to.
    """
    denominator = head.denominator(*reduce_to)
    if denominator == 1 or head.height_px * head.width_px > MAX_PIXELS:
        return None
    pixels = _pixels(data, what, cv2.IMREAD_ANYCOLOR | _REDUCED[denominator])
    # The decoder has the last word on whether it was turned, where header and decoder read a damaged EXIF differently.
    for height_px, width_px in ((head.height_px, head.width_px), (head.width_px, head.height_px)):
        if pixels.shape[:2] == (-(-height_px // denominator), -(-width_px // denominator)):
            return Seen(pixels, pixels.ndim == 3, height_px, width_px)
    return None


def _pixels(data: bytes, what: str, flags: int) -> Image:
    """(H, W), or (H, W, 3) in BGR order."""
    check_claims(data, what)
    try:
        with _muted:
            pixels = cv2.imdecode(np.frombuffer(data, _UINT8), flags)
    except cv2.error as error:
        raise Corrupt(f"{what} cannot be decoded as an image: {error.err}") from error
    if pixels is None:
        raise Corrupt(f"{what} is damaged: it begins as {TAKEN} and cannot be read; fetch or make it again")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise InvalidInput(f"{what} has {pixels.shape[0]}x{pixels.shape[1]} pixels; at most {MAX_PIXELS:,} are taken")
    return np.asarray(pixels, dtype=_UINT8)


def _turned(pixels: Image) -> Image:
    """RGB to BGR or back: 80 times as fast as a copy of a reversed view."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=_UINT8)
