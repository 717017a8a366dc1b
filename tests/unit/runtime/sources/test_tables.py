import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specs import SERIES, TENSOR

from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Window
from edgeloop.runtime.sources.files import Descriptor
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Frame, FrameError
from edgeloop.runtime.sources.stream import Stream
from edgeloop.runtime.sources.tables import SeriesCut

WINDOW = (Window(length=4, hop=2),)


def _table(path: Path, rows: range, *, header: str = "time,y,x") -> Path:
    path.write_text("".join([f"{header}\n" if header else "", *(_row(row) for row in rows)]))
    return path


def _row(number: int) -> str:
    return f"{number}:00,{-number},{number}\n"


def _xs(frames: Iterator[Frame | FrameError] | list[Frame | FrameError]) -> list[Any]:
    """The x of every row of each window; of an error, its words."""
    return [np.asarray(one.data)[:, 0].tolist() if isinstance(one, Frame) else str(one.error) for one in frames]


def test_table_is_cut_into_windows_of_its_channels(tmp_path: Path, stop: threading.Event) -> None:
    frames = list(open_source(_table(tmp_path / "a.csv", range(9)), SERIES, WINDOW).frames(stop))
    assert _xs(frames) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert isinstance(frames[0], Frame)
    assert np.asarray(frames[0].data)[:, 1].tolist() == [0, -1, -2, -3]
    assert [frame.name for frame in frames] == ["a.csv#000001", "a.csv#000003", "a.csv#000005"]


def test_long_table_is_read_the_same_as_at_once(tmp_path: Path, stop: threading.Event) -> None:
    path = _table(tmp_path / "a.csv", range(20_000))  # several blocks of a file
    frames = open_source(path, SERIES, (Window(length=1000, hop=1000),)).frames(stop)
    assert list(itertools.chain.from_iterable(_xs(frames))) == list(range(20_000))


def test_table_without_a_header_is_read(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{number},{-number}\r\n" for number in range(6)))
    assert _xs(open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)) == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_last_line_needs_no_end(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("x,y\n0,0\n1,1\n\n2,2\n3,3")
    assert _xs(open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)) == [[0, 1, 2, 3]]


def test_row_that_cannot_be_read_is_told_and_counts_as_missing(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("x,y\n0,0\n1,1\n2,oops\n3,3\n4,4\n5,5\n")
    told, *frames = open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)
    assert isinstance(told, FrameError)
    assert "line 4" in str(told.error)
    assert "oops" in str(told.error)
    np.testing.assert_array_equal(np.array(_xs(frames)), [[0, 1, np.nan, 3], [np.nan, 3, 4, 5]])


def test_line_of_a_bad_row_is_named_in_a_long_table_too(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "1,1\n" * 12_000 + "1\n")
    *_, told = open_source(tmp_path / "a.csv", SERIES, (Window(length=4, hop=1000),)).frames(stop)
    assert told.name == "a.csv#12002"


def test_missing_value_is_nan(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("x,y\n0,0\n,1\n2,2\nnan,3\n")
    np.testing.assert_array_equal(
        _xs(open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)), [[0, np.nan, 2, np.nan]]
    )


@pytest.mark.parametrize(
    "text", ["", "\n\n", "x,y\n", "x,z\n1,2\n1,2\n", "x\n1\n", "\0\1,\n", "x\ry,z\n", "\ud800"], ids=repr
)
def test_file_that_is_no_such_table_is_told(tmp_path: Path, stop: threading.Event, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode(errors="surrogatepass"))
    (told,) = open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt | InvalidInput)


def test_file_without_line_ends_is_not_read_to_its_end(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_bytes(b"1" * 3_000_000)
    (told,) = open_source(tmp_path / "a.csv", SERIES, WINDOW).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt)


def test_long_line_in_small_blocks_costs_no_more_than_in_large_ones() -> None:
    data = b"x,y,a,b,c,d\n" + b"1,2" + (b"," + b"0" * 100_000) * 4 + b"\n" + b"3,4,0,0,0,0\n" * 3
    began_s = time.process_time()
    blocks = (data[place : place + 1] for place in range(len(data)))
    (frame,) = SeriesCut(SERIES, WINDOW).of_bytes("pipe", iter([blocks]), lambda: 0.0)
    assert np.asarray(frame.data).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]  # type: ignore[union-attr]
    # A third of a second here; joined anew with each block it was 80 GB to copy.
    assert time.process_time() - began_s < 3.0


def test_series_with_a_rate_has_its_own_time(tmp_path: Path, stop: threading.Event) -> None:
    spec = InputSpec("s", Modality.SERIES, (1, 4, 2), "ntc", (0.0, 1.0), channels=("x", "y"), rate_hz=50)
    frames = open_source(_table(tmp_path / "a.csv", range(8)), spec, WINDOW).frames(stop)
    assert [frame.at_s for frame in frames] == [0.0, 0.04, 0.08]


def test_without_a_window_step_a_file_is_one_frame(tmp_path: Path, stop: threading.Event) -> None:
    path = _table(tmp_path / "a.csv", range(4))
    (frame,) = open_source(path, SERIES, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.data, frame.media) == (path.read_bytes(), "text/csv")


def test_rows_are_answered_while_they_still_come(stop: threading.Event) -> None:
    reading, writing = os.pipe()
    frames = Stream(Descriptor("stdin", reading, SeriesCut(SERIES, WINDOW))).frames(stop)
    os.write(writing, b"x,y\n0,0\n1,1\n2,2\n3,3\n4,")
    assert _xs([next(frames)]) == [[0, 1, 2, 3]]
    os.write(writing, b"4\n5,5\n")
    assert _xs([next(frames)]) == [[2, 3, 4, 5]]
    os.close(writing)
    assert list(frames) == []
    os.close(reading)


def test_growing_table_is_followed(tmp_path: Path, stop: threading.Event) -> None:
    path = _table(tmp_path / "a.csv", range(4))
    frames = open_source(path, SERIES, WINDOW, follow=True).frames(stop)
    assert _xs([next(frames)]) == [[0, 1, 2, 3]]
    with path.open("a") as file:
        file.write(_row(4) + _row(5)[:2])
        file.flush()
        file.write(_row(5)[2:])
    assert _xs([next(frames)]) == [[2, 3, 4, 5]]


def test_table_that_is_replaced_goes_on_without_loss(tmp_path: Path, stop: threading.Event) -> None:
    path = _table(tmp_path / "a.csv", range(4))
    frames = open_source(path, SERIES, WINDOW, follow=True).frames(stop)
    assert _xs([next(frames)]) == [[0, 1, 2, 3]]
    with path.open("a") as file:
        file.write(_row(4))  # not read yet when the file is turned over
    path.rename(tmp_path / "a.csv.1")
    _table(path, range(5, 8), header="x,y,time").write_text("x,y,time\n5,5,-\n6,6,-\n7,7,-\n")
    assert _xs([next(frames), next(frames)]) == [[2, 3, 4, 5], [4, 5, 6, 7]]


def test_table_that_is_cut_off_is_read_from_its_beginning(tmp_path: Path, stop: threading.Event) -> None:
    path = _table(tmp_path / "a.csv", range(4))
    frames = open_source(path, SERIES, WINDOW, follow=True).frames(stop)
    assert _xs([next(frames)]) == [[0, 1, 2, 3]]
    path.write_text("x,y\n8,8\n9,9\n")  # the same file, shorter
    assert _xs([next(frames)]) == [[2, 3, 8, 9]]


def test_stop_ends_what_is_followed(tmp_path: Path, stop: threading.Event) -> None:
    frames = open_source(_table(tmp_path / "a.csv", range(4)), SERIES, WINDOW, follow=True).frames(stop)
    next(frames)
    threading.Timer(0.1, stop.set).start()
    assert list(frames) == []


def test_table_without_a_window_step_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be followed"):
        open_source(_table(tmp_path / "a.csv", range(4)), SERIES, (), follow=True)


def test_each_row_is_an_input_of_a_tensor(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n4,x,6\n7,8,9\n")
    first, told, third = open_source(tmp_path / "a.csv", TENSOR, ()).frames(stop)
    assert isinstance(first, Frame)
    assert isinstance(third, Frame)
    assert isinstance(told, FrameError)
    assert (np.asarray(first.data).tolist(), np.asarray(third.data).tolist()) == ([1, 2, 3], [7, 8, 9])
    assert [first.name, told.name, third.name] == ["a.csv#000001", "a.csv#3", "a.csv#000003"]


def test_row_takes_the_shape_of_the_tensor(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.csv").write_text("1,2,3,4\n")
    spec = InputSpec("x", Modality.TENSOR, (1, 2, 2), "nab", (0.0, 1.0))
    (frame,) = open_source(tmp_path / "a.csv", spec, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert np.asarray(frame.data).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("shape", "count"), [((3,), 1), ((5, 3), 5)])
def test_npy_file_holds_one_input_or_many(
    tmp_path: Path, stop: threading.Event, shape: tuple[int, ...], count: int
) -> None:
    (tmp_path / "a.npy").write_bytes(to_npy(np.zeros(shape, np.float32)))
    frames = list(open_source(tmp_path / "a.npy", TENSOR, ()).frames(stop))
    assert [np.asarray(frame.data).shape for frame in frames if isinstance(frame, Frame)] == [(3,)] * count


def test_damaged_npy_file_is_told(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.npy").write_bytes(to_npy(np.zeros((5, 3), np.float32))[:-4])
    (told,) = open_source(tmp_path / "a.npy", TENSOR, ()).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt)
