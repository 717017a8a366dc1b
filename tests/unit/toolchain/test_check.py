import numpy as np
import pytest

from builders import LABELS, Damage, as_bundle, make_parts, quadrant_images, quadrant_weights
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import Activation
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.check import footprint, measure, parity
from edgeloop.toolchain.data.dataset import Part

IMAGES = quadrant_images(40, seed=9)
PART = Part(IMAGES, np.arange(40, dtype=np.int64) % len(LABELS))


def _expected(*, sharpness: float = 20.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return quadrant_weights(sharpness=sharpness).logits(IMAGES).astype(np.float32)


def _predictor() -> Predictor:
    bundle = as_bundle(make_parts())
    return Predictor(bundle, bundle.manifest.variants[0])


def test_variant_that_is_the_float_model_agrees_with_it() -> None:
    found = parity(_predictor(), PART, _expected(), Activation.SOFTMAX)
    assert (found.samples, found.accuracy, found.accuracy_float, found.agreement) == (40, 1.0, 1.0, 1.0)
    # Logits of about 12 in float32 against float64: probabilities differ by about 1e-6.
    assert found.max_abs_error < 1e-5


def test_errors_are_those_of_probabilities() -> None:
    made, wanted = quadrant_weights().probabilities(IMAGES), quadrant_weights(sharpness=5.0).probabilities(IMAGES)
    found = parity(_predictor(), PART, _expected(sharpness=5.0), Activation.SOFTMAX)
    error = np.abs(made - wanted)
    assert (found.max_abs_error, found.mean_abs_error) == pytest.approx((error.max(), error.mean()), abs=1e-5)


def test_accuracy_is_against_the_labels_and_agreement_against_the_float_model() -> None:
    wrong = PART.labels.copy()
    wrong[:10] = (wrong[:10] + 1) % len(LABELS)
    scores = _expected()
    scores[20:25] = np.roll(scores[20:25], 1, axis=1)
    found = parity(_predictor(), Part(IMAGES, wrong), scores, Activation.SOFTMAX)
    assert (found.accuracy, found.accuracy_float, found.agreement) == pytest.approx((30 / 40, 25 / 40, 35 / 40))


def test_scores_that_are_probabilities_are_compared_as_they_are() -> None:
    found = parity(_predictor(), PART, _expected() + np.float32(0.5), Activation.NONE)
    assert (found.max_abs_error, found.mean_abs_error) == pytest.approx((0.5, 0.5), abs=1e-4)


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
