from dataclasses import replace

import msgspec
import numpy as np
import pytest

from builders import (
    LABELS,
    Damage,
    Weights,
    as_bundle,
    make_parts,
    onnx_model,
    quadrant_images,
    quadrant_means,
    quadrant_weights,
)
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.contracts.output import Activation, Regression
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.check import CheckRecipe, check, footprint, measure, parity, random_feeds
from edgeloop.toolchain.data.dataset import UNLABELLED, Part, Prepared, prepare, split
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.open import open_profile
from edgeloop.toolchain.profiles.probe import Probe, probe_model
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model

IMAGES = quadrant_images(40, seed=9)
PART = Part(IMAGES, np.arange(40, dtype=np.int64) % len(LABELS))


def _expected(*, sharpness: float = 20.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return quadrant_weights(sharpness=sharpness).logits(IMAGES).astype(np.float32)


def _predictor() -> Predictor:
    bundle = as_bundle(make_parts())
    return Predictor(bundle, bundle.manifest.variants[0])


def test_variant_that_is_the_float_model_agrees_with_it() -> None:
    found = parity(_predictor(), PART, _expected())
    assert (found.samples, found.accuracy, found.accuracy_float, found.agreement) == (40, 1.0, 1.0, 1.0)
    # Logits of about 12 in float32 against float64: probabilities differ by about 1e-6.
    assert found.max_abs_error < 1e-5


def test_errors_are_those_of_probabilities() -> None:
    made, wanted = quadrant_weights().probabilities(IMAGES), quadrant_weights(sharpness=5.0).probabilities(IMAGES)
    found = parity(_predictor(), PART, _expected(sharpness=5.0))
    error = np.abs(made - wanted)
    assert (found.max_abs_error, found.mean_abs_error) == pytest.approx((error.max(), error.mean()), abs=1e-5)


def test_accuracy_is_against_the_labels_and_agreement_against_the_float_model() -> None:
    wrong = PART.labels.copy()
    wrong[:10] = (wrong[:10] + 1) % len(LABELS)
    scores = _expected()
    scores[20:25] = np.roll(scores[20:25], 1, axis=1)
    found = parity(_predictor(), Part(IMAGES, wrong), scores)
    assert (found.accuracy, found.accuracy_float, found.agreement) == pytest.approx((30 / 40, 25 / 40, 35 / 40))


def test_scores_that_are_probabilities_are_compared_as_they_are() -> None:
    parts = make_parts()
    plain = msgspec.structs.replace(parts.manifest.output, activation=Activation.NONE)
    bundle = as_bundle(parts.changed(output=plain, reference=None))
    found = parity(Predictor(bundle, bundle.manifest.variants[0]), PART, _expected() + np.float32(0.5))
    assert (found.max_abs_error, found.mean_abs_error) == pytest.approx((0.5, 0.5), abs=1e-4)


def test_variant_of_another_task_has_no_accuracy_and_is_refused() -> None:
    parts = make_parts()
    boxes = Regression(value="logits", unit=("V",) * len(LABELS), agree_within=0.1)
    bundle = as_bundle(parts.changed(output=boxes, reference=None))
    with pytest.raises(InvalidInput, match="is for regression"):
        parity(Predictor(bundle, bundle.manifest.variants[0]), PART, _expected())


def test_measured_variant_bears_what_was_found() -> None:
    parts = make_parts()
    bundle = as_bundle(parts)
    variant = measure(bundle, bundle.manifest.variants[0], PART, _expected())
    measured = variant.measured
    assert measured is not None
    assert (measured.samples, measured.accuracy, measured.agreement) == (40, 1.0, 1.0)
    assert 0 < measured.latency_p50_ms <= measured.latency_p99_ms


def test_variant_that_fails_its_golden_samples_is_not_measured() -> None:
    bundle = as_bundle(make_parts(damage=Damage.WEIGHTS))
    with pytest.raises(Refused, match="onnxruntime float32 does not hold to the float model"):
        measure(bundle, bundle.manifest.variants[0], PART, _expected())


def test_footprint_counts_nothing_of_the_process_that_asks() -> None:
    # The kernel hands a parent's peak (ru_maxrss) on to the child that it forks; the toolchain's is a gigabyte.
    ballast = np.ones(75_000_000)
    found = footprint(as_bundle(make_parts()))
    # numpy, OpenCV and one engine: 84 MB measured.
    assert 10_000_000 < found.peak_memory_bytes < ballast.nbytes // 2


def test_variant_that_does_not_run_in_a_clean_process_is_refused() -> None:
    with pytest.raises(Refused, match="does not run in a clean process"):
        footprint(as_bundle(make_parts(damage=Damage.NAN)))


def test_variant_that_takes_too_long_in_a_clean_process_is_refused_with_the_time() -> None:
    with pytest.raises(Refused, match=r"not measured within 0\.01 s"):
        footprint(as_bundle(make_parts()), timeout_s=0.01)


# ---- one model against another


def _model(weights: Weights | None = None, *, name: str = "tiny.onnx") -> Model:
    return wrap_runnable(onnx_model(weights or quadrant_weights()), Format.ONNX, name=name)


def _data(labels: tuple[str, ...] = LABELS) -> Prepared:
    images = quadrant_images(400, seed=4)
    dataset = split(
        "quadrants",
        images,
        np.arange(400, dtype=np.int64) % len(LABELS),
        label_names=labels,
        sha256="0" * 64,
        seed=0,
    )
    return prepare(dataset, _model().only_input())


def _blind(label: int) -> Weights:
    """Finds every quadrant but one, which it never names."""
    weights = quadrant_weights()
    weights.to_logits[label, label] = 0.0
    return weights


QUICK = CheckRecipe(measure=False)


def test_model_against_itself_has_no_errors_and_loses_nothing() -> None:
    report = check(_model(), _model(name="same.onnx"), _data(), QUICK)
    assert (report.samples, report.inputs) == (80, "80 samples of quadrants, holdout")
    assert {(one.candidate, one.max_abs_error, one.mean_abs_error) for one in report.errors} == {
        ("logits", 0.0, 0.0),
        ("features", 0.0, 0.0),
    }
    assert report.classified is not None
    assert (report.classified.agreement, report.classified.drop_points, report.classified.worse) == (1.0, 0.0, ())
    assert report.passes


def test_without_any_label_agreement_is_told_and_accuracy_is_not() -> None:
    data = _data()
    holdout = data.dataset.holdout
    blank = Part(holdout.inputs, np.full(len(holdout), UNLABELLED, np.int64))
    unlabelled = replace(data, dataset=replace(data.dataset, holdout=blank, label_names=()))
    found = check(_model(_blind(2)), _model(), unlabelled, QUICK).classified
    assert found is not None
    expected = (
        _blind(2).logits(holdout.inputs).argmax(1) == quadrant_weights().logits(holdout.inputs).argmax(1)
    ).mean()
    assert found.agreement == expected < 1.0
    assert (found.labelled, found.accuracy, found.drop_points, found.labels) == (0, None, None, ())


def test_random_inputs_span_the_range_that_the_model_takes() -> None:
    recipe = CheckRecipe(measure=False, samples=50, random_range=(-3.0, 5.0))
    (values,) = random_feeds(_model(), 50, recipe.random_range).values()
    assert -3.0 <= values.min() < -2.0
    assert 4.0 < values.max() < 5.0
    assert check(_model(), _model(), None, recipe).inputs == "50 random samples between -3 and 5"


def test_labels_that_got_worse_are_named() -> None:
    report = check(_model(_blind(2)), _model(), _data(), QUICK)
    assert report.classified is not None
    (worse,) = report.classified.worse
    assert (worse.label, worse.accuracy, worse.accuracy_against) == (LABELS[2], 0.0, 1.0)
    assert report.classified.drop_points == pytest.approx(100 * worse.samples / report.samples)


def test_errors_are_those_of_outputs_as_they_are() -> None:
    data = _data()
    report = check(_model(quadrant_weights(sharpness=5.0)), _model(), data, QUICK)
    images = data.dataset.holdout.inputs
    error = np.abs(quadrant_weights(sharpness=5.0).logits(images) - quadrant_weights().logits(images))
    (found,) = (one for one in report.errors if one.candidate == "logits")
    # Logits of about 12 in float32 against float64.
    assert (found.max_abs_error, found.mean_abs_error) == pytest.approx((error.max(), error.mean()), abs=1e-4)


def test_missed_bounds_say_by_how_much() -> None:
    model = _model(_blind(0))
    bounds = Bounds(max_drop_points=0.5, max_size_bytes=100)
    report = check(model, _model(), _data(), CheckRecipe(measure=False, bounds=bounds))
    lost = report.classified.drop_points if report.classified else None
    assert report.missed == (
        f"tiny.onnx loses {lost:.2f} points, allowed 0.50",
        f"tiny.onnx has {model.size_bytes:,} bytes, allowed 100: {model.size_bytes - 100:,} too many",
    )
    assert not report.passes


def test_bound_that_cannot_be_judged_is_missed() -> None:
    bounds = Bounds(max_latency_p50_ms=1.0, max_drop_points=1.0)
    report = check(_model(), _model(), None, CheckRecipe(samples=16, measure=False, bounds=bounds))
    assert report.missed == (
        "tiny.onnx cannot be judged by its accuracy: it is not known",
        "tiny.onnx cannot be judged by its latency: it is not known",
    )


def test_both_are_measured_here() -> None:
    report = check(_model(), _model(name="other.onnx"), _data(), CheckRecipe(profile=open_profile("this")))
    for one in (report.candidate, report.against):
        assert one.latency_p50_ms is not None
        assert one.latency_p99_ms is not None
        assert one.peak_memory_bytes is not None
        assert 0 < one.latency_p50_ms <= one.latency_p99_ms
        assert (one.multiply_adds, one.precision) == (64 * 4 + 4 * 4, Precision.FLOAT32)
    assert report.device is not None
    assert report.device.misfits == ()
    assert report.device.latency.latency_ms == report.candidate.latency_p50_ms
    assert report.device.latency.method == "measured here, one thread"


def test_on_another_device_latency_is_estimated_and_held_to_the_bound() -> None:
    model = wrap_runnable(probe_model(Probe(32, 16, 2), Precision.INT8), Format.LITERT, name="p.tflite")
    bounds = Bounds(max_latency_p50_ms=0.001)
    recipe = CheckRecipe(samples=8, profile=KNOWN["pi4"], bounds=bounds, measure=False)
    report = check(model, model, None, recipe)
    assert report.device is not None
    assert report.device.misfits == ()
    assert report.device.latency.method.startswith("estimated: ")
    (missed,) = report.missed
    assert "ms estimated on Raspberry Pi 4 Model B, allowed 0.001 ms" in missed


def test_device_that_cannot_run_it_says_why() -> None:
    report = check(_model(), _model(), None, CheckRecipe(samples=8, profile=KNOWN["coral-tpu"], measure=False))
    assert report.device is not None
    assert report.device.misfits == ("it runs litert, not onnxruntime", "it computes in int8, not in float32")
    assert not report.passes


def test_microcontroller_model_is_tried_for_its_arena() -> None:
    model = wrap_runnable(probe_model(Probe(16, 4, 1), Precision.INT8), Format.LITERT, name="p.tflite")
    report = check(model, model, None, CheckRecipe(samples=8, profile=KNOWN["esp32-s3"], measure=False))
    assert report.device is not None
    assert report.device.arena_bytes is not None
    # At least the two largest tensors that live at once, 8 x 8 x 4 and 4 x 4 x 4; at most a page of bookkeeping more.
    assert 8 * 8 * 4 < report.device.arena_bytes < 16_384
    assert report.passes


def test_without_data_both_get_the_same_random_numbers() -> None:
    report = check(_model(), _model(), None, CheckRecipe(samples=16, measure=False))
    assert (report.samples, report.inputs) == (16, "16 random samples between 0 and 1")
    assert report.classified is None
    assert max(one.max_abs_error for one in report.errors) == 0.0


def _quadrants_of(shape: tuple[int, ...], *, name: str) -> Model:
    return wrap_runnable(quadrant_means(shape), Format.ONNX, name=name)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 1, 8, 8), (1, 64)])
def test_images_are_prepared_for_each_where_one_looks_at_fewer_pixels(shape: tuple[int, ...]) -> None:
    small = _quadrants_of((1, 4, 4, 1), name="small.onnx")
    data = prepare(_data().dataset, small.only_input())
    report = check(small, _quadrants_of(shape, name="whole.onnx"), data, QUICK)
    assert report.errors[0].max_abs_error < 0.01  # a quadrant's mean is the same at half of the side
    assert report.classified is not None
    assert (report.classified.agreement, report.classified.accuracy) == (1.0, 1.0)
    taken = " x ".join(map(str, shape[1:]))
    assert f"images were prepared for each: 4 x 4 x 1 for small.onnx, {taken} for whole.onnx" in report.notes


def test_random_inputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="input of small"):
        check(_quadrants_of((1, 4, 4, 1), name="small.onnx"), _quadrants_of((1, 8, 8, 1), name="w.onnx"), None, QUICK)


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(InvalidInput, match="4 outputs, quadrants 5 labels"):
        check(_model(), _model(), _data((*LABELS, "none")), QUICK)


def test_answers_of_nan_are_refused() -> None:
    weights = quadrant_weights()
    weights.bias[1] = np.nan
    with pytest.raises(Refused, match=r"bad\.onnx: output 'logits' holds NaN"):
        check(_model(weights, name="bad.onnx"), _model(), _data(), QUICK)


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    check(_model(), _model(), _data(), QUICK, progress=lambda share, _line: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
