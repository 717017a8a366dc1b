"""Models for the tests of serving: ones that take a batch, and one that takes its time."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from builders import SIDE_PX, Weights


def batchable_quadrants(weights: Weights) -> bytes:
    """`builders.onnx_model` with a free batch axis."""
    return _model(weights, _Work(), rows="N")


def wide_quadrants(weights: Weights, *, width: int, layers: int) -> bytes:
    """The same answers, after `layers` dense layers of `width` by `width` on each input of a batch.

    A single input reads all their weights for one multiplication each; a run of several reads them once for all.
    """
    return _model(weights, _dense(width, layers), rows="N")


def slow_quadrants(weights: Weights, *, work: int) -> bytes:
    """The same answers, after `work` multiplications of 128 by 128 matrices that depend on the input."""
    return _model(weights, _squares(work), rows=1)


def batchable_slow_quadrants(weights: Weights, *, work: int) -> bytes:
    """The same for each input of a batch: a run of several saves nothing."""
    return _model(weights, _squares_of_each(work), rows="N")


@dataclass(frozen=True)
class _Work:
    """What is computed beside the answer: from "pixels" to "worked", which is multiplied by "nothing" and added."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)


def _squares(count: int) -> _Work:
    nodes = [helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0)]
    nodes += [helper.make_node("Add", ["square", "mean"], ["work0"])]
    nodes += [helper.make_node("MatMul", [f"work{i}", "square"], [f"work{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("ReduceMean", [f"work{count}"], ["worked"], keepdims=0)]
    return _Work(nodes, [numpy_helper.from_array(np.eye(128, dtype=np.float32), "square")])


def _squares_of_each(count: int) -> _Work:
    constants = [
        numpy_helper.from_array(np.eye(128, dtype=np.float32), "square"),
        numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "each"),
        numpy_helper.from_array(np.array([-1, 1], np.int64), "column"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Reshape", ["mean", "each"], ["means"]),
        helper.make_node("Add", ["square", "means"], ["work0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"work{i}", "square"], [f"work{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("ReduceMean", [f"work{count}"], ["worked_each"], axes=[1, 2], keepdims=0)]
    nodes += [helper.make_node("Reshape", ["worked_each", "column"], ["worked"])]
    return _Work(nodes, constants)


def _dense(width: int, layers: int) -> _Work:
    rng = np.random.default_rng(0)
    shapes = [(SIDE_PX * SIDE_PX, width), *[(width, width)] * layers]
    nodes, constants, last = [], [], "pixels"
    for number, shape in enumerate(shapes):
        weights = rng.normal(0, np.sqrt(2 / shape[0]), shape).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"dense{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"dense{number}"], [f"sum{number}"]))
        nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"relu{number}"]))
        last = f"relu{number}"
    nodes.append(helper.make_node("ReduceMean", [last], ["worked"], axes=[1], keepdims=1))
    return _Work(nodes, constants)


def _model(weights: Weights, work: _Work, *, rows: str | int) -> bytes:
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
    if work.nodes:
        constants += [*work.constants, numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
        nodes += [
            *work.nodes,
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
