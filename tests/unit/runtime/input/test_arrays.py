import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Grey, Normalize, Scale, Step
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.input.arrays import ArrayFront

SHAPE = (1, 4, 3)


def _front(*steps: Step, shape: tuple[int, ...] = SHAPE, tensor: TensorSpec | None = None) -> ArrayFront:
    spec = InputSpec("x", Modality.TENSOR, shape, "NHWC"[: len(shape)], (0.0, 1.0))
    return ArrayFront(spec, steps, tensor or TensorSpec("x", shape, "float32"))


numbers = st.floats(-100, 100, width=32)
steps = st.lists(
    st.one_of(
        st.builds(Scale, numbers, numbers),
        st.builds(Normalize, st.tuples(*[numbers] * 3), st.tuples(*[st.floats(0.125, 8.0, width=32)] * 3)),
    ),
    max_size=3,
)
tensors = st.one_of(
    st.just(TensorSpec("x", SHAPE, "float32")),
    st.just(TensorSpec("x", SHAPE, "float64")),
    st.builds(TensorSpec, st.just("x"), st.just(SHAPE), st.just("int8"), st.floats(1e-3, 10), st.integers(-128, 127)),
    st.builds(TensorSpec, st.just("x"), st.just(SHAPE), st.just("uint8"), st.floats(1e-3, 10), st.integers(0, 255)),
    st.builds(TensorSpec, st.just("x"), st.just(SHAPE), st.just("int16"), st.floats(1e-3, 10), st.just(0)),
)
arrays = st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, SHAPE[1:], elements={"allow_nan": False, "allow_infinity": False} if "float" in dtype else None
    )
)


@given(value=arrays, steps=steps, tensor=tensors)
def test_what_is_written_is_the_plain_tensor_quantized(
    value: NDArray[np.generic], steps: list[Step], tensor: TensorSpec
) -> None:
    front = _front(*steps, tensor=tensor)
    buffer = np.full(SHAPE, 77, tensor.dtype)
    try:
        expected = quantize_tensor(front.tensor(value), tensor)
    except InvalidInput:
        with pytest.raises(InvalidInput, match="NaN or infinity"):
            front.write(value, buffer)
        return
    assert front.write(value, buffer) is None
    assert buffer.tobytes() == expected.tobytes()


def test_scale_then_normalize_is_written_in_their_order() -> None:
    buffer = np.empty(SHAPE, np.float32)
    value = np.arange(12.0).reshape(4, 3)
    _front(Scale(2.0, 1.0), Normalize((1.0, 2.0, 3.0), (2.0, 4.0, 8.0))).write(value, buffer)
    assert buffer[0].tolist() == ((value * 2 + 1 - [1, 2, 3]) / [2, 4, 8]).tolist()  # exact in binary


def test_source_is_left_as_it_was() -> None:
    value = np.ones(SHAPE[1:], np.float32)
    _front(Scale(5.0)).write(value, np.empty(SHAPE, np.float32))
    assert value.tolist() == np.ones(SHAPE[1:]).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_array_that_is_not_finite_is_refused(bad: float, dtype: str) -> None:
    value = np.zeros(SHAPE[1:])
    value[2, 1] = bad
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        _front(tensor=TensorSpec("x", SHAPE, dtype, 0.5 if dtype == "int8" else 0.0)).write(
            value, np.empty(SHAPE, dtype)
        )


@pytest.mark.parametrize("shape", [(3, 4), (12,), (1, 4, 3), (4, 1), ()], ids=str)
def test_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="the model takes"):
        _front().write(np.zeros(shape, np.float32), np.empty(SHAPE, np.float32))


@pytest.mark.parametrize("source", [b"\0" * 48, "a.npy", np.array([["a"]]), np.zeros(SHAPE[1:], complex)], ids=type)
def test_what_holds_no_numbers_is_refused(source: object) -> None:
    with pytest.raises(InvalidInput, match=r"takes arrays|expected numbers"):
        _front().write(source, np.empty(SHAPE, np.float32))  # type: ignore[arg-type]


def test_single_number_is_an_array_without_axes() -> None:
    buffer = np.empty((1,), np.float32)
    _front(Normalize((1.0,), (2.0,)), shape=(1,)).write(np.array(5.0), buffer)
    assert buffer.tolist() == [2.0]


def test_whole_numbers_go_into_a_tensor_without_scale() -> None:
    tensor = TensorSpec("x", SHAPE, "int32")
    buffer = np.empty(SHAPE, np.int32)
    _front(tensor=tensor).write(np.arange(12).reshape(4, 3), buffer)
    assert buffer.ravel().tolist() == list(range(12))


def test_number_that_a_tensor_without_scale_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without a scale"):
        _front(tensor=TensorSpec("x", SHAPE, "int8")).write(np.full((4, 3), 128), np.empty(SHAPE, np.int8))


@pytest.mark.parametrize("step", [Grey(), Normalize((0.0,), (1.0,))])
def test_step_that_does_not_fit_is_refused_before_any_input(step: Step) -> None:
    with pytest.raises(InvalidInput, match=r"grey|normalize"):
        _front(step)


def test_tensor_of_another_shape_than_the_manifest_says_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the manifest says"):
        _front(tensor=TensorSpec("x", (1, 3, 4), "float32"))


def test_number_that_is_infinite_in_steps_is_cut_to_the_tensor_s_range() -> None:
    tensor = TensorSpec("x", SHAPE, "int8", 1e-6, 0)
    buffer = np.empty(SHAPE, np.int8)
    _front(tensor=tensor).write(np.full(SHAPE[1:], 3e38, np.float32), buffer)
    assert (buffer == 127).all()
    assert (quantize_tensor(np.full(SHAPE, -3e38, np.float32), tensor) == -128).all()
