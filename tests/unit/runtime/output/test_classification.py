"""The fast path against the readable definitions in `scores` and `novelty`, number by number."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeloop.bundle.archive import digest
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import DriftReference
from edgeloop.contracts.output import Activation, Classification
from edgeloop.runtime.output.classification import ClassificationHead
from edgeloop.runtime.output.novelty import NoveltyScale, feature_distance
from edgeloop.runtime.output.scores import energy, margin, probabilities, top_scores
from outputs import bundle_of, manifest_of

# Few distinct values as well, so that ties come up.
values = st.one_of(st.floats(-90, 90, width=32), st.sampled_from([0.0, 1.0, 2.0]))
rows = hnp.arrays(np.float32, st.integers(2, 40), elements=values)


def _labels(count: int) -> tuple[str, ...]:
    return tuple(f"label {index}" for index in range(count))


def _head(labels: int, **fields: Any) -> ClassificationHead:
    output = Classification("scores", **fields)
    return ClassificationHead(manifest_of(output, _labels(labels)), output, None)


def _assert_as_defined(row: NDArray[np.float32], activation: Activation, top_k: int) -> None:
    answer = _head(len(row), activation=activation, top_k=top_k).answer((row[np.newaxis],), None, None)
    wanted, labels = probabilities(row, activation), _labels(len(row))
    assert answer.top == top_scores(wanted, labels, top_k=top_k)
    # Scores below 0, which are no probabilities, do not reach even a threshold of 0.
    assert answer.label == (labels[int(wanted.argmax())] if wanted.max() >= 0 else None)
    assert answer.score == float(wanted.max())
    assert answer.margin == margin(wanted)
    assert answer.energy == (None if activation is Activation.NONE else float(energy(row)))


@given(rows, st.sampled_from(Activation), st.integers(1, 12))
def test_answer_is_exactly_what_the_definitions_say(
    row: NDArray[np.float32], activation: Activation, top_k: int
) -> None:
    _assert_as_defined(row, activation, top_k)


@pytest.mark.parametrize("activation", [Activation.SOFTMAX, Activation.SIGMOID])
@pytest.mark.parametrize("top_k", [1, 5, 20])
def test_so_it_is_for_a_thousand_labels(activation: Activation, top_k: int) -> None:
    for seed in range(20):
        row = np.random.default_rng(seed).normal(0, 4, 1001).astype(np.float32)
        _assert_as_defined(row, activation, top_k)


def test_the_memory_of_the_model_is_left_alone() -> None:
    row = np.array([[0.25, 0.5, 0.25]], np.float32)
    for activation in Activation:
        _head(3, activation=activation).answer((row,), None, None)
    assert row.tolist() == [[0.25, 0.5, 0.25]]


@pytest.mark.parametrize(("score", "label"), [(0.75, "label 1"), (0.7499, None)])
def test_below_the_threshold_there_is_no_label(score: float, label: str | None) -> None:
    row = np.array([[1 - score, score]], np.float32)
    answer = _head(2, activation=Activation.NONE, threshold=0.75).answer((row,), None, None)
    assert answer.label == label
    assert answer.top[0].label == "label 1"


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]])
@pytest.mark.parametrize("place", [0, 2])
def test_scores_that_are_not_finite_are_refused(activation: Activation, bad: list[float], place: int) -> None:
    row = np.array([[0.1, 0.2, 0.3, 0.2]], np.float32)
    row[0, place : place + len(bad)] = bad
    head = _head(4, activation=activation)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        head.answer((row,), None, None)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        head.basis((row,), None)


def test_basis_is_the_probabilities() -> None:
    row = np.array([[1.0, 3.0, 2.0]], np.float32)
    basis = _head(3, activation=Activation.SOFTMAX).basis((row,), None)
    assert basis.tolist() == probabilities(row[0], Activation.SOFTMAX).tolist()


def test_answers_agree_by_label_or_by_none() -> None:
    head = _head(2, activation=Activation.SOFTMAX, threshold=0.75)
    made = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.76, 0.24]], np.float32)
    wanted = np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.74, 0.26]], np.float32)
    assert head.agree(made, wanted).tolist() == [True, False, True, False]


MEANS = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
STD = np.random.default_rng(2).uniform(0.5, 2, 16).astype(np.float32)
OUTPUT = Classification("scores", Activation.SOFTMAX, features="features")
DISTANCE, DISTANCE_STD, ENERGY, ENERGY_STD = (1.0, 2.0, 3.0), (0.5, 0.25, 0.1), (-4.0, -5.0, -6.0), (2.0, 1.0, 0.5)


def _measured() -> tuple[ClassificationHead, NoveltyScale]:
    """A head with a drift reference for three labels and 16 features."""
    shipped = (to_npy(MEANS), to_npy(STD))
    reference = DriftReference(digest(shipped[0]), digest(shipped[1]), DISTANCE, DISTANCE_STD, ENERGY, ENERGY_STD)
    bundle = bundle_of(OUTPUT, ("a", "b", "c"), shipped, reference=reference)
    scale = NoveltyScale(bundle)
    return ClassificationHead(bundle.manifest, OUTPUT, scale), scale


@given(
    hnp.arrays(np.float32, (1, 3), elements=st.floats(-50, 50, width=32)),
    hnp.arrays(np.float32, (1, 16), elements=st.floats(-50, 50, width=32)),
)
def test_novelty_and_energy_z_are_exactly_as_defined(scores: NDArray[Any], features: NDArray[Any]) -> None:
    answer = _measured()[0].answer((scores, features), None, None)
    best = int(probabilities(scores[0], Activation.SOFTMAX).argmax())
    distance = feature_distance(features, np.array([best]), MEANS, STD)[0]
    assert answer.novelty == float((distance - DISTANCE[best]) / DISTANCE_STD[best])
    assert answer.energy_z == (float(energy(scores[0])) - ENERGY[best]) / ENERGY_STD[best]


def test_features_that_are_not_finite_are_refused() -> None:
    features = np.full((1, 16), np.nan, np.float32)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        _measured()[0].answer((np.zeros((1, 3), np.float32), features), None, None)


def test_scores_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"has 3 labels, but its score tensor 'scores' is \(1, 4\)"):
        _head(3, activation=Activation.SOFTMAX).check(((1, 4),))


def test_features_of_another_width_than_the_reference_are_refused() -> None:
    head = _measured()[0]
    head.check(((1, 3), (1, 16)))
    with pytest.raises(InvalidInput, match="drift reference is for 16 features"):
        head.check(((1, 3), (1, 17)))
