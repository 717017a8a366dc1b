import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeloop.contracts.prediction import Prediction
from edgeloop.device.drift import Cusum, DriftWatch

SLACK, THRESHOLD, CLIP = 0.5, 12.0, 4.0
"""As drift.py states them: slack and threshold in standard deviations, a freak reading counts for 4."""


def _prediction(novelty: float | None, energy_z: float | None) -> Prediction:
    return Prediction(
        label="a",
        score=0.9,
        margin=0.9,
        top=(),
        latency_ms=1.0,
        bundle="tiny@1.0.0",
        engine="onnxruntime",
        precision="float32",
        novelty=novelty,
        energy_z=energy_z,
    )


def _alarms(watch: DriftWatch, novelty: NDArray[np.float64], energy_z: NDArray[np.float64]) -> list[int]:
    """The indices at which `add` said that the alarm goes on."""
    pairs = zip(novelty.tolist(), energy_z.tolist(), strict=True)
    return [index for index, pair in enumerate(pairs) if watch.add(_prediction(*pair))]


def _reference_totals(values: list[float]) -> NDArray[np.float64]:
    """The uncapped CUSUM as max(0, sum - running minimum of sums): Page's other form of it."""
    steps = np.minimum(np.array(values, np.float64), CLIP) - SLACK
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    return (sums - np.minimum.accumulate(sums))[1:]


@given(values=st.lists(st.floats(-20.0, 20.0), min_size=1, max_size=60))
def test_total_is_pages_cusum_until_its_cap(values: list[float]) -> None:
    cusum = Cusum()
    expected = _reference_totals(values)
    for value, total in zip(values, expected, strict=True):
        alarmed = cusum.add(value)
        if total >= 4 * THRESHOLD - 1e-6:
            return  # from the cap on, the two part on purpose
        # Two orders of summation over 60 steps of at most 20: equal to about 1e-12.
        assert cusum.total == pytest.approx(total, abs=1e-9)
        assert alarmed == (cusum.total > THRESHOLD)


def test_one_freak_reading_does_not_alarm() -> None:
    assert not Cusum().add(1e9)


def test_total_is_capped_so_that_the_alarm_can_end() -> None:
    cusum = Cusum()
    for _ in range(10_000):
        cusum.add(4.0)
    assert cusum.total == 4 * THRESHOLD


def test_no_alarm_over_ten_thousand_clean_readings() -> None:
    rng = np.random.default_rng(20_260_101)
    assert _alarms(DriftWatch(), rng.standard_normal(10_000), rng.standard_normal(10_000)) == []


@pytest.mark.parametrize("channel", [0, 1])
def test_alarm_comes_within_tens_of_readings_after_a_shift_of_two_std(channel: int) -> None:
    rng = np.random.default_rng(5)
    channels = rng.standard_normal((2, 500))
    channels[channel, 300:] += 2.0
    (at, *_) = _alarms(DriftWatch(), channels[0], channels[1])
    # The mean step after the shift is 1.5, so 12 is reached in about 8 readings.
    assert 300 <= at < 330


def test_alarm_is_told_once_while_it_lasts() -> None:
    rng = np.random.default_rng(6)
    shifted = rng.standard_normal((2, 1000)) + 2.0
    assert len(_alarms(DriftWatch(), shifted[0], shifted[1])) == 1


def test_alarm_goes_off_when_readings_are_clean_again() -> None:
    watch = DriftWatch()
    _alarms(watch, np.full(100, 3.0), np.zeros(100))
    _alarms(watch, np.full(200, -1.0), np.zeros(200))
    assert not watch.is_on


def test_alarm_is_told_again_when_it_comes_back() -> None:
    watch = DriftWatch()
    for value in (3.0, -1.0):
        _alarms(watch, np.full(200, value), np.zeros(200))
    assert len(_alarms(watch, np.full(100, 3.0), np.zeros(100))) == 1


def test_reason_names_the_channel_and_its_bound() -> None:
    watch = DriftWatch()
    _alarms(watch, np.zeros(50), np.full(50, 3.0))
    assert watch.reason.startswith("energy CUSUM ")
    assert watch.reason.endswith(" over 12")


def test_readings_without_drift_statistics_are_no_alarm() -> None:
    watch = DriftWatch()
    assert not any(watch.add(_prediction(None, None)) for _ in range(1000))


def test_unmeasurable_reading_does_not_end_an_alarm() -> None:
    watch = DriftWatch()
    _alarms(watch, np.full(100, 3.0), np.full(100, 3.0))
    watch.add(_prediction(None, None))
    assert watch.is_on
