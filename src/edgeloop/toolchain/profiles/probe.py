"""Networks to time a machine with, written as LiteRT files with nothing but LiteRT: a board has no toolchain.

Nets of several sizes and two kinds, as made for small devices: a convolution, blocks of plain or of depthwise and
pointwise convolutions, a mean, a dense layer. They are unlike on purpose: plain convolutions run several times as
many multiply-adds a second as depthwise ones, and how far the nets lie from one line is the honest width of an
estimate. Weights are random: speed does not depend on them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import Precision

_KERNEL = 3
_CLASSES = 10
_INPUT_CHANNELS = 3
_ACTIVATION_SCALE = 0.05
_WEIGHT_SCALE = 0.01


@dataclass(frozen=True)
class Probe:
    """side_px: of the square input. width: channels of the first layer; each block halves the side, doubles those.

    plain: blocks of full convolutions, not depthwise and pointwise ones. repeats: layers that each block has more,
    which keep side and channels.
    """

    side_px: int
    width: int
    blocks: int
    repeats: int = 0
    plain: bool = False

    @property
    def name(self) -> str:
        """Such as "separable net, 32 px, 16 wide, 3 blocks of 1"."""
        kind = "plain" if self.plain else "separable"
        return f"{kind} net, {self.side_px} px, {self.width} wide, {self.blocks} blocks of {self.repeats + 1}"


PROBES = (
    Probe(24, 8, 2),
    Probe(32, 16, 3),
    Probe(64, 16, 4),
    Probe(96, 8, 4, repeats=1),
    Probe(160, 16, 5, repeats=1),
    Probe(32, 16, 2, plain=True),
    Probe(48, 24, 2, repeats=1, plain=True),
)
"""From a net of 45 thousand multiply-adds to one of 26 million."""


def probe_model(probe: Probe, precision: Precision, *, seed: int = 0) -> bytes:
    """The net as a LiteRT file, float32 or int8 throughout. Raises Unavailable if LiteRT is not installed."""
    return _Writer(precision is Precision.INT8, seed).write(probe)


class _Writer:
    """Builds one flatbuffer, tensor by tensor."""

    def __init__(self, quantized: bool, seed: int) -> None:
        self._schema = _schema()
        self._quantized = quantized
        self._random = np.random.default_rng(seed)
        self._buffers = [self._schema.BufferT()]
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[Any] = []

    def write(self, probe: Probe) -> bytes:
        """The file's bytes."""
        schema = self._schema
        side = probe.side_px
        made = self._activation("input", (1, side, side, _INPUT_CHANNELS))
        side, channels = -(-side // 2), probe.width
        made = self._convolution(made, _INPUT_CHANNELS, channels, side, stride=2, kernel=_KERNEL)
        for _ in range(probe.blocks):
            side = -(-side // 2)
            made = self._layer(probe, made, channels, 2 * channels, side, stride=2)
            channels *= 2
            for _ in range(probe.repeats):
                made = self._layer(probe, made, channels, channels, side, stride=1)
        made = self._mean(made, channels)
        scores = self._dense(made, channels)
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = [0], [scores]
        model = schema.ModelT()
        model.version, model.description = 3, "edgeloop probe"
        model.operatorCodes, model.buffers, model.subgraphs = self._codes, self._buffers, [graph]
        builder = schema.flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _layer(self, probe: Probe, fed: int, taken: int, made: int, side: int, *, stride: int) -> int:
        if probe.plain:
            return self._convolution(fed, taken, made, side, stride=stride, kernel=_KERNEL)
        fed = self._depthwise(fed, taken, side, stride=stride)
        return self._convolution(fed, taken, made, side, stride=1, kernel=1)

    def _convolution(self, fed: int, taken: int, made: int, side: int, *, stride: int, kernel: int) -> int:
        options = self._schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = self._schema.ActivationFunctionType.RELU
        weights = self._weights((made, kernel, kernel, taken))
        out = self._activation(f"conv{len(self._tensors)}", (1, side, side, made))
        return self._operator("CONV_2D", "Conv2DOptions", options, [fed, weights, self._bias(made)], out)

    def _depthwise(self, fed: int, channels: int, side: int, *, stride: int) -> int:
        options = self._schema.DepthwiseConv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
        options.fusedActivationFunction = self._schema.ActivationFunctionType.RELU
        weights = self._weights((1, _KERNEL, _KERNEL, channels))
        out = self._activation(f"depthwise{len(self._tensors)}", (1, side, side, channels))
        inputs = [fed, weights, self._bias(channels)]
        return self._operator("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, inputs, out)

    def _mean(self, fed: int, channels: int) -> int:
        axes = self._constant("axes", np.array([1, 2], np.int32), self._schema.TensorType.INT32)
        out = self._activation("mean", (1, channels))
        return self._operator("MEAN", "ReducerOptions", self._schema.ReducerOptionsT(), [fed, axes], out)

    def _dense(self, fed: int, channels: int) -> int:
        weights = self._weights((_CLASSES, channels))
        out = self._activation("scores", (1, _CLASSES))
        options = self._schema.FullyConnectedOptionsT()
        inputs = [fed, weights, self._bias(_CLASSES)]
        return self._operator("FULLY_CONNECTED", "FullyConnectedOptions", options, inputs, out)

    def _operator(self, name: str, kind: str, options: Any, inputs: list[int], out: int) -> int:
        schema = self._schema
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        # Kernels for int8 came with later versions of the operators; each of these has them at version 3 or before.
        code.version = 3 if self._quantized and name != "MEAN" else 2 if self._quantized else 1
        if name == "FULLY_CONNECTED" and self._quantized:
            code.version = 4
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self._codes), inputs, [out]
        operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self._codes.append(code)
        self._operators.append(operator)
        return out

    def _activation(self, name: str, shape: tuple[int, ...]) -> int:
        kind = self._schema.TensorType.INT8 if self._quantized else self._schema.TensorType.FLOAT32
        return self._tensor(name, shape, kind, buffer=0, scale=_ACTIVATION_SCALE)

    def _weights(self, shape: tuple[int, ...]) -> int:
        if self._quantized:
            values = self._random.integers(-127, 128, shape).astype(np.int8)
            return self._constant("weights", values, self._schema.TensorType.INT8, scale=_WEIGHT_SCALE)
        floats = self._random.normal(0.0, 0.1, shape).astype(np.float32)
        return self._constant("weights", floats, self._schema.TensorType.FLOAT32)

    def _bias(self, size: int) -> int:
        if self._quantized:
            scale = _ACTIVATION_SCALE * _WEIGHT_SCALE
            return self._constant("bias", np.zeros(size, np.int32), self._schema.TensorType.INT32, scale=scale)
        return self._constant("bias", np.zeros(size, np.float32), self._schema.TensorType.FLOAT32)

    def _constant(self, name: str, values: NDArray[Any], kind: int, *, scale: float = 0.0) -> int:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self._tensor(
            f"{name}{len(self._tensors)}", values.shape, kind, buffer=len(self._buffers) - 1, scale=scale
        )

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, *, buffer: int, scale: float) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
        if self._quantized and scale:
            tensor.quantization = self._schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise Unavailable(
            f"LiteRT is not installed here ({error}); install it with: pip install ai-edge-litert"
        ) from error
    return schema_py_generated
