"""Models for the tests of serving: one that takes a batch, and one that takes its time."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from builders import SIDE_PX, Weights


def batchable_quadrants(weights: Weights) -> bytes:
    """`builders.onnx_model` with a free batch axis."""
    return _model(weights, work=0, rows="N")


def slow_quadrants(weights: Weights, *, work: int) -> bytes:
    """The same answers, after `work` multiplications of 128 by 128 matrices that depend on the input."""
    return _model(weights, work=work, rows=1)


def _model(weights: Weights, *, work: int, rows: str | int) -> bytes:
    width, labels = weights.to_logits.shape
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "to_features"], ["features"]),
        helper.make_node("Gemm", ["features", "to_logits", "bias"], ["decided"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, SIDE_PX * SIDE_PX], np.int64), "flat"),
        numpy_helper.from_array(weights.to_features, "to_features"),
        numpy_helper.from_array(weights.to_logits, "to_logits"),
        numpy_helper.from_array(weights.bias, "bias"),
    ]
    if work:
        constants += [
            numpy_helper.from_array(np.eye(128, dtype=np.float32), "square"),
            numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
        ]
        nodes += [helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0)]
        nodes += [helper.make_node("Add", ["square", "mean"], ["work0"])]
        nodes += [helper.make_node("MatMul", [f"work{i}", "square"], [f"work{i + 1}"]) for i in range(work)]
        nodes += [
            helper.make_node("ReduceMean", [f"work{work}"], ["worked"], keepdims=0),
            helper.make_node("Mul", ["worked", "nothing"], ["zero"]),
            helper.make_node("Add", ["decided", "zero"], ["logits"]),
        ]
    else:
        nodes += [helper.make_node("Identity", ["decided"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "serving",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [rows, SIDE_PX, SIDE_PX, 1])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, labels]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, width]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))
