"""A LiteRT file of the old 8-bit scheme, unsigned and asymmetric, as the same graph in signed integers.

Fast kernels (XNNPACK's) exist for int8 activations with symmetric weights for each channel; the files of 2017 to 2019
have neither and run on slow ones: MobileNetV2 takes twice as long. Activations keep their ranges, shifted by 128,
which is exact. Weights become symmetric: a channel whose weights lie within 127 steps of their zero point (of
MobileNetV2's 18,057, all but 63) keeps its scale and is exact, too; another is rounded to 127 steps a side, and its
bias to the new scale, or cut where that costs less. What differs then is how kernels round between layers.

Source of both schemes: Jacob et al. 2018 (arXiv 1712.05877); LiteRT's 8-bit quantization specification. Neighbours:
`quantize.litert` calls this where int8 is asked of such a file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, Refused

_SHIFT = 128
_STEPS = 127
_BIAS_LIMIT = 2**31 - 1

_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operators with weights, which are their second input, and the axis that counts output channels."""

_VERSION = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 12,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "SOFTMAX": 2,
    "SQUEEZE": 1,
}
"""The version from which each operator takes int8; of FULLY_CONNECTED, with a scale for each channel. Source:
LiteRT's tools/versioning/op_version.cc."""

_PROBABILITY = ("LOGISTIC", "SOFTMAX")
_SAME_SCALE = ("CONCATENATION", "MAX_POOL_2D", "PAD", "RESHAPE", "SQUEEZE")


@dataclass(frozen=True)
class _File:
    """The tables of one file, to be edited. weights: the channel axis by tensor index; factors: by how much the scale
    of each channel of those weights grew."""

    schema: Any
    model: Any
    weights: dict[int, int] = field(default_factory=dict)
    factors: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def graph(self) -> Any:
        return self.model.subgraphs[0]

    def kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        if code.customCode:
            return f"CUSTOM {code.customCode.decode()}"
        return _kinds(self.schema)[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def name(self, tensor: int) -> str:
        return str((self.graph.tensors[tensor].name or b"").decode())

    def content(self, tensor: int) -> bytes | None:
        """A constant's bytes, None of what is computed or fed."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return None if data is None or len(data) == 0 else bytes(data)

    def put(self, tensor: int, values: NDArray[Any]) -> None:
        """Give a tensor a buffer of its own: others may share the one it has."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[tensor].buffer = len(self.model.buffers) - 1


def is_uint8(data: bytes) -> bool:
    """Whether a LiteRT file computes in unsigned 8-bit integers: a tensor that is not constant is scaled uint8."""
    file = _read(data)
    return any(
        tensor.type == file.schema.TensorType.UINT8 and _is_scaled(tensor) and file.content(index) is None
        for index, tensor in enumerate(file.graph.tensors)
    )


def uint8_to_int8(data: bytes) -> bytes:
    """The same model in int8, integer in and out: zero points are 128 less, so are inputs and outputs.

    Raises Refused, naming the operator or tensor, for what has no such form; Corrupt if this is no LiteRT file.
    """
    file = _read(data)
    if len(file.model.subgraphs) != 1:
        raise Refused(f"the model has {len(file.model.subgraphs)} graphs; only one without branches becomes int8")
    for operator in file.graph.operators:
        _admit(file, operator)
    for index, tensor in enumerate(file.graph.tensors):
        if tensor.type == file.schema.TensorType.UINT8:
            _turn(file, index)
    for operator in file.graph.operators:
        _check_scales(file, operator)
    _rescale_biases(file)
    _raise_versions(file)
    return _written(file, len(data))


def symmetric_channels(
    stored: NDArray[np.uint8], *, zero_point: int, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Asymmetric weights as int8 around zero, and for each channel along `axis` the factor (>= 1) on their scale.

    A channel within 127 steps of zero_point is exact, with a factor of 1. Another is cut there, or rounded to steps
    that reach its end: whichever has the smaller squared error.
    """
    centred = np.moveaxis(stored, axis, 0).reshape(stored.shape[axis], -1).astype(np.float64) - zero_point
    wide = np.maximum(np.abs(centred).max(axis=1, keepdims=True), _STEPS) / _STEPS
    cut, rounded = np.clip(centred, -_STEPS, _STEPS), np.rint(centred / wide)
    is_better_cut = ((cut - centred) ** 2).sum(axis=1) <= ((rounded * wide - centred) ** 2).sum(axis=1)
    chosen = np.where(is_better_cut[:, np.newaxis], cut, rounded).astype(np.int8)
    back = (stored.shape[axis], *np.moveaxis(stored, axis, 0).shape[1:])
    return np.moveaxis(chosen.reshape(back), 0, axis), np.where(is_better_cut, 1.0, wide[:, 0])


def _read(data: bytes) -> _File:
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise Corrupt(f"this is no LiteRT model: bytes 4 to 8 are {data[4:8]!r}, expected b'TFL3'")
    return _File(schema, schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0)))


def _admit(file: _File, operator: Any) -> None:
    kind = file.kind(operator)
    what = f"operator {kind}, which makes {file.name(operator.outputs[0])!r},"
    if kind not in _VERSION:
        raise Refused(f"{what} is not turned from uint8 to int8; known: {', '.join(_VERSION)}. Run the file as it is")
    if kind not in _AXIS:
        return
    weights = int(operator.inputs[1])
    if file.content(weights) is None or file.graph.tensors[weights].type != file.schema.TensorType.UINT8:
        raise Refused(
            f"{what} has weights {file.name(weights)!r} that are computed, or no uint8; run the file as it is"
        )
    if file.weights.setdefault(weights, _AXIS[kind]) != _AXIS[kind]:
        raise Refused(f"{what} shares its weights {file.name(weights)!r} with an operator of another kind")


def _turn(file: _File, index: int) -> None:
    """One uint8 tensor to int8: a weight is made symmetric, all else is shifted."""
    tensor = file.graph.tensors[index]
    if not _is_scaled(tensor) or len(tensor.quantization.scale) != 1:
        raise Refused(f"tensor {file.name(index)!r} is uint8 without one scale and zero point; run the file as it is")
    quantization = tensor.quantization
    zero_point = int(quantization.zeroPoint[0])
    content = file.content(index)
    tensor.type = file.schema.TensorType.INT8
    if index in file.weights:
        stored = np.frombuffer(content or b"", np.uint8).reshape(tuple(tensor.shape))
        values, factors = symmetric_channels(stored, zero_point=zero_point, axis=file.weights[index])
        file.factors[index] = factors
        file.put(index, values)
        quantization.scale = (factors * np.float64(quantization.scale[0])).astype(np.float32)
        quantization.zeroPoint = np.zeros(len(factors), np.int64)
        quantization.quantizedDimension = file.weights[index]
    else:
        quantization.zeroPoint = np.array([zero_point - _SHIFT], np.int64)
        if content is not None:
            file.put(index, (np.frombuffer(content, np.uint8) ^ _SHIFT).view(np.int8))
    quantization.min = quantization.max = None


def _check_scales(file: _File, operator: Any) -> None:
    """Kernels for int8 take for granted what those for uint8 were told."""
    kind, made = file.kind(operator), file.graph.tensors[operator.outputs[0]]
    if kind in _PROBABILITY and _scheme(made) != (1 / 256, -_SHIFT):
        scale, zero_point = _scheme(made)
        raise Refused(
            f"operator {kind} makes {file.name(operator.outputs[0])!r} at scale {scale:g} and zero point "
            f"{zero_point + _SHIFT}; int8 kernels take 1/256 and 0 for granted. Run the file as it is"
        )
    if kind in _SAME_SCALE:
        taken = operator.inputs if kind == "CONCATENATION" else operator.inputs[:1]
        odd = [index for index in taken if _scheme(file.graph.tensors[index]) != _scheme(made)]
        if odd:
            raise Refused(
                f"operator {kind} makes {file.name(operator.outputs[0])!r} at another scale than it takes "
                f"{file.name(odd[0])!r}; int8 kernels do not rescale there. Run the file as it is"
            )


def _rescale_biases(file: _File) -> None:
    done: dict[int, int] = {}
    for operator in file.graph.operators:
        if file.kind(operator) not in _AXIS or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        fed, weights, bias = (int(index) for index in operator.inputs[:3])
        if done.setdefault(bias, weights) != weights:
            raise Refused(f"bias {file.name(bias)!r} is shared by operators with other weights; run the file as it is")
        _rescale(file, bias, scale=float(file.graph.tensors[fed].quantization.scale[0]), weights=weights)


def _rescale(file: _File, bias: int, *, scale: float, weights: int) -> None:
    """A bias counts in steps of the input's scale times its channel's."""
    tensor = file.graph.tensors[bias]
    content = file.content(bias)
    if content is None or tensor.type != file.schema.TensorType.INT32:
        raise Refused(f"bias {file.name(bias)!r} is computed, or no int32; run the file as it is")
    values = np.rint(np.frombuffer(content, np.int32) / file.factors[weights])
    file.put(bias, np.clip(values, -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32))
    quantization = tensor.quantization or file.schema.QuantizationParametersT()
    quantization.scale = (np.float64(scale) * file.graph.tensors[weights].quantization.scale).astype(np.float32)
    quantization.zeroPoint = np.zeros(len(values), np.int64)
    quantization.quantizedDimension = 0
    tensor.quantization = quantization


def _raise_versions(file: _File) -> None:
    used = {int(operator.opcodeIndex): file.kind(operator) for operator in file.graph.operators}
    for index, kind in used.items():
        code = file.model.operatorCodes[index]
        code.version = max(code.version, _VERSION[kind])


def _written(file: _File, size_bytes: int) -> bytes:
    used = {tensor.buffer for tensor in file.graph.tensors} | {entry.buffer for entry in file.model.metadata or ()}
    for index, buffer in enumerate(file.model.buffers):
        if index not in used:
            buffer.data = None
    # It named the oldest runtime for the old operators.
    kept = [entry for entry in file.model.metadata or () if entry.name != b"min_runtime_version"]
    file.model.metadata = kept or None
    builder = file.schema.flatbuffers.Builder(size_bytes + 4096)
    builder.Finish(file.model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _is_scaled(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None


def _scheme(tensor: Any) -> tuple[float, int]:
    if not _is_scaled(tensor):
        return 0.0, 0
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


def _kinds(schema: Any) -> dict[int, str]:
    members: Iterable[tuple[str, Any]] = vars(schema.BuiltinOperator).items()
    return {value: name for name, value in members if not name.startswith("_")}
