from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.runtime.input.table import decode_rows, encode_rows, read_rows


def test_numbers_are_read_with_and_without_a_header() -> None:
    wanted = [[1.0, -2.5], [3000.0, 0.25]]
    assert decode_rows(b"a,b\n1,-2.5\n3e3, .25\n").tolist() == wanted
    assert decode_rows(b"1,-2.5\r\n3e3, .25").tolist() == wanted
    assert decode_rows(b'\xef\xbb\xbf"1","-2.5"\n3e3,.25').tolist() == wanted
    assert decode_rows(b"1\n").dtype == np.float32


def test_channels_are_picked_by_name_in_their_order() -> None:
    table = b"time,x,y\nmonday,1,2\ntuesday,3,4\n"
    assert decode_rows(table, channels=("y", "x")).tolist() == [[2.0, 1.0], [4.0, 3.0]]


def test_a_header_may_consist_of_numbers_where_channels_are_named_so() -> None:
    assert decode_rows(b"1,2\n5,6\n", channels=("2", "1")).tolist() == [[6.0, 5.0]]


def test_columns_without_a_header_are_the_channels_in_order() -> None:
    assert decode_rows(b"5,6\n", channels=("x", "y")).tolist() == [[5.0, 6.0]]


def test_empty_cells_and_nan_are_missing() -> None:
    made = decode_rows(b"a,b,c\n1,,3\nnan,NaN, \n,2,\n")
    assert np.isnan(made).tolist() == [[False, True, False], [True, True, True], [True, False, True]]
    assert made[0, 2] == 3.0


def test_blank_lines_are_left_out() -> None:
    assert decode_rows(b"\n1,2\n\n\n3,4\n\n").tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_first_column_without_a_name_belongs_to_a_header() -> None:
    assert decode_rows(b",x\n0,5\n1,6\n", channels=("x",)).tolist() == [[5.0], [6.0]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,b\n1,2\n3,four\n", "line 3, column 'b': 'four'; expected a number"),
        (b"1,2\n3,x\n", "line 2, column '2': 'x'"),
        (b"1,x\n3,4\n", "line 1, column '2': 'x'"),
        (b"a,b\n\n1,2\n3\n", "line 4: 1 cells where the first line has 2"),
        (b"1,2\n3,4,5\n", "line 2: 3 cells"),
        (b"a\n1_000\n", "column 'a': '1_000'"),
        (b"a\ninf\n", "float32 can hold"),
        (b"a\n1e39\n", "float32 can hold"),
        (b"a\n1\n\xff\n", "no CSV table in UTF-8"),
        (b'a\n"1\n', "no CSV table in UTF-8"),
        (b"a\n1\x00\n", "line"),
        (b"a\n" + b"1" * 200_000, "field larger than field limit"),
    ],
)
def test_cells_that_are_no_numbers_are_corrupt_and_named(data: bytes, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        decode_rows(data)


@pytest.mark.parametrize(
    ("data", "channels", "said"),
    [
        (b"", (), "empty table"),
        (b"\n\n", (), "empty table"),
        (b"a,b\n", (), "a header and no rows"),
        (b"a,b\n1,2\n", ("a", "c"), "0 columns called 'c'.*It has 'a', 'b'"),
        (b"a,a,b\n1,2,3\n", ("a",), "2 columns called 'a'"),
        (b"1,2,3\n", ("x", "y"), "3 columns and no header; expected the 2 channels x, y"),
        (b"," * 20_000_000, (), "20,000,000 cells; at most 4,194,304"),
    ],
)
def test_tables_without_the_wanted_columns_are_refused(data: bytes, channels: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode_rows(data, channels=channels)


def test_message_shows_a_header_without_what_acts_on_a_terminal() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_rows(b"\x1b[2Jgone," + b"b" * 1000 + b",c" * 20 + b"\n1,2", channels=("x",))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_file_is_read_named_in_errors_and_not_found_when_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"1,2\n")
    assert read_rows(path).tolist() == [[1.0, 2.0]]
    path.write_bytes(b"1,2\n3\n")
    with pytest.raises(Corrupt, match=r"a\.csv, line 2"):
        read_rows(path)
    with pytest.raises(NotFound, match=r"no table at .*b\.csv"):
        read_rows(tmp_path / "b.csv")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_float32_survives_being_written_and_read(rows: list[list[float]]) -> None:
    """repr of a float32 held as a double is read back to the same double, so exactly."""
    text = "\n".join(",".join(map(repr, row)) for row in rows)
    assert decode_rows(text.encode()).tolist() == rows


def outcome(data: bytes) -> str | NDArray[np.float32]:
    try:
        return decode_rows(data)
    except (Corrupt, InvalidInput) as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | st.text('01.e-,;"\n\r naif_x\x00', max_size=60).map(str.encode))
def test_any_bytes_give_rows_or_a_clear_error(data: bytes) -> None:
    made = outcome(data)
    if isinstance(made, str):
        assert made.startswith("input")
    else:
        assert made.dtype == np.float32
        assert made.ndim == 2
        assert not np.isinf(made).any()


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(width=32, allow_infinity=False)
    )
)
def test_rows_are_written_and_read_as_the_same_numbers(rows: NDArray[np.float32]) -> None:
    channels = tuple(f"channel {index}" for index in range(rows.shape[1]))
    np.testing.assert_array_equal(decode_rows(encode_rows(rows, channels=channels), channels=channels), rows)
    np.testing.assert_array_equal(decode_rows(encode_rows(rows)), rows)


def test_rows_are_written_for_people() -> None:
    rows = np.array([[0.1, np.nan], [-2, 1e-5]], np.float32)
    assert encode_rows(rows, channels=("x", "y, z")) == b'x,"y, z"\n0.1,nan\n-2.0,1e-05\n'
