"""Errors against their definitions in float64."""

from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Anomaly, ErrorKind
from edgeloop.runtime.output.anomaly import AnomalyHead
from outputs import manifest_of

SHAPE = (1, 240, 320, 3)
RNG = np.random.default_rng(8)
GIVEN = RNG.normal(size=SHAPE).astype(np.float32)
MADE = GIVEN + RNG.normal(0, 0.1, SHAPE).astype(np.float32)


def _head(error: ErrorKind = ErrorKind.MEAN_SQUARED, threshold: float = 0.5, **fields: Any) -> AnomalyHead:
    output = Anomaly(reconstruction="made", error=error, threshold=threshold)
    return AnomalyHead(manifest_of(output, **({"labels": ("normal", "odd")} | fields)), output)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_error_is_the_mean_over_all_elements(kind: ErrorKind) -> None:
    away = MADE.astype(np.float64) - GIVEN.astype(np.float64)
    wanted = (away**2).mean() if kind is ErrorKind.MEAN_SQUARED else np.abs(away).mean()
    answer = _head(kind).answer((MADE,), None, GIVEN)
    # Rounded once, to float32.
    assert answer.score == pytest.approx(float(wanted), rel=1e-7)
    assert _head(kind).basis((MADE,), GIVEN).tolist() == [answer.score]


def _answer(error: float, threshold: float) -> tuple[str | None, float]:
    answer = _head(ErrorKind.MEAN_ABSOLUTE, threshold).answer((GIVEN * 0 + np.float32(error),), None, GIVEN * 0)
    return answer.label, answer.margin


def test_only_above_the_threshold_is_it_an_anomaly() -> None:
    assert [_answer(error, 0.5)[0] for error in (0.25, 0.5, 0.75)] == ["normal", "normal", "odd"]


def test_margin_is_the_distance_to_the_threshold_in_shares_of_the_larger() -> None:
    assert [_answer(error, 0.5)[1] for error in (0.0, 0.25, 0.5, 2.0)] == [1.0, 0.5, 0.0, 0.75]


def test_answers_agree_on_the_same_side_of_the_threshold() -> None:
    made = np.array([[0.4], [0.6], [0.4], [0.5]], np.float32)
    wanted = np.array([[0.1], [9.0], [0.6], [0.5001]], np.float32)
    assert _head().agree(made, wanted).tolist() == [True, True, False, False]


def test_a_huge_error_is_an_anomaly_and_finite() -> None:
    answer = _head().answer((np.full(SHAPE, 3e38, np.float32),), None, GIVEN)
    assert answer.label == "odd"
    assert np.isfinite(answer.score)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reconstruction_that_is_not_finite_is_refused(bad: float) -> None:
    made = MADE.copy()
    made[0, 7, 7, 1] = bad
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        _head().answer((made,), None, GIVEN)


def test_an_input_that_holds_nan_is_refused() -> None:
    given = GIVEN.copy()
    given[0, 0, 0, 0] = np.nan
    with pytest.raises(InvalidInput, match="the input holds NaN"):
        _head().answer((MADE,), None, given)


def test_without_the_input_there_is_no_error() -> None:
    assert _head().wants_input
    with pytest.raises(InvalidInput, match="was not handed over"):
        _head().answer((MADE,), None, None)


def test_a_reconstruction_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected the same shape"):
        _head().check(((1, 320, 240, 3),))


def test_an_anomaly_has_two_labels() -> None:
    with pytest.raises(InvalidInput, match="two, normal first"):
        _head(labels=("a", "b", "c"))
