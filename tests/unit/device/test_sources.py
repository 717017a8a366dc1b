import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import quadrant_images
from edgeloop.contracts.errors import NotFound
from edgeloop.device.sources import FolderSource, Frame
from edgeloop.runtime.input.images import encode_png

PNG = encode_png(quadrant_images(1)[0])


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    # A source that never yields what a test waits for must not hang it.
    timer = threading.Timer(30.0, event.set)
    timer.start()
    yield event
    timer.cancel()
    event.set()


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(PNG)


def _names(frames: Iterator[Frame], count: int) -> list[str]:
    return [frame.name for frame in itertools.islice(frames, count)]


def test_frames_come_in_name_order(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "b.png", "c.png", "a.png")
    assert _names(FolderSource(tmp_path).frames(stop), 3) == ["a.png", "b.png", "c.png"]


def test_frame_is_the_files_own_bytes(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png")
    assert next(FolderSource(tmp_path).frames(stop)) == Frame("a.png", PNG, "image/png")


@pytest.mark.parametrize(("suffix", "media"), [(".PNG", "png"), (".jpg", "jpeg"), (".jpeg", "jpeg"), (".webp", "webp")])
def test_media_type_follows_the_suffix(tmp_path: Path, stop: threading.Event, suffix: str, media: str) -> None:
    _fill(tmp_path, f"a{suffix}")
    assert next(FolderSource(tmp_path).frames(stop)).media == f"image/{media}"


def test_files_that_are_no_images_are_passed_over(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.txt", "b.png", "c", "d.json", "e.png")
    assert _names(FolderSource(tmp_path).frames(stop), 2) == ["b.png", "e.png"]


def test_new_files_are_followed(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png")
    frames = FolderSource(tmp_path).frames(stop)
    assert next(frames).name == "a.png"
    _fill(tmp_path, "b.png")
    assert next(frames).name == "b.png"


def test_folder_may_be_empty_at_first(tmp_path: Path, stop: threading.Event) -> None:
    frames = FolderSource(tmp_path).frames(stop)
    arrival = threading.Timer(0.1, _fill, (tmp_path, "a.png"))
    arrival.start()
    assert next(frames).name == "a.png"


def test_earlier_run_is_taken_up_after_its_last_frame(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png", "b.png", "c.png")
    assert _names(FolderSource(tmp_path, after="b.png").frames(stop), 1) == ["c.png"]


def test_stop_ends_the_frames(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png", "b.png")
    frames = FolderSource(tmp_path).frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


def test_rate_is_not_exceeded(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, *(f"{index}.png" for index in range(5)))
    started_s = time.monotonic()
    _names(FolderSource(tmp_path, rate_hz=20.0).frames(stop), 5)
    # Five frames have four whole intervals of 50 ms between them, however slow the machine is.
    assert time.monotonic() - started_s >= 4 / 20.0 - 0.005


def test_slow_reader_is_not_paid_back_in_a_burst(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, *(f"{index}.png" for index in range(6)))
    frames = FolderSource(tmp_path, rate_hz=20.0).frames(stop)
    next(frames)
    stop.wait(0.5)  # ten intervals go by unused: this is the input, not a synchronisation
    started_s = time.monotonic()
    _names(frames, 5)
    assert time.monotonic() - started_s >= 3 / 20.0 - 0.005


def test_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere.*--source"):
        FolderSource(tmp_path / "nowhere")


def test_file_that_vanishes_does_not_end_the_frames(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png", "b.png", "c.png")
    frames = FolderSource(tmp_path).frames(stop)
    next(frames)
    (tmp_path / "b.png").unlink()
    assert next(frames).name == "c.png"


def test_folder_named_like_an_image_does_not_end_the_frames(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").mkdir()
    _fill(tmp_path, "b.png")
    assert next(FolderSource(tmp_path).frames(stop)).name == "b.png"
