"""Malformed images, and the ways in that they take."""

import base64
import struct
import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from builders import make_parts
from edgeloop.contracts.manifest import InputSpec, Manifest, Modality
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Grey,
    Interpolation,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    Scale,
    Step,
)
from edgeloop.runtime.cache import Kept, ResultCache
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.pixels import PixelFront
from edgeloop.runtime.output.port import Answer
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.pictures import PictureCut
from fuzz_bytes import Mutator, mutated
from fuzz_case import Case, by_file, in_blocks, take_frames
from pictures import jpeg, png, turned

_LINEAR = Interpolation.LINEAR
# Eight by eight pixels of CMYK in Adobe's inverted form, made with Pillow: OpenCV writes none.
_CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggLCAkKCgoKCgYICwwLCgwJ"
    "CgoK/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABUAAQEAAAAAAAAAAAAAAAAAAAkK/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAA4EQwBNAFkASwAA"
    "PwB/E/6f8/j/2Q=="
)
_SIZES = (0, 1, 2, 17, 255, 256, 4000, 65_535, 65_536, 100_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_ANSWER = Kept(Answer(label="a", score=1.0, margin=1.0, top=()))
_Write = Callable[[Any], object]


class Images:
    """Images by every way that a bundle takes them. folder: where a case may write a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "image"
        self._seeds = _seeds()
        self._writes = [_write(*one) for one in _FRONTS]
        plain, reduced = _caching(Scale(1 / 255)), _caching(Resize(8, 8, _LINEAR, reduced_decode=True))
        self._caches = [ResultCache(plain), ResultCache(reduced)]

    def case(self, rng: Random) -> Case:
        """One image and its way."""
        if rng.random() < 0.05:
            return self._array(rng)
        name, data = mutated(rng, self._seeds, _OWN)
        write = rng.choice(self._writes)
        route = rng.choices(("write", "cache", "file", "stream", "sequence"), (60, 20, 5, 10, 5))[0]
        if route == "cache":
            return Case(route, name, data, partial(_remember, rng.choice(self._caches), data))
        if route == "file":
            path = self._path.with_suffix(rng.choice((".png", ".jpg", ".bin")))
            return Case(route, name, data, partial(by_file, path, data, write))
        if route == "stream":
            return Case(route, name, data, lambda: take_frames(open_source(data, _RGB, ()).frames(), write))
        if route == "sequence":
            return Case(route, name, data, partial(_sequence, data * 2, rng.choice((1, 7, 4096)), write))
        return Case(route, name, data, lambda: write(data))

    def _array(self, rng: Random) -> Case:
        dtype = rng.choice(("uint8", "uint8", "int8", "uint16", "float32", "float64", "bool", "complex64", "S3"))
        shape = rng.choice(((8, 8), (8, 8, 3), (8, 8, 1), (8, 8, 4), (0, 8), (8, 0, 3), (), (3,), (1, 8, 8, 3), (1, 1)))
        array = np.zeros(shape, dtype)
        array = rng.choice((array, array.T, *((array[::-1], array[..., ::-1]) if array.ndim else ())))
        return Case("array", f"{dtype} {shape}", b"", partial(rng.choice(self._writes), array))


_RGB = InputSpec("image", Modality.IMAGE, (1, 8, 8, 3), "nhwc", (0.0, 1.0))
_FIRST = InputSpec("image", Modality.IMAGE, (1, 3, 16, 12), "nchw", (-2.0, 2.0))
_GREY = InputSpec("image", Modality.IMAGE, (1, 8, 8), "nhw", (0.0, 1.0))
_MEANS = Normalize((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
_FRONTS: tuple[tuple[InputSpec, tuple[Step, ...], TensorSpec], ...] = (
    (_RGB, (Resize(8, 8, _LINEAR), Scale(1 / 255)), TensorSpec("image", (1, 8, 8, 3), "int8", 1 / 255, -128)),
    (
        _RGB,
        (Resize(8, 8, Interpolation.AREA, reduced_decode=True), Scale(1 / 255)),
        TensorSpec("image", (1, 8, 8, 3), "float32"),
    ),
    (
        _RGB,
        (ResizeShorter(8, Interpolation.CUBIC), CenterCrop(8, 8), Colour(ColourOrder.BGR)),
        TensorSpec("image", (1, 8, 8, 3), "uint8"),
    ),
    (
        _FIRST,
        (Letterbox(16, 12, _LINEAR), Colour(ColourOrder.RGB), Scale(1 / 255), _MEANS),
        TensorSpec("image", (1, 3, 16, 12), "float32"),
    ),
    (
        _GREY,
        (Grey(), Resize(8, 8, Interpolation.NEAREST), Scale(1 / 255)),
        TensorSpec("image", (1, 8, 8), "uint8", 1 / 255, 0),
    ),
)


def _write(spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> _Write:
    front, buffer = PixelFront(spec, steps, tensor), np.zeros(tensor.shape, tensor.dtype)
    return lambda source: front.write(source, buffer)


def _caching(step: Step) -> Manifest:
    return msgspec.structs.replace(make_parts().manifest, preprocess=(step,))


def _remember(cache: ResultCache, data: bytes) -> None:
    held = cache.find(data)
    if held.kept is None:
        cache.keep(held, _ANSWER)


def _sequence(data: bytes, block: int, write: _Write) -> None:
    """JPEGs one after another, in blocks as a pipe hands them over; what is found of them is decoded."""
    take_frames(PictureCut(sequence=True).of_bytes("pipe", iter([in_blocks(data, block)]), lambda: 0.0), write)


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(7)
    colours: NDArray[np.uint8] = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    large = cv2.resize(colours, (90, 70))
    greys, clear = colours[:, :, 0], np.dstack([colours, greys_of(colours)])
    wide = colours[:, :, 0].astype(np.uint16) * 257
    row = bytes(range(4))
    palettes = [
        png([row[: 4 * depth // 8 or 1]] * 4, width=4, depth=depth, kind=3, palette=bytes(range(48)), clear=b"\0")
        for depth in (1, 2, 4, 8)
    ]
    flat = jpeg(large, quality=80)
    return [
        *(_encoded(".png", image) for image in (greys, colours, clear, wide, large)),
        *palettes,
        png([bytes(8)] * 4, width=4, depth=8, kind=4),
        flat,
        jpeg(greys),
        *(turned(jpeg(large), one, order=order) for one, order in ((1, "little"), (6, "big"), (8, "little"))),
        _encoded(".jpg", large, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        _encoded(".jpg", large, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        _CMYK_JPEG,
        _encoded(".webp", colours, cv2.IMWRITE_WEBP_QUALITY, 50),
        _encoded(".webp", large, cv2.IMWRITE_WEBP_QUALITY, 101),
        _encoded(".webp", clear, cv2.IMWRITE_WEBP_QUALITY, 101),
        *(_encoded(".bmp", image) for image in (greys, colours, clear)),
        *(_encoded(".ppm", colours, cv2.IMWRITE_PXM_BINARY, binary) for binary in (0, 1)),
        *(_encoded(".pgm", image, cv2.IMWRITE_PXM_BINARY, binary) for image in (greys, wide) for binary in (0, 1)),
        _encoded(".pbm", greys),
        # OpenCV would take these; they are refused by their first bytes.
        *(
            _encoded(suffix, colours)
            for suffix in (".tiff", ".jp2", ".ras", ".gif", ".hdr", ".pam")
            if _can_write(suffix)
        ),
    ]


def greys_of(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY), np.uint8)


def _can_write(suffix: str) -> bool:
    return bool(cv2.haveImageWriter(f"x{suffix}"))


def _encoded(suffix: str, image: NDArray[Any], *settings: int) -> bytes:
    if suffix == ".hdr":
        image = image.astype(np.float32) / 255
    return bytes(cv2.imencode(suffix, image, list(settings))[1])


def png_chunks_moved(rng: Random, data: bytes) -> bytes:
    """Chunks left out, said twice, or in another order."""
    return data[:8] + b"".join(_shuffled(rng, _png_chunks(data))) if data[:4] == b"\x89PNG" else data


def png_resized(rng: Random, data: bytes) -> bytes:
    """Another width, height, depth and kind in the header, whose checksum holds."""
    if data[:4] != b"\x89PNG" or len(data) < 33:
        return data
    width, height = (rng.choice((rng.choice(_SIZES), *struct.unpack(">II", data[16:24]))) for _ in range(2))
    depth, kind, lace = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 7)), rng.choice((0, 0, 1, 9))
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, lace)
    return data[:12] + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def png_mended(rng: Random, data: bytes) -> bytes:
    """Damaged inside its chunks, whose checksums hold."""
    if data[:4] != b"\x89PNG":
        return data
    made = data[:8]
    for chunk in _png_chunks(data):
        body = chunk[4:-4]
        if len(body) > 4 and rng.random() < 0.4:
            place = rng.randrange(4, len(body))
            body = body[:place] + rng.randbytes(1) + body[place + 1 :]
        made += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return made


def _png_chunks(data: bytes) -> list[bytes]:
    chunks, place = [], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    return chunks


def jpeg_segments_moved(rng: Random, data: bytes) -> bytes:
    """Segments left out, said twice, or in another order."""
    places = _jpeg_places(data)
    segments = [data[start:end] for start, end in pairwise(places)]
    return data[:2] + b"".join(_shuffled(rng, segments)) + data[places[-1] :] if segments else data


def jpeg_resized(rng: Random, data: bytes) -> bytes:
    """Another height, width, count of components or sampling in the frame header."""
    for start in _jpeg_places(data):
        if data[start + 1 : start + 2] in (b"\xc0", b"\xc1", b"\xc2") and start + 12 <= len(data):
            size = struct.pack(">HH", rng.choice(_SIZES) & 0xFFFF, rng.choice(_SIZES) & 0xFFFF)
            tail = rng.choice((data[start + 9 : start + 12], rng.randbytes(3)))
            return data[: start + 5] + size + tail + data[start + 12 :]
    return data


def _jpeg_places(data: bytes) -> list[int]:
    """Where segments begin, up to the first scan."""
    places = [2]
    while data[:2] == b"\xff\xd8" and places[-1] + 4 <= len(data) and data[places[-1] + 1] != 0xDA:
        places.append(places[-1] + 2 + max(2, int.from_bytes(data[places[-1] + 2 : places[-1] + 4], "big")))
    return places


def header_resized(rng: Random, data: bytes) -> bytes:
    """Other sizes where BMP, PNM and WebP state them."""
    size = rng.choice(_SIZES)
    if data[:2] == b"BM":
        place = rng.choice((10, 14, 18, 22, 28, 30, 34, 46))
        return data[:place] + struct.pack("<I", size) + data[place + 4 :]
    if data[:1] == b"P":
        parts = data.split(b"\n", 3)
        place = rng.randrange(len(parts))
        parts[place] = rng.choice((str(size).encode(), b"%d %d" % (size, rng.choice(_SIZES)), b"-1", b"# comment"))
        return b"\n".join(parts)
    if data[8:12] == b"WEBP":
        place = rng.choice((4, 16, 20, 24, 26, 28))
        return data[:place] + struct.pack("<I", size) + data[place + 4 :]
    return data


def _shuffled(rng: Random, parts: list[bytes]) -> list[bytes]:
    """Some of them left out, said twice, or elsewhere."""
    made = list(parts)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not made:
            break
        piece = made.pop(rng.randrange(len(made)))
        for _ in range(rng.choice((0, 1, 2))):
            made.insert(rng.randrange(len(made) + 1), piece)
    return made


_OWN: tuple[Mutator, ...] = (
    png_chunks_moved,
    png_resized,
    png_mended,
    jpeg_segments_moved,
    jpeg_resized,
    header_resized,
)
