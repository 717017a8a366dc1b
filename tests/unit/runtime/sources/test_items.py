import io
import itertools
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
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


SOUND_PIECE = np.arange(100, dtype=np.int16)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((100, 2), np.int16), "with one channel; got int16"),
        (np.zeros(100, np.int32), "got int32"),
        (np.full(100, np.nan, np.float32), "the sound goes from nan"),
        (np.zeros(100, np.float32), "a piece of float32 follows one of int16; expected one dtype"),
        (np.zeros(0, np.int16), "expected 1 to"),
        (b"RIFF", "the iterator gave a bytes; expected arrays, as the first item was"),
        (None, "the iterator gave a NoneType; expected arrays"),
    ],
    ids=["two channels", "int32", "not a number", "float after int16", "empty", "bytes", "None"],
)
def test_wrong_piece_of_a_sound_is_told_and_a_new_window_begins_behind_it(
    wrong: Any, said: str, stop: threading.Event
) -> None:
    pieces = [SOUND_PIECE] * 7 + [wrong] + [SOUND_PIECE + 1000] * 5
    frames = list(open_source(pieces, SOUND, (Window(length=400, hop=200),)).frames(stop))
    told = [one for one in frames if isinstance(one, FrameError)]
    assert [(one.name, type(one.error)) for one in told] == [("input#000008", InvalidInput)]
    assert said in str(told[0].error)
    # 700 samples before it, of which 600 are in windows; those behind it count on from there: 700 / 8000 Hz.
    assert [one if isinstance(one, FrameError) else (one.name, one.at_s) for one in frames] == [
        ("input@00000.000s", 0.0),
        ("input@00000.025s", 0.025),
        told[0],
        ("input@00000.087s", 0.0875),
    ]
    assert [data.tolist() for data in _data(iter(frames))] == [
        np.tile(SOUND_PIECE, 4).tolist(),
        np.tile(SOUND_PIECE, 4).tolist(),
        np.tile(SOUND_PIECE + 1000, 4).tolist(),
    ]


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 3), np.float32), np.array(["1", "2"]), np.array([np.inf, 0]), 7], ids=str
)
@pytest.mark.parametrize("channels", [("x", "y"), ()], ids=["named", "unnamed"])
def test_wrong_row_of_a_series_is_told_and_a_new_window_begins_behind_it(
    wrong: Any, channels: tuple[str, ...], stop: threading.Event
) -> None:
    rows = [np.array([index, -index], np.float32) for index in range(10)]
    spec = msgspec.structs.replace(SERIES, channels=channels)
    made = list(open_source([*rows[:5], wrong, *rows[5:]], spec, (Window(length=4, hop=2),)).frames(stop))
    assert [one.name for one in made] == ["input#000001", "input#000006", "input#000006"]
    assert [isinstance(one, FrameError) for one in made] == [False, True, False]
    assert [data[:, 0].tolist() for data in _data(iter(made))] == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_first_piece_may_be_the_wrong_one(stop: threading.Event) -> None:
    pieces = [None, SOUND_PIECE.astype(np.int64), *[SOUND_PIECE] * 4]
    made = list(open_source(pieces, SOUND, (Window(length=400, hop=400),)).frames(stop))  # type: ignore[arg-type]
    assert [isinstance(one, FrameError) for one in made] == [True, True, False]
    assert "expected arrays, bytes or paths" in str(made[0].error)  # type: ignore[union-attr]


def test_pieces_that_are_all_wrong_are_told_as_they_come(stop: threading.Event) -> None:
    frames = open_source(itertools.repeat(np.zeros((2, 2))), SOUND, (Window(length=400, hop=400),)).frames(stop)
    assert [type(one) for one in itertools.islice(frames, 3)] == [FrameError] * 3


def test_wrong_item_among_images_ends_nothing(stop: threading.Event) -> None:
    made = list(open_source([PIXELS, None, PIXELS], IMAGE, ()).frames(stop))  # type: ignore[list-item]
    assert [(one.name, type(one)) for one in made] == [
        ("input#000001", Frame),
        ("input#000002", FrameError),
        ("input#000003", Frame),
    ]


def test_wrong_item_among_rows_of_numbers_ends_nothing(stop: threading.Event) -> None:
    made = list(open_source([np.zeros(3, np.float32), "x.csv", np.ones(3)], TENSOR, ()).frames(stop))
    assert [type(one) for one in made] == [Frame, FrameError, Frame]


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
