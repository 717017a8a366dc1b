"""Against windows kept by hand."""

from statistics import median
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import (
    Activation,
    Anomaly,
    Classification,
    Consensus,
    Distance,
    Embedding,
    ErrorKind,
    MedianOf,
    Output,
    Regression,
    Segmentation,
)
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.output.anomaly import judged
from edgeloop.runtime.output.port import Answer
from edgeloop.runtime.output.regression import valued
from edgeloop.runtime.output.smooth import Smoother, make_smoother

LABELS = ("a", "b", "c")
RNG = np.random.default_rng(12)


def _smoother(output: Output, labels: tuple[str, ...] = LABELS) -> Smoother:
    made = make_smoother(output, labels)
    assert made is not None
    return made


def _classifier(smoothing: MedianOf | Consensus | None, **fields: Any) -> Classification:
    return Classification("scores", Activation.NONE, smoothing=smoothing, **fields)


def _answer(label: str | None, score: float = 0.5) -> Answer:
    return Answer(label=label, score=score, margin=score / 2, top=(Scored(label or "?", score),), energy=score)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_each_probability_is_the_median_of_the_last_k(k: int) -> None:
    smoother = _smoother(_classifier(MedianOf(k), threshold=0.4, top_k=3))
    rows = RNG.dirichlet(np.ones(3), 12).astype(np.float32)
    for index, row in enumerate(rows):
        newest = _answer("newest", float(index))
        made = smoother.add(newest, row)
        last = rows[max(0, index + 1 - k) : index + 1].tolist()
        wanted = {label: median(one[place] for one in last) for place, label in enumerate(LABELS)}
        # The mean of two float32 is rounded to float32.
        assert {one.label: one.score for one in made.top} == pytest.approx(wanted, rel=1e-6)
        best, second, _ = sorted(wanted.values(), reverse=True)
        assert made.label == (max(wanted, key=lambda name: wanted[name]) if best >= 0.4 else None)
        assert (made.score, made.margin) == pytest.approx((best, best - second), rel=1e-5, abs=1e-7)
        assert made.energy == newest.energy


def test_one_wrong_frame_of_three_is_outvoted() -> None:
    smoother = _smoother(_classifier(MedianOf(3)))
    frames = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.8, 0.2, 0.0]]
    made = [smoother.add(_answer(None), np.array(frame, np.float32)).label for frame in frames]
    assert made == ["a", "a", "a"]  # of two, the mean: a tie, which keeps label order


def test_median_keeps_no_hold_on_the_array_it_is_given() -> None:
    smoother = _smoother(_classifier(MedianOf(3)))
    row = np.array([0.9, 0.1, 0.0], np.float32)
    for frame in ([0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.0, 0.1, 0.9]):
        row[:] = frame
        made = smoother.add(_answer(None), row)
    assert made.label == "a"
    assert row.tolist() == np.array(frame, np.float32).tolist()


def test_median_of_probabilities_wants_all_of_them() -> None:
    smoother = _smoother(_classifier(MedianOf(3)))
    assert smoother.wants_basis
    with pytest.raises(InvalidInput, match="hand over the head's basis"):
        smoother.add(_answer("a"), None)


def test_median_of_values_is_taken_one_by_one() -> None:
    output = Regression(value="value", unit=("K", "Pa"), agree_within=1.0, smoothing=MedianOf(3))
    smoother = _smoother(output, ("t", "p"))
    assert not smoother.wants_basis
    made = [
        smoother.add(valued(values, ("t", "p")), None) for values in ([1.0, 9.0], [5.0, 7.0], [3.0, 8.0], [9.0, 0.0])
    ]
    assert [[one.score for one in answer.top] for answer in made] == [[1, 9], [3, 8], [3, 8], [5, 7]]
    assert [answer.score for answer in made] == [1, 3, 3, 5]


def test_median_of_errors_is_judged_by_the_threshold() -> None:
    output = Anomaly(reconstruction="made", error=ErrorKind.MEAN_SQUARED, threshold=1.0, smoothing=MedianOf(3))
    smoother = _smoother(output, ("normal", "odd"))
    made = [smoother.add(judged(error, ("normal", "odd"), output), None) for error in (0.5, 9.0, 0.25, 8.0, 7.0)]
    assert [answer.score for answer in made] == [0.5, 4.75, 0.5, 8.0, 7.0]
    assert [answer.label for answer in made] == ["normal", "odd", "normal", "odd", "odd"]


def test_after_a_reset_nothing_of_before_counts() -> None:
    for output in (_classifier(MedianOf(3)), _classifier(Consensus(of=3, at_least=1))):
        smoother = _smoother(output)
        for _ in range(3):
            smoother.add(_answer("a"), np.array([1, 0, 0], np.float32))
        smoother.reset()
        assert smoother.add(_answer("b"), np.array([0, 1, 0], np.float32)).label == "b"


def _consensus(given: str, *, of: int, at_least: int) -> str:
    """The labels that come of these, a letter each; "-" is none."""
    smoother = _smoother(_classifier(Consensus(of=of, at_least=at_least)))
    made = [smoother.add(_answer(None if one == "-" else one), None).label for one in given]
    return "".join(label or "-" for label in made)


@pytest.mark.parametrize(
    ("given", "of", "at_least", "wanted"),
    [
        ("aaab", 3, 2, "-aaa"),
        ("abab", 3, 2, "--ab"),
        ("abcabc", 3, 2, "------"),
        ("aa---", 3, 2, "-aa--"),
        ("aaabbb", 4, 2, "-aaabb"),  # two each: the newer
        ("aabbb", 5, 3, "----b"),
        ("ab", 2, 1, "ab"),
    ],
)
def test_consensus_is_the_label_that_enough_of_the_last_agree_on(
    given: str, of: int, at_least: int, wanted: str
) -> None:
    assert _consensus(given, of=of, at_least=at_least) == wanted


def test_score_and_top_belong_to_the_label_of_the_consensus() -> None:
    smoother = _smoother(_classifier(Consensus(of=3, at_least=2)))
    smoother.add(_answer("a", 0.75), None)
    smoother.add(_answer("a", 0.5), None)
    newest = _answer("b", 0.875)
    made = smoother.add(newest, None)
    assert (made.label, made.score, made.margin, made.top) == ("a", 0.5, 0.25, (Scored("a", 0.5),))
    assert made.energy == newest.energy


def test_without_consensus_all_but_the_label_is_the_newest_answer_s() -> None:
    smoother = _smoother(_classifier(Consensus(of=3, at_least=2)))
    made = smoother.add(_answer("a", 0.75), None)
    assert (made.label, made.score, made.top) == (None, 0.75, (Scored("a", 0.75),))


def test_an_embedding_s_vector_stays_that_of_the_newest() -> None:
    output = Embedding(vector="v", distance=Distance.COSINE, threshold=1.0, smoothing=Consensus(of=2, at_least=2))
    smoother = _smoother(output, ())
    for number in (1.0, 2.0):
        made = smoother.add(Answer(label="ann", score=0.5, margin=0.1, top=(), vector=(number,)), None)
    assert (made.label, made.vector) == ("ann", (2.0,))


def test_a_consensus_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 4 of 3 answers never comes"):
        make_smoother(_classifier(Consensus(of=3, at_least=4)), LABELS)


@pytest.mark.parametrize("output", [_classifier(None), Segmentation(scores="scores", activation=Activation.NONE)])
def test_without_smoothing_there_is_no_smoother(output: Output) -> None:
    assert make_smoother(output, LABELS) is None
