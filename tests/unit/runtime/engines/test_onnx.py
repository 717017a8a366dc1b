import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.runtime.engines.onnx import OnnxEngine


def _model(nodes: list[Any], shape: list[Any], *, kind: int = TensorProto.FLOAT, constants: Any = ()) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_free_leading_axis_is_taken_as_batch_one() -> None:
    engine = OnnxEngine(_model([helper.make_node("Neg", ["x"], ["y"])], ["batch", 2]))
    assert engine.inputs[0].shape == (1, 2)


def test_model_with_a_free_leading_axis_runs() -> None:
    engine = OnnxEngine(_model([helper.make_node("Neg", ["x"], ["y"])], ["batch", 2]))
    assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[-1.0, -1.0]]


def _two_shapes(nodes: list[Any], shape: list[Any], out: list[Any]) -> bytes:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, out)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_output_s_free_axes_are_declared_as_they_come_out() -> None:
    engine = OnnxEngine(_two_shapes([helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])], ["n", 3], ["a", "b"]))
    assert (engine.outputs[0].shape, engine.run({"x": np.ones((1, 3), np.float32)})["y"].shape) == ((3, 1), (3, 1))


def test_batch_of_a_model_with_a_fixed_first_axis_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"cannot take 4 at a time.*free first axis"):
        OnnxEngine(_model([helper.make_node("Neg", ["x"], ["y"])], [1, 2]), batch=4)


def test_batch_that_the_output_does_not_have_is_refused() -> None:
    flat = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    with pytest.raises(InvalidInput, match=r"output 'y' would be \(1, 1\)"):
        OnnxEngine(_two_shapes([flat], ["n", 3], ["m", 1]), batch=4)


def test_output_that_is_not_as_declared_is_refused_and_not_cut() -> None:
    # One row for each positive number: as many as the input has, which no declaration knows.
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["i"])]
    nodes += [helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    engine = OnnxEngine(_two_shapes(nodes, [1, 4], [2, "n"]))
    with pytest.raises(EdgeloopError):
        engine.run({"x": np.ones((1, 4), np.float32)})


def test_free_axis_in_the_middle_is_refused() -> None:
    with pytest.raises(InvalidInput, match="free axes"):
        OnnxEngine(_model([helper.make_node("Neg", ["x"], ["y"])], [1, "n"]))


def test_tensor_type_that_edgeloop_does_not_run_is_refused() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    with pytest.raises(InvalidInput, match="bool"):
        OnnxEngine(_model([node], [1, 2], kind=TensorProto.BOOL))


def test_unknown_operator_is_refused() -> None:
    with pytest.raises(InvalidInput):
        OnnxEngine(_model([helper.make_node("Frobnicate", ["x"], ["y"])], [1, 2]))


def test_model_that_fails_while_it_runs_raises_one_of_our_errors() -> None:
    table = numpy_helper.from_array(np.zeros(3, np.float32), "table")
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    engine = OnnxEngine(_model([node], [1], kind=TensorProto.INT64, constants=[table]))
    with pytest.raises(EdgeloopError):
        engine.run({"x": np.array([7], np.int64)})


def test_loading_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    code = (
        "from edgeloop.runtime.engines.find import EngineName, probe_engine; "
        "print(probe_engine(EngineName.ONNXRUNTIME))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.stdout.strip(), done.stderr, list(tmp_path.rglob("*onnxruntime*"))) == ("None", "", [])


def _products(*results: str) -> bytes:
    """The largest sums that uint8 times int8 can come to, 64 products each; each result has a node of its own."""
    info, count = helper.make_tensor_value_info, 64
    nodes = [
        node
        for name in results
        for node in (
            helper.make_node("MatMulInteger", ["x", "w"], [f"{name}_sum"]),
            helper.make_node("Cast", [f"{name}_sum"], [name], to=TensorProto.FLOAT),
        )
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.UINT8, [1, count])],
        [info(name, TensorProto.FLOAT, [1, 1]) for name in results],
        [numpy_helper.from_array(np.full((count, 1), 127, np.int8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_sums_of_bytes_do_not_overflow() -> None:
    """On x86 without VNNI they came to half of it."""
    engine = OnnxEngine(_products("y"))
    assert engine.run({"x": np.full((1, 64), 255, np.uint8)})["y"].tolist() == [[255 * 127 * 64]]


def test_weight_that_two_nodes_share_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    """Without VNNI only, ONNX Runtime cannot widen it."""
    assert {spec.name for spec in OnnxEngine(_products("y", "z")).outputs} == {"y", "z"}
    assert capfd.readouterr() == ("", "")
