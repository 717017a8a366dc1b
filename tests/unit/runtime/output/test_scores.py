"""Against the definitions, computed in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Activation
from edgeloop.runtime.output.scores import energy, least_float32, margin, probabilities, sigmoid, top_scores

logits = hnp.arrays(np.float32, st.integers(2, 20), elements=st.floats(-80, 80, width=32))


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    raised = np.exp(scores.astype(np.float64) - float(scores.max()))
    return np.asarray(raised / raised.sum())


@given(logits)
def test_softmax_is_that_of_the_definition(scores: NDArray[np.float32]) -> None:
    # Probabilities lie in 0..1; exp, sum of up to 20 and division in float32 err by some 2^-24 each.
    np.testing.assert_allclose(probabilities(scores, Activation.SOFTMAX), _softmax(scores), atol=2e-6)


@given(logits)
def test_energy_is_minus_logsumexp(scores: NDArray[np.float32]) -> None:
    expected = -np.logaddexp.reduce(scores.astype(np.float64))
    # The result is up to 83 in size, so one float32 rounding is up to 4e-6.
    np.testing.assert_allclose(energy(scores), expected, atol=2e-5)


def test_softmax_works_on_each_row_alone() -> None:
    rows = np.array([[0, 1, 2], [100, 0, 0]], np.float32)
    result = probabilities(rows, Activation.SOFTMAX)
    np.testing.assert_allclose(result, [_softmax(row) for row in rows], atol=2e-6)


def test_energy_works_on_each_row_alone() -> None:
    rows = np.array([[0, 1, 2], [100, 0, 0]], np.float32)
    np.testing.assert_allclose(energy(rows), -np.logaddexp.reduce(rows.astype(np.float64), axis=1), rtol=1e-6)


def test_softmax_of_huge_scores_does_not_overflow() -> None:
    assert probabilities(np.array([1e30, -1e30], np.float32), Activation.SOFTMAX).tolist() == [1.0, 0.0]


def test_energy_of_huge_scores_does_not_overflow() -> None:
    assert float(energy(np.array([1e30, 0], np.float32))) == -float(np.float32(1e30))


def test_softmax_does_not_change_when_all_scores_move_alike() -> None:
    scores = np.array([1, 2, 4], np.float32)
    moved = probabilities(scores + np.float32(64), Activation.SOFTMAX)  # 64: exact in float32
    assert moved.tolist() == probabilities(scores, Activation.SOFTMAX).tolist()


def test_scores_that_are_probabilities_pass_unchanged() -> None:
    scores = np.array([0.25, 0.75], np.float32)
    assert probabilities(scores, Activation.NONE).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(activation: Activation, bad: float) -> None:
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        probabilities(np.array([0.0, bad], np.float32), activation)


def test_top_scores_come_best_first() -> None:
    found = top_scores(np.array([0.25, 0.5, 0.125, 0.125], np.float32), ("a", "b", "c", "d"), top_k=2)
    assert [(one.label, one.score) for one in found] == [("b", 0.5), ("a", 0.25)]


def test_ties_keep_the_order_of_labels() -> None:
    found = top_scores(np.full(4, 0.25, np.float32), ("d", "c", "b", "a"), top_k=4)
    assert [one.label for one in found] == ["d", "c", "b", "a"]


def test_no_more_top_scores_than_labels() -> None:
    assert len(top_scores(np.array([0.5, 0.5], np.float32), ("a", "b"), top_k=5)) == 2


@given(hnp.arrays(np.float32, st.integers(2, 20), elements=st.floats(0, 1, width=32)))
def test_margin_is_best_minus_second_best(values: NDArray[np.float32]) -> None:
    best, second = sorted(values.tolist(), reverse=True)[:2]
    assert margin(values) == float(np.float32(best) - np.float32(second))


def test_margin_of_a_tie_is_zero() -> None:
    assert margin(np.array([0.5, 0.0, 0.5], np.float32)) == 0.0


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-200, 200, width=32)))
def test_sigmoid_is_that_of_the_definition(scores: NDArray[np.float32]) -> None:
    wide = scores.astype(np.float64)
    # exp, sum and division in float32 err by some 2^-24 each; below -88 all are 0 but for 6e-39.
    np.testing.assert_allclose(sigmoid(scores), 1 / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-38)
    assert probabilities(scores, Activation.SIGMOID).tolist() == sigmoid(scores).tolist()


@given(st.floats(0, 1))
def test_comparing_with_the_least_float32_is_comparing_with_the_threshold(threshold: float) -> None:
    least = least_float32(threshold)
    assert float(least) >= threshold
    assert float(np.nextafter(least, np.float32(-1))) < threshold


@pytest.mark.parametrize("most", [3.4e38, -3.4e38])
def test_scores_as_far_apart_as_float32_goes_are_told_apart(most: float) -> None:
    scores = np.array([most, -most, 0.0], np.float32)
    wanted = [1.0, 0.0, 0.0] if most > 0 else [0.0, 1.0, 0.0]
    assert probabilities(scores, Activation.SOFTMAX).tolist() == wanted
    assert energy(scores).tolist() == -np.float32(abs(most))
