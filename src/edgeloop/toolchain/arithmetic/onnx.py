"""The products of an ONNX file, after shape inference at batch 1."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.toolchain.arithmetic.product import Product

_UNCOUNTED = {
    "LSTM", "GRU", "RNN", "Scan", "Loop", "If", "Einsum", "Attention", "MultiHeadAttention", "DeformConv", "QAttention",
    "SVMClassifier", "SVMRegressor", "LinearClassifier", "LinearRegressor", "TreeEnsemble", "TreeEnsembleClassifier",
    "TreeEnsembleRegressor", "FusedMatMul",
}  # fmt: skip
"""Operators that multiply in ways that are not counted here, or choose instead of multiplying."""

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_UNSIGNED = {"uint8": "int8", "uint4": "int4", "uint16": "int16"}

_CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_MATRICES = {
    "MatMul": (0, 1), "Gemm": (0, 1), "MatMulInteger": (0, 1), "DynamicQuantizeMatMul": (0, 1), "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
}  # fmt: skip
_TRANSPOSED = {"ConvTranspose": (0, 1)}
"""Operator to the places of activations and weights among its inputs."""

_PLACES = {**_CONVOLUTIONS, **_MATRICES, **_TRANSPOSED}


@dataclass(frozen=True)
class _Graph:
    """shapes, dtypes: by tensor name. widened: what each tensor was before DequantizeLinear or Cast. dynamic: tensors
    that DynamicQuantizeLinear made."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    widened: Mapping[str, str]
    dynamic: frozenset[str] = field(default=frozenset())


def onnx_products(data: bytes) -> tuple[Product, ...] | None:
    """Of one inference. None if it holds operators or shapes that cannot be counted; InvalidInput if no ONNX file."""
    onnx = _onnx()
    model = _inferred(onnx, data)
    nodes = model.graph.node
    if any(node.op_type in _UNCOUNTED or node.domain not in _DOMAINS for node in nodes):
        return None
    graph = _read(onnx, model)
    multiplying = [node for node in nodes if node.op_type in _PLACES]
    if not all(_is_known(node, graph) for node in multiplying):
        return None
    return tuple(_product(onnx, node, graph) for node in multiplying)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError as error:
        raise Unavailable(
            f"reading ONNX files needs onnx ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    return onnx


def _inferred(onnx: Any, data: bytes) -> Any:
    try:
        model = onnx.load_model_from_string(data)
        for value in (*model.graph.input, *model.graph.output):
            axes = value.type.tensor_type.shape.dim
            if axes and axes[0].dim_value == 0:
                axes[0].dim_value = 1
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (_protobuf_error(), onnx.shape_inference.InferenceError, ValueError) as error:
        raise InvalidInput(f"this is no sound ONNX model: {error}") from error


def _protobuf_error() -> type[Exception]:
    message = importlib.import_module("google.protobuf.message")
    return cast("type[Exception]", message.DecodeError)


def _read(onnx: Any, model: Any) -> _Graph:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        axes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if all(size > 0 for size in axes):
            shapes[value.name] = tuple(axes)
        dtypes[value.name] = _dtype(onnx, value.type.tensor_type.elem_type)
    for tensor in model.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        dtypes[tensor.name] = _dtype(onnx, tensor.data_type)
    widened = {
        node.output[0]: dtypes[node.input[0]]
        for node in model.graph.node
        if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in dtypes
    }
    dynamic = frozenset(node.output[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear")
    return _Graph(shapes, dtypes, widened, dynamic)


def _dtype(onnx: Any, number: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return _UNSIGNED.get(name, {"float": "float32", "double": "float64"}.get(name, name))


def _is_known(node: Any, graph: _Graph) -> bool:
    activations, weights = _PLACES[node.op_type]
    return all(name in graph.shapes for name in (node.input[activations], node.input[weights], node.output[0]))


def _product(onnx: Any, node: Any, graph: _Graph) -> Product:
    activations, weights = _PLACES[node.op_type]
    fed, stored = node.input[activations], node.input[weights]
    as_it_goes = fed in graph.dynamic or node.op_type == "DynamicQuantizeMatMul"
    return Product(
        operator=node.op_type,
        multiply_adds=_count(onnx, node, graph.shapes),
        activations="float32" if as_it_goes else graph.widened.get(fed, graph.dtypes[fed]),
        weights=graph.widened.get(stored, graph.dtypes[stored]),
        quantizes_as_it_goes=as_it_goes,
    )


def _count(onnx: Any, node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    activations, weights = _PLACES[node.op_type]
    fed, stored, made = shapes[node.input[activations]], shapes[node.input[weights]], shapes[node.output[0]]
    if node.op_type in _TRANSPOSED:  # weights: (in, out / groups, ...): each input value goes through its filter
        return math.prod(fed) * math.prod(stored[1:])
    if node.op_type in _CONVOLUTIONS:  # weights: (out, in / groups, ...): each output value sums over its filter
        return math.prod(made) * math.prod(stored[1:])
    flags = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    inner = fed[0] if flags.get("transA") else fed[-1]
    return math.prod(made) * inner
