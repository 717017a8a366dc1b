import msgspec
import numpy as np
import pytest

from builders import Damage, Parts, as_bundle, make_parts, quadrant_weights
from edgeloop.bundle.arrays import from_npy, to_npy
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.manifest import Budget, Precision, Tolerance
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.replay import Judge, Replay, latency_p50_ms, replay


def _replay(parts: Parts) -> Replay:
    bundle = as_bundle(parts)
    variant = bundle.manifest.variants[0]
    return replay(bundle, variant, Predictor(bundle, variant))


def _failure(parts: Parts) -> str:
    failure = _replay(parts).failure
    assert failure is not None
    return failure


def _with_golden_outputs(parts: Parts, **places: float) -> Parts:
    outputs = from_npy(parts.files[parts.manifest.golden.outputs], what="o").copy()
    for place, value in places.items():
        row, column = map(int, place[1:].split("_"))
        outputs[row, column] = value
    return parts.with_file(parts.manifest.golden.outputs, to_npy(outputs))


def test_honest_bundle_passes() -> None:
    assert _replay(make_parts()).failure is None


def test_honest_bundle_agrees_on_every_label() -> None:
    assert _replay(make_parts()).agreement == 1.0


def test_honest_bundle_is_as_exact_as_float32() -> None:
    # Scores of about 12 carry float32 errors of about 1e-6; probabilities hardly more.
    assert _replay(make_parts()).max_abs_error < 1e-5


def test_measured_errors_are_those_of_the_golden_samples() -> None:
    # A model half as sharp on the same images: what it is off by can be said without running it.
    soft, sharp = quadrant_weights(sharpness=10.0), make_parts()
    images = from_npy(sharp.files[sharp.manifest.golden.inputs], what="i")
    expected = np.abs(soft.probabilities(images) - quadrant_weights().probabilities(images))
    outputs = to_npy(quadrant_weights().probabilities(images).astype(np.float32))
    told = make_parts(weights=soft)
    result = _replay(told.with_file(told.manifest.golden.outputs, outputs))
    assert (result.max_abs_error, result.mean_abs_error) == pytest.approx((expected.max(), expected.mean()), abs=1e-5)


def test_damaged_weights_fail_with_the_share_that_agrees() -> None:
    assert "0% of labels agree" in _failure(make_parts(damage=Damage.WEIGHTS))


def test_changed_preprocessing_fails_with_how_far_off_it_is() -> None:
    assert "off by up to" in _failure(make_parts(damage=Damage.PREPROCESS))


def test_model_that_answers_nan_fails() -> None:
    assert "NaN" in _failure(make_parts(damage=Damage.NAN))


def test_tolerance_that_is_not_stated_fails() -> None:
    parts = make_parts()
    golden = msgspec.structs.replace(parts.manifest.golden, tolerance={})
    assert "no tolerance for float32" in _failure(parts.changed(golden=golden))


def test_tolerance_of_another_precision_does_not_count() -> None:
    parts = make_parts()
    tolerance = parts.manifest.golden.tolerance[Precision.FLOAT32]
    golden = msgspec.structs.replace(parts.manifest.golden, tolerance={Precision.INT8: tolerance})
    assert "no tolerance for float32" in _failure(parts.changed(golden=golden))


def test_one_label_that_disagrees_fails_when_all_must_agree() -> None:
    loose = Tolerance(max_abs_error=1.0, mean_abs_error=1.0, min_agreement=1.0)
    assert "94% of labels agree" in _failure(_with_golden_outputs(make_parts(tolerance=loose), r3_0=1.0))


def test_one_label_that_disagrees_passes_when_that_is_allowed() -> None:
    loose = Tolerance(max_abs_error=1.0, mean_abs_error=1.0, min_agreement=15 / 16)
    assert _replay(_with_golden_outputs(make_parts(tolerance=loose), r3_0=1.0)).failure is None


def test_one_probability_that_is_off_fails() -> None:
    tolerance = Tolerance(max_abs_error=0.1, mean_abs_error=1.0, min_agreement=1.0)
    assert "off by up to" in _failure(_with_golden_outputs(make_parts(tolerance=tolerance), r3_0=0.2))


def test_mean_error_beyond_its_tolerance_fails() -> None:
    tolerance = Tolerance(max_abs_error=1.0, mean_abs_error=0.001, min_agreement=1.0)
    assert "mean" in _failure(_with_golden_outputs(make_parts(tolerance=tolerance), r3_0=0.2))


def test_golden_outputs_that_are_nan_do_not_pass() -> None:
    # The label of sample 3 is 3, so NaN there also wins the argmax, and only the error can tell.
    try:
        result = _replay(_with_golden_outputs(make_parts(), r3_3=np.nan))
    except EdgeloopError:
        return
    assert result.failure is not None


def test_bundle_that_is_too_slow_here_fails_with_both_figures() -> None:
    parts = make_parts().changed(budget=Budget(max_latency_p50_ms=1e-6))
    assert "too slow here" in _failure(parts)


def test_bundle_within_its_budget_passes() -> None:
    assert _replay(make_parts().changed(budget=Budget(max_latency_p50_ms=60_000.0))).failure is None


def test_wrong_answers_are_named_before_slowness() -> None:
    parts = make_parts(damage=Damage.WEIGHTS).changed(budget=Budget(max_latency_p50_ms=1e-6))
    assert "labels agree" in _failure(parts)


def test_changed_number_of_labels_does_not_pass() -> None:
    with pytest.raises(EdgeloopError, match="labels"):
        _replay(make_parts().changed(labels=("a", "b", "c"), reference=None))


@pytest.mark.parametrize("shape", [(15, 4), (16, 3), (16,), (0, 4)], ids=str)
def test_golden_outputs_of_another_shape_do_not_pass(shape: tuple[int, ...]) -> None:
    parts = make_parts()
    with pytest.raises(EdgeloopError, match="golden samples"):
        _replay(parts.with_file(parts.manifest.golden.outputs, to_npy(np.zeros(shape, np.float32))))


@pytest.mark.parametrize("shape", [(15, 8, 8), (16,), (0, 8, 8)], ids=str)
def test_golden_inputs_of_another_shape_do_not_pass(shape: tuple[int, ...]) -> None:
    parts = make_parts()
    with pytest.raises(EdgeloopError):
        _replay(parts.with_file(parts.manifest.golden.inputs, to_npy(np.zeros(shape, np.uint8))))


def test_golden_inputs_that_the_model_does_not_take_are_a_failure() -> None:
    parts = make_parts()
    told = _replay(parts.with_file(parts.manifest.golden.inputs, to_npy(np.zeros((16, 9, 8), np.uint8))))
    assert told.failure is not None
    assert "golden samples" in told.failure


def test_answers_that_are_infinitely_wrong_do_not_pass() -> None:
    failure = _failure(_with_golden_outputs(make_parts(), _0_0=3.4e38, _1_0=3.4e38, _2_0=3.4e38))
    assert failure.startswith("golden samples: ")


def test_latency_is_the_median_of_fifty_predictions_of_a_quick_model() -> None:
    timed = _Timed(make_parts(), [1.0] * 30 + [9.0] * 25)
    # The first 5 warm it up; of the other 50, 25 say 1 ms and 25 say 9 ms.
    assert latency_p50_ms(timed, timed.inputs) == pytest.approx(5.0)
    assert timed.runs == 55


class _Timed(Predictor):
    """A sound predictor that says how long it took."""

    def __init__(self, parts: Parts, latency_ms: list[float]) -> None:
        bundle = as_bundle(parts)
        super().__init__(bundle, bundle.manifest.variants[0])
        self.inputs, _ = Judge.read(bundle)
        self.runs = 0
        self._latency_ms = latency_ms

    def predict(self, source: Source) -> Prediction:
        """See Predictor.predict."""
        self.runs += 1
        return msgspec.structs.replace(super().predict(source), latency_ms=self._latency_ms[self.runs - 1])
