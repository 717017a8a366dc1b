from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from builders import (
    LABELS,
    Damage,
    Parts,
    as_bundle,
    make_parts,
    onnx_model,
    quadrant_images,
    quadrant_weights,
)
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.output import Activation
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor, quantize_tensor
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.predictor import Predictor

IMAGES = quadrant_images(8, seed=3)
WEIGHTS = quadrant_weights()


def _predictor(parts: Parts | None = None) -> Predictor:
    bundle = as_bundle(parts or make_parts())
    return Predictor(bundle, bundle.manifest.variants[0])


def _with_output(parts: Parts, **fields: Any) -> Parts:
    return parts.changed(output=msgspec.structs.replace(parts.manifest.output, **fields))


def _with_tensors(parts: Parts, tensors: dict[str, str]) -> Parts:
    return parts.changed(variants=(msgspec.structs.replace(parts.manifest.variants[0], tensors=tensors),))


# ---- what it answers


@pytest.mark.parametrize("index", range(4))
def test_label_is_the_brightest_quadrant(index: int) -> None:
    assert _predictor().predict(IMAGES[index]).label == LABELS[index]


def test_score_is_the_probability_of_the_float_model() -> None:
    expected = WEIGHTS.probabilities(IMAGES[:1]).max()
    assert _predictor().predict(IMAGES[0]).score == pytest.approx(expected, abs=1e-5)  # float32 through 64 additions


def test_margin_is_best_minus_second_best_of_the_float_model() -> None:
    second, best = np.sort(WEIGHTS.probabilities(IMAGES[:1])[0])[-2:]
    assert _predictor().predict(IMAGES[0]).margin == pytest.approx(best - second, abs=1e-5)


def test_energy_is_that_of_the_float_models_scores() -> None:
    expected = -np.logaddexp.reduce(WEIGHTS.logits(IMAGES[:1])[0])
    assert _predictor().predict(IMAGES[0]).energy == pytest.approx(expected, abs=1e-4)  # of a size of about 12


def test_energy_z_is_in_standard_deviations_of_the_predicted_label() -> None:
    parts = make_parts()
    reference = parts.manifest.reference
    assert reference is not None
    answer = _predictor(parts).predict(IMAGES[2])
    energy = -np.logaddexp.reduce(WEIGHTS.logits(IMAGES[2:3])[0])
    expected = (energy - reference.energy_mean[2]) / reference.energy_std[2]
    assert answer.energy_z == pytest.approx(expected, abs=1e-3)  # energy to 1e-4, divided by a std of 0.35


def test_top_lists_as_many_labels_as_the_manifest_says() -> None:
    answer = _predictor(_with_output(make_parts(), top_k=2)).predict(IMAGES[0])
    assert (len(answer.top), answer.top[0].label) == (2, LABELS[0])


def test_answer_names_bundle_engine_and_precision() -> None:
    answer = _predictor(make_parts(version="1.2.3")).predict(IMAGES[0])
    assert (answer.bundle, answer.engine, answer.precision) == ("tiny@1.2.3", "onnxruntime", "float32")


def test_encoded_image_is_answered_as_its_pixels_are() -> None:
    predictor = _predictor()
    assert predictor.predict(encode_png(IMAGES[1])).score == predictor.predict(IMAGES[1]).score


def test_many_answers_come_in_the_order_of_their_inputs() -> None:
    assert [answer.label for answer in _predictor().predict_many(IMAGES)] == [*LABELS, *LABELS]


def test_score_at_the_threshold_keeps_its_label() -> None:
    score = _predictor().predict(IMAGES[0]).score
    assert _predictor(_with_output(make_parts(), threshold=score)).predict(IMAGES[0]).label == LABELS[0]


def test_score_below_the_threshold_has_no_label() -> None:
    score = _predictor().predict(IMAGES[0]).score
    above = float(np.nextafter(score, 1.0))
    assert _predictor(_with_output(make_parts(), threshold=above)).predict(IMAGES[0]).label is None


def test_answer_without_a_label_still_says_what_came_closest() -> None:
    assert _predictor(_with_output(make_parts(), threshold=1.0)).predict(IMAGES[0]).top[0].label == LABELS[0]


def test_bundle_without_a_reference_answers_without_novelty() -> None:
    answer = _predictor(make_parts().changed(reference=None)).predict(IMAGES[0])
    assert (answer.novelty, answer.energy_z) == (None, None)


def test_model_without_features_answers_without_novelty() -> None:
    assert _predictor(_with_output(make_parts(), features=None)).predict(IMAGES[0]).novelty is None


def test_scores_that_are_probabilities_have_no_energy() -> None:
    # The scores then pass as they are, and are no logits to take a logsumexp of.
    answer = _predictor(_with_output(make_parts(), activation=Activation.NONE)).predict(IMAGES[0])
    assert (answer.energy, answer.energy_z, answer.novelty) == (None, None, None)


def test_latency_is_stated() -> None:
    assert _predictor().predict(IMAGES[0]).latency_ms > 0


# ---- what it refuses


def test_model_that_answers_nan_is_not_believed() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        _predictor(make_parts(damage=Damage.NAN)).predict(IMAGES[0])


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the model takes"):
        _predictor().predict(np.zeros((9, 8), np.uint8))


def test_float_array_for_an_image_bundle_is_refused() -> None:
    with pytest.raises(InvalidInput, match="float32"):
        _predictor().predict(IMAGES[0].astype(np.float32))


def test_bytes_for_a_tensor_bundle_are_refused() -> None:
    spec = InputSpec("image", Modality.TENSOR, (1, 8, 8, 1), "NHWC", (0.0, 1.0))
    with pytest.raises(InvalidInput, match="takes arrays"):
        _predictor(make_parts().changed(input=spec, preprocess=())).predict(b"bytes")


def test_tensor_bundle_answers_an_array() -> None:
    spec = InputSpec("image", Modality.TENSOR, (1, 8, 8, 1), "NHWC", (0.0, 1.0))
    predictor = _predictor(make_parts().changed(input=spec, preprocess=()))
    assert predictor.predict(IMAGES[3][:, :, np.newaxis] / 255.0).label == LABELS[3]


@pytest.mark.parametrize("labels", [LABELS[:3], (*LABELS, "none")], ids=["fewer", "more"])
def test_another_number_of_labels_than_scores_is_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        _predictor(make_parts().changed(labels=labels, reference=None))


@pytest.mark.parametrize("missing", ["image", "logits"])
def test_variant_that_does_not_name_a_tensor_is_corrupt(missing: str) -> None:
    tensors = {name: name for name in ("image", "logits", "features") if name != missing}
    with pytest.raises(Corrupt, match=missing):
        _predictor(_with_tensors(make_parts(), tensors))


@pytest.mark.parametrize("wrong", ["image", "logits"])
def test_variant_that_names_a_tensor_the_model_lacks_is_corrupt(wrong: str) -> None:
    tensors = {name: name for name in ("image", "logits", "features")} | {wrong: "nowhere"}
    with pytest.raises(Corrupt, match="nowhere"):
        _predictor(_with_tensors(make_parts(), tensors))


def test_variant_that_does_not_name_its_features_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="features"):
        _predictor(_with_tensors(make_parts(), {"image": "image", "logits": "logits"})).predict(IMAGES[0])


def test_variant_whose_features_the_model_lacks_is_corrupt() -> None:
    tensors = {"image": "image", "logits": "logits", "features": "nowhere"}
    with pytest.raises(Corrupt, match="nowhere"):
        _predictor(_with_tensors(make_parts(), tensors)).predict(IMAGES[0])


def test_reference_for_another_number_of_labels_is_corrupt() -> None:
    parts = make_parts()
    reference = parts.manifest.reference
    assert reference is not None
    short = msgspec.structs.replace(reference, energy_mean=reference.energy_mean[:3])
    with pytest.raises(Corrupt, match="reference"):
        _predictor(parts.changed(reference=short))


def test_reference_for_other_features_is_corrupt() -> None:
    parts = make_parts()
    reference = parts.manifest.reference
    assert reference is not None
    wide = parts.with_file(reference.class_means, to_npy(np.zeros((4, 3), np.float32)))
    wide = wide.with_file(reference.feature_std, to_npy(np.ones(3, np.float32)))
    with pytest.raises(InvalidInput, match="reference is for 3 features"):
        _predictor(wide)


@pytest.mark.parametrize("field", ["distance_std", "energy_std"])
def test_reference_without_spread_is_corrupt(field: str) -> None:
    parts = make_parts()
    assert parts.manifest.reference is not None
    flat = msgspec.structs.replace(parts.manifest.reference, **{field: (0.0,) * 4})
    with pytest.raises(Corrupt, match="reference"):
        _predictor(parts.changed(reference=flat)).predict(IMAGES[0])


def test_reference_whose_features_have_no_spread_is_corrupt() -> None:
    parts = make_parts()
    assert parts.manifest.reference is not None
    flat = parts.with_file(parts.manifest.reference.feature_std, to_npy(np.zeros(4, np.float32)))
    with pytest.raises(Corrupt, match="reference"):
        _predictor(flat).predict(IMAGES[0])


def test_predicting_after_close_is_refused() -> None:
    predictor = _predictor()
    predictor.close()
    with pytest.raises(InvalidInput, match="closed"):
        predictor.predict(IMAGES[0])


def test_model_of_another_input_shape_is_an_edgeloop_error() -> None:
    spec = msgspec.structs.replace(make_parts().manifest.input, shape=(1, 4, 4, 1))
    with pytest.raises(EdgeloopError):
        _predictor(make_parts().changed(input=spec)).predict(np.zeros((4, 4), np.uint8))


def test_weights_that_are_set_are_those_that_answer() -> None:
    turned = replace(WEIGHTS, to_logits=np.roll(WEIGHTS.to_logits, 1, axis=1))
    parts = make_parts().with_model(onnx_model(turned))
    assert _predictor(parts).predict(IMAGES[0]).label == LABELS[1]


# ---- quantization of tensors


@given(
    values=hnp.arrays(np.float32, 20, elements=st.floats(0, 1, width=32)),
    low=st.floats(-50, 0),
    span=st.floats(0.1, 100),
    dtype=st.sampled_from(["int8", "uint8"]),
)
def test_quantized_value_comes_back_within_half_a_step(
    values: NDArray[np.float32], low: float, span: float, dtype: str
) -> None:
    scale, least = span / 255, int(np.iinfo(dtype).min)
    spec = TensorSpec("x", (20,), dtype, scale, int(np.clip(round(least - low / scale), least, least + 255)))
    lowest, highest = (least - spec.zero_point) * scale, (least + 255 - spec.zero_point) * scale
    inside = (lowest + values.astype(np.float64) * (highest - lowest)).astype(np.float32)
    back = dequantize_tensor(quantize_tensor(inside, spec), spec)
    # Half a step, and the float32 rounding of quotients and products of up to 255 steps: 255 * 2^-22 of a step.
    assert np.abs(back.astype(np.float64) - inside).max() <= scale * (0.5 + 1e-4)


@pytest.mark.parametrize(("value", "stored"), [(1e6, 127), (-1e6, -128), (0.0, -3), (0.5, -2), (-0.5, -4)])
def test_value_is_rounded_to_steps_and_clipped(value: float, stored: int) -> None:
    spec = TensorSpec("x", (1,), "int8", 0.5, -3)
    assert quantize_tensor(np.array([value], np.float32), spec).tolist() == [stored]


def test_quantized_tensor_has_the_declared_dtype() -> None:
    assert quantize_tensor(np.zeros(2, np.float32), TensorSpec("x", (2,), "uint8", 0.5, 3)).dtype == np.uint8


def test_stored_value_means_steps_from_the_zero_point() -> None:
    spec = TensorSpec("x", (3,), "int8", 0.5, -3)
    assert dequantize_tensor(np.array([-128, -3, 127], np.int8), spec).tolist() == [-62.5, 0.0, 65.0]


def test_tensor_that_is_not_quantized_passes_unchanged() -> None:
    spec, values = TensorSpec("x", (2,), "float32"), np.array([1.5, -2.5], np.float32)
    assert dequantize_tensor(quantize_tensor(values, spec), spec).tolist() == [1.5, -2.5]
