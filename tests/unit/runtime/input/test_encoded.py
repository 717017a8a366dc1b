"""What images claim: sizes are read as a decoder reads them, and claims that are too large are refused at once."""

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.input.encoded import check_claims, claimed_size
from edgeloop.runtime.input.images import decode_image
from pictures import jpeg, turned

PIXELS = np.arange(20 * 31 * 3, dtype=np.uint8).reshape(20, 31, 3)
CLEAR = np.dstack([PIXELS, PIXELS[:, :, 0]])


def _encoded(suffix: str, image: Any = PIXELS, *settings: int) -> bytes:
    return bytes(cv2.imencode(suffix, image, list(settings))[1])


@pytest.mark.parametrize(
    "data",
    [
        _encoded(".png"),
        _encoded(".bmp"),
        _encoded(".webp", PIXELS, cv2.IMWRITE_WEBP_QUALITY, 50),
        _encoded(".webp", PIXELS, cv2.IMWRITE_WEBP_QUALITY, 101),
        _encoded(".webp", CLEAR, cv2.IMWRITE_WEBP_QUALITY, 50),
        jpeg(PIXELS),
        _encoded(".jpg", PIXELS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        turned(jpeg(PIXELS), 6),
    ],
    ids=["png", "bmp", "webp", "webp-lossless", "webp-extended", "jpeg", "jpeg-progressive", "jpeg-turned"],
)
def test_size_is_read_from_the_header_as_stored(data: bytes) -> None:
    assert claimed_size(data) == (20, 31)


def test_old_bmp_header_has_sizes_of_two_bytes() -> None:
    assert claimed_size(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 31, 20, 1, 24)) == (20, 31)


def test_bmp_with_rows_from_the_top_has_a_height_above_zero() -> None:
    assert claimed_size(b"BM" + bytes(12) + struct.pack("<Iii", 40, 31, -20)) == (20, 31)


def test_other_bytes_claim_nothing() -> None:
    assert [claimed_size(data) for data in (b"", b"P5 3 2 255 abcdef", b"RIFF\0\0\0\0WAVE", b"\xff\xd8\xff\xd9")] == [
        None
    ] * 4


@pytest.mark.parametrize("between", [b"\0\0", b"\xff\xff", b"\xff\0", b"\xff\xd0", b"\xab\xcd\xef"])
def test_jpeg_is_sized_behind_what_decoders_pass_over(between: bytes) -> None:
    plain = jpeg(PIXELS)
    odd = plain[:20] + between + plain[20:]  # behind JFIF's segment
    assert decode_image(odd, what="x").shape[:2] == (20, 31), "the decoder does not pass over it; the test is wrong"
    assert claimed_size(odd) == (20, 31)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("TIFF", _encoded(".tiff")),
        ("TIFF", b"MM\0*" + bytes(20)),
        ("GIF", _encoded(".gif")),
        ("JPEG 2000", _encoded(".jp2", np.zeros((64, 64, 3), np.uint8))),
        ("JPEG 2000", bytes.fromhex("ff4fff51") + bytes(20)),
        ("Radiance HDR", _encoded(".hdr", PIXELS.astype(np.float32))),
        ("PFM", _encoded(".pfm", PIXELS.astype(np.float32))),
        ("PAM", _encoded(".pam")),
        ("Sun raster", _encoded(".ras")),
        ("AVIF", b"\0\0\0\x20ftypavif" + bytes(20)),
        ("HEIF", b"\0\0\0\x18ftypheic" + bytes(20)),
        ("OpenEXR", b"v/1\x01" + bytes(20)),
        ("PDF", b"%PDF-1.7\n"),
    ],
)
def test_image_of_another_format_is_refused_by_its_name(name: str, data: bytes) -> None:
    with pytest.raises(
        InvalidInput, match=f"^door is {name}, which is not taken; convert it to PNG, JPEG, WebP, BMP or PNM$"
    ):
        decode_image(data, what="door")


@pytest.mark.parametrize(
    "data",
    [
        *(_encoded(suffix) for suffix in (".png", ".jpg", ".webp", ".bmp", ".ppm")),
        *(_encoded(".pgm", PIXELS[:, :, 0], cv2.IMWRITE_PXM_BINARY, binary) for binary in (0, 1)),
        _encoded(".pbm", PIXELS[:, :, 0]),
    ],
)
def test_image_of_every_promised_format_is_taken(data: bytes) -> None:
    assert decode_image(data, what="x").shape[:2] == (20, 31)


def test_every_beginning_of_an_image_can_be_asked() -> None:
    for whole in (_encoded(".png"), _encoded(".bmp"), _encoded(".webp"), jpeg(PIXELS)):
        for length in range(min(len(whole), 700)):
            claimed_size(whole[:length])


def test_small_jpeg_that_claims_too_many_pixels_is_not_decoded() -> None:
    plain = jpeg(PIXELS)
    at = plain.index(b"\xff\xc0") + 5
    before_bytes = psutil.Process().memory_info().rss
    with pytest.raises(InvalidInput, match="60000x60000 pixels"):
        decode_image(plain[:at] + struct.pack(">HH", 60_000, 60_000) + plain[at + 4 :], what="x")
    assert psutil.Process().memory_info().rss - before_bytes < 2**26


def test_png_chunk_that_claims_more_than_there_is_is_refused() -> None:
    whole = _encoded(".png")
    with pytest.raises(Corrupt, match=r"claims 4,294,967,295 bytes, of which [\d,]+ are there"):
        check_claims(whole[:33] + b"\xff\xff\xff\xff" + whole[37:], "x")


def test_png_with_many_chunks_is_taken() -> None:
    whole = _encoded(".png")
    word = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    assert decode_image(whole[:33] + 100 * word + whole[33:], what="x").shape == (20, 31, 3)
