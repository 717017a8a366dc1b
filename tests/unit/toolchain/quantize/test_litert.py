from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.quantize.activations import calibrated_ranges
from edgeloop.toolchain.quantize.flatbuffer import CHANNEL_AXIS, Graph, open_float
from edgeloop.toolchain.quantize.litert import eight_bit_operators, quantize_int8, quantize_litert
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity, QuantizeRecipe, Symmetry
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from quantizable import images

FEEDS = {"image": images()}

SCHEMES = [
    QuantizeRecipe(),
    QuantizeRecipe(granularity=Granularity.TENSOR),
    QuantizeRecipe(activations=Symmetry.SYMMETRIC),
    QuantizeRecipe(precision=Precision.INT16, activations=Symmetry.SYMMETRIC),
    QuantizeRecipe(precision=Precision.INT4),
    QuantizeRecipe(precision=Precision.INT4, granularity=Granularity.TENSOR, activations=Symmetry.SYMMETRIC),
]


def _details(data: bytes) -> dict[str, dict[str, Any]]:
    """Every tensor of a file as the interpreter describes it, by name."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    return {detail["name"]: detail for detail in interpreter.get_tensor_details() if detail["name"]}


def _stored(data: bytes, name: str) -> tuple[NDArray[np.int64], int]:
    """The integers of a weight tensor as they stand in the file, flat, and their bits."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    tensor = next(one for one in model.subgraphs[0].tensors if one.name.decode() == name)
    packed = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.uint8)
    if flatbuffer_utils.type_to_name(tensor.type) != "INT4":
        return packed.view(np.int8).astype(np.int64), 8
    # Two to a byte, the first one in the low half.
    halves = np.stack([packed & 15, packed >> 4], axis=1).ravel()[: int(np.prod(tensor.shape))].astype(np.int64)
    return np.where(halves > 7, halves - 16, halves), 4


def _scores(data: bytes) -> NDArray[np.float32]:
    return wrap_runnable(data, Format.LITERT, name="made.tflite").scores(FEEDS["image"])


@pytest.mark.parametrize("recipe", SCHEMES, ids=lambda one: f"{one.precision}-{one.granularity}-{one.activations}")
def test_weights_in_the_file_are_what_the_formula_says(float_litert: bytes, recipe: QuantizeRecipe) -> None:
    graph, made = open_float(float_litert), quantize_litert(float_litert, recipe, FEEDS)
    details = _details(made)
    for operator in (one for one in graph.operators if one.kind in CHANNEL_AXIS):
        weights = graph.constant(operator.inputs[1]).astype(np.float64)
        name, axis = graph.name(operator.inputs[1]), CHANNEL_AXIS[operator.kind]
        stored, bits = _stored(made, name)
        found = details[name]["quantization_parameters"]
        top = 2 ** (bits - 1) - 1
        others = tuple(one for one in range(weights.ndim) if one != axis)
        bound = np.abs(weights).max(axis=others) if recipe.granularity is Granularity.CHANNEL else np.abs(weights).max()
        # float32 in the file, float64 here.
        assert np.allclose(found["scales"], np.atleast_1d(bound) / top, rtol=1e-6)
        assert not found["zero_points"].any()
        shape = [-1 if one == axis and len(found["scales"]) > 1 else 1 for one in range(weights.ndim)]
        expected = np.clip(np.rint(weights / found["scales"].reshape(shape)), -top, top).ravel()
        # A value on the edge between two steps falls to either side, by the width of the division.
        assert np.abs(stored - expected).max() <= 1
        assert (stored != expected).mean() < 0.01
        four = recipe.precision is Precision.INT4 and operator.kind != "DEPTHWISE_CONV_2D"
        assert bits == (4 if four else 8)


@pytest.mark.parametrize("calibration", list(Calibration))
def test_input_scale_in_the_file_comes_from_our_calibration(float_litert: bytes, calibration: Calibration) -> None:
    recipe = QuantizeRecipe(calibration=calibration)
    graph = open_float(float_litert)
    low, high = calibrated_ranges(graph, recipe, FEEDS, bits=8)[graph.name(graph.inputs[0])]
    found = _details(quantize_litert(float_litert, recipe, FEEDS))[graph.name(graph.inputs[0])]
    scale, zero_point = found["quantization"]
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    assert zero_point == round(-128 - low / ((high - low) / 255))


def test_min_max_ranges_are_those_of_the_samples(float_litert: bytes) -> None:
    graph = open_float(float_litert)
    ranges = calibrated_ranges(graph, QuantizeRecipe(), FEEDS, bits=8)
    assert ranges[graph.name(graph.inputs[0])] == (FEEDS["image"].min(), FEEDS["image"].max())


@pytest.mark.parametrize(
    ("precision", "most"),
    [
        (Precision.INT16, 0.02),
        (Precision.INT8, 0.03),
        (Precision.INT8_DYNAMIC, 0.03),
        (Precision.INT8_WEIGHTS, 0.02),
        (Precision.FLOAT16, 0.002),
        (Precision.INT4, 0.3),
        (Precision.INT4_DYNAMIC, 0.3),
        (Precision.INT4_WEIGHTS, 0.3),
    ],
)
def test_answers_stay_near_the_float_models(
    float_model: Model, float_litert: bytes, precision: Precision, most: float
) -> None:
    activations = Symmetry.SYMMETRIC if precision is Precision.INT16 else Symmetry.ASYMMETRIC
    made = quantize_litert(float_litert, QuantizeRecipe(precision=precision, activations=activations), FEEDS)
    expected = float_model.scores(FEEDS["image"])
    # Of the largest score: half a step of 2^bits, some layers deep.
    assert np.abs(_scores(made) - expected).max() <= most * np.abs(expected).max()


def test_static_precisions_are_integer_in_and_out(float_litert: bytes) -> None:
    made = wrap_runnable(quantize_int8(float_litert, images(), "image"), Format.LITERT, name="made.tflite")
    assert [(spec.name, spec.dtype) for spec in (*made.inputs, *made.outputs)] == [
        ("image", "int8"),
        ("logits", "int8"),
    ]


def test_weights_that_have_no_4_bit_kernel_are_said(float_litert: bytes) -> None:
    made = quantize_litert(float_litert, QuantizeRecipe(precision=Precision.INT4), FEEDS)
    assert [name.split()[0] for name in eight_bit_operators(made)] == ["DEPTHWISE_CONV_2D"]


def test_a_layer_that_is_kept_stays_float_and_the_rest_does_not(float_litert: bytes) -> None:
    kept = open_float(float_litert).operators[0]
    made = quantize_litert(float_litert, QuantizeRecipe(keep_float=(kept.name,)), FEEDS)
    types = {one.scope: [Graph(made).dtype(out) for out in one.outputs] for one in Graph(made).operators}
    assert types.pop(kept.scope) == ["FLOAT32"]
    weighted = [one.scope for one in open_float(float_litert).operators if one.kind in CHANNEL_AXIS][1:]
    assert all(types[scope] == ["INT8"] for scope in weighted)


def test_the_layer_that_makes_the_output_can_be_kept(float_litert: bytes, float_model: Model) -> None:
    kept = [one for one in open_float(float_litert).operators if one.kind == "FULLY_CONNECTED"][-1]
    made = quantize_litert(float_litert, QuantizeRecipe(keep_float=(kept.scope,)), FEEDS)
    assert wrap_runnable(made, Format.LITERT, name="made.tflite").only_output().dtype == "float32"
    expected = float_model.scores(FEEDS["image"])
    assert np.abs(_scores(made) - expected).max() <= 0.03 * np.abs(expected).max()


def test_learned_ranges_go_before_calibrated_ones(float_litert: bytes) -> None:
    graph = open_float(float_litert)
    name = graph.name(graph.inputs[0])
    made = quantize_litert(float_litert, QuantizeRecipe(), FEEDS, ranges={name: (-2.0, 6.0)})
    assert _details(made)[name]["quantization"][0] == pytest.approx(8 / 255, rel=1e-5)


# ---- what is refused


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        (QuantizeRecipe(weights=Symmetry.ASYMMETRIC), "symmetric weights only"),
        (QuantizeRecipe(precision=Precision.INT16), "16-bit activations are symmetric"),
        (QuantizeRecipe(precision=Precision.INT8_DYNAMIC, granularity=Granularity.TENSOR), "granularity channel"),
        (QuantizeRecipe(precision=Precision.FLOAT32), "known: int8"),
        (QuantizeRecipe(precision=Precision.MIXED), "known: int8"),
        (QuantizeRecipe(precision=Precision.FLOAT16, correct_bias=True), "too little"),
        (QuantizeRecipe(keep_int8=("first",)), "4-bit model"),
        (QuantizeRecipe(keep_float=("nowhere",)), "no layer is called 'nowhere'"),
    ],
)
def test_a_scheme_that_litert_has_not_is_refused_by_name(
    float_litert: bytes, recipe: QuantizeRecipe, match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        quantize_litert(float_litert, recipe, FEEDS)


@pytest.mark.parametrize(
    "calibration",
    [images(15), np.full((32, 8, 8, 2), 0.5, np.float32), np.full((32, 8, 8, 2), np.nan, np.float32)],
    ids=["few", "constant", "nan"],
)
def test_inputs_that_cannot_calibrate_are_refused(float_litert: bytes, calibration: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidInput, match="cannot calibrate"):
        quantize_int8(float_litert, calibration, "image")


def test_calibration_for_another_input_is_refused(float_litert: bytes) -> None:
    with pytest.raises(InvalidInput, match="the model has image"):
        quantize_int8(float_litert, images(), "picture")


def test_a_model_that_is_quantized_already_is_refused(float_litert: bytes) -> None:
    made = quantize_int8(float_litert, images(), "image")
    with pytest.raises(Refused, match="quantized already"):
        quantize_int8(made, images(), "image")


def _with_first_operator(data: bytes, change: Callable[[Any], None]) -> bytes:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    change(model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_a_custom_operator_is_refused_by_its_name(float_litert: bytes) -> None:
    def make_custom(code: Any) -> None:
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = b"MyFilter"

    with pytest.raises(Refused, match="CUSTOM MyFilter"):
        quantize_int8(_with_first_operator(float_litert, make_custom), images(), "image")


def test_an_operator_that_remembers_is_refused_by_its_name(float_litert: bytes) -> None:
    def make_stateful(code: Any) -> None:
        code.builtinCode, code.deprecatedBuiltinCode = 44, 44

    with pytest.raises(Refused, match=r"UNIDIRECTIONAL_SEQUENCE_LSTM.*remembers"):
        quantize_int8(_with_first_operator(float_litert, make_stateful), images(), "image")


def test_a_file_of_before_2021_is_read_right(float_litert: bytes) -> None:
    """Such files keep the operator's code in an older field; read as new ones, every operator would be an ADD."""

    def make_old(code: Any) -> None:
        code.builtinCode = 0

    old = _with_first_operator(float_litert, make_old)
    assert (
        _scores(quantize_int8(old, images(), "image")).tolist()
        == _scores(quantize_int8(float_litert, images(), "image")).tolist()
    )


def test_float_weights_stored_in_8_bits_are_quantized_from_what_they_stand_for(float_litert: bytes) -> None:
    dynamic = quantize_litert(float_litert, QuantizeRecipe(precision=Precision.INT8_DYNAMIC), {})
    again, direct = (quantize_int8(data, images(), "image") for data in (dynamic, float_litert))
    # Rounding weights that were rounded to the same grid changes nothing; their activations' ranges differ a little.
    assert np.abs(_scores(again) - _scores(direct)).max() <= 0.03 * np.abs(_scores(direct)).max()


def test_recipe_made_in_python_is_held_to_its_bounds() -> None:
    with pytest.raises(InvalidInput, match="percentile"):
        QuantizeRecipe(percentile=30.0)
    with pytest.raises(InvalidInput, match="calibration_samples"):
        msgspec.structs.replace(QuantizeRecipe(), calibration_samples=3)


@pytest.mark.parametrize(
    "precision",
    [Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS, Precision.FLOAT16],
)
def test_weights_of_nan_are_refused_by_name(float_litert: bytes, precision: Precision) -> None:
    graph = open_float(float_litert)
    operator = next(one for one in graph.operators if one.kind in CHANNEL_AXIS)
    weights = graph.constant(operator.inputs[1])
    weights.flat[0] = np.nan
    graph.set_constant(operator, 1, weights)
    with pytest.raises(InvalidInput, match="hold NaN or infinity") as refused:
        quantize_litert(graph.to_bytes(), QuantizeRecipe(precision=precision), FEEDS)
    assert operator.name in str(refused.value)
