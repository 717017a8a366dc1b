"""Tables against the arithmetic that they stand for, pixel by pixel."""

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import Colour, ColourOrder, Grey, Normalize, Scale, Step
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.lut import fold, is_identity, is_same_for_all, put_into, put_planes

FLOAT = TensorSpec("x", (1,), "float32")
RNG = np.random.default_rng(3)


def _quantized(dtype: str, scale: float, zero_point: int) -> TensorSpec:
    return TensorSpec("x", (1,), dtype, scale, zero_point)


def test_table_holds_what_each_value_becomes() -> None:
    tables = fold((Scale(0.5, -1.0), Normalize((1.0, 2.0, 4.0), (2.0, 4.0, 8.0))), 3, FLOAT)
    assert tables is not None
    values = np.arange(256) * 0.5 - 1.0
    assert tables.tolist() == [((values - m) / s).tolist() for m, s in ((1, 2), (2, 4), (4, 8))]  # exact in binary


def test_table_is_quantized_as_the_tensor_is() -> None:
    tables = fold((Scale(0.25),), 1, _quantized("int8", 0.5, -10))
    assert tables is not None
    expected = [min(127, max(-128, round(value * 0.25 / 0.5) - 10)) for value in range(256)]
    assert (tables.dtype, tables.tolist()) == (np.int8, [expected])


def test_nothing_to_do_is_the_identity() -> None:
    tables = fold((), 3, TensorSpec("x", (1,), "uint8"))
    assert tables is not None
    assert is_identity(tables)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [((Scale(2.0),), True), ((Normalize((0.0,) * 3, (1.0, 1.0, 2.0)),), False)],
)
def test_channels_are_compared(tail: tuple[Step, ...], expected: bool) -> None:
    tables = fold(tail, 3, FLOAT)
    assert tables is not None
    assert is_same_for_all(tables) is expected


@pytest.mark.parametrize("tail", [(Normalize((0.0,) * 3, (1.0,) * 3),), (Scale(1e38), Scale(1e38))])
def test_what_the_plain_path_would_refuse_has_no_table(tail: tuple[Step, ...]) -> None:
    assert fold(tail, 1, FLOAT) is None


def test_repeated_grey_has_a_table_for_each_channel_that_it_becomes() -> None:
    tables = fold((Scale(2.0), Colour(ColourOrder.BGR), Normalize((1.0, 2.0, 3.0), (1.0,) * 3)), 1, FLOAT)
    assert tables is not None
    assert tables[:, 10].tolist() == [19.0, 18.0, 17.0]


@pytest.mark.parametrize(("dtype", "tail"), [("uint8", (Scale(2.0),)), ("int8", ()), ("float16", (Scale(1000.0),))])
def test_values_that_the_tensor_cannot_hold_are_refused(dtype: str, tail: tuple[Step, ...]) -> None:
    with pytest.raises(InvalidInput, match=f"stores {dtype} without a scale"):
        fold(tail, 1, TensorSpec("x", (1,), dtype))


def test_grey_of_colours_is_no_table() -> None:
    tables = fold((Grey((0.5, 0.25, 0.25)),), 3, FLOAT)
    assert tables is None or len(tables) == 1  # it is one channel: never written as three


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32"])
@pytest.mark.parametrize("size", [(5, 7), (70, 70)], ids=["small", "large"])
@pytest.mark.parametrize("is_same", [True, False])
@pytest.mark.parametrize("is_turned", [False, True])
def test_looking_up_is_indexing(dtype: str, size: tuple[int, int], is_same: bool, is_turned: bool) -> None:
    tables = RNG.integers(-100, 100, (3, 256)).astype(dtype)
    if is_same:
        tables[1:] = tables[0]
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    straight = image[:, :, ::-1] if is_turned else image
    expected = np.stack([tables[channel][straight[:, :, channel]] for channel in range(3)])
    buffer, planes = np.empty((*size, 3), dtype), np.empty((3, *size), dtype)
    put_into(buffer, tables, turned=is_turned)(image)
    put_planes(planes, tables, turned=is_turned)(image)
    assert np.array_equal(planes, expected)
    assert np.array_equal(buffer, np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize("is_turned", [False, True])
def test_identity_copies(is_turned: bool) -> None:
    tables = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    image = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    planes = np.empty((3, 5, 7), np.uint8)
    put_planes(planes, tables, turned=is_turned)(image)
    assert np.array_equal(np.moveaxis(planes, 0, -1), image[:, :, ::-1] if is_turned else image)


def test_taking_away_128_is_exact_for_every_value() -> None:
    tables = fold((), 1, _quantized("int8", 1.0, -128))
    assert tables is not None
    buffer = np.empty((16, 16), np.int8)
    put_into(buffer, tables, turned=False)(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert buffer.ravel().tolist() == list(range(-128, 128))
