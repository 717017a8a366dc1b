"""Small ONNX models that tests quantize and convert, with seeded weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17


def convnet() -> bytes:
    """image (1, 1, 8, 8) → conv, batch normalisation, relu, pool, dense → scores (1, 10); float32, 150 KB."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(0, 0.3, (32, 1, 3, 3)),
        "gamma": rng.uniform(0.5, 1.5, 32),
        "beta": rng.normal(0, 0.1, 32),
        "mean": rng.normal(0, 0.1, 32),
        "var": rng.uniform(0.5, 1.5, 32),
        "w2": rng.normal(0, 0.1, (64, 32, 3, 3)),
        "b2": rng.normal(0, 0.1, 64),
        "w3": rng.normal(0, 0.05, (1024, 16)),
        "w4": rng.normal(0, 0.3, (16, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"], "norm"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("MaxPool", ["r2"], ["p2"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w3"], ["m3"], "dense"),
        helper.make_node("Relu", ["m3"], ["r3"], "relu3"),
        helper.make_node("MatMul", ["r3", "w4"], ["scores"], "last"),
    ]
    return _model(nodes, {"image": [1, 1, 8, 8]}, {"scores": [1, 10]}, weights)


def dense(weights: NDArray[np.floating]) -> bytes:
    """x (1, n) → x @ weights → y (1, m), one node "dense"."""
    rows, columns = weights.shape
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "dense")
    return _model([node], {"x": [1, rows]}, {"y": [1, columns]}, {"w": weights})


def two_in_two_out() -> bytes:
    """a, b (1, 64) → a @ w and relu(b @ w) → left, right (1, 64)."""
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["left"], "one"),
        helper.make_node("MatMul", ["b", "w"], ["m"], "two"),
        helper.make_node("Relu", ["m"], ["right"], "relu"),
    ]
    weights = {"w": np.random.default_rng(3).normal(0, 0.2, (64, 64))}
    return _model(nodes, {"a": [1, 64], "b": [1, 64]}, {"left": [1, 64], "right": [1, 64]}, weights)


def without_weights() -> bytes:
    """x (1, 4) → x + x."""
    return _model([helper.make_node("Add", ["x", "x"], ["y"], "add")], {"x": [1, 4]}, {"y": [1, 4]}, {})


def only_elementwise() -> bytes:
    """x (1, 4096) → w ** tan(x): weights, but none that an engine quantizes by themselves."""
    weights = {"w": np.random.default_rng(5).uniform(1, 2, size=(1, 4096))}
    return _model(
        [helper.make_node("Tan", ["x"], ["t"], "tan"), helper.make_node("Pow", ["w", "t"], ["y"], "power")],
        {"x": [1, 4096]},
        {"y": [1, 4096]},
        weights,
    )


def images(count: int) -> NDArray[np.float32]:
    """Inputs for convnet, (count, 1, 8, 8): each a bright spot on noise, so that scores differ."""
    rng = np.random.default_rng(11)
    made = rng.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for at in range(count):
        row, column = rng.integers(0, 6, 2)
        made[at, 0, row : row + 3, column : column + 3] += 1.5
    return made


def _model(
    nodes: list[Any], inputs: dict[str, list[int]], outputs: dict[str, list[int]], weights: dict[str, NDArray[Any]]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 8
    return bytes(model.SerializeToString())
