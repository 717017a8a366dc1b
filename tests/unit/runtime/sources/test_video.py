import itertools
import re
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from cameras import HEIGHT, WIDTH, number_in, picture
from specs import IMAGE, SOUND

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Frame, FrameError

RATE_HZ = 10


def _video(path: Path, *, frames: int, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), RATE_HZ, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number)[:, :, ::-1])
    writer.release()
    return path


def _numbers(frames: list[Frame | FrameError]) -> list[int]:
    assert all(isinstance(frame, Frame) for frame in frames)
    return [
        number_in(frame.data) for frame in frames if isinstance(frame, Frame) and isinstance(frame.data, np.ndarray)
    ]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG"), ("a.mov", "mp4v")]
)
def test_every_frame_of_a_file_comes_once(tmp_path: Path, stop: threading.Event, name: str, codec: str) -> None:
    path = _video(tmp_path / name, frames=40, codec=codec)
    assert _numbers(list(open_source(path, IMAGE, ()).frames(stop))) == list(range(40))


def test_slow_consumer_of_a_file_loses_nothing(tmp_path: Path, stop: threading.Event) -> None:
    source = open_source(_video(tmp_path / "a.avi", frames=12), IMAGE, ())
    numbers = []
    for frame in source.frames(stop):
        numbers += _numbers([frame])
        stop.wait(0.02)  # the consumer's own work: this is the input, not a synchronisation
    assert (numbers, source.counts.dropped, source.counts.frames) == (list(range(12)), 0, 12)


def test_frames_bear_the_files_own_time(tmp_path: Path, stop: threading.Event) -> None:
    path = _video(tmp_path / "a.avi", frames=5)
    times_s = [frame.at_s for frame in open_source(path, IMAGE, ()).frames(stop)]
    assert times_s == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.001)  # to the millisecond, as OpenCV tells it


def test_names_number_the_frames(tmp_path: Path, stop: threading.Event) -> None:
    path = _video(tmp_path / "a.avi", frames=2)
    names = [frame.name for frame in open_source(path, IMAGE, ()).frames(stop)]
    assert names == ["a.avi#000001", "a.avi#000002"]


def test_rate_picks_frames_by_the_files_own_time(tmp_path: Path, stop: threading.Event) -> None:
    source = open_source(_video(tmp_path / "a.avi", frames=20), IMAGE, (), rate_hz=2.0)
    frames = list(source.frames(stop))
    assert _numbers(frames) == [0, 5, 10, 15]
    assert [frame.missed for frame in frames if isinstance(frame, Frame)] == [0, 4, 4, 4]
    assert source.counts.skipped == 16


def test_file_may_be_read_twice(tmp_path: Path, stop: threading.Event) -> None:
    source = open_source(_video(tmp_path / "a.avi", frames=3), IMAGE, ())
    assert _numbers(list(source.frames(stop))) == _numbers(list(source.frames(stop))) == [0, 1, 2]


def test_stop_ends_a_file(tmp_path: Path, stop: threading.Event) -> None:
    frames = open_source(_video(tmp_path / "a.avi", frames=20), IMAGE, ()).frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


def test_consumer_that_leaves_lets_go_of_the_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    frames = open_source(_video(tmp_path / "a.avi", frames=200), IMAGE, ()).frames()
    list(itertools.islice(frames, 2))
    frames.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("data", [b"", b"no video", bytes(5000)], ids=["empty", "text", "zeros"])
def test_file_that_is_no_video_is_corrupt(tmp_path: Path, stop: threading.Event, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    (told,) = open_source(tmp_path / "a.mp4", IMAGE, ()).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt)
    assert "a.mp4" in str(told.error)


def test_file_that_was_cut_short_says_so_after_its_frames(tmp_path: Path, stop: threading.Event) -> None:
    path = _video(tmp_path / "a.avi", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, told = open_source(path, IMAGE, ()).frames(stop)
    assert 5 < len(frames) < 40
    assert isinstance(told, FrameError)
    assert "of 40 frames" in str(told.error)


def _damaged(path: Path, numbers: range) -> None:
    """Zeros in place of these frames' JPEGs."""
    data = bytearray(path.read_bytes())
    begins = [found.end() - 2 for found in re.finditer(rb"00dc....\xff\xd8", data, re.DOTALL)]
    for number in numbers:
        size = int.from_bytes(data[begins[number] - 4 : begins[number]], "little")
        data[begins[number] : begins[number] + size] = bytes(size)
    path.write_bytes(data)


def test_file_that_is_damaged_in_its_middle_goes_on_behind_it(tmp_path: Path, stop: threading.Event) -> None:
    path = _video(tmp_path / "a.avi", frames=40)
    _damaged(path, range(12, 17))
    found = list(open_source(path, IMAGE, ()).frames(stop))
    (told,) = [one for one in found if isinstance(one, FrameError)]
    assert found.index(told) == 12
    assert "before a.avi#000018, 5 of the frames cannot be decoded" in str(told.error)
    frames = [one for one in found if isinstance(one, Frame)]
    assert _numbers(found[:12] + found[13:]) == [*range(12), *range(17, 40)]
    assert [one.missed for one in frames if one.missed] == [5]


def test_video_of_a_server_that_does_not_answer_may_come_later(stop: threading.Event) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (frame,) = open_source(f"http://127.0.0.1:{port}/clip.mp4", IMAGE, ()).frames(stop)
    assert isinstance(frame, FrameError)
    assert isinstance(frame.error, Unavailable)
    assert "does not answer" in str(frame.error)
    assert frame.is_lost


def test_missing_video_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"a\.mp4"):
        open_source(tmp_path / "a.mp4", IMAGE, ())


def test_video_is_no_sound(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="sound"):
        open_source(_video(tmp_path / "a.avi", frames=1), SOUND, ())


def test_video_file_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be followed"):
        open_source(_video(tmp_path / "a.avi", frames=1), IMAGE, (), follow=True)
