"""Against activating the whole table in float64 and comparing each score."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.output import Activation
from edgeloop.runtime.output.reached import Reached, reached

RNG = np.random.default_rng(11)
PLACES, CLASSES = 300, 6


def _activated(table: NDArray[np.float32], activation: Activation) -> NDArray[np.float64]:
    wide = table.astype(np.float64)
    if activation is Activation.SIGMOID:
        return np.asarray(1 / (1 + np.exp(-wide)))
    if activation is Activation.SOFTMAX:
        raised = np.exp(wide - wide.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    return wide


def _table(activation: Activation) -> NDArray[np.float32]:
    if activation is Activation.NONE:
        return RNG.uniform(size=(PLACES, CLASSES)).astype(np.float32)
    return RNG.normal(0, 4, (PLACES, CLASSES)).astype(np.float32)


def _assert_same(found: Reached, wanted: NDArray[np.float64], threshold: float) -> None:
    # A float32 activation errs by some 1e-7; scores that near to the threshold may fall on either side.
    sure = {(int(row), int(kind)) for row, kind in np.argwhere(wanted >= threshold + 1e-6)}
    may = {(int(row), int(kind)) for row, kind in np.argwhere(wanted >= threshold - 1e-6)}
    places = list(zip(found.rows.tolist(), found.classes.tolist(), strict=True))
    assert len(places) == len(set(places))
    assert sure <= set(places) <= may
    np.testing.assert_allclose(found.scores, wanted[found.rows, found.classes], atol=1e-6)
    assert (found.scores.astype(np.float64) >= threshold).all()
    assert found.nearest == pytest.approx(wanted.max(), abs=1e-6)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("threshold", [0.0, 1e-7, 0.3, 0.7, 0.9999])
@pytest.mark.parametrize("background", [None, 0, 2, CLASSES - 1])
@pytest.mark.parametrize("turned", [False, True])
def test_finds_every_score_that_reaches_the_threshold(
    activation: Activation, threshold: float, background: int | None, turned: bool
) -> None:
    table = _table(activation)
    wanted = _activated(table, activation)
    if background is not None:
        wanted = np.delete(wanted, background, axis=1)
    given = np.asfortranarray(table) if turned else table
    _assert_same(reached(given, threshold, activation=activation, background=background), wanted, threshold)


@pytest.mark.parametrize("activation", [Activation.NONE, Activation.SIGMOID])
def test_objectness_multiplies_every_score(activation: Activation) -> None:
    table, objectness = _table(activation), _table(activation)[:, 0]
    wanted = _activated(table, activation) * _activated(objectness[:, np.newaxis], activation)
    _assert_same(reached(table, 0.4, activation=activation, objectness=objectness), wanted, 0.4)


@pytest.mark.parametrize("activation", list(Activation))
def test_where_nothing_reaches_the_threshold_the_nearest_is_told(activation: Activation) -> None:
    table = np.clip(_table(activation), 0, 0.5)
    found = reached(table, 0.99, activation=activation)
    assert len(found.rows) == 0
    assert found.nearest == pytest.approx(_activated(table, activation).max(), abs=1e-6)


def test_a_sigmoid_that_rounds_to_one_reaches_one() -> None:
    found = reached(np.array([[30.0], [10.0]], np.float32), 1.0, activation=Activation.SIGMOID)
    assert found.rows.tolist() == [0]


@pytest.mark.parametrize("activation", list(Activation))
def test_a_table_without_places_reaches_nothing(activation: Activation) -> None:
    found = reached(np.empty((0, 3), np.float32), 0.5, activation=activation, background=0)
    assert (len(found.rows), found.nearest) == (0, 0.0)


def test_scores_as_far_apart_as_float32_goes_are_told_apart() -> None:
    found = reached(np.array([[3.4e38, -3.4e38]], np.float32), 0.5, activation=Activation.SOFTMAX)
    assert (found.rows.tolist(), found.classes.tolist(), found.scores.tolist()) == ([0], [0], [1.0])
