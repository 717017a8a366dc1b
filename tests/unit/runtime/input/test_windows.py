from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.input.windows import windows


def plainly(whole: NDArray[Any], length: int, hop: int, pad: bool) -> list[tuple[int, list[Any]]]:
    """The definition on the whole input: each full window, and, padded, what none of them has seen."""
    made = [(at, whole[at : at + length].tolist()) for at in range(0, len(whole) - length + 1, hop)]
    seen = made[-1][0] + length if made else 0
    at = made[-1][0] + hop if made else 0
    if pad and len(whole) > max(seen, at):
        tail = whole[at:]
        zeros = np.zeros((length - len(tail), *whole.shape[1:]), whole.dtype)
        made.append((at, np.concatenate([tail, zeros]).tolist()))
    return made


@settings(max_examples=400, deadline=None)
@given(
    count=st.integers(1, 60),
    length=st.integers(1, 20),
    hop=st.integers(1, 30),
    pad=st.booleans(),
    rows=st.booleans(),
    cuts=st.lists(st.integers(0, 60), max_size=12),
)
def test_any_chunking_gives_the_same_windows(
    count: int, length: int, hop: int, pad: bool, rows: bool, cuts: list[int]
) -> None:
    whole = np.arange(1, count * (2 if rows else 1) + 1, dtype=np.float32)
    whole = whole.reshape(count, 2) if rows else whole
    chunks = np.split(whole, sorted(min(cut, count) for cut in cuts))
    if count < length and not pad:
        with pytest.raises(InvalidInput, match="one window takes"):
            list(windows(chunks, length=length, hop=hop, pad=pad))
        return
    made = [(at, window.tolist()) for at, window in windows(chunks, length=length, hop=hop, pad=pad)]
    assert made == plainly(whole, length, hop, pad)


def test_a_window_is_handed_over_as_soon_as_it_is_full() -> None:
    taken = 0

    def sensor() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield np.zeros(10, np.int16)

    made = windows(sensor(), length=25, hop=10)
    next(made)
    assert taken == 3
    next(made)
    assert taken == 4


def test_windows_are_the_callers_own_and_the_sensors_buffer_may_be_used_again() -> None:
    buffer = np.zeros(3, np.int16)

    def sensor() -> Any:
        for turn in range(4):
            buffer[:] = turn
            yield buffer

    made = []
    for _, window in windows(sensor(), length=6, hop=3):
        made.append(window.tolist())
        window[:] = -1
    assert made == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 2, 2, 2], [2, 2, 2, 3, 3, 3]]


def test_no_chunks_make_no_windows() -> None:
    assert list(windows([], length=4, hop=2)) == []
    assert list(windows([np.zeros(0, np.int16)], length=4, hop=2, pad=True)) == []


GAP = "gap"


@settings(max_examples=200, deadline=None)
@given(
    stretches=st.lists(st.lists(st.integers(0, 12), max_size=3), min_size=1, max_size=4),
    length=st.integers(1, 8),
    hop=st.integers(1, 10),
)
def test_padded_windows_between_gaps_are_those_of_each_stretch(
    stretches: list[list[int]], length: int, hop: int
) -> None:
    chunks: list[Any] = []
    expected: list[Any] = []
    begin = 0
    for sizes in stretches:
        whole = np.arange(begin + 1, begin + 1 + sum(sizes), dtype=np.float32)
        expected += [(begin + at, window) for at, window in plainly(whole, length, hop, True)] + [GAP]
        chunks += [*np.split(whole, np.cumsum(sizes)[:-1]), GAP] if sizes else [GAP]
        begin += len(whole)
    made = windows(chunks, length=length, hop=hop, pad=True)
    assert [one if isinstance(one, str) else (one[0], one[1].tolist()) for one in made] == expected


def test_what_a_gap_cuts_off_is_left_out_and_told_by_nobody() -> None:
    chunks = [np.arange(5), GAP, np.arange(2), GAP, np.arange(3)]
    made = [one if isinstance(one, str) else (one[0], one[1].tolist()) for one in windows(chunks, length=3, hop=3)]
    assert made == [(0, [0, 1, 2]), GAP, GAP, (7, [0, 1, 2])]


def test_a_gap_is_handed_on_before_more_is_taken() -> None:
    taken = 0

    def sensor() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield GAP

    assert next(windows(sensor(), length=3, hop=3)) == GAP
    assert taken == 1


def test_dtype_and_channels_may_change_behind_a_gap() -> None:
    chunks = [np.zeros(2, np.int16), GAP, np.ones((2, 3), np.float32)]
    made = [one for one in windows(chunks, length=2, hop=2) if not isinstance(one, str)]
    assert [(window.dtype.name, window.shape) for _, window in made] == [("int16", (2,)), ("float32", (2, 3))]


@pytest.mark.parametrize(
    "second", [np.zeros(4, np.float32), np.zeros((4, 2), np.int16), np.zeros((1, 1, 1), np.int16)], ids=str
)
def test_chunks_that_differ_are_refused(second: NDArray[Any]) -> None:
    with pytest.raises(InvalidInput, match="where the first was int16"):
        list(windows([np.zeros(4, np.int16), second], length=2, hop=2))


@pytest.mark.parametrize(("length", "hop"), [(0, 1), (1, 0), (4, -1)])
def test_windows_without_extent_are_refused(length: int, hop: int) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        list(windows([np.zeros(4)], length=length, hop=hop))
