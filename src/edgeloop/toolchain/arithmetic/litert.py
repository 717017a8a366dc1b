"""The products of a LiteRT file, from its flatbuffer: the operators before any delegate takes them over."""

import math
from dataclasses import dataclass
from typing import Any

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.arithmetic.product import Product

_UNCOUNTED = {
    "CUSTOM", "DELEGATE", "CALL", "CALL_ONCE", "IF", "WHILE", "CONV_3D", "CONV_3D_TRANSPOSE", "SVDF", "LSTM", "RNN",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_RNN", "STABLEHLO_DOT_GENERAL", "STABLEHLO_CONVOLUTION", "STABLEHLO_COMPOSITE",
}  # fmt: skip
"""Operators that multiply in ways that are not counted here."""

_UNSIGNED = {"uint8": "int8", "uint4": "int4", "uint16": "int16"}


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def litert_products(data: bytes) -> tuple[Product, ...] | None:
    """Of one inference. None if it holds operators or shapes that cannot be counted; InvalidInput if no LiteRT file."""
    if data[4:8] != b"TFL3":
        raise InvalidInput(f"this is no LiteRT model: bytes 4 to 8 are {data[4:8]!r}, expected b'TFL3'")
    schema = _schema()
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        return None
    graph = model.Subgraphs(0)
    operators = [_operator(schema, model, graph.Operators(index)) for index in range(graph.OperatorsLength())]
    if any(operator.name in _UNCOUNTED for operator in operators):
        return None
    shapes = _shapes(data)
    tensors = [_tensor(schema, graph.Tensors(index), shapes[index]) for index in range(graph.TensorsLength())]
    widened = _widened(operators, tensors)
    products = [_product(operator, tensors, widened) for operator in operators if operator.name in _COUNTED]
    return None if any(product.multiply_adds <= 0 for product in products) else tuple(products)


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise Unavailable(
            f"LiteRT is not installed here ({error}); install it with: pip install ai-edge-litert"
        ) from error
    return schema_py_generated


def _shapes(data: bytes) -> dict[int, tuple[int, ...]]:
    """As an interpreter finds them: in the file, those behind SPACE_TO_BATCH_ND (dilation) hold only at run time."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        with without_native_chatter():
            interpreter = Interpreter(
                model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidInput(f"LiteRT cannot load this model: {error}") from error
    return {int(one["index"]): tuple(int(size) for size in one["shape"]) for one in interpreter.get_tensor_details()}


def _tensor(schema: Any, found: Any, shape: tuple[int, ...]) -> _Tensor:
    names = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    dtype = names[found.Type()]
    return _Tensor(shape, _UNSIGNED.get(dtype, dtype))


def _operator(schema: Any, model: Any, found: Any) -> _Operator:
    code = model.OperatorCodes(found.OpcodeIndex())
    # Codes below 127 stand in the old one-byte field too; whichever is larger is meant (the schema says so).
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    return _Operator(
        names.get(number, "CUSTOM"),
        tuple(int(found.Inputs(index)) for index in range(found.InputsLength())),
        tuple(int(found.Outputs(index)) for index in range(found.OutputsLength())),
    )


def _widened(operators: list[_Operator], tensors: list[_Tensor]) -> dict[int, str]:
    """What each tensor was stored as that the graph widens to float before use."""
    return {
        operator.outputs[0]: tensors[operator.inputs[0]].dtype
        for operator in operators
        if operator.name == "DEQUANTIZE"
    }


def _product(operator: _Operator, tensors: list[_Tensor], widened: dict[int, str]) -> Product:
    count, activations, weights = _COUNTED[operator.name]
    taken = [tensors[index] if index >= 0 else _Tensor((), "float32") for index in operator.inputs]
    fed, stored = taken[activations], operator.inputs[weights]
    dtype = tensors[stored].dtype
    return Product(
        operator=operator.name.lower(),
        multiply_adds=count(taken, tensors[operator.outputs[0]]),
        activations=fed.dtype,
        weights=widened.get(stored, dtype),
        quantizes_as_it_goes=fed.dtype == "float32" and dtype in ("int8", "int4"),
    )


def _convolution(taken: list[_Tensor], made: _Tensor) -> int:
    """Each output value: one product for each weight of its filter. weights: (out, height, width, in)."""
    return math.prod(made.shape) * math.prod(taken[1].shape[1:])


def _depthwise(taken: list[_Tensor], made: _Tensor) -> int:
    """Each output value: one product for each place of its filter. weights: (1, height, width, out)."""
    return math.prod(made.shape) * math.prod(taken[1].shape[1:3])


def _dense(taken: list[_Tensor], made: _Tensor) -> int:
    """weights: (out, in)."""
    return math.prod(made.shape) * taken[1].shape[-1]


def _transposed(taken: list[_Tensor], _made: _Tensor) -> int:
    """Each input value goes through its whole filter. inputs: shape, weights (out, height, width, in), values."""
    return math.prod(taken[2].shape) * math.prod(taken[1].shape[:3])


def _matrices(taken: list[_Tensor], made: _Tensor) -> int:
    """The inner axis is what both factors have beside the rows and columns of the result, adjoint or not."""
    rows = made.shape[-2]
    first = taken[0].shape
    inner = first[-1] if first[-2] == rows else first[-2]
    return math.prod(made.shape) * inner


_COUNTED = {
    "CONV_2D": (_convolution, 0, 1),
    "DEPTHWISE_CONV_2D": (_depthwise, 0, 1),
    "FULLY_CONNECTED": (_dense, 0, 1),
    "TRANSPOSE_CONV": (_transposed, 2, 1),
    "BATCH_MATMUL": (_matrices, 0, 1),
}
"""Operator to its count and the places of activations and weights among its inputs."""
