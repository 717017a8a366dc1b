import base64
import contextlib
import platform
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.runtime.input.images import as_image, decode_image, encode_png, read_image
from pictures import jpeg, png, turned, upright

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


# Eight by eight pixels of cyan 0, magenta, yellow and black 1, 1, 0 in Adobe's inverted CMYK, made with Pillow.
RED_CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggLCAkKCgoKCgYICwwLCgwJ"
    "CgoK/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABUAAQEAAAAAAAAAAAAAAAAAAAkK/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAA4EQwBNAFkASwAA"
    "PwB/E/6f8/j/2Q=="
)


def test_colours_come_in_rgb_order() -> None:
    assert decode_image(_bmp(COLOURS), what="x").tolist() == COLOURS.tolist()


def test_red_png_is_red() -> None:
    assert decode_image(RED_PNG, what="x").tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("image", [COLOURS, GREYS], ids=["colours", "greys"])
def test_quick_png_holds_the_same_pixels(image: NDArray[np.uint8]) -> None:
    assert decode_image(encode_png(image, quick=True), what="x").tolist() == image.tolist()


def test_colour_image_survives_png() -> None:
    assert decode_image(encode_png(COLOURS), what="x").tolist() == COLOURS.tolist()


def test_grey_image_stays_two_dimensional() -> None:
    assert decode_image(encode_png(GREYS), what="x").tolist() == GREYS.tolist()


def test_hand_written_pgm_is_read() -> None:
    assert decode_image(b"P5\n3 2\n255\n" + GREYS.tobytes(), what="x").tolist() == GREYS.tolist()


def test_alpha_is_dropped_and_not_blended() -> None:
    rows = [b"".join(bytes([*pixel, 7]) for pixel in row.tolist()) for row in COLOURS]
    assert decode_image(png(rows, width=2, depth=8, kind=6), what="x").tolist() == COLOURS.tolist()


def test_grey_image_with_alpha_comes_as_colours() -> None:
    made = decode_image(png([bytes([40, 255, 80, 0])], width=2, depth=8, kind=4), what="x")
    assert made.tolist() == [[[40] * 3, [80] * 3]]


def test_palette_becomes_its_colours() -> None:
    palette = bytes(COLOURS.reshape(-1).tolist())
    made = decode_image(png([b"\0\1", b"\2\3", b"\4\5"], width=2, depth=8, kind=3, palette=palette), what="x")
    assert made.tolist() == COLOURS.tolist()


def test_clear_colour_of_a_palette_is_a_colour_like_others() -> None:
    palette = bytes(COLOURS.reshape(-1).tolist())
    data = png([b"\0\1", b"\2\3", b"\4\5"], width=2, depth=8, kind=3, palette=palette, clear=b"\0\0\0")
    assert decode_image(data, what="x").tolist() == COLOURS.tolist()


def test_sixteen_bits_come_as_their_upper_eight() -> None:
    row = struct.pack(">3H", 0x12FF, 0xFF00, 0x00FF)
    assert decode_image(png([row], width=3, depth=16, kind=0), what="x").tolist() == [[0x12, 0xFF, 0x00]]


def test_single_bits_come_as_black_and_white() -> None:
    assert decode_image(png([b"\xa0"], width=4, depth=1, kind=0), what="x").tolist() == [[255, 0, 255, 0]]


def test_cmyk_jpeg_becomes_rgb() -> None:
    made = decode_image(RED_CMYK_JPEG, what="x").astype(int)
    assert made.shape == (8, 8, 3)
    assert np.abs(made - [255, 0, 0]).max() <= 2  # JPEG at quality 95


@pytest.mark.parametrize("pixels", [COLOURS[:, :, ::-1], GREYS], ids=["colour", "grey"])
def test_lossless_webp_is_read(pixels: NDArray[np.uint8]) -> None:
    data = bytes(cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    expected = COLOURS if pixels.ndim == 3 else np.repeat(GREYS[:, :, np.newaxis], 3, axis=2)  # WebP knows no grey
    assert decode_image(data, what="x").tolist() == expected.tolist()


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, order: str) -> None:
    stored = np.kron(np.array([[10, 90, 170], [250, 50, 130]], np.uint8), np.ones((16, 16), np.uint8))
    made = decode_image(turned(jpeg(stored), orientation, order=order), what="x").astype(int)
    expected = upright(stored, orientation)
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 2  # flat blocks at quality 100


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    assert decode_image(turned(jpeg(GREYS), orientation), what="x").shape == GREYS.shape


def test_empty_bytes_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="door is empty"):
        decode_image(b"", what="door")


@pytest.mark.parametrize(
    "data", [b"x", b"no image at all", RED_PNG[:8], RED_PNG[:30], b"\xff\xd8\xff", bytes(1000), b"BM"]
)
def test_bytes_that_are_no_image_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="door"):
        decode_image(data, what="door")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere, libjpeg and libpng are heard")
@pytest.mark.parametrize("form", [".png", ".jpg", ".bmp", ".ppm", ".webp"])
def test_damaged_images_say_nothing_on_standard_error(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(7)
    whole = bytes(cv2.imencode(form, rng.integers(0, 256, (24, 24, 3), np.uint8))[1])
    for at in range(12, len(whole), max(1, len(whole) // 60)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x14]) + whole[at + 1 :]):
            with contextlib.suppress(Corrupt, InvalidInput):
                decode_image(data, what="x")
    assert capfd.readouterr().err == ""


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


def test_view_that_turns_bgr_round_is_rgb() -> None:
    assert as_image(np.ascontiguousarray(COLOURS[:, :, ::-1])[:, :, ::-1]).tolist() == COLOURS.tolist()


def test_array_of_more_pixels_than_anyone_takes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too many pixels"):
        as_image(np.broadcast_to(np.zeros((1, 1), np.uint8), (8001, 8000)))


def test_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(InvalidInput, match="at most"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("value", [None, 3, [[1, 2]], {"a": 1}], ids=str)
def test_what_is_no_image_at_all_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="bytes, a path or a uint8 array"):
        as_image(value)
