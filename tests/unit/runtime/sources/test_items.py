import io
import itertools
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specs import IMAGE, SERIES, SOUND, TENSOR

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import Window
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Frame, FrameError

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def _data(frames: Iterator[Frame | FrameError]) -> list[Any]:
    return [frame.data for frame in frames if isinstance(frame, Frame)]


def test_each_array_of_an_iterator_is_an_image(stop: threading.Event) -> None:
    frames = list(open_source((PIXELS + add for add in range(3)), IMAGE, ()).frames(stop))
    assert [frame.name for frame in frames] == ["input#000001", "input#000002", "input#000003"]
    assert [data[0, 0, 0] for data in _data(iter(frames))] == [0, 1, 2]


def test_endless_iterator_is_read_as_it_is_asked(stop: threading.Event) -> None:
    counted = itertools.count()
    frames = open_source((np.full((2, 2), next(counted), np.uint8) for _ in itertools.repeat(0)), IMAGE, ())
    list(itertools.islice(frames.frames(stop), 3))
    assert next(counted) <= 4


@pytest.mark.parametrize(("shape", "count"), [((4, 6), 1), ((4, 6, 3), 1), ((5, 4, 6), 5), ((5, 4, 6, 3), 5)])
def test_array_is_one_image_or_many(stop: threading.Event, shape: tuple[int, ...], count: int) -> None:
    assert len(list(open_source(np.zeros(shape, np.uint8), IMAGE, ()).frames(stop))) == count


def test_bytes_are_one_input(stop: threading.Event) -> None:
    (frame,) = open_source(encode_png(PIXELS), IMAGE, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.data, frame.media) == (encode_png(PIXELS), "image/png")


def test_paths_and_bytes_may_be_mixed(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS))
    frames = list(
        open_source([tmp_path / "a.png", encode_png(PIXELS), str(tmp_path / "a.png")], IMAGE, ()).frames(stop)
    )
    assert [frame.name for frame in frames] == ["a.png", "input#000002", "a.png"]


def test_path_that_is_not_there_ends_nothing(tmp_path: Path, stop: threading.Event) -> None:
    told, frame = open_source([tmp_path / "gone.png", encode_png(PIXELS)], IMAGE, ()).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(frame, Frame)


def test_item_of_another_type_is_told(stop: threading.Event) -> None:
    told, frame = open_source([3, encode_png(PIXELS)], IMAGE, ()).frames(stop)  # type: ignore[list-item]
    assert isinstance(told, FrameError)
    assert isinstance(told.error, InvalidInput)
    assert isinstance(frame, Frame)


def test_error_of_the_iterator_is_its_own(stop: threading.Event) -> None:
    def broken() -> Iterator[NDArray[Any]]:
        yield PIXELS
        raise RuntimeError("the sensor fell off")

    frames = open_source(broken(), IMAGE, ()).frames(stop)
    next(frames)
    with pytest.raises(RuntimeError, match="fell off"):
        next(frames)


def test_pieces_of_sound_are_one_stream(stop: threading.Event) -> None:
    sound = np.arange(1000, dtype=np.int16)
    pieces = (sound[start : start + 64] for start in range(0, 1000, 64))
    frames = list(open_source(pieces, SOUND, (Window(length=400, hop=200),)).frames(stop))
    assert [data[0] for data in _data(iter(frames))] == [0, 200, 400, 600]
    assert [frame.at_s for frame in frames] == [0.0, 0.025, 0.05, 0.075]
    assert all((data == sound[data[0] : data[0] + 400]).all() for data in _data(iter(frames)))


def test_piece_may_be_overwritten_after_it_was_handed_over(stop: threading.Event) -> None:
    def ring() -> Iterator[NDArray[Any]]:
        memory = np.zeros(100, np.int16)
        for number in range(8):
            memory[:] = number
            yield memory

    frames = _data(open_source(ring(), SOUND, (Window(length=400, hop=400),)).frames(stop))
    assert [data[::100].tolist() for data in frames] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_rows_come_one_by_one(stop: threading.Event) -> None:
    rows = (np.array([index, -index], np.float32) for index in range(6))
    frames = _data(open_source(rows, SERIES, (Window(length=4, hop=2),)).frames(stop))
    assert [data[:, 0].tolist() for data in frames] == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_wav_files_of_an_iterator_are_cut_each_by_itself(stop: threading.Event) -> None:
    frames = list(open_source([_wav(500), _wav(500)], SOUND, (Window(length=400, hop=40),)).frames(stop))
    assert [frame.name for frame in frames] == [
        f"input#00000{item}@00000.{at_ms:03d}s" for item in (1, 2) for at_ms in (0, 5, 10)
    ]


def test_rows_of_a_table_are_inputs_of_a_tensor(stop: threading.Event) -> None:
    assert [data.tolist() for data in _data(open_source(np.eye(3, dtype=np.float32), TENSOR, ()).frames(stop))] == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_stop_ends_an_endless_iterator(stop: threading.Event) -> None:
    frames = open_source(itertools.repeat(PIXELS), IMAGE, ()).frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


def test_iterator_is_not_followed() -> None:
    with pytest.raises(InvalidInput, match="cannot be followed"):
        open_source([PIXELS], IMAGE, (), follow=True)


def test_empty_iterator_gives_nothing(stop: threading.Event) -> None:
    assert list(open_source([], IMAGE, ()).frames(stop)) == []


def _wav(samples: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(samples, dtype="<i2").tobytes())
    return buffer.getvalue()
