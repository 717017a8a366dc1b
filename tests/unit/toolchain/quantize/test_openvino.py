import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.openvino import OpenVinoEngine
from edgeloop.toolchain.convert.openvino import read_network, to_openvino
from edgeloop.toolchain.quantize.openvino import quantize_openvino
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity, QuantizeRecipe, Symmetry
from small_onnx import convnet, dense, images, only_elementwise, two_in_two_out, without_weights

NET = convnet()
FLOAT = to_openvino(NET)
CALIBRATION = {"image": images(32)}
JUDGED = images(64)[32:]


def _run(data: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    engine = OpenVinoEngine(data)
    (name,) = [spec.name for spec in engine.inputs]
    made = [next(iter(engine.run({name: inputs[at : at + 1]}).values())) for at in range(len(inputs))]
    engine.close()
    return np.concatenate(made)


def _integers(data: bytes) -> dict[tuple[int, ...], str]:
    """The element type of each constant of two axes or more that is stored in integers, by its shape."""
    constants = [node for node in read_network(data).get_ordered_ops() if node.get_type_name() == "Constant"]
    kinds = {tuple(node.get_output_shape(0)): node.get_element_type().get_type_name() for node in constants}
    return {shape: kind for shape, kind in kinds.items() if kind[0] in "iu" and len(shape) > 1 and max(shape) > 1}


# Relative error of the scores: 8 bits are 1/256 a tensor and add up over 3 layers; half has 11 bits.
@pytest.mark.parametrize(
    ("precision", "shrinks_to", "error"),
    [(Precision.INT8, 0.35, 0.05), (Precision.INT8_WEIGHTS, 0.35, 0.03), (Precision.FLOAT16, 0.6, 0.003)],
)
def test_quantized_model_is_smaller_and_answers_alike(precision: Precision, shrinks_to: float, error: float) -> None:
    made = quantize_openvino(NET, QuantizeRecipe(precision=precision), CALIBRATION)
    before, after = _run(FLOAT, JUDGED), _run(made, JUDGED)
    assert len(made) < shrinks_to * len(FLOAT)
    assert np.abs(after - before).max() <= error * np.abs(before).max()


def test_onnx_and_openvino_sources_give_the_same_bytes() -> None:
    made = quantize_openvino(NET, QuantizeRecipe(), CALIBRATION)
    assert made == quantize_openvino(FLOAT, QuantizeRecipe(), CALIBRATION)


@pytest.mark.parametrize("calibration", [Calibration.MIN_MAX, Calibration.PERCENTILE, Calibration.MSE])
def test_every_calibration_that_it_has_gives_a_model_that_answers_alike(calibration: Calibration) -> None:
    made = quantize_openvino(FLOAT, QuantizeRecipe(calibration=calibration), CALIBRATION)
    before, after = _run(FLOAT, JUDGED), _run(made, JUDGED)
    # Ranges that cut off tails clip the largest scores; most are near.
    assert np.median(np.abs(after - before)) <= 0.05 * np.abs(before).max()


@pytest.mark.parametrize("calibration", [Calibration.ENTROPY, Calibration.MOVING_AVERAGE])
def test_calibration_that_it_has_not_is_refused_by_name(calibration: Calibration) -> None:
    with pytest.raises(Refused, match=f"does not calibrate by {calibration}; it does min_max"):
        quantize_openvino(FLOAT, QuantizeRecipe(calibration=calibration), CALIBRATION)


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("symmetry", list(Symmetry))
def test_weights_after_int8_are_those_of_the_formula(granularity: Granularity, symmetry: Symmetry) -> None:
    weights = np.random.default_rng(1).uniform(-1, 2, (96, 64)).astype(np.float32)
    weights *= np.linspace(0.1, 1, 64, dtype=np.float32)
    inputs = np.random.default_rng(2).normal(size=(64, 96)).astype(np.float32)
    recipe = QuantizeRecipe(weights=symmetry, granularity=granularity)
    network = read_network(quantize_openvino(dense(weights), recipe, {"x": inputs}))
    shown = _weights(network)
    axis = 0 if granularity is Granularity.CHANNEL else None
    low, high = weights.min(axis=axis), weights.max(axis=axis)
    # NNCF keeps the first layer's symmetric weights to 7 bits: x86 without VNNI would saturate.
    scale = np.maximum(-low, high) / 63 if symmetry is Symmetry.SYMMETRIC else (high - low) / 255
    # Rounded to the nearest step, no weight is off by more than half of one; asymmetric ranges shift to hold 0.
    assert np.abs(shown - weights).max() <= 0.51 * np.max(scale)
    assert (np.abs(shown - weights) <= 0.55 * scale).mean() > 0.99
    levels = [len(np.unique(column)) for column in shown.T]
    assert max(levels) <= (128 if symmetry is Symmetry.SYMMETRIC else 256)


def _weights(network: Any) -> NDArray[np.float32]:
    """The weights (96, 64) that the network multiplies by, as real numbers: constant * scale - shift."""
    from edgeloop.runtime.engines.openvino import import_openvino

    openvino = import_openvino()
    (product,) = [node for node in network.get_ordered_ops() if node.get_type_name() == "MatMul"]
    shown = openvino.Model([product.input_value(1)], [], "weights")
    request = openvino.Core().compile_model(shown, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    request.infer()
    array = np.array(request.get_output_tensor(0).data)
    return array if array.shape == (96, 64) else array.T


def test_bias_correction_moves_biases() -> None:
    plain = quantize_openvino(FLOAT, QuantizeRecipe(), CALIBRATION)
    assert quantize_openvino(FLOAT, QuantizeRecipe(correct_bias=True), CALIBRATION) != plain


def test_four_bit_weights_are_four_bits() -> None:
    recipe = QuantizeRecipe(precision=Precision.INT4_WEIGHTS, keep_float=("norm", "second"))
    made = quantize_openvino(NET, recipe, {})
    before, after = _run(FLOAT, JUDGED), _run(made, JUDGED)
    assert set(_integers(made).values()) == {"i4"}
    assert np.abs(after - before).max() <= 0.5 * np.abs(before).max()  # 1/16 a tensor


def test_four_bit_weights_of_convolutions_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"would store .* in 8 bits, not 4"):
        quantize_openvino(NET, QuantizeRecipe(precision=Precision.INT4_WEIGHTS), {})


def test_weights_alone_are_computed_in_float() -> None:
    # Integer activations would be off by 1/256 of the largest: some 1e-2 here.
    weights = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    inputs = np.random.default_rng(2).normal(size=(8, 256)).astype(np.float32)
    made = quantize_openvino(dense(weights), QuantizeRecipe(precision=Precision.INT8_WEIGHTS), {})
    # The identity shows the weights that the file has; with those, float arithmetic is exact to 256 * 2**-22.
    shown = _run(made, np.eye(256, dtype=np.float32))
    np.testing.assert_allclose(_run(made, inputs), inputs @ shown, atol=1e-4)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS])
@pytest.mark.parametrize("name", ["dense", "m3"])
def test_layer_that_is_kept_in_float_keeps_its_weights(precision: Precision, name: str) -> None:
    made = quantize_openvino(NET, QuantizeRecipe(precision=precision, keep_float=(name,)), CALIBRATION)
    assert not {(1024, 16), (16, 1024)} & set(_integers(made))
    assert (64, 32, 3, 3) in _integers(made)


def test_convolution_is_kept_with_its_bias() -> None:
    made = quantize_openvino(NET, QuantizeRecipe(keep_float=("second",)), CALIBRATION)
    assert (64, 32, 3, 3) not in _integers(made)


def test_layer_that_was_merged_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="'first' is merged into other layers"):
        quantize_openvino(NET, QuantizeRecipe(keep_float=("first",)), CALIBRATION)


@pytest.mark.parametrize("name", ["second", "c2", "r2"])
def test_layer_is_kept_by_the_name_of_its_activation_too(name: str) -> None:
    made = quantize_openvino(NET, QuantizeRecipe(keep_float=(name,)), CALIBRATION)
    assert (64, 32, 3, 3) not in _integers(made)
    assert (32, 1, 3, 3) in _integers(made)


def test_unknown_layer_to_keep_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="no layer or tensor 'conv9' to keep in float"):
        quantize_openvino(NET, QuantizeRecipe(keep_float=("conv9",)), CALIBRATION)


def test_several_inputs_and_outputs_keep_their_names() -> None:
    rng = np.random.default_rng(8)
    feeds = {name: rng.normal(size=(24, 64)).astype(np.float32) for name in ("a", "b")}
    made = OpenVinoEngine(quantize_openvino(two_in_two_out(), QuantizeRecipe(), feeds))
    assert [spec.name for spec in made.inputs] == ["a", "b"]
    assert [spec.name for spec in made.outputs] == ["left", "right"]


@pytest.mark.parametrize(
    "precision",
    [Precision.FLOAT32, Precision.INT16, Precision.INT4, Precision.INT8_DYNAMIC, Precision.INT4_DYNAMIC],
)
def test_precision_that_it_has_not_is_refused_by_name(precision: Precision) -> None:
    with pytest.raises(Refused, match=f"does not do {precision} here; it does int8"):
        quantize_openvino(FLOAT, QuantizeRecipe(precision=precision), CALIBRATION)


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (QuantizeRecipe(precision=Precision.INT8_WEIGHTS, granularity=Granularity.TENSOR), "one scale a channel"),
        (QuantizeRecipe(precision=Precision.INT8_WEIGHTS, correct_bias=True), "for int8 only"),
        (QuantizeRecipe(precision=Precision.FLOAT16, keep_float=("dense",)), "all constants in float16 or none"),
    ],
)
def test_scheme_that_it_would_replace_is_refused(recipe: QuantizeRecipe, what: str) -> None:
    with pytest.raises(Refused, match=what):
        quantize_openvino(FLOAT, recipe, CALIBRATION)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS])
def test_model_that_is_quantized_already_is_refused(precision: Precision) -> None:
    once = quantize_openvino(FLOAT, QuantizeRecipe(precision=precision), CALIBRATION)
    with pytest.raises(Refused, match="quantized already"):
        quantize_openvino(once, QuantizeRecipe(), CALIBRATION)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS])
def test_model_of_which_nothing_can_be_quantized_is_refused(precision: Precision) -> None:
    calibration = {"x": np.random.default_rng(1).uniform(0.1, 1, (32, 4096)).astype(np.float32)}
    with pytest.raises(Refused, match="nothing of this model"):
        quantize_openvino(only_elementwise(), QuantizeRecipe(precision=precision), calibration)


def test_model_without_weights_is_refused() -> None:
    calibration = {"x": np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)}
    with pytest.raises(Refused, match="no float weights"):
        quantize_openvino(without_weights(), QuantizeRecipe(), calibration)


def test_model_that_would_grow_is_refused() -> None:
    calibration = {"x": np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)}
    with pytest.raises(Refused, match="too small to gain"):
        quantize_openvino(dense(np.random.default_rng(1).normal(size=(4, 4))), QuantizeRecipe(), calibration)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_invalid_input(bad: float) -> None:
    weights = np.random.default_rng(1).normal(size=(64, 64))
    weights[3, 3] = bad
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        quantize_openvino(dense(weights), QuantizeRecipe(precision=Precision.INT8_WEIGHTS), {})


@pytest.mark.parametrize(
    ("calibration", "what"),
    [
        ({}, "nothing to calibrate"),
        ({"image": images(8)}, "8 calibration inputs"),
        ({"picture": images(32)}, r"\['picture'\]; the model has \['image'\]"),
        ({"image": images(32)[:, :, 1:]}, r"\(32, 1, 7, 8\); the model takes \(samples, 1, 8, 8\)"),
    ],
    ids=["none", "few", "other name", "other shape"],
)
def test_calibration_that_does_not_fit_is_invalid_input(calibration: dict[str, NDArray[Any]], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        quantize_openvino(FLOAT, QuantizeRecipe(), calibration)


@pytest.mark.parametrize("data", [b"", b"no model", b"PK\x03\x04 no model", FLOAT[: len(FLOAT) // 2]])
def test_bytes_that_are_no_model_are_told_so(data: bytes) -> None:
    with pytest.raises(EdgeloopError, match="model"):
        quantize_openvino(data, QuantizeRecipe(), CALIBRATION)


def test_quantizing_says_nothing_and_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(FLOAT)
    np.save(tmp_path / "images.npy", CALIBRATION["image"])
    code = (
        "import sys, pathlib, numpy; from edgeloop.toolchain.quantize.openvino import quantize_openvino; "
        "from edgeloop.toolchain.quantize.recipe import QuantizeRecipe; "
        "model, images = pathlib.Path('model').read_bytes(), numpy.load('images.npy'); "
        "quantize_openvino(model, QuantizeRecipe(), {'image': images}); "
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    home = tmp_path / "home"
    home.mkdir()
    # The package takes a continuous-integration run for a reason to be silent; a person's shell is not one.
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**environment, "HOME": str(home)},
    )
    assert (done.stdout.strip(), done.stderr, list(home.rglob("*intel*"))) == ("[]", "", [])
