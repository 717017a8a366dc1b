import cv2
import numpy as np
import pytest
from cameras import jpeg, picture

from edgeloop.contracts.errors import Corrupt
from edgeloop.runtime.sources.pictures import joined, jpegs

NOISE = np.random.default_rng(2).integers(0, 255, (64, 64, 3)).astype(np.uint8)
KINDS = [
    jpeg(3),
    bytes(cv2.imencode(".jpg", NOISE)[1]),  # many stuffed 0xFF
    bytes(cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]),  # several scans
    bytes(cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1]),  # restart markers
    # A thumbnail within: its end is not the image's.
    jpeg(3)[:2] + b"\xff\xe1" + (len(jpeg(4)) + 2).to_bytes(2, "big") + jpeg(4) + jpeg(3)[2:],
]


@pytest.mark.parametrize("block_bytes", [1, 7, 1000, 10**6])
def test_jpegs_are_told_apart_in_blocks_of_any_size(block_bytes: int) -> None:
    stream = b"".join(KINDS)
    blocks = (stream[start : start + block_bytes] for start in range(0, len(stream), block_bytes))
    assert list(jpegs(blocks, what="x")) == KINDS


def test_jpeg_is_handed_over_with_its_last_byte() -> None:
    given = 0

    def blocks() -> object:
        nonlocal given
        for byte in KINDS[0] + KINDS[1]:
            given += 1
            yield bytes([byte])

    next(jpegs(blocks(), what="x"))  # type: ignore[arg-type]
    assert given == len(KINDS[0])


def test_jpeg_cut_short_by_the_end_is_left_out() -> None:
    assert list(jpegs(iter([KINDS[0], KINDS[1][:-1]]), what="x")) == [KINDS[0]]


@pytest.mark.parametrize("data", [b"x", b"\xff\xd9", b"\x89PNG", KINDS[0] + b"\n" + KINDS[0]])
def test_stream_of_something_else_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="door"):
        list(jpegs(iter([data]), what="door"))


def test_stream_without_end_is_not_held() -> None:
    with pytest.raises(Corrupt, match="more than 1,000 bytes"):
        joined(iter([bytes(600), bytes(600)]), 1000, what="door")


def test_picture_of_the_tests_is_what_it_says() -> None:
    # The pictures carry numbers in their colours; a codec must not blur them into one another.
    assert picture(0x5A)[0, 0].tolist() == [200, 80, 0]
