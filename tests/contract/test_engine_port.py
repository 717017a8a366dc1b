"""One suite over every implementation of runtime.engines.port.Engine, on a model that answers y = x + x.

Every engine comes through each of its interfaces. What needs more than that model (batches, weights) builds the same
graph for each engine beside it.
"""

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.openvino import import_openvino, pack_ir
from edgeloop.runtime.engines.port import MOST_THREADS, Engine, Setting
from edgeloop.runtime.engines.probe import probe_model
from edgeloop.runtime.engines.settings import INTERFACES, is_parallel
from small_litert import dense

WARM_UP_ROUNDS = 20
ROUNDS = 200
STRETCHES = 3
MOST_GROWTH_BYTES = 2 * 1024 * 1024


class Kind(NamedTuple):
    """An engine through one of its interfaces."""

    name: EngineName
    interface: str

    def load(self, model: bytes | None = None, *, threads: int = 1, batch: int = 1) -> Engine:
        setting = Setting(threads=threads, interface=self.interface)
        return load_engine(self.name, probe_model(self.name) if model is None else model, setting=setting, batch=batch)


KINDS = [Kind(name, interface) for name in EngineName for interface in INTERFACES[name] or ("",)]
GARBAGE = [
    b"",
    b"x",
    b"this is no model at all",
    bytes(64),
    b"\x1c\0\0\0TFL3",
    b"\x1c\0\0\0TFL3" + bytes(100),
    b"\xff" * 200,
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind).rstrip("-"))
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(*request.param)


@pytest.fixture
def engine(kind: Kind) -> Iterator[Engine]:
    loaded = kind.load()
    yield loaded
    loaded.close()


def _feed(engine: Engine, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {engine.inputs[0].name: array}


def _answer(engine: Engine, array: NDArray[Any]) -> NDArray[Any]:
    (answer,) = engine.run(_feed(engine, array)).values()
    return answer


def _row(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


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


def test_answer_outlives_the_engine(kind: Kind) -> None:
    engine = kind.load()
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
def test_bytes_that_are_no_model_are_invalid_input(kind: Kind, model: bytes) -> None:
    with pytest.raises(InvalidInput):
        kind.load(model)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_model_is_invalid_input(kind: Kind, share: float) -> None:
    model = probe_model(kind.name)
    with pytest.raises(InvalidInput):
        kind.load(model[: int(share * len(model))])


@pytest.mark.parametrize("other", list(EngineName))
def test_model_of_another_engine_is_invalid_input(kind: Kind, other: EngineName) -> None:
    if other is kind.name:
        kind.load(probe_model(other)).close()
        return
    with pytest.raises(InvalidInput):
        kind.load(probe_model(other))


def test_closing_twice_is_no_error(engine: Engine) -> None:
    engine.close()
    engine.close()


def test_running_after_close_is_invalid_input(engine: Engine) -> None:
    engine.close()
    with pytest.raises(InvalidInput, match="closed"):
        engine.run(_feed(engine, _row(1, 2)))


def test_two_engines_of_one_model_do_not_disturb_each_other(kind: Kind, engine: Engine) -> None:
    other = kind.load()
    first = _answer(engine, _row(1, 2))
    _answer(other, _row(5, 6))
    other.close()
    assert (first.tolist(), _answer(engine, _row(3, 4)).tolist()) == ([[2.0, 4.0]], [[6.0, 8.0]])


def test_number_of_threads_does_not_change_the_answer(kind: Kind) -> None:
    engine = kind.load(threads=2)
    answer = _answer(engine, _row(1, 2))
    engine.close()
    assert answer.tolist() == [[2.0, 4.0]]


def test_what_an_engine_raises_on_garbage_says_what_to_do(kind: Kind) -> None:
    with pytest.raises(EdgeloopError) as caught:
        kind.load(b"garbage!")
    assert "model" in str(caught.value)


def test_there_is_one_buffer_for_each_input_of_its_shape_and_dtype(engine: Engine) -> None:
    assert [(b.shape, b.dtype.name) for b in engine.buffers] == [(spec.shape, spec.dtype) for spec in engine.inputs]


def test_buffers_are_contiguous_and_writable(engine: Engine) -> None:
    assert all(b.flags.c_contiguous and b.flags.writeable and b.flags.aligned for b in engine.buffers)


def test_invoke_takes_what_lies_in_the_buffers(engine: Engine) -> None:
    engine.buffers[0][:] = [[1.5, -2]]
    assert engine.invoke()[0].tolist() == [[3.0, -4.0]]


def test_invoke_answers_in_the_order_and_form_of_the_outputs(engine: Engine) -> None:
    made = engine.invoke()
    assert [(m.shape, m.dtype.name) for m in made] == [(spec.shape, spec.dtype) for spec in engine.outputs]


def test_invoke_answers_as_run_does(engine: Engine) -> None:
    ran = _answer(engine, _row(0.1, 0.7))
    engine.buffers[0][:] = _row(0.1, 0.7)
    assert engine.invoke()[0].tobytes() == ran.tobytes()


def test_buffers_stay_the_same_over_runs(engine: Engine) -> None:
    first, where = engine.buffers[0], engine.buffers[0].__array_interface__["data"]
    for value in range(5):
        _answer(engine, _row(value, 1))
    assert (engine.buffers[0] is first, first.__array_interface__["data"]) == (True, where)


def test_invoke_leaves_the_buffers_as_they_were(engine: Engine) -> None:
    engine.buffers[0][:] = [[1, 2]]
    engine.invoke()
    assert engine.buffers[0].tolist() == [[1.0, 2.0]]


def test_answers_of_invoke_are_overwritten_by_the_next(engine: Engine) -> None:
    engine.buffers[0][:] = [[1, 2]]
    (first,) = engine.invoke()
    engine.buffers[0][:] = [[5, 6]]
    engine.invoke()
    assert first.tolist() == [[10.0, 12.0]]


def test_invoking_after_close_is_invalid_input(engine: Engine) -> None:
    engine.close()
    with pytest.raises(InvalidInput, match="closed"):
        engine.invoke()


def test_buffer_that_is_kept_too_long_is_still_memory_of_ours(kind: Kind) -> None:
    engine = kind.load()
    (kept,), (answer,) = engine.buffers, engine.invoke()
    engine.close()
    del engine
    gc.collect()
    kept[:] = 7  # ends the process if this was freed and unmapped
    assert (kept.tolist(), answer.shape) == ([[7.0, 7.0]], (1, 2))


@pytest.mark.parametrize(
    "setting",
    [Setting(threads=0), Setting(threads=-1), Setting(threads=MOST_THREADS + 1), Setting(interface="telepathy")],
    ids=str,
)
def test_setting_that_no_engine_has_is_invalid_input(kind: Kind, setting: Setting) -> None:
    with pytest.raises(InvalidInput):
        load_engine(kind.name, probe_model(kind.name), setting=setting)


def test_accelerator_that_is_not_here_is_one_of_our_errors(kind: Kind) -> None:
    setting = Setting(interface=kind.interface, accelerator="no-such-accelerator")
    with pytest.raises(EdgeloopError, match="no-such-accelerator"):
        load_engine(kind.name, probe_model(kind.name), setting=setting)


def _free_onnx(nodes: list[Any], rows: Any, columns: int, constants: list[Any]) -> bytes:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [rows, columns])],
        [info("y", TensorProto.FLOAT, [rows, columns])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _doubling(name: EngineName) -> bytes:
    """The probe, with a free first axis where the engine needs one for other batches."""
    if name is EngineName.ONNXRUNTIME:
        return _free_onnx([helper.make_node("Add", ["x", "x"], ["y"])], "batch", 2, [])
    return probe_model(name)


@pytest.mark.parametrize("batch", [2, 5])
def test_batch_becomes_the_leading_axis(kind: Kind, batch: int) -> None:
    engine = kind.load(_doubling(kind.name), batch=batch)
    rows = np.arange(2 * batch, dtype=np.float32).reshape(batch, 2)
    answer = _answer(engine, rows)
    assert (engine.inputs[0].shape, engine.outputs[0].shape, answer.tolist()) == (
        (batch, 2),
        (batch, 2),
        (2 * rows).tolist(),
    )


@pytest.mark.parametrize("batch", [0, -1])
def test_batch_below_one_is_invalid_input(kind: Kind, batch: int) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        kind.load(batch=batch)


def _weights(size: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, size**-0.5, (size, size)).astype(np.float32) for _ in range(4)]


def _dense(name: EngineName, rows: int, size: int) -> bytes:
    """x (rows, size) through four dense layers, for any engine."""
    if name is EngineName.LITERT:
        return dense(rows, size)
    if name is EngineName.ONNXRUNTIME:
        nodes = [
            helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}" if i < 3 else "y"])
            for i in range(4)
        ]
        return _free_onnx(
            nodes, rows, size, [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(_weights(size))]
        )
    return _dense_openvino(rows, size)


def _dense_openvino(rows: int, size: int) -> bytes:
    openvino = import_openvino()
    ops = openvino.opset13
    x = made = ops.parameter(openvino.PartialShape([rows, size]), openvino.Type.f32, name="x")
    x.output(0).set_names({"x"})
    for weights in _weights(size):
        made = ops.matmul(made, ops.constant(weights), False, False)
    made.output(0).set_names({"y"})
    with TemporaryDirectory() as folder:
        xml, data = Path(folder, "net.xml"), Path(folder, "net.bin")
        openvino.serialize(openvino.Model([ops.result(made)], [x], "net"), xml, data)
        return pack_ir(xml.read_bytes(), data.read_bytes())


def test_loading_and_unloading_leaves_no_memory_behind(kind: Kind) -> None:
    model = _dense(kind.name, 1, 64)
    process = psutil.Process()

    def rounds(count: int) -> int:
        for _ in range(count):
            loaded = kind.load(model)
            loaded.invoke()
            loaded.close()
        gc.collect()
        return int(process.memory_info().rss)

    # Measured: 0.12 MB at most, allocators' slack; once, in a process that had run all the engines, 3.6 MB that came
    # but one time. What leaks, leaks in every stretch: a copy of the weights (64 KB) kept each round would be 13 MB of
    # each; the bound finds 10 KB a round.
    before = rounds(WARM_UP_ROUNDS)
    growth: list[int] = []
    while len(growth) < STRETCHES and min(growth, default=MOST_GROWTH_BYTES) >= MOST_GROWTH_BYTES:
        after = rounds(ROUNDS)
        growth.append(after - before)
        before = after
    assert min(growth) < MOST_GROWTH_BYTES, growth


def test_engine_dropped_without_close_is_freed_at_once(kind: Kind) -> None:
    gc.collect()
    gc.disable()  # a cycle would keep the native model until the collector comes by
    try:
        engine = kind.load()
        engine.invoke()
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_engines_on_two_threads_answer_their_own_inputs(kind: Kind) -> None:
    wrong: list[list[float]] = []

    def work(value: float) -> None:
        engine = kind.load()
        for step in range(200):
            answer = _answer(engine, _row(value, step))
            if answer.tolist() != [[2 * value, 2 * step]]:
                wrong.append(answer.tolist())
        engine.close()

    threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 1000.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_threads_run_meanwhile_where_the_engine_says_so(kind: Kind) -> None:
    # A thread that Python never interrupts lets another one in only while it waits outside Python's global lock.
    engine = kind.load(_dense(kind.name, 64, 128))
    order: list[str] = []

    def work() -> None:
        for _ in range(50):
            engine.invoke()
        order.append("engine")

    interval_s = sys.getswitchinterval()
    thread = threading.Thread(target=work)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        order.append("another")
        thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    expected = "another" if is_parallel(kind.name, Setting(interface=kind.interface)) else "engine"
    assert order[0] == expected
