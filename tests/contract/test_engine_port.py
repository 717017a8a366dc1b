"""One suite over every implementation of runtime.engine.Engine, on a model that answers y = x + x."""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Engine

MODELS = {
    EngineName.LITERT: "double.tflite",
    EngineName.ONNXRUNTIME: "double.onnx",
    EngineName.OPENVINO: "double.openvino",
}
GARBAGE = [
    b"",
    b"x",
    b"this is no model at all",
    bytes(64),
    b"\x1c\0\0\0TFL3",
    b"\x1c\0\0\0TFL3" + bytes(100),
    b"\xff" * 200,
]


def _model(name: EngineName) -> bytes:
    return resources.files("edgeloop.runtime").joinpath("probes", MODELS[name]).read_bytes()


@pytest.fixture(params=list(EngineName))
def name(request: pytest.FixtureRequest) -> EngineName:
    return EngineName(request.param)


@pytest.fixture
def engine(name: EngineName) -> Iterator[Engine]:
    loaded = load_engine(name, _model(name))
    yield loaded
    loaded.close()


def _feed(engine: Engine, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {engine.inputs[0].name: array}


def _answer(engine: Engine, array: NDArray[Any]) -> NDArray[Any]:
    (answer,) = engine.run(_feed(engine, array)).values()
    return answer


def _row(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def test_every_engine_has_a_model_in_this_suite() -> None:
    assert set(MODELS) == set(EngineName)


def test_input_is_declared_as_the_file_has_it(engine: Engine) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in engine.inputs] == [("x", (1, 2), "float32")]


def test_output_is_declared_as_the_file_has_it(engine: Engine) -> None:
    assert [(spec.shape, spec.dtype) for spec in engine.outputs] == [((1, 2), "float32")]


def test_float_tensors_are_declared_as_not_quantized(engine: Engine) -> None:
    assert {spec.scale for spec in (*engine.inputs, *engine.outputs)} == {0.0}


def test_answers_come_under_the_declared_names(engine: Engine) -> None:
    assert set(engine.run(_feed(engine, _row(1, 2)))) == {spec.name for spec in engine.outputs}


def test_answers_are_right(engine: Engine) -> None:
    assert _answer(engine, _row(1.5, -2)).tolist() == [[3.0, -4.0]]  # doubling is exact in float32


def test_answers_have_the_declared_shape_and_dtype(engine: Engine) -> None:
    answer = _answer(engine, _row(1, 2))
    assert (answer.shape, answer.dtype.name) == (engine.outputs[0].shape, engine.outputs[0].dtype)


def test_second_run_answers_its_own_input(engine: Engine) -> None:
    _answer(engine, _row(1, 2))
    assert _answer(engine, _row(5, 6)).tolist() == [[10.0, 12.0]]


def test_answer_is_not_overwritten_by_the_next_run(engine: Engine) -> None:
    first = _answer(engine, _row(1, 2))
    _answer(engine, _row(5, 6))
    assert first.tolist() == [[2.0, 4.0]]


def test_answer_outlives_the_engine(name: EngineName) -> None:
    engine = load_engine(name, _model(name))
    answer = _answer(engine, _row(1, 2))
    engine.close()
    del engine
    assert answer.tolist() == [[2.0, 4.0]]


def test_answer_may_be_changed_without_an_effect_on_the_next_run(engine: Engine) -> None:
    _answer(engine, _row(1, 2))[:] = 99
    assert _answer(engine, _row(1, 2)).tolist() == [[2.0, 4.0]]


def test_input_array_is_left_as_it_was(engine: Engine) -> None:
    array = _row(1, 2)
    _answer(engine, array)
    assert array.tolist() == [[1.0, 2.0]]


def test_nan_passes_through_as_nan(engine: Engine) -> None:
    assert np.isnan(_answer(engine, _row(np.nan, 2))).tolist() == [[True, False]]


def test_infinity_passes_through(engine: Engine) -> None:
    assert _answer(engine, _row(np.inf, -np.inf)).tolist() == [[np.inf, -np.inf]]


def test_array_that_is_not_contiguous_is_read_right(engine: Engine) -> None:
    strided = np.arange(8, dtype=np.float32).reshape(2, 4)[1:, ::2]
    assert _answer(engine, strided).tolist() == [[8.0, 12.0]]


def test_array_of_the_other_byte_order_is_never_read_wrong(engine: Engine) -> None:
    try:
        answer = _answer(engine, np.array([[1, 2]], ">f4"))
    except InvalidInput:
        return
    assert answer.tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize(
    "feeds", [{}, {"z": _row(1, 2)}, {"x": _row(1, 2), "z": _row(1, 2)}], ids=["none", "other", "more"]
)
def test_other_names_are_invalid_input(engine: Engine, feeds: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(InvalidInput, match="takes the inputs"):
        engine.run(feeds)


@pytest.mark.parametrize("shape", [(), (2,), (1, 3), (2, 2), (1, 1), (1, 2, 1), (0, 2)], ids=str)
def test_another_shape_is_invalid_input(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"\(1, 2\)"):
        engine.run(_feed(engine, np.zeros(shape, np.float32)))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int64", "bool", "object", "U3"])
def test_another_dtype_is_invalid_input(engine: Engine, dtype: str) -> None:
    with pytest.raises(InvalidInput, match="float32"):
        engine.run(_feed(engine, np.zeros((1, 2), dtype)))


def test_engine_goes_on_after_an_input_that_it_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput):
        engine.run({})
    assert _answer(engine, _row(1, 2)).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("model", GARBAGE, ids=lambda model: repr(model[:8]))
def test_bytes_that_are_no_model_are_invalid_input(name: EngineName, model: bytes) -> None:
    with pytest.raises(InvalidInput):
        load_engine(name, model)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_model_is_invalid_input(name: EngineName, share: float) -> None:
    model = _model(name)
    with pytest.raises(InvalidInput):
        load_engine(name, model[: int(share * len(model))])


@pytest.mark.parametrize("other", list(EngineName))
def test_model_of_another_engine_is_invalid_input(name: EngineName, other: EngineName) -> None:
    if other is name:
        load_engine(name, _model(other)).close()
        return
    with pytest.raises(InvalidInput):
        load_engine(name, _model(other))


def test_closing_twice_is_no_error(engine: Engine) -> None:
    engine.close()
    engine.close()


def test_running_after_close_is_invalid_input(engine: Engine) -> None:
    engine.close()
    with pytest.raises(InvalidInput, match="closed"):
        engine.run(_feed(engine, _row(1, 2)))


def test_two_engines_of_one_model_do_not_disturb_each_other(name: EngineName, engine: Engine) -> None:
    other = load_engine(name, _model(name))
    first = _answer(engine, _row(1, 2))
    _answer(other, _row(5, 6))
    other.close()
    assert (first.tolist(), _answer(engine, _row(3, 4)).tolist()) == ([[2.0, 4.0]], [[6.0, 8.0]])


def test_number_of_threads_does_not_change_the_answer(name: EngineName) -> None:
    engine = load_engine(name, _model(name), threads=2)
    answer = _answer(engine, _row(1, 2))
    engine.close()
    assert answer.tolist() == [[2.0, 4.0]]


def test_what_an_engine_raises_on_garbage_says_what_to_do(name: EngineName) -> None:
    with pytest.raises(EdgeloopError) as caught:
        load_engine(name, b"garbage!")
    assert "model" in str(caught.value)
