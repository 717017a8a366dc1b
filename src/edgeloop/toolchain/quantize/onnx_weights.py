"""Weights alone stored in integers: each weight tensor becomes integers and a DequantizeLinear, computed in float.

Neighbours: `formulas` has the arithmetic, `onnx` chooses this for the precisions that end in _weights.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.quantize.formulas import channel_range, quantize, scale_and_zero
from edgeloop.toolchain.quantize.onnx_graph import WEIGHTED, float_weights, raised
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe
from edgeloop.toolchain.source.onnx import import_onnx

_FIRST_OPSET = {8: 13, 4: 21}
"""The ONNX version in which DequantizeLinear takes integers of so many bits, with a scale for each channel."""


def quantize_weights(ready: Any, recipe: QuantizeRecipe, *, bits: int, keep: Collection[str]) -> Any:
    """A model whose weights are integers of 8 or 4 bits. keep: names of nodes whose weights stay float.

    Weights that a kept node shares stay float too. The scale's axis is the output channel's.
    """
    ready = raised(ready, _FIRST_OPSET[bits])
    weights = float_weights(ready)
    axes = _channel_axes(ready, weights, keep)
    for name, axis in axes.items():
        _store(ready, name, weights[name], axis if recipe.granularity is Granularity.CHANNEL else None, recipe, bits)
    kept = [one for one in ready.graph.initializer if one.name not in axes]
    del ready.graph.initializer[:]
    ready.graph.initializer.extend(kept)
    return ready


def _channel_axes(ready: Any, weights: dict[str, NDArray[np.float32]], keep: Collection[str]) -> dict[str, int]:
    """The axis of output channels of each weight tensor that may be stored in integers."""
    axes = {}
    refused: set[str] = set()
    for node in ready.graph.node:
        at = WEIGHTED.get(node.op_type)
        for index, name in enumerate(node.input):
            if name not in weights:
                continue
            if index != at or node.name in keep or weights[name].ndim < 2:
                refused.add(name)
            else:
                axes[name] = _channel_axis(node, weights[name].ndim)
    return {name: axis for name, axis in axes.items() if name not in refused}


def _channel_axis(node: Any, ndim: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return ndim - 1


def _store(
    ready: Any, name: str, values: NDArray[np.float32], axis: int | None, recipe: QuantizeRecipe, bits: int
) -> None:
    onnx = import_onnx()
    low, high = channel_range(values, axis)
    # As the file stores it: what a device multiplies by is this float32, not the float64 before it.
    scale, zero_point = scale_and_zero(low, high, bits=bits, symmetry=recipe.weights)
    scale = scale.astype(np.float32)
    stored = quantize(values, scale, zero_point, bits=bits, symmetry=recipe.weights)
    kind = onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4
    shape = [] if axis is None else [scale.size]

    def constant(what: str, array: NDArray[Any], of: int, dims: Any) -> str:
        called = f"{name}_{what}"
        raw = _packed(array) if of == onnx.TensorProto.INT4 else array.tobytes()
        ready.graph.initializer.append(onnx.helper.make_tensor(called, of, dims, raw, raw=True))
        return called

    inputs = [
        constant("integers", stored.astype(np.int8), kind, values.shape),
        constant("scale", scale, onnx.TensorProto.FLOAT, shape),
        constant("zero", zero_point.astype(np.int8), kind, shape),
    ]
    attributes = {} if axis is None else {"axis": axis}
    node = onnx.helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dequantize", **attributes)
    ready.graph.node.insert(0, node)


def _packed(integers: NDArray[np.int8]) -> bytes:
    """Two a byte, the first one in the lower half. Source: ONNX, "4 bit integer types"."""
    halves = np.append(integers.ravel(), np.zeros(integers.size % 2, np.int8)).astype(np.uint8) & 0x0F
    return (halves[0::2] | (halves[1::2] << 4)).tobytes()
