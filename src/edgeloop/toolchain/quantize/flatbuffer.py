"""A .tflite file as a graph that can be read and edited: its operators, its constants, what cannot be quantized.

Neighbours: `litert` quantizes it, `activations` runs it tensor by tensor, `bias` edits its constants.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused, Unavailable

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operators with a weight tensor."""

CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""The weights' axis that counts output channels. Source: LiteRT's 8-bit quantization specification."""

FOUR_BIT_KINDS = ("CONV_2D", "FULLY_CONNECTED")
"""Operators that LiteRT has kernels with 4-bit weights for."""

# An operator that remembers between calls has no range that calibration could show.
_STATEFUL = (
    "ASSIGN_VARIABLE",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_RNN",
    "CALL_ONCE",
    "HASHTABLE",
    "LSTM",
    "READ_VARIABLE",
    "RNN",
    "SVDF",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
    "VAR_HANDLE",
)
_QUANTIZERS = ("QUANTIZE", "DEQUANTIZE", "FAKE_QUANT")
_MULTINOMIAL = ("MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM")


@dataclass(frozen=True)
class Operator:
    """One operator. kind: as the schema calls it. inputs, outputs: tensor indices, -1 for none.

    scope: the names of its outputs; constants: those of its weights, which bear the layer's name where an output of
    the model does not.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: str
    constants: str = ""

    @property
    def name(self) -> str:
        """For people: the first of the fused names of its first output."""
        return self.scope.split(";")[0]

    def is_called(self, name: str, *, counted: bool = False) -> bool:
        """Whether `name` is a path part of any fused name of its outputs or weights: a Keras layer's name, say.

        counted: a part may have a number more behind it.
        """
        pattern = re.compile(re.escape(name) + (r"_\d+" if counted else ""))
        parts = f"{self.scope};{self.constants}".replace(";", "/").split("/")
        return any(pattern.fullmatch(part) for part in parts)


class Graph:
    """The main graph of a .tflite file. Raises Corrupt if the bytes cannot be read as one."""

    def __init__(self, data: bytes) -> None:
        self._tools = _tools()
        if data[4:8] != b"TFL3":
            raise Corrupt(f"this is no LiteRT model: bytes 4 to 8 are {data[4:8]!r}, expected b'TFL3'")
        self._model = self._tools.read_model_from_bytearray(bytearray(data))
        self._main = self._model.subgraphs[0]
        # The quantizer goes through the signatures, where old files have no list of them.
        self._model.signatureDefs = self._model.signatureDefs or []
        for code in self._model.operatorCodes:
            # Files of before 2021 keep the code in an older field; the quantizer would read them all as ADD.
            code.builtinCode = self._tools.get_builtin_code_from_operator_code(code)
        self.operators = tuple(self._operator(index, one) for index, one in enumerate(self._main.operators))

    @property
    def subgraphs(self) -> int:
        """How many graphs the file has: control flow brings its own."""
        return len(self._model.subgraphs)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Tensor indices of the model's inputs."""
        return tuple(int(index) for index in self._main.inputs)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Tensor indices of the model's outputs."""
        return tuple(int(index) for index in self._main.outputs)

    def name(self, tensor: int) -> str:
        """What a tensor is called."""
        return str(self._main.tensors[tensor].name.decode())

    def dtype(self, tensor: int) -> str:
        """A tensor's type: FLOAT32, INT8, ..."""
        return str(self._tools.type_to_name(self._main.tensors[tensor].type))

    def axes(self, tensor: int) -> int:
        """How many axes a tensor has."""
        shape = self._main.tensors[tensor].shape
        return 0 if shape is None else len(shape)

    def last_axis(self, tensor: int) -> int:
        """How long a tensor's last axis is."""
        return int(self._main.tensors[tensor].shape[-1])

    def is_constant(self, tensor: int) -> bool:
        """Whether a tensor's values stand in the file."""
        return self._model.buffers[self._main.tensors[tensor].buffer].data is not None

    def is_scaled(self, tensor: int) -> bool:
        """Whether a tensor stands for real values by scale and zero point."""
        quantization = self._main.tensors[tensor].quantization
        return quantization is not None and quantization.scale is not None and len(quantization.scale) > 0

    def is_variable(self, tensor: int) -> bool:
        """Whether a tensor lives on between calls."""
        return bool(self._main.tensors[tensor].isVariable)

    def activations(self) -> tuple[int, ...]:
        """The float tensors that are computed or fed, in order."""
        fed = set(self.inputs)
        made = {index for one in self.operators for index in one.outputs if index >= 0}
        return tuple(
            index for index in sorted(fed | made) if self.dtype(index) == "FLOAT32" and not self.is_constant(index)
        )

    def constant(self, tensor: int) -> NDArray[np.float32]:
        """A float constant's values. Raises InvalidInput if it is none."""
        if not self.is_constant(tensor) or self.dtype(tensor) != "FLOAT32":
            raise InvalidInput(f"tensor {self.name(tensor)!r} is no float constant but {self.dtype(tensor)}")
        shape = self._main.tensors[tensor].shape
        return np.frombuffer(self._buffer(tensor), np.float32).reshape(() if shape is None else tuple(shape)).copy()

    def set_constant(self, operator: Operator, position: int, values: NDArray[np.float32]) -> None:
        """Give one operator its own constant at an input, without a change to others that share the present one."""
        tensor = operator.inputs[position]
        if self._users(tensor) > 1:
            tensor = self._copy_for(operator, position)
        found = self._main.tensors[tensor]
        if sum(one.buffer == found.buffer for one in self._main.tensors) > 1:
            self._model.buffers.append(type(self._model.buffers[0])())
            found.buffer = len(self._model.buffers) - 1
        packed = np.ascontiguousarray(values, np.float32).tobytes()
        self._model.buffers[found.buffer].data = np.frombuffer(packed, np.uint8)

    def _users(self, tensor: int) -> int:
        return sum(list(one.inputs).count(tensor) for one in self.operators)

    def _copy_for(self, operator: Operator, position: int) -> int:
        shared = operator.inputs[position]
        own = copy.copy(self._main.tensors[shared])
        own.name = f"{self.name(shared)}/of_{operator.index}".encode()
        self._main.tensors.append(own)
        inputs = list(operator.inputs)
        inputs[position] = len(self._main.tensors) - 1
        found = self._main.operators[operator.index]
        found.inputs = inputs
        operators = list(self.operators)
        operators[operator.index] = self._operator(operator.index, found)
        self.operators = tuple(operators)
        return inputs[position]

    def point_signatures_like(self, before: "Graph") -> None:
        """Let each name of a signature mean the input or output at the place where it meant one in `before`.

        The quantizer adds tensors where float and integers meet, and leaves the names on the old ones.
        """
        for mine, theirs in zip(self._model.signatureDefs, before._model.signatureDefs, strict=True):
            for found, old in zip(mine.inputs, theirs.inputs, strict=True):
                found.tensorIndex = self.inputs[before.inputs.index(int(old.tensorIndex))]
            for found, old in zip(mine.outputs, theirs.outputs, strict=True):
                found.tensorIndex = self.outputs[before.outputs.index(int(old.tensorIndex))]

    def restore_float(self) -> None:
        """Turn 8-bit weights that float activations are multiplied with back into the float values they stand for.

        Raises Refused if weights are stored in any other form.
        """
        for index in {index for one in self.operators for index in one.inputs if index >= 0}:
            if not (self.is_constant(index) and self.is_scaled(index)):
                continue
            if self.dtype(index) != "INT8":
                raise Refused(
                    f"tensor {self.name(index)!r} is quantized already, to {self.dtype(index)}; "
                    "quantize the float model that this one was made from"
                )
            self._restore(index)

    def to_bytes(self) -> bytes:
        """The file."""
        return bytes(self._tools.convert_object_to_bytearray(self._model))

    def _restore(self, tensor: int) -> None:
        found = self._main.tensors[tensor]
        stored = np.frombuffer(self._buffer(tensor), np.int8).reshape(tuple(found.shape)).astype(np.float32)
        scales = np.asarray(found.quantization.scale, np.float32)
        zeros = np.asarray(found.quantization.zeroPoint, np.float32)
        shape = [1] * stored.ndim
        if len(scales) > 1:
            shape[found.quantization.quantizedDimension] = len(scales)
        real = (stored - zeros.reshape(shape if len(zeros) > 1 else [1] * stored.ndim)) * scales.reshape(shape)
        self._model.buffers[found.buffer].data = np.frombuffer(real.astype(np.float32).tobytes(), np.uint8)
        found.type = _FLOAT32
        found.quantization = None

    def _buffer(self, tensor: int) -> bytes:
        return bytes(self._model.buffers[self._main.tensors[tensor].buffer].data)

    def _operator(self, index: int, found: Any) -> Operator:
        code = self._model.operatorCodes[found.opcodeIndex]
        kind = str(self._tools.opcode_to_name(self._model, found.opcodeIndex))
        if kind == "CUSTOM" and code.customCode is not None:
            kind = f"CUSTOM {code.customCode.decode()}"
        outputs = tuple(int(one) for one in found.outputs)
        scope = ";".join(self.name(one) for one in outputs if one >= 0)
        inputs = () if found.inputs is None else tuple(int(one) for one in found.inputs)
        constants = ";".join(self.name(one) for one in inputs if one >= 0 and self.is_constant(one))
        return Operator(index, kind, inputs, outputs, scope, constants)


_FLOAT32 = 0


def open_float(data: bytes) -> Graph:
    """A .tflite file that can be quantized, its weights in float.

    Raises Refused, with the operator's name, if it holds one that is custom, remembers, draws random numbers,
    branches, or quantizes already; InvalidInput if a weight is NaN or infinite.
    """
    graph = Graph(data)
    for one in graph.operators:
        _require_quantizable(one)
    if graph.subgraphs > 1:
        raise Refused(
            f"the model has {graph.subgraphs} graphs (control flow, or several signatures); quantization takes one: "
            "export a model without loops or branches"
        )
    for index in (*graph.inputs, *(index for one in graph.operators for index in one.outputs)):
        if graph.is_variable(index):
            raise Refused(f"tensor {graph.name(index)!r} lives on between calls; stateful models are not quantized")
        if graph.is_scaled(index):
            raise Refused(
                f"the model is quantized already: tensor {graph.name(index)!r} is {graph.dtype(index)}; "
                "quantize the float model that it was made from"
            )
    graph.restore_float()
    for one in graph.operators:
        # Others may hold infinity for good: a mask, the padding before a maximum.
        for index in one.inputs if one.kind in WEIGHTED else ():
            constant = index >= 0 and graph.is_constant(index) and graph.dtype(index) == "FLOAT32"
            if constant and not np.isfinite(graph.constant(index)).all():
                raise InvalidInput(
                    f"the weights {graph.name(index)!r} of {one.name!r} hold NaN or infinity; train the model again"
                )
    return graph


def _require_quantizable(operator: Operator) -> None:
    where = f"operator {operator.index} is {operator.kind}, making {operator.name!r}"
    if operator.kind.startswith("CUSTOM"):
        raise Refused(f"{where}: what a custom operator computes is not known; replace it by built-in ones")
    if operator.kind in _STATEFUL:
        raise Refused(f"{where}: it remembers between calls; export the model with its state as inputs and outputs")
    if operator.kind in _MULTINOMIAL:
        raise Refused(f"{where}: it draws random numbers; export the model without it")
    if operator.kind in _QUANTIZERS:
        raise Refused(f"{where}: the model is quantized already; quantize the float model that it was made from")


def _tools() -> Any:
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise Unavailable(
            f"quantization needs ai-edge-litert ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    return flatbuffer_utils
