from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.quantize.flatbuffer import Graph, open_float
from edgeloop.toolchain.quantize.layers import operators_of_layers
from edgeloop.toolchain.quantize.quantize import float_source, quantize, split_tensors
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe
from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed, sensitivity
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from quantizable import images


def test_report_says_what_was_measured(float_model: Model) -> None:
    made, report = quantize(float_model, QuantizeRecipe(calibration_samples=64), images())
    expected, scores = float_model.scores(images()[64:]), made.scores(images()[64:])
    assert report.samples == 32
    assert report.agreement == (expected.argmax(axis=1) == scores.argmax(axis=1)).mean()
    assert report.mean_abs_error == pytest.approx(np.abs(expected - scores).mean(), rel=1e-5)
    assert (report.size_before_bytes, report.size_after_bytes) == (float_model.size_bytes, made.size_bytes)
    assert report.scheme == "int8: weights symmetric per channel, activations asymmetric, calibrated by min max"


def test_history_holds_each_step_with_its_recipe(float_model: Model) -> None:
    made, _ = quantize(float_model, QuantizeRecipe(precision=Precision.INT8_WEIGHTS), images())
    assert [(step.kind, step.recipe.get("precision")) for step in made.steps] == [
        ("convert", None),
        ("quantize", "int8_weights"),
    ]


def test_a_float_litert_file_is_quantized_directly(float_litert: bytes) -> None:
    model = wrap_runnable(float_litert, Format.LITERT, name="net.tflite")
    made, report = quantize(model, QuantizeRecipe(), images())
    assert made.name == "net.int8.tflite"
    assert report.mean_abs_error < 0.05


def test_same_recipe_and_data_make_the_same_bytes(float_litert: bytes) -> None:
    model = wrap_runnable(float_litert, Format.LITERT, name="net.tflite")
    first, second = (quantize(model, QuantizeRecipe(correct_bias=True), images())[0].data for _ in range(2))
    assert first == second


def test_samples_that_calibrated_do_not_judge_where_there_are_others(float_model: Model) -> None:
    calibration, judged = split_tensors(float_model, images(), 40)
    assert np.array_equal(np.concatenate([calibration["image"], judged["image"]]), images())
    assert len(split_tensors(float_model, images(), 90)[1]["image"]) == 96


def test_a_keras_layer_is_kept_by_its_own_name(float_model: Model) -> None:
    made, report = quantize(float_model, QuantizeRecipe(keep_float=("depth", "hidden")), images())
    graph = Graph(made.data)
    floats = {one.kind for one in graph.operators if any(graph.dtype(out) == "FLOAT32" for out in one.outputs)}
    assert floats - {"DEQUANTIZE"} == {"DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    assert report.precision is Precision.MIXED
    assert report.kept_float == ("depth", "hidden")


def test_layers_are_found_by_what_they_compute(float_model: Model, float_litert: bytes) -> None:
    found = operators_of_layers(float_model.native, open_float(float_litert), {"image": images()})
    kinds = {name: operator.kind for name, operator in found.items()}
    # The exporter fused convolution, normalization and ReLU into one.
    assert found["first"] == found["norm"] == found["cut"]
    assert (kinds["first"], kinds["depth"], kinds["sum"], kinds["scores"]) == (
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "ADD",
        "FULLY_CONNECTED",
    )


@pytest.mark.parametrize(
    ("recipe", "data", "to", "match"),
    [
        (QuantizeRecipe(), images()[:, :4], None, "takes \\(8, 8, 2\\) a sample"),
        (QuantizeRecipe(), {"picture": images()}, None, "has image"),
        (QuantizeRecipe(), images(), Format.SKLEARN, "not quantized to sklearn"),
        (QuantizeRecipe(keep_float=("nowhere",)), images(), None, "no layer is called 'nowhere'"),
        (QuantizeRecipe(keep_int8=("depth",)), images(), Format.ONNX, "litert only"),
    ],
)
def test_what_does_not_fit_is_refused(
    float_model: Model, recipe: QuantizeRecipe, data: Any, to: Format | None, match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        quantize(float_model, recipe, data, to=to)


def test_only_keras_models_are_equalised(float_litert: bytes) -> None:
    model = wrap_runnable(float_litert, Format.LITERT, name="net.tflite")
    with pytest.raises(InvalidInput, match="Keras models"):
        quantize(model, QuantizeRecipe(equalize=True), images())


# ---- a Keras model on the other engines


@pytest.fixture(scope="module")
def keras_as_onnx() -> Model:
    """A net that is large enough to gain by any precision."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Flatten()(layers.Conv2D(24, 3, activation="relu")(layers.Conv2D(8, 3, activation="relu")(image)))
    net = keras.Model(image, layers.Dense(5)(layers.Dense(64, activation="relu")(x)))
    return float_source(wrap_keras(net, name="net.keras"), Format.ONNX, images())


@pytest.mark.parametrize(
    ("to", "precision", "error"),
    [
        (Format.ONNX, Precision.FLOAT16, 0.002),
        (Format.ONNX, Precision.INT16, 0.02),
        (Format.ONNX, Precision.INT8, 0.05),
        (Format.ONNX, Precision.INT8_DYNAMIC, 0.05),
        (Format.ONNX, Precision.INT8_WEIGHTS, 0.02),
        (Format.ONNX, Precision.INT4, 0.3),
        (Format.ONNX, Precision.INT4_WEIGHTS, 0.3),
        (Format.OPENVINO, Precision.FLOAT16, 0.002),
        (Format.OPENVINO, Precision.INT8, 0.05),
        (Format.OPENVINO, Precision.INT8_WEIGHTS, 0.02),
    ],
)
def test_keras_model_answers_alike_on_other_engines(
    keras_as_onnx: Model, to: Format, precision: Precision, error: float
) -> None:
    per = Granularity.TENSOR if precision is Precision.INT8_DYNAMIC else Granularity.CHANNEL
    made, report = quantize(keras_as_onnx, QuantizeRecipe(precision=precision, granularity=per), images(), to=to)
    assert (made.format, report.precision) == (to, precision)
    # Scores of about 1: an 8-bit step is 0.01 of them, a 4-bit one 0.1, and a few layers add up.
    assert report.mean_abs_error < error


# ---- mixed precision


@pytest.fixture(scope="module")
def litert(float_litert: bytes) -> Model:
    return wrap_runnable(float_litert, Format.LITERT, name="net.tflite")


def test_sensitivity_names_every_layer_with_weights_the_worst_first(litert: Model) -> None:
    errors = sensitivity(litert, QuantizeRecipe(precision=Precision.INT4), images())
    assert len(errors) == 5
    assert [one.error for one in errors] == sorted((one.error for one in errors), reverse=True)
    assert all(one.error > 0 for one in errors)


def test_mixed_raises_only_as_many_layers_as_the_bound_takes(litert: Model) -> None:
    recipe = QuantizeRecipe(precision=Precision.INT4_WEIGHTS, calibration_samples=48)
    _, plain = quantize(litert, recipe, images())
    _, eight = quantize(litert, QuantizeRecipe(precision=Precision.INT8_WEIGHTS, calibration_samples=48), images())
    assert plain.agreement is not None
    assert eight.agreement is not None
    assert plain.agreement < eight.agreement
    made, report = mixed(litert, MixedRecipe(quantize=recipe, min_agreement=eight.agreement), images())
    assert report.agreement is not None
    assert report.agreement >= eight.agreement
    assert report.precision is Precision.MIXED
    assert plain.size_after_bytes < made.size_bytes <= eight.size_after_bytes


def test_mixed_refuses_a_bound_that_no_mixture_meets(litert: Model) -> None:
    hard = MixedRecipe(quantize=QuantizeRecipe(precision=Precision.INT4, keep_float=("x",)), min_agreement=1.0)
    with pytest.raises(InvalidInput, match="leave out"):
        mixed(litert, hard, images())
    recipe = QuantizeRecipe(precision=Precision.INT4, calibration_samples=16)
    with pytest.raises(Refused, match="lower it"):
        mixed(litert, MixedRecipe(quantize=recipe, min_agreement=1.0), images(600))
