import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.assets import assets_or_skip

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    Dct,
    FillMissing,
    Interpolation,
    Missing,
    Normalize,
    Resize,
    Scale,
    Step,
    Window,
)
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.input.series import SeriesFront, as_rows, fill_missing
from edgeloop.runtime.input.windows import windows

NAN = math.nan
WATCH = "har_watch/watch_dataset.npz"


def front(
    *steps: Step,
    shape: tuple[int, ...] = (1, 3, 2),
    layout: str = "ntc",
    channels: tuple[str, ...] = ("x", "y"),
    **tensor: Any,
) -> SeriesFront:
    spec = InputSpec("series", Modality.SERIES, shape, layout, (-1.0, 1.0), channels=channels)
    return SeriesFront(spec, steps, TensorSpec("x", shape, **{"dtype": "float32", **tensor}))


ROWS = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


def test_a_table_a_file_and_an_array_are_one_series(tmp_path: Path) -> None:
    table = b"t,y,x\n0,10,1\n1,20,2\n2,30,3\n"
    path = tmp_path / "a.csv"
    path.write_bytes(table)
    for source in (table, path, str(path), ROWS, ROWS.astype(np.float32), ROWS.astype(np.int64)):
        assert front().tensor(source).tolist() == [ROWS.tolist()]
    with pytest.raises(NotFound):
        front().tensor(tmp_path / "b.csv")
    with pytest.raises(Corrupt, match="line 2, column 'x'"):
        front().tensor(b"x,y\nwarm,1\n")


def test_steps_are_obeyed_channel_by_channel_and_in_order() -> None:
    made = front(Normalize((1.0, 10.0), (2.0, 20.0)), Scale(2.0, 1.0)).tensor(ROWS)
    assert made.tolist() == [[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]]


def test_layout_may_put_channels_first_and_add_axes() -> None:
    assert front(shape=(1, 2, 3), layout="nct").tensor(ROWS).tolist() == [ROWS.T.tolist()]
    assert front(shape=(1, 1, 3, 2), layout="nhtc").tensor(ROWS).tolist() == [[ROWS.tolist()]]


def test_square_windows_are_turned_by_their_layout_and_not_by_their_shape() -> None:
    square = ROWS[:2]
    assert front(shape=(1, 2, 2), layout="nct").tensor(square).tolist() == [square.T.tolist()]
    assert front(shape=(1, 2, 2), layout="ntc").tensor(square).tolist() == [square.tolist()]


def test_a_single_row_is_a_series_too() -> None:
    assert front(shape=(1, 2), layout="nc").tensor(b"x,y\n1,10\n").tolist() == [[1.0, 10.0]]


def test_a_series_of_one_channel_may_have_one_axis() -> None:
    made = front(Window(length=4, hop=1, pad=True), shape=(1, 4), layout="nt", channels=())
    assert made.tensor(np.arange(3)).tolist() == [[0.0, 1.0, 2.0, 0.0]]


def test_windows_are_filled_at_their_end_or_refused() -> None:
    assert front(Window(length=3, hop=1, pad=True)).tensor(ROWS[:1]).tolist() == [[[1.0, 10.0], [0.0, 0.0], [0.0, 0.0]]]
    with pytest.raises(InvalidInput, match="2 rows, the model takes 3"):
        front(Window(length=3, hop=1)).tensor(ROWS[:2])
    with pytest.raises(InvalidInput, match=r"4 rows, the model takes 3 at a time.*stream\(\)"):
        front(Window(length=3, hop=1, pad=True)).tensor(np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (Missing.PREVIOUS, [[2.0, 5.0], [2.0, 5.0], [2.0, 5.0], [8.0, 5.0], [8.0, 5.0]]),
        (Missing.LINEAR, [[2.0, 5.0], [2.0, 5.0], [5.0, 5.0], [8.0, 5.0], [8.0, 5.0]]),
        (Missing.ZERO, [[0.0, 0.0], [2.0, 5.0], [0.0, 0.0], [8.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_missing_values_are_filled(how: Missing, wanted: list[list[float]]) -> None:
    rows = np.array([[NAN, NAN], [2.0, 5.0], [NAN, NAN], [8.0, NAN], [NAN, NAN]], np.float32)
    kept = rows.copy()
    assert fill_missing(rows, FillMissing(how=how, most_share=1.0)).tolist() == wanted
    np.testing.assert_array_equal(rows, kept)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none()), min_size=1, max_size=12),
    st.sampled_from([Missing.PREVIOUS, Missing.LINEAR]),
)
def test_filling_agrees_with_a_search_for_each_gap(cells: list[tuple[int | None, int | None]], how: Missing) -> None:
    """The line between neighbours to 1e-5: float32 of values up to 9."""
    rows = np.array([[NAN if cell is None else cell for cell in row] for row in cells], np.float32)
    step = FillMissing(how=how, most_share=1.0)
    if np.isnan(rows).any() and np.isnan(rows).all(axis=0).any():
        with pytest.raises(InvalidInput, match="no value in the window"):
            fill_missing(rows, step)
        return
    made = fill_missing(rows, step)
    for channel in range(2):
        column = [row[channel] for row in cells]
        for place, value in enumerate(column):
            before = [p for p in range(place + 1) if column[p] is not None]
            after = [p for p in range(place, len(column)) if column[p] is not None]
            left, right = (before or after[:1])[-1], (after or before[-1:])[0]
            low, high = column[left], column[right]
            assert low is not None
            assert high is not None
            share = (place - left) / (right - left) if how is Missing.LINEAR and right != left else 0.0
            wanted = value if value is not None else low + (high - low) * share
            assert made[place, channel] == pytest.approx(wanted, abs=1e-5)


def test_more_missing_than_allowed_is_refused() -> None:
    rows = np.array([[1.0, NAN], [NAN, 2.0], [1.0, 2.0]])
    third = FillMissing(how=Missing.PREVIOUS, most_share=1 / 3)
    assert front(third).tensor(rows).tolist() == [[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]]
    rows[2, 0] = NAN
    with pytest.raises(InvalidInput, match=r"3 of 6 values are missing; .* allows a share of 0.333"):
        front(third).tensor(rows)


def test_a_value_that_is_still_missing_at_the_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match="fill what is missing with the manifest's step 'fill_missing'"):
        front(Scale(2.0)).tensor(b"x,y\n1,2\n,4\n5,6\n")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
def test_write_is_the_tensor_quantized(dtype: str) -> None:
    stored = {"dtype": dtype} if dtype == "float32" else {"dtype": dtype, "scale": 0.3, "zero_point": 5}
    made = front(Scale(0.5, -3.0), **stored)
    buffer = np.full((1, 3, 2), 99, dtype)
    made.write(ROWS, buffer)
    assert buffer.tolist() == quantize_tensor(made.tensor(ROWS), TensorSpec("x", (1, 3, 2), **stored)).tolist()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 3)), r"\(rows, 2\); got float64 \(3, 3\)"),
        (np.zeros((3, 2, 1)), "got float64"),
        (np.zeros((3, 2), np.bool_), "got bool"),
        (np.array([["1", "2"]]), "array of numbers"),
        (np.zeros((0, 2)), "0 values"),
        (np.array([[1.0, np.inf]]), "infinite in float32"),
        (np.array([[1.0, 1e300]]), "infinite in float32"),
    ],
)
def test_arrays_that_are_no_series_are_refused(array: NDArray[Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        as_rows(array, channels=("x", "y"))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((Resize(2, 2, Interpolation.AREA),), "step 'resize' is not for series"),
        ((Dct(coefficients=2, factor=1.0, first_factor=1.0),), "step 'dct' is not for series"),
        ((Scale(1.0), Window(length=3, hop=1)), "step 'window' is not the first"),
        ((Window(length=4, hop=1),), r"is \(4, 2\); the model takes \(1, 3, 2\)"),
        ((Window(length=1 << 40, hop=1),), "at most 4,194,304 values"),
        ((Window(length=3, hop=1), Normalize((0.0,), (1.0,))), "1 means; the input has 2 channels"),
    ],
)
def test_steps_that_do_not_fit_are_refused_when_the_bundle_is_loaded(steps: tuple[Step, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        front(*steps)
    with pytest.raises(InvalidInput):
        front(*steps, channels=())


def test_real_movements_are_windowed_and_normalized() -> None:
    """A series of a watch: 6 axes at 50 Hz, two seconds every second, in chunks as a sensor sends them."""
    data = np.load(assets_or_skip(WATCH) / WATCH)
    series = data["X"][: int(data["lengths"][0])]
    mean, std = series.mean(axis=0), series.std(axis=0)
    window = Window(length=100, hop=50)
    made = front(
        window,
        FillMissing(how=Missing.LINEAR, most_share=0.1),
        Normalize(tuple(mean.tolist()), tuple(std.tolist())),
        shape=(1, 100, 6),
        channels=tuple(data["X_labels"].tolist()),
    )
    streamed = list(windows(np.array_split(series, 37), length=window.length, hop=window.hop))
    assert [start for start, _ in streamed] == list(range(0, len(series) - 99, 50))
    assert len(streamed) > 10
    for start, rows in streamed:
        wanted = (series[start : start + 100].astype(np.float64) - mean) / std
        # float32 of about 1 after a difference of values up to 20: a few 1e-6.
        np.testing.assert_allclose(made.tensor(rows)[0], wanted, rtol=0, atol=2e-5)


def test_a_real_movement_survives_csv_and_lost_packets() -> None:
    data = np.load(assets_or_skip(WATCH) / WATCH)
    rows = data["X"][1000:1100]
    names = tuple(data["X_labels"].tolist())
    cells = [[repr(value) for value in row] for row in rows.tolist()]
    cells[50][2] = ""
    table = "\n".join(",".join(line) for line in [names, *cells]).encode()
    made = front(
        Window(length=100, hop=50),
        FillMissing(how=Missing.LINEAR, most_share=0.01),
        shape=(1, 100, 6),
        channels=names,
    ).tensor(table)[0]
    wanted = rows.copy()
    wanted[50, 2] = (rows[49, 2] + rows[51, 2]) / 2
    np.testing.assert_array_equal(np.delete(made, 50, axis=0), np.delete(rows, 50, axis=0))
    np.testing.assert_allclose(made[50], wanted[50], rtol=1e-6)


def test_value_that_a_tensor_without_scale_cannot_hold_is_refused() -> None:
    spec = InputSpec("x", Modality.SERIES, (1, 2, 1), "ntc", (0.0, 1.0))
    made = SeriesFront(spec, (), TensorSpec("x", (1, 2, 1), "int8"))
    with pytest.raises(InvalidInput, match="1 to 1000, but tensor 'x' stores int8 without a scale"):
        made.write(np.array([[1.0], [1000.0]]), np.zeros((1, 2, 1), np.int8))
