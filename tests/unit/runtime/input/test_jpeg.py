import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.runtime.input.jpeg import JpegHead, read_head
from pictures import jpeg, turned

PLAIN = jpeg(np.zeros((24, 40, 3), np.uint8))


def test_size_is_read_without_decoding() -> None:
    assert read_head(PLAIN[: PLAIN.index(b"\xff\xda") + 4]) == JpegHead(height_px=24, width_px=40)


def test_size_of_a_progressive_jpeg_is_read() -> None:
    data = bytes(cv2.imencode(".jpg", np.zeros((24, 40), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    assert b"\xff\xc2" in data
    assert read_head(data) == JpegHead(24, 40)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("orientation", "expected"), [*((n, (24, 40)) for n in (1, 2, 3, 4)),
                                                       *((n, (40, 24)) for n in (5, 6, 7, 8))])  # fmt: skip
def test_size_is_that_of_the_upright_image(orientation: int, expected: tuple[int, int], order: str) -> None:
    assert read_head(turned(PLAIN, orientation, order=order)) == expected


def test_thumbnail_inside_a_segment_is_not_taken_for_the_image() -> None:
    inner = jpeg(np.zeros((2, 2), np.uint8))
    segment = b"\xff\xe2" + struct.pack(">H", len(inner) + 2) + inner
    assert read_head(PLAIN[:2] + segment + PLAIN[2:]) == (24, 40)


def test_fill_bytes_before_a_marker_are_passed_over() -> None:
    assert read_head(PLAIN[:2] + b"\xff\xff" + PLAIN[2:]) == (24, 40)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", PLAIN[:20], PLAIN[2:], b"\xff\xd8\xff\xc0\0\1", b"\xff\xd8\xff\xc0\0\4ab"],
    ids=["empty", "begin", "png", "cut", "headless", "short", "small frame"],
)
def test_what_is_no_jpeg_header_has_no_size(data: bytes) -> None:
    assert read_head(data) is None


@pytest.mark.parametrize("field", [5, 7], ids=["height", "width"])
def test_image_without_pixels_has_no_size(field: int) -> None:
    at = PLAIN.index(b"\xff\xc0") + field
    assert read_head(PLAIN[:at] + b"\0\0" + PLAIN[at + 2 :]) is None


@given(st.integers(0, 200), st.binary(max_size=12))
def test_damaged_header_never_fails(at: int, noise: bytes) -> None:
    data = turned(PLAIN, 6)
    head = read_head(data[:at] + noise + data[at + len(noise) :])
    assert head is None or (head.height_px > 0 and head.width_px > 0)


@given(st.binary(max_size=60))
def test_any_exif_is_read_without_failing(tiff: bytes) -> None:
    body = b"Exif\0\0II*\0" + tiff
    data = PLAIN[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + PLAIN[2:]
    assert read_head(data) in {(24, 40), (40, 24)}


@pytest.mark.parametrize(
    ("size", "to", "expected"),
    [
        ((200, 200), (100, 100), 2),  # a half is 100, as large as 100
        ((199, 200), (100, 100), 1),
        ((400, 399), (100, 100), 2),
        ((400, 400), (100, 100), 4),
        ((800, 800), (100, 100), 8),
        ((9000, 9000), (100, 100), 8),
        ((9000, 100), (100, 100), 1),
    ],
)
def test_part_of_the_size_stays_as_large(size: tuple[int, int], to: tuple[int, int], expected: int) -> None:
    assert JpegHead(*size).denominator(*to) == expected
