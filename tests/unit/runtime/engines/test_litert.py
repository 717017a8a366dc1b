import gc
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from assets import assets_or_skip
from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.engines.litert import LiteRtEngine
from edgeloop.runtime.engines.litert_compiled import LiteRtCompiledEngine
from edgeloop.runtime.engines.memory import address_of
from edgeloop.runtime.engines.port import TensorSpec
from small_litert import SmallLiteRt, dense, doubling_int8, flattened, into_one_row, places_of_zeros, row_of

ULTRAFACE = "ultraface/version-RFB-320_without_postprocessing.tflite"
BOTH = [LiteRtEngine, LiteRtCompiledEngine]
Either = type[LiteRtEngine] | type[LiteRtCompiledEngine]


def _is_owned_by_numpy(array: np.ndarray) -> bool:
    """Whether the array's memory is NumPy's own, and not the engine's."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base.base is None


@pytest.mark.parametrize("kind", BOTH)
def test_integer_tensors_are_declared_with_scale_and_zero_point(kind: Either) -> None:
    engine = kind(doubling_int8())
    assert (engine.inputs, engine.outputs) == (
        (TensorSpec("x", (1, 4), "int8", 0.5, -3),),
        (TensorSpec("y", (1, 4), "int8", 1.0, 7),),
    )


@pytest.mark.parametrize("kind", BOTH)
def test_integer_model_answers_in_what_it_stores(kind: Either) -> None:
    engine = kind(doubling_int8())
    engine.buffers[0][:] = [[-3, -1, 9, 127]]
    # Real x is 0, 1, 6, 65; y is twice that in steps of 1 from 7: 130 + 7 is clipped to 127.
    assert engine.invoke()[0].tolist() == [[7, 9, 19, 127]]


@pytest.mark.parametrize("kind", BOTH)
def test_settled_model_runs_on_the_engine_s_own_memory(kind: Either) -> None:
    engine = kind(dense(1, 8))
    owned = [_is_owned_by_numpy(array) for array in (*engine.buffers, *engine.invoke())]
    assert owned == [False, False]


@pytest.mark.parametrize("kind", BOTH)
def test_engine_s_memory_lives_as_long_as_a_view_of_it(kind: Either) -> None:
    engine = kind(dense(1, 256))
    engine.buffers[0][:] = 1
    (answer,) = engine.invoke()
    expected = answer.copy()
    engine.close()
    del engine
    gc.collect()
    others = [kind(dense(1, 256)) for _ in range(20)]  # what would get the memory, were it free
    for other in others:
        other.buffers[0][:] = 9
        other.invoke()
    assert np.array_equal(answer, expected)


def test_compiled_model_copied_in_and_out_answers_as_in_place() -> None:
    model = dense(1, 64)
    in_place, by_copy = LiteRtCompiledEngine(model), LiteRtCompiledEngine(model, in_place=False)
    feed = {"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}
    assert by_copy.run(feed)["y3"].tobytes() == in_place.run(feed)["y3"].tobytes()


def test_both_interfaces_answer_alike_and_as_numpy_does() -> None:
    model = dense(3, 64)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 64**-0.5, (64, 64)).astype(np.float32) for _ in range(4)]
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    expected = x.astype(np.float64)
    for one in weights:
        expected = expected @ one.T.astype(np.float64)
    answers = [kind(model).run({"x": x})["y3"] for kind in BOTH]
    for answer in answers:
        # Four layers of 64 products of magnitude about 1/8, rounded to 24 bits: some 1e-6.
        np.testing.assert_allclose(answer, expected, atol=2e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_batch_that_a_reshape_forbids_is_invalid_input(kind: Either) -> None:
    with pytest.raises(InvalidInput, match=r"cannot take 2 at a time.*free first axis"):
        kind(flattened(), batch=2)


@pytest.mark.parametrize("kind", BOTH)
def test_batch_that_would_run_together_in_one_row_is_invalid_input(kind: Either) -> None:
    with pytest.raises(InvalidInput, match=r"output 'y' would be \(1, 8\)"):
        kind(into_one_row(), batch=2)


@pytest.mark.parametrize("kind", BOTH)
def test_batch_of_integers_keeps_scale_and_zero_point(kind: Either) -> None:
    engine = kind(doubling_int8(), batch=3)
    engine.buffers[0][:] = np.arange(12).reshape(3, 4) - 3
    assert (engine.inputs[0], engine.invoke()[0].tolist()) == (
        TensorSpec("x", (3, 4), "int8", 0.5, -3),
        (np.arange(12).reshape(3, 4) + 7).tolist(),
    )


def test_output_whose_shape_the_file_does_not_know_is_declared_as_it_comes_out() -> None:
    engine = LiteRtEngine(row_of(3))
    assert engine.outputs == (TensorSpec("y", (1, 6), "float32"),)


def test_model_whose_memory_may_move_answers_right() -> None:
    engine = LiteRtEngine(row_of(3))
    answers = []
    for value in range(3):
        engine.buffers[0][:] = [[value, 10]]
        answers.append(engine.invoke()[0].tolist())
    assert answers == [[[value, 10] * 3] for value in range(3)]


def test_model_whose_memory_may_move_is_never_viewed() -> None:
    engine = LiteRtEngine(row_of(3))
    arrays = (*engine.buffers, *engine.invoke())
    assert ([_is_owned_by_numpy(array) for array in arrays], address_of(engine.buffers[0]) % 64) == ([True, True], 0)


def test_output_that_changes_its_shape_is_refused_and_not_cut() -> None:
    engine = LiteRtEngine(places_of_zeros())
    engine.buffers[0][:] = False
    assert engine.invoke()[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    engine.buffers[0][:] = [[True, False, False, True]]
    with pytest.raises(Corrupt, match=r"was \(4, 2\) when the model was loaded and is \(2, 2\) now"):
        engine.invoke()


@pytest.mark.parametrize("model", [row_of(3), places_of_zeros()], ids=["tiled", "where"])
def test_compiled_model_refuses_what_would_overrun_its_buffers(model: bytes) -> None:
    with pytest.raises(InvalidInput, match="use the interface 'interpreter'"):
        LiteRtCompiledEngine(model)


def test_detector_whose_file_says_one_row_gives_all_of_them() -> None:
    path = assets_or_skip(ULTRAFACE) / ULTRAFACE
    engine = LiteRtEngine(Path(path).read_bytes())
    assert [spec.shape for spec in engine.outputs] == [(1, 4420, 4), (1, 4420, 2)]
    rng = np.random.default_rng(0)
    feeds = {engine.inputs[0].name: rng.normal(size=(1, 240, 320, 3)).astype(np.float32)}
    first = engine.run(feeds)
    engine.run({engine.inputs[0].name: np.zeros((1, 240, 320, 3), np.float32)})
    again = engine.run(feeds)
    assert all(np.isfinite(array).all() and np.array_equal(array, again[name]) for name, array in first.items())


@pytest.mark.parametrize(
    "name", ["mobilenet/mobilenet_v1_0.25_128_quant.tflite", "mlperf_tiny/kws_ref_model.tflite"], ids=["uint8", "int8"]
)
def test_public_model_answers_alike_through_both_interfaces(name: str) -> None:
    model = (assets_or_skip(name) / name).read_bytes()
    plain, compiled = LiteRtEngine(model), LiteRtCompiledEngine(model)
    (spec,) = plain.inputs
    bounds = np.iinfo(spec.dtype)
    feed = {spec.name: np.random.default_rng(2).integers(bounds.min, bounds.max + 1, spec.shape).astype(spec.dtype)}
    (expected,), (made,) = plain.run(feed).values(), compiled.run(feed).values()
    assert (plain.inputs, plain.outputs, made.tobytes()) == (compiled.inputs, compiled.outputs, expected.tobytes())


@pytest.mark.parametrize("kind", BOTH)
def test_name_that_is_not_utf_8_is_invalid_input(kind: Either) -> None:
    named = doubling_int8().replace(b"\x01\0\0\0y\0", b"\x01\0\0\0\x80\0")
    with pytest.raises(InvalidInput, match="cannot read this model's tensors"):
        kind(named)


def test_model_that_the_compiled_interface_finds_no_room_for_is_invalid_input() -> None:
    net = SmallLiteRt()
    x = net.tensor("x", [1, 4], dtype="int8", scale=0.5)
    y = net.tensor("y", [1, 4], dtype="int8", scale=1.0, zero_point=1_694_498_823)
    model = net.to_bytes([x], net.operator("ADD", [x, x], [y], schema.AddOptionsT()))
    with pytest.raises(InvalidInput, match="cannot make room for this model's tensors"):
        LiteRtCompiledEngine(model)
