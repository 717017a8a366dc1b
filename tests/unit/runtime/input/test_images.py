import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.runtime.input.images import as_image, decode_image, encode_png, read_image

# Red, green, blue, and an asymmetric grey: any exchange of channels or axes shows.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]], [[1, 2, 3], [4, 5, 6]]], np.uint8)
GREYS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40

# The PNG of one red pixel, byte by byte from the PNG specification and not from OpenCV.
RED_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)


def _bmp(pixels_rgb: NDArray[np.uint8]) -> bytes:
    """A 24-bit BMP written by hand (rows bottom up, B G R, padded to four bytes)."""
    height, width = pixels_rgb.shape[:2]
    rows = b"".join(
        b"".join(bytes(pixel[::-1].tolist()) for pixel in row).ljust((3 * width + 3) // 4 * 4, b"\0")
        for row in pixels_rgb[::-1]
    )
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def _jpeg_turned(pixels: NDArray[np.uint8], *, orientation: int) -> bytes:
    """A JPEG with an EXIF orientation tag (EXIF 2.3, tag 0x0112)."""
    plain = bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1])
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def test_colours_come_in_rgb_order() -> None:
    assert decode_image(_bmp(COLOURS), what="x").tolist() == COLOURS.tolist()


def test_red_png_is_red() -> None:
    assert decode_image(RED_PNG, what="x").tolist() == [[[255, 0, 0]]]


def test_colour_image_survives_png() -> None:
    assert decode_image(encode_png(COLOURS), what="x").tolist() == COLOURS.tolist()


def test_grey_image_stays_two_dimensional() -> None:
    assert decode_image(encode_png(GREYS), what="x").tolist() == GREYS.tolist()


def test_hand_written_pgm_is_read() -> None:
    assert decode_image(b"P5\n3 2\n255\n" + GREYS.tobytes(), what="x").tolist() == GREYS.tolist()


def test_alpha_is_dropped() -> None:
    rgba = np.dstack([COLOURS[:, :, ::-1], np.full(COLOURS.shape[:2], 7, np.uint8)])
    assert decode_image(bytes(cv2.imencode(".png", rgba)[1]), what="x").tolist() == COLOURS.tolist()


def test_sixteen_bit_image_comes_as_eight_bit() -> None:
    deep = (GREYS.astype(np.uint16) << 8) | GREYS
    assert decode_image(bytes(cv2.imencode(".png", deep)[1]), what="x").dtype == np.uint8


def test_exif_orientation_is_applied() -> None:
    half_white = np.zeros((16, 32), np.uint8)
    half_white[:, 16:] = 255  # white on the right; orientation 6 turns the right side down
    turned = decode_image(_jpeg_turned(half_white, orientation=6), what="x")
    assert (turned.shape, turned[4, 8] < 50, turned[28, 8] > 200) == ((32, 16), True, True)


def test_empty_bytes_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="door is empty"):
        decode_image(b"", what="door")


@pytest.mark.parametrize(
    "data", [b"x", b"no image at all", RED_PNG[:8], RED_PNG[:30], b"\xff\xd8\xff", bytes(1000), b"BM"]
)
def test_bytes_that_are_no_image_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="door"):
        decode_image(data, what="door")


def test_image_that_claims_more_pixels_than_anyone_takes_is_refused() -> None:
    claim = struct.pack(">II", 2**30, 2**30)
    with pytest.raises((Corrupt, InvalidInput)):
        decode_image(RED_PNG[:16] + claim + RED_PNG[24:], what="x")


def test_image_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(COLOURS))
    assert read_image(tmp_path / "a.png").tolist() == COLOURS.tolist()


def test_absent_image_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_image(tmp_path)


def test_bytes_are_decoded() -> None:
    assert as_image(encode_png(GREYS)).tolist() == GREYS.tolist()


@pytest.mark.parametrize("kind", [str, Path])
def test_path_is_read(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(GREYS))
    assert as_image(kind(tmp_path / "a.png")).tolist() == GREYS.tolist()


@pytest.mark.parametrize("array", [GREYS, COLOURS], ids=["grey", "colour"])
def test_pixels_pass_unchanged(array: NDArray[np.uint8]) -> None:
    assert as_image(array).tolist() == array.tolist()


def test_single_channel_axis_is_dropped() -> None:
    assert as_image(GREYS[:, :, np.newaxis]).tolist() == GREYS.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8", "uint16", "bool"])
def test_array_that_is_not_uint8_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidInput, match=dtype):
        as_image(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2), (2, 2, 4), (1, 2, 2, 3)], ids=str)
def test_array_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="must be a uint8 array"):
        as_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3)], ids=str)
def test_image_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="no pixels"):
        as_image(np.zeros(shape, np.uint8))
