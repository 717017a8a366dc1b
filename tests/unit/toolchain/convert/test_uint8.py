"""Small files of the old unsigned scheme, written operator by operator; LiteRT's kernels for each scheme are judges."""

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from assets import assets_or_skip
from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.engines.find import load_engine
from edgeloop.toolchain.convert.uint8 import is_uint8, symmetric_channels, uint8_to_int8
from edgeloop.toolchain.quantize.litert import quantize_litert
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import Calibration, QuantizeRecipe
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format

U8, I32, F32 = schema.TensorType.UINT8, schema.TensorType.INT32, schema.TensorType.FLOAT32
OPTIONS = schema.BuiltinOptions


class Net:
    """A uint8 graph under construction: each method adds an operator and gives the index of what it makes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(5)
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.model.metadata = [_min_runtime(self.model)]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.input = self.tensor("input", shape, scale=1 / 128, zero_point=128)

    def tensor(
        self, name: str, shape: tuple[int, ...], *, scale: float = 0.0, zero_point: int = 0, dtype: int = U8,
        values: NDArray[Any] | None = None,
    ) -> int:  # fmt: skip
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), dtype, 0
        if scale:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], output: int, options: Any = None) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(OPTIONS, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(made)
        return output

    def weighted(self, kind: str, fed: int, weights: NDArray[np.uint8], out: int, *, zero_point: int, axis: int) -> int:
        scale = 0.02
        bias = self.rng.integers(-300, 300, weights.shape[axis]).astype(np.int32)
        fed_scale = float(self.graph.tensors[fed].quantization.scale[0])
        inputs = [
            fed,
            self.tensor(f"weights_{out}", weights.shape, scale=scale, zero_point=zero_point, values=weights),
            self.tensor(f"bias_{out}", bias.shape, scale=scale * fed_scale, dtype=I32, values=bias),
        ]
        return self.operator(kind, inputs, out, _options(kind))

    def to_bytes(self, output: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [self.input], [output]
        builder = schema.flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _min_runtime(model: Any) -> Any:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(b"1.5.0\0\0\0", np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "min_runtime_version", len(model.buffers) - 1
    return entry


def _options(kind: str) -> Any:
    names = {
        "LOGISTIC": "LogisticOptionsT",
        "MEAN": "ReducerOptionsT",
        "MUL": "MulOptionsT",
        "PAD": "PadOptionsT",
        "RELU": "ReluOptionsT",
        "RELU6": "Relu6OptionsT",
        "RESIZE_BILINEAR": "ResizeBilinearOptionsT",
        "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptionsT",
        "SQUEEZE": "SqueezeOptionsT",
        "CONV_2D": "Conv2DOptionsT",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptionsT",
        "FULLY_CONNECTED": "FullyConnectedOptionsT",
        "AVERAGE_POOL_2D": "Pool2DOptionsT",
        "MAX_POOL_2D": "Pool2DOptionsT",
        "ADD": "AddOptionsT",
        "CONCATENATION": "ConcatenationOptionsT",
        "RESHAPE": "ReshapeOptionsT",
        "SOFTMAX": "SoftmaxOptionsT",
    }
    if not hasattr(schema, names[kind]):
        return None
    options = getattr(schema, names[kind])()
    for name, value in {"strideH": 1, "strideW": 1, "depthMultiplier": 1, "beta": 0.05, "axis": 3}.items():
        if hasattr(options, name):
            setattr(options, name, value)
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    if kind.endswith("POOL_2D"):
        side = 2 if kind.startswith("MAX") else 4
        options.filterHeight = options.filterWidth = options.strideH = options.strideW = side
    return options


def small_net(*, spread: int = 100, softmax_scale: float = 1 / 256) -> bytes:
    """8x8x3 to 5 classes through every kind of operator that old classifiers have.

    spread: weights lie so many steps around their zero point; up to 127 they are exact in int8.
    """
    net = Net((1, 8, 8, 3))
    zero_point = 120
    relu = {"scale": 6 / 255, "zero_point": 0}

    def weights(*shape: int) -> NDArray[np.uint8]:
        low = max(zero_point - spread, 0)
        return net.rng.integers(low, min(zero_point + spread, 255) + 1, shape).astype(np.uint8)

    convolved = net.weighted("CONV_2D", net.input, weights(6, 3, 3, 3), net.tensor("convolved", (1, 8, 8, 6), **relu),
                             zero_point=zero_point, axis=0)  # fmt: skip
    deep = net.weighted("DEPTHWISE_CONV_2D", convolved, weights(1, 3, 3, 6), net.tensor("deep", (1, 8, 8, 6), **relu),
                        zero_point=zero_point, axis=3)  # fmt: skip
    added = net.operator("ADD", [convolved, deep], net.tensor("added", (1, 8, 8, 6), scale=12 / 255), _options("ADD"))
    both = net.operator("CONCATENATION", [added, added], net.tensor("both", (1, 8, 8, 12), scale=12 / 255),
                        _options("CONCATENATION"))  # fmt: skip
    half = net.operator("MAX_POOL_2D", [both], net.tensor("half", (1, 4, 4, 12), scale=12 / 255),
                        _options("MAX_POOL_2D"))  # fmt: skip
    mean = net.operator("AVERAGE_POOL_2D", [half], net.tensor("mean", (1, 1, 1, 12), scale=12 / 255),
                        _options("AVERAGE_POOL_2D"))  # fmt: skip
    shape = net.tensor("shape", (2,), dtype=I32, values=np.array([1, 12], np.int32))
    flat = net.operator("RESHAPE", [mean, shape], net.tensor("flat", (1, 12), scale=12 / 255), _options("RESHAPE"))
    scored = net.weighted("FULLY_CONNECTED", flat, weights(5, 12), net.tensor("scored", (1, 5), scale=0.4,
                          zero_point=130), zero_point=zero_point, axis=0)  # fmt: skip
    made = net.operator("SOFTMAX", [scored], net.tensor("scores", (1, 5), scale=softmax_scale), _options("SOFTMAX"))
    return net.to_bytes(made)


def answers(data: bytes, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Real values of the only output, one image after another; int8 files get the images shifted by 128."""
    engine = load_engine(EngineName.LITERT, data)
    (fed,), (made,) = engine.inputs, engine.outputs
    shift = 0 if fed.dtype == "uint8" else 128
    taken = [(image[np.newaxis].astype(np.int16) - shift).astype(fed.dtype) for image in images]
    found = [engine.run({fed.name: one})[made.name][0].astype(np.float64) for one in taken]
    return (np.stack(found) - made.zero_point) * made.scale


def random_images(count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("spread", [100, 127, 135])
def test_int8_answers_as_the_uint8_kernels_do(spread: int) -> None:
    """Kernels of the two schemes round between layers each their own way: a step or two of 1/256 at the end
    (measured: 2 at most, 0.04 on average), of scores that move by 20 to 60."""
    data = small_net(spread=spread)
    made, images = uint8_to_int8(data), random_images(64, (8, 8, 3))
    was, now = answers(data, images), answers(made, images)
    assert np.ptp(was, axis=0).max() >= 20 / 256
    assert np.abs(now - was).max() <= 4 / 256
    assert np.abs(now - was).mean() <= 0.25 / 256


SCALED = {"scale": 1 / 128, "zero_point": 128}
SINGLES: dict[str, tuple[tuple[int, ...], dict[str, Any], list[int] | None]] = {
    # What it makes of (1, 4, 4, 3), how that is scaled, and what it is told by an int32 constant.
    "LOGISTIC": ((1, 4, 4, 3), {"scale": 1 / 256, "zero_point": 0}, None),
    "MEAN": ((1, 3), SCALED, [1, 2]),
    "PAD": ((1, 6, 6, 3), SCALED, [0, 0, 1, 1, 1, 1, 0, 0]),
    "RELU": ((1, 4, 4, 3), {"scale": 1 / 255, "zero_point": 0}, None),
    "RELU6": ((1, 4, 4, 3), {"scale": 1 / 255, "zero_point": 0}, None),
    "RESIZE_BILINEAR": ((1, 7, 7, 3), SCALED, [7, 7]),
    "RESIZE_NEAREST_NEIGHBOR": ((1, 8, 8, 3), SCALED, [8, 8]),
    "QUANTIZE": ((1, 4, 4, 3), {"scale": 1 / 64, "zero_point": 100}, None),
}


@pytest.mark.parametrize("kind", SINGLES)
def test_each_operator_alone_answers_as_its_uint8_kernel_does(kind: str) -> None:
    """To a step: each rounds once, the uint8 kernel and the int8 kernel to either side of a half."""
    shape, scheme, told = SINGLES[kind]
    net = Net((1, 4, 4, 3))
    inputs = [net.input]
    if told is not None:
        size = (4, 2) if kind == "PAD" else (len(told),)
        inputs.append(net.tensor("told", size, dtype=I32, values=np.array(told, np.int32)))
    options = None if kind == "QUANTIZE" else _options(kind)
    data = net.to_bytes(net.operator(kind, inputs, net.tensor("made", shape, **scheme), options))
    images = random_images(16, (4, 4, 3))
    was, now = answers(data, images), answers(uint8_to_int8(data), images)
    assert np.ptp(was) > 0.3
    assert np.abs(was - now).max() <= scheme["scale"] * 1.01


def test_a_constant_that_is_no_weight_is_shifted_with_its_zero_point() -> None:
    net = Net((1, 4, 4, 3))
    factors = np.array([10, 128, 250], np.uint8)
    constant = net.tensor("factors", (1, 1, 1, 3), values=factors, **SCALED)
    data = net.to_bytes(
        net.operator("MUL", [net.input, constant], net.tensor("made", (1, 4, 4, 3), **SCALED), _options("MUL"))
    )
    images = random_images(16, (4, 4, 3))
    wanted = (images.astype(float) - 128) / 128 * (factors.astype(float) - 128) / 128
    np.testing.assert_allclose(answers(uint8_to_int8(data), images), wanted, atol=1.01 / 128)


def test_float_output_stays_float() -> None:
    net = Net((1, 4, 4, 3))
    data = net.to_bytes(net.operator("DEQUANTIZE", [net.input], net.tensor("made", (1, 4, 4, 3), dtype=F32)))
    images = random_images(4, (4, 4, 3))
    engine = load_engine(EngineName.LITERT, uint8_to_int8(data))
    made = engine.run({"input": (images[:1].astype(np.int16) - 128).astype(np.int8)})["made"]
    np.testing.assert_allclose(made, (images[:1].astype(np.float32) - 128) / 128, atol=1e-6)


def test_everything_in_the_file_is_int8_with_symmetric_weights_for_each_channel() -> None:
    made = schema.ModelT.InitFromPackedBuf(bytearray(uint8_to_int8(small_net())), 0)
    tensors = {one.name.decode(): one for one in made.subgraphs[0].tensors}
    assert {one.type for one in tensors.values()} == {schema.TensorType.INT8, I32}
    assert tensors["input"].quantization.zeroPoint.tolist() == [0]
    assert tensors["convolved"].quantization.zeroPoint.tolist() == [-128]
    weights = [one for name, one in tensors.items() if name.startswith("weights")]
    assert [(len(one.quantization.scale), one.quantization.quantizedDimension) for one in weights] == [
        (6, 0),
        (6, 3),
        (5, 0),
    ]
    assert all(not one.quantization.zeroPoint.any() for one in weights)
    assert made.metadata is None


def test_what_it_makes_is_no_uint8_file_any_more() -> None:
    data = small_net()
    assert is_uint8(data)
    assert not is_uint8(uint8_to_int8(data))


def test_weights_within_127_steps_of_their_zero_point_stay_exact() -> None:
    stored = np.random.default_rng(2).integers(3, 231, (4, 2, 2, 3)).astype(np.uint8)
    made, factors = symmetric_channels(stored, zero_point=110, axis=0)
    assert factors.tolist() == [1.0] * 4
    np.testing.assert_array_equal(made.astype(int), stored.astype(int) - 110)


@pytest.mark.parametrize("axis", [0, 3])
def test_wider_weights_are_off_by_half_a_step_at_most_or_cut_where_that_costs_less(axis: int) -> None:
    stored = np.random.default_rng(2).integers(0, 256, (5, 4, 4, 7)).astype(np.uint8)
    stored[:] = np.where(stored < 40, 40, stored)  # zero point 20: 20 to 235 steps away, far beyond 127
    made, factors = symmetric_channels(stored, zero_point=20, axis=axis)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    real = stored.astype(float) - 20
    assert (factors > 1).all()
    assert np.abs(made * factors.reshape(shape) - real).max() <= factors.max() / 2 + 1e-9
    lonely = np.random.default_rng(3).integers(20, 120, (1, 1, 1, 400)).astype(np.uint8)
    lonely[0, 0, 0, 0] = 20 + 129
    cut, kept = symmetric_channels(lonely, zero_point=20, axis=0)
    assert kept.tolist() == [1.0]
    assert int(cut[0, 0, 0, 0]) == 127


def test_unknown_operator_is_refused_by_name() -> None:
    net = Net((1, 8, 8, 3))
    made = net.operator("FLOOR", [net.input], net.tensor("floored", (1, 8, 8, 3), scale=1 / 128, zero_point=128))
    with pytest.raises(Refused, match="FLOOR, which makes 'floored'"):
        uint8_to_int8(net.to_bytes(made))


def test_scores_at_another_scale_than_int8_kernels_take_are_refused() -> None:
    with pytest.raises(Refused, match="SOFTMAX makes 'scores' at scale"):
        uint8_to_int8(small_net(softmax_scale=0.005))


def test_weights_that_are_computed_are_refused() -> None:
    net = Net((1, 12))
    bias = net.tensor("bias", (1,), scale=1 / 128**2, dtype=I32, values=np.zeros(1, np.int32))
    made = net.operator("FULLY_CONNECTED", [net.input, net.input, bias], net.tensor("made", (1, 1), scale=1.0),
                        _options("FULLY_CONNECTED"))  # fmt: skip
    with pytest.raises(Refused, match="weights 'input' that are computed"):
        uint8_to_int8(net.to_bytes(made))


def test_bytes_of_something_else_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="no LiteRT model"):
        uint8_to_int8(b"PK\3\4 not a model at all")


def test_quantize_makes_int8_of_a_uint8_file_and_says_what_it_cost() -> None:
    model = wrap_runnable(small_net(), Format.LITERT, name="old.tflite")
    images = ((random_images(32, (8, 8, 3)).astype(np.float32) - 128) / 128).astype(np.float32)
    made, report = quantize(model, QuantizeRecipe(precision=Precision.INT8), {"input": images})
    assert made.inputs[0].dtype == "int8"
    assert "ranges of the uint8 file" in report.scheme
    assert report.max_abs_error <= 4 / 256  # see above: what kernels round
    assert [step.kind for step in made.steps] == ["quantize"]


def test_a_recipe_that_a_quantized_file_has_no_room_for_is_refused_by_name() -> None:
    recipe = QuantizeRecipe(calibration=Calibration.ENTROPY, correct_bias=True)
    with pytest.raises(InvalidInput, match="leave out calibration, correct_bias"):
        quantize_litert(small_net(), recipe, {})


def test_mobilenet_v1_agrees_with_its_uint8_original_on_crops_of_photos() -> None:
    """Where it does not, two labels are as likely: the uint8 and int8 kernels themselves differ so much."""
    folder = assets_or_skip("mobilenet/mobilenet_v1_0.25_128_quant.tflite") / "mobilenet"
    data = (folder / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    images = crops_of(folder, side_px=128, count=60)
    was, now = answers(data, images), answers(uint8_to_int8(data), images)
    assert (was.argmax(axis=1) == now.argmax(axis=1)).mean() >= 0.9  # measured over 200: 0.985
    assert np.abs(was - now).mean() <= 2e-4  # measured: 6e-5


def crops_of(folder: Any, *, side_px: int, count: int) -> NDArray[np.uint8]:
    """(count, side_px, side_px, 3): seeded random squares of the two photos."""
    import cv2

    from edgeloop.runtime.input.images import read_image

    photos = [read_image(folder / name) for name in ("cat.bmp", "grace_hopper.bmp")]
    rng, made = np.random.default_rng(0), []
    for index in range(count):
        photo = photos[index % 2]
        side = int(min(photo.shape[:2]) * rng.uniform(0.4, 1.0))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        square = photo[top : top + side, left : left + side]
        made.append(cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_AREA))
    return np.stack(made)
