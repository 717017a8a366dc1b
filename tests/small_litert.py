"""Small .tflite models written operator by operator, without a converter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}


class SmallLiteRt:
    """A graph in the making.

    net = SmallLiteRt()
    x = net.tensor("x", [1, 2])
    y = net.operator("ADD", [x, x], [net.tensor("y", [1, 2])], schema.AddOptionsT())
    net.to_bytes([x], y)
    """

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, "test"
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs, self.model.operatorCodes = [self.graph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: str = "float32",
        scale: float = 0.0,
        zero_point: int = 0,
        values: Any = None,
    ) -> int:
        """Add a tensor; an axis of -1 is free. Its number."""
        made = schema.TensorT()
        made.name, made.type = name, _TYPES[dtype]
        made.shape = [max(size, 1) for size in shape]
        if any(size < 0 for size in shape):
            made.shapeSignature = list(shape)
        if scale:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        made.buffer = 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(values, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> list[int]:
        """Add an operator of the builtin kind. Its outputs."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(made)
        return list(outputs)

    def to_bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = schema.flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def doubling_int8() -> bytes:
    """x (1, 4) int8 of scale 0.5, zero point -3 → y = x + x, int8 of scale 1.0, zero point 7."""
    net = SmallLiteRt()
    x = net.tensor("x", [1, 4], dtype="int8", scale=0.5, zero_point=-3)
    y = net.tensor("y", [1, 4], dtype="int8", scale=1.0, zero_point=7)
    return net.to_bytes([x], net.operator("ADD", [x, x], [y], schema.AddOptionsT()))


def dense(rows: int, size: int) -> bytes:
    """x (rows, size) → four fully connected layers of random weights → y (rows, size), float32."""
    rng = np.random.default_rng(0)
    net = SmallLiteRt()
    x = fed = net.tensor("x", [rows, size])
    for layer in range(4):
        weights = net.tensor(f"w{layer}", [size, size], values=rng.normal(0, size**-0.5, (size, size)))
        made = net.tensor(f"y{layer}", [rows, size])
        net.operator("FULLY_CONNECTED", [fed, weights], [made], schema.FullyConnectedOptionsT())
        fed = made
    return net.to_bytes([x], [fed])


def row_of(width: int) -> bytes:
    """x (1, 2) → y (1, 2 * width), whose width the graph computes while it runs: the file says (1, 1).

    y is x tiled; the number of tiles comes out of a sum that no converter has folded.
    """
    net = SmallLiteRt()
    x = net.tensor("x", [1, 2])
    zero = net.tensor("zero", [], values=0.0)
    axes = net.tensor("axes", [2], dtype="int32", values=[0, 1])
    nothing = net.tensor("nothing", [1, 2])
    total = net.tensor("total", [])
    whole = net.tensor("whole", [], dtype="int32")
    base = net.tensor("base", [2], dtype="int32", values=[1, width])
    tiles = net.tensor("tiles", [2], dtype="int32")
    y = net.tensor("y", [1, -1])
    net.operator("MUL", [x, zero], [nothing], schema.MulOptionsT())
    net.operator("SUM", [nothing, axes], [total], schema.ReducerOptionsT())
    net.operator("CAST", [total], [whole], schema.CastOptionsT())
    net.operator("ADD", [base, whole], [tiles], schema.AddOptionsT())
    return net.to_bytes([x], net.operator("TILE", [x, tiles], [y], schema.TileOptionsT()))


def places_of_zeros() -> bytes:
    """x (1, 4) bool → where (n, 2) int64: as many rows as x has zeros."""
    net = SmallLiteRt()
    x = net.tensor("x", [1, 4], dtype="bool")
    flipped = net.operator("LOGICAL_NOT", [x], [net.tensor("flipped", [1, 4], dtype="bool")])
    where = net.tensor("where", [-1, 2], dtype="int64")
    return net.to_bytes([x], net.operator("WHERE", flipped, [where], schema.WhereOptionsT()))


def flattened() -> bytes:
    """x (1, 2, 2) → y (1, 4): a reshape to exactly that, which takes no other batch."""
    net = SmallLiteRt()
    x = net.tensor("x", [1, 2, 2])
    shape = net.tensor("shape", [2], dtype="int32", values=[1, 4])
    return net.to_bytes([x], net.operator("RESHAPE", [x, shape], [net.tensor("y", [1, 4])], schema.ReshapeOptionsT()))


def into_one_row() -> bytes:
    """x (1, 2, 2) → y (1, -1): a batch would end up in one row."""
    net = SmallLiteRt()
    x = net.tensor("x", [1, 2, 2])
    shape = net.tensor("shape", [2], dtype="int32", values=[1, -1])
    return net.to_bytes([x], net.operator("RESHAPE", [x, shape], [net.tensor("y", [1, 4])], schema.ReshapeOptionsT()))
