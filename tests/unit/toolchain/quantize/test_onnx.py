from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.onnx import OnnxEngine
from edgeloop.toolchain.quantize.onnx import quantize_onnx
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity, QuantizeRecipe, Symmetry
from small_onnx import convnet, dense, images, only_elementwise, two_in_two_out, without_weights

SYMMETRIC, ASYMMETRIC = Symmetry.SYMMETRIC, Symmetry.ASYMMETRIC
TENSOR, CHANNEL = Granularity.TENSOR, Granularity.CHANNEL
NET = convnet()
CALIBRATION = {"image": images(32)}
JUDGED = images(64)[32:]


def _run(data: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    engine = OnnxEngine(data)
    (name,) = [spec.name for spec in engine.inputs]
    made = [next(iter(engine.run({name: inputs[at : at + 1]}).values())) for at in range(len(inputs))]
    engine.close()
    return np.concatenate(made)


def _constants(data: bytes) -> dict[str, NDArray[Any]]:
    model = onnx.load_model_from_string(data)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def _operators(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(data).graph.node]


# Relative error of the scores that a scheme may show on this net: rounding to 8 bits is 1/256 a tensor and adds up
# over 3 layers; to 4 bits 1/16.
@pytest.mark.parametrize(
    ("precision", "shrinks_to", "error"),
    [
        (Precision.INT8, 0.35, 0.05),
        (Precision.INT16, 0.35, 0.05),
        (Precision.INT4, 0.2, 0.5),
        (Precision.INT8_WEIGHTS, 0.3, 0.03),
        (Precision.INT4_WEIGHTS, 0.2, 0.5),
        (Precision.FLOAT16, 0.55, 0.003),
    ],
)
def test_quantized_model_is_smaller_and_answers_alike(precision: Precision, shrinks_to: float, error: float) -> None:
    made = quantize_onnx(NET, QuantizeRecipe(precision=precision), CALIBRATION)
    before, after = _run(NET, JUDGED), _run(made, JUDGED)
    assert len(made) < shrinks_to * len(NET)
    assert np.abs(after - before).max() <= error * np.abs(before).max()


def test_dynamic_quantization_computes_with_integers() -> None:
    recipe = QuantizeRecipe(precision=Precision.INT8_DYNAMIC, granularity=TENSOR)
    made = quantize_onnx(NET, recipe, {})
    before, after = _run(NET, JUDGED), _run(made, JUDGED)
    assert {"ConvInteger", "MatMulInteger"} <= set(_operators(made))
    assert np.abs(after - before).max() <= 0.05 * np.abs(before).max()  # as above


@pytest.mark.parametrize("calibration", list(Calibration))
def test_every_calibration_gives_a_model_that_answers_alike(calibration: Calibration) -> None:
    made = quantize_onnx(NET, QuantizeRecipe(calibration=calibration), CALIBRATION)
    before, after = _run(NET, JUDGED), _run(made, JUDGED)
    # Ranges that cut off tails clip the largest scores; most are near.
    assert np.median(np.abs(after - before)) <= 0.05 * np.abs(before).max()


def test_tighter_percentile_gives_a_finer_scale() -> None:
    scales = []
    for percentile in (100.0, 90.0):
        recipe = QuantizeRecipe(calibration=Calibration.PERCENTILE, percentile=percentile)
        scales.append(float(_constants(quantize_onnx(NET, recipe, CALIBRATION))["image_scale"]))
    assert scales[1] < 0.9 * scales[0]


def test_same_input_gives_the_same_bytes() -> None:
    assert quantize_onnx(NET, QuantizeRecipe(), CALIBRATION) == quantize_onnx(NET, QuantizeRecipe(), CALIBRATION)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_stored_weights_are_those_of_the_formula(precision: Precision, granularity: Granularity) -> None:
    weights = np.random.default_rng(1).normal(size=(96, 64)).astype(np.float32) * np.linspace(
        0.1, 2, 64, dtype=np.float32
    )
    inputs = {"x": np.random.default_rng(2).normal(size=(32, 96)).astype(np.float32)}
    made = _constants(
        quantize_onnx(dense(weights), QuantizeRecipe(precision=precision, granularity=granularity), inputs)
    )
    (stored,) = [array for array in made.values() if array.dtype == np.int8 and array.shape == weights.shape]
    largest = np.abs(weights).max(axis=0 if granularity is CHANNEL else None)
    # A quotient that lies at .5 may round either way in float32: one step.
    assert np.abs(stored - np.rint(weights / (largest / 127))).max() <= 1


@pytest.mark.parametrize("activations", list(Symmetry))
def test_integer_arithmetic_is_that_of_the_formula(activations: Symmetry) -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(96, 64)).astype(np.float32)
    inputs = rng.uniform(-1, 3, (32, 96)).astype(np.float32)
    made = quantize_onnx(dense(weights), QuantizeRecipe(activations=activations), {"x": inputs})

    def simulated(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
        if activations is SYMMETRIC:
            scale = max(-low, high) / 127
            return np.clip(np.rint(values / scale), -127, 127) * scale
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale

    steps = np.abs(weights).max(axis=0) / 127
    product = simulated(inputs, inputs.min(), inputs.max()) @ (np.rint(weights / steps) * steps)
    exact = inputs @ weights
    expected = simulated(product, exact.min(), exact.max())
    # One step of the output: its rounding may fall the other way.
    step = (exact.max() - exact.min()) / 255 if activations is ASYMMETRIC else np.abs(exact).max() / 127
    assert np.abs(_run(made, inputs) - expected).max() <= 1.01 * step


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("symmetry", list(Symmetry))
def test_four_bit_weights_alone_are_those_of_the_formula(granularity: Granularity, symmetry: Symmetry) -> None:
    weights = np.random.default_rng(6).uniform(-1, 2, (96, 63)).astype(np.float32)
    recipe = QuantizeRecipe(precision=Precision.INT4_WEIGHTS, weights=symmetry, granularity=granularity)
    made = quantize_onnx(dense(weights), recipe, {})
    axis = 0 if granularity is CHANNEL else None
    low, high = np.minimum(weights.min(axis=axis), 0), np.maximum(weights.max(axis=axis), 0)
    if symmetry is SYMMETRIC:
        scale = np.maximum(-low, high) / 7
        expected = np.clip(np.rint(weights / scale), -7, 7) * scale
    else:
        scale = (high - low) / 15
        zero = np.rint(-8 - low / scale)
        expected = (np.clip(np.rint(weights / scale) + zero, -8, 7) - zero) * scale
    # The identity shows the weights themselves; a quotient at .5 may round either way: one step.
    shown = _run(made, np.eye(96, dtype=np.float32))
    off = np.abs(shown - expected) > 1e-5
    assert off.mean() < 0.01
    assert np.abs(shown - expected).max() <= 1.01 * np.max(scale)


@pytest.mark.parametrize("precision", [Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS])
def test_weights_alone_are_computed_in_float(precision: Precision) -> None:
    # Integer activations would be off by 1/256 of the largest: some 1e-1 here.
    weights = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    inputs = np.random.default_rng(2).normal(size=(8, 256)).astype(np.float32)
    made = quantize_onnx(dense(weights), QuantizeRecipe(precision=precision), {})
    # The identity shows the weights that the file has; with those, float arithmetic is exact to 256 * 2**-22.
    np.testing.assert_allclose(_run(made, inputs), inputs @ _run(made, np.eye(256, dtype=np.float32)), atol=1e-4)


def test_product_is_kept_by_the_name_of_its_bias() -> None:
    rng = np.random.default_rng(5)
    model = onnx.load_model_from_string(dense(rng.normal(size=(64, 64))))
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(onnx.helper.make_node("Add", ["product", "b"], ["y"], "biased"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(64, np.float32), "b"))
    with pytest.raises(Refused, match="nothing of this model"):
        quantize_onnx(
            model.SerializeToString(), QuantizeRecipe(precision=Precision.INT8_WEIGHTS, keep_float=("biased",)), {}
        )


def test_layer_that_is_kept_in_float_keeps_its_weights() -> None:
    made = _constants(quantize_onnx(NET, QuantizeRecipe(keep_float=("dense",)), CALIBRATION))
    assert made["w3"].dtype == np.float32
    assert not any(
        name.startswith("w2") and array.dtype == np.float32 and array.ndim == 4 for name, array in made.items()
    )


@pytest.mark.parametrize("precision", [Precision.INT8_WEIGHTS, Precision.FLOAT16])
def test_kept_layer_is_found_by_its_tensor_too(precision: Precision) -> None:
    made = quantize_onnx(NET, QuantizeRecipe(precision=precision, keep_float=("m3",)), CALIBRATION)
    assert _constants(made)["w3"].dtype == np.float32


def test_layer_that_is_merged_is_kept_by_the_one_that_it_is_merged_into() -> None:
    kept = quantize_onnx(NET, QuantizeRecipe(precision=Precision.INT8_WEIGHTS, keep_float=("norm",)), {})
    shapes = [array.shape for array in _constants(kept).values() if array.dtype == np.float32]
    assert (32, 1, 3, 3) in shapes


@pytest.mark.parametrize("name", ["second", "c2", "r2"])
def test_layer_is_kept_by_the_name_of_its_activation_too(name: str) -> None:
    made = quantize_onnx(NET, QuantizeRecipe(keep_float=(name,)), CALIBRATION)
    shapes = {array.shape for array in _constants(made).values() if array.dtype == np.float32}
    assert {(32, 1, 3, 3), (64, 32, 3, 3)} & shapes == {(64, 32, 3, 3)}


def test_unknown_layer_to_keep_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match=r"no layer or tensor 'conv9' to keep in float; it has first"):
        quantize_onnx(NET, QuantizeRecipe(keep_float=("conv9",)), CALIBRATION)


def test_several_inputs_and_outputs_keep_their_names() -> None:
    rng = np.random.default_rng(8)
    feeds = {name: rng.normal(size=(24, 64)).astype(np.float32) for name in ("a", "b")}
    made = OnnxEngine(quantize_onnx(two_in_two_out(), QuantizeRecipe(), feeds))
    assert [spec.name for spec in made.inputs] == ["a", "b"]
    assert [spec.name for spec in made.outputs] == ["left", "right"]


def test_weights_that_are_listed_as_inputs_too_are_quantized() -> None:
    model = onnx.load_model_from_string(dense(np.random.default_rng(9).normal(size=(64, 64))))
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 64]))
    inputs = {"x": np.random.default_rng(2).normal(size=(32, 64)).astype(np.float32)}
    made = quantize_onnx(model.SerializeToString(), QuantizeRecipe(), inputs)
    assert [spec.name for spec in OnnxEngine(made).inputs] == ["x"]


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS])
def test_model_of_an_older_onnx_is_raised_to_one_that_knows_channels(precision: Precision) -> None:
    old = onnx.load_model_from_string(dense(np.random.default_rng(9).normal(size=(96, 64))))
    old.opset_import[0].version, old.ir_version = 9, 4
    inputs = np.random.default_rng(2).normal(size=(32, 96)).astype(np.float32)
    made = quantize_onnx(old.SerializeToString(), QuantizeRecipe(precision=precision), {"x": inputs})
    assert onnx.load_model_from_string(made).opset_import[0].version >= 13
    before = _run(old.SerializeToString(), inputs)
    assert np.abs(_run(made, inputs) - before).max() <= 0.2 * np.abs(before).max()  # 4 bits: 1/16 a weight


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT4_DYNAMIC, Precision.MIXED])
def test_precision_that_it_has_not_is_refused_by_name(precision: Precision) -> None:
    with pytest.raises(Refused, match=f"does not do {precision}; it does int8"):
        quantize_onnx(NET, QuantizeRecipe(precision=precision), CALIBRATION)


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (QuantizeRecipe(weights=ASYMMETRIC), "weights are symmetric where each channel"),
        (QuantizeRecipe(precision=Precision.INT8_DYNAMIC), r"a convolution \(first, second\) has one scale"),
        (QuantizeRecipe(precision=Precision.INT8_DYNAMIC, activations=SYMMETRIC), "asymmetric for activations"),
        (QuantizeRecipe(correct_bias=True), "no bias correction"),
    ],
)
def test_scheme_that_it_would_replace_is_refused(recipe: QuantizeRecipe, what: str) -> None:
    with pytest.raises(Refused, match=what):
        quantize_onnx(NET, recipe, CALIBRATION)


def test_asymmetric_weights_per_tensor_are_asymmetric() -> None:
    weights = np.random.default_rng(6).uniform(-1, 2, (96, 64)).astype(np.float32)
    inputs = {"x": np.random.default_rng(2).normal(size=(32, 96)).astype(np.float32)}
    recipe = QuantizeRecipe(weights=ASYMMETRIC, granularity=TENSOR)
    assert int(_constants(quantize_onnx(dense(weights), recipe, inputs))["w_zero_point"]) == -43  # -128 + 255 / 3


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS, Precision.FLOAT16])
def test_model_that_is_quantized_already_is_refused(precision: Precision) -> None:
    once = quantize_onnx(NET, QuantizeRecipe(), CALIBRATION)
    with pytest.raises(Refused, match="quantized already"):
        quantize_onnx(once, QuantizeRecipe(precision=precision), CALIBRATION)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS, Precision.INT8_DYNAMIC])
def test_model_of_which_nothing_can_be_quantized_is_refused(precision: Precision) -> None:
    calibration = {"x": np.random.default_rng(1).uniform(0.1, 1, (32, 4096)).astype(np.float32)}
    with pytest.raises(Refused, match="nothing of this model"):
        quantize_onnx(only_elementwise(), QuantizeRecipe(precision=precision, granularity=TENSOR), calibration)


def test_model_without_weights_is_refused() -> None:
    calibration = {"x": np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)}
    with pytest.raises(Refused, match="no float32 weights"):
        quantize_onnx(without_weights(), QuantizeRecipe(), calibration)


def test_model_that_would_grow_is_refused() -> None:
    calibration = {"x": np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)}
    with pytest.raises(Refused, match="too small to gain"):
        quantize_onnx(dense(np.random.default_rng(1).normal(size=(4, 4))), QuantizeRecipe(), calibration)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_invalid_input(bad: float) -> None:
    weights = np.random.default_rng(1).normal(size=(64, 64))
    weights[3, 3] = bad
    with pytest.raises(InvalidInput, match="'w' hold NaN or infinity"):
        quantize_onnx(dense(weights), QuantizeRecipe(precision=Precision.INT8_WEIGHTS), {})


def test_weights_too_large_for_half_are_refused() -> None:
    with pytest.raises(Refused, match="70000 does not fit into float16"):
        quantize_onnx(dense(np.full((64, 64), 7e4)), QuantizeRecipe(precision=Precision.FLOAT16), {})


@pytest.mark.parametrize(
    ("calibration", "what"),
    [
        ({}, "nothing to calibrate"),
        ({"image": images(8)}, "8 calibration inputs"),
        ({"picture": images(32)}, r"\['picture'\]; the model has \['image'\]"),
        ({"image": images(32)[:, :, 1:]}, r"\(32, 1, 7, 8\); the model takes \(samples, 1, 8, 8\)"),
        ({"image": np.full((32, 1, 8, 8), np.nan, np.float32)}, "cannot calibrate"),
        ({"image": np.ones((32, 1, 8, 8), np.float32)}, "cannot calibrate"),
    ],
    ids=["none", "few", "other name", "other shape", "NaN", "constant"],
)
def test_calibration_that_does_not_fit_is_invalid_input(calibration: dict[str, NDArray[Any]], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        quantize_onnx(NET, QuantizeRecipe(), calibration)


def test_activation_that_overflows_is_invalid_input() -> None:
    weights = np.full((64, 64), 1e38, np.float32)
    calibration = {"x": np.random.default_rng(1).normal(10, 1, size=(32, 64)).astype(np.float32)}
    with pytest.raises(InvalidInput, match="'y' becomes infinite"):
        quantize_onnx(dense(weights), QuantizeRecipe(), calibration)


@pytest.mark.parametrize("data", [b"", b"no model", NET[: len(NET) // 2]])
def test_bytes_that_are_no_model_are_told_so(data: bytes) -> None:
    with pytest.raises(EdgeloopError, match=r"ONNX|model"):
        quantize_onnx(data, QuantizeRecipe(), CALIBRATION)
