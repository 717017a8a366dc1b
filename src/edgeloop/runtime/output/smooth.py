"""Answers of a stream, steadied over time as the manifest says.

Rules kept here: answers come in the order of their inputs, one smoother a stream; what belongs to the newest input
alone (energy, novelty, vector) stays as it is. Neighbours: `contracts.output` defines the kinds.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Anomaly, Classification, Consensus, MedianOf, Output, Regression
from edgeloop.runtime.output.anomaly import judged
from edgeloop.runtime.output.classification import decided, ranked
from edgeloop.runtime.output.port import Answer
from edgeloop.runtime.output.regression import valued


class Smoother(Protocol):
    """Takes answers one after another and gives each back, smoothed over those before it.

    wants_basis: whether `add` needs what the head's `basis` gives beside the answer.
    """

    wants_basis: bool

    def add(self, answer: Answer, basis: NDArray[np.float32] | None) -> Answer:
        """The next answer, smoothed. Raises InvalidInput without the basis where it is wanted."""
        ...

    def reset(self) -> None:
        """Forget what came before: the scene is another one."""
        ...


def make_smoother(output: Output, labels: tuple[str, ...]) -> Smoother | None:
    """The smoother that a manifest's output asks for, None if it asks for none.

    Raises InvalidInput if a consensus asks for more answers than it looks at.
    """
    smoothing = getattr(output, "smoothing", None)
    if isinstance(smoothing, Consensus):
        if smoothing.at_least > smoothing.of:
            raise InvalidInput(f"a consensus of at least {smoothing.at_least} of {smoothing.of} answers never comes")
        return ConsensusSmoother(smoothing)
    if not isinstance(smoothing, MedianOf):
        return None
    if isinstance(output, Classification):
        return MedianSmoother(smoothing, lambda newest, median: _classified(newest, median, labels, output))
    if isinstance(output, Regression):
        return MedianSmoother(smoothing, lambda _, median: valued(median.tolist(), labels), read=_values)
    if isinstance(output, Anomaly):
        return MedianSmoother(smoothing, lambda _, median: judged(float(median[0]), labels, output), read=_score)
    raise InvalidInput(f"a median needs scores or values, which {type(output).__name__.lower()} has not")


class MedianSmoother:
    """Decides by the median of the last k vectors, number by number; of an even count, the mean of the middle two.

    decide: from the newest answer and the median to the smoothed answer. read: the vector of an answer; None where
    an answer does not hold it whole and the basis is wanted.
    """

    def __init__(
        self,
        smoothing: MedianOf,
        decide: Callable[[Answer, NDArray[Any]], Answer],
        *,
        read: Callable[[Answer], NDArray[Any]] | None = None,
    ) -> None:
        self.wants_basis = read is None
        self._read = read
        self._decide = decide
        self._last: deque[NDArray[Any]] = deque(maxlen=smoothing.k)

    def add(self, answer: Answer, basis: NDArray[np.float32] | None) -> Answer:
        """See Smoother."""
        if self._read is not None:
            self._last.append(self._read(answer))
        elif basis is None:
            raise InvalidInput("the median of probabilities needs all of them: hand over the head's basis")
        else:
            self._last.append(np.array(basis))
        return self._decide(answer, np.median(np.stack(self._last), axis=0))

    def reset(self) -> None:
        """See Smoother."""
        self._last.clear()


class ConsensusSmoother:
    """The label that at least so many of the last answers agree on; of several the most frequent, then the newest.

    Score, margin and top are those of the newest answer that gave this label; without a consensus, of the newest.
    """

    wants_basis = False

    def __init__(self, smoothing: Consensus) -> None:
        self._at_least = smoothing.at_least
        self._last: deque[Answer] = deque(maxlen=smoothing.of)

    def add(self, answer: Answer, basis: NDArray[np.float32] | None) -> Answer:
        """See Smoother."""
        self._last.append(replace(answer, boxes=(), mask_png=None, vector=()))
        newest_first = [one for one in reversed(self._last) if one.label is not None]
        # most_common keeps the order of first sight among equals: the newest.
        common = Counter(one.label for one in newest_first).most_common(1)
        if not common or common[0][1] < self._at_least:
            return replace(answer, label=None)
        label = common[0][0]
        chosen = next(one for one in newest_first if one.label == label)
        return replace(answer, label=label, score=chosen.score, margin=chosen.margin, top=chosen.top)

    def reset(self) -> None:
        """See Smoother."""
        self._last.clear()


def _classified(newest: Answer, median: NDArray[Any], labels: tuple[str, ...], output: Classification) -> Answer:
    order, values = ranked(median, output.top_k)
    label, margin, top = decided(order, values, labels, output)
    return replace(newest, label=label, score=values[0], margin=margin, top=top)


def _values(answer: Answer) -> NDArray[Any]:
    return np.array([one.score for one in answer.top], dtype=np.float64)


def _score(answer: Answer) -> NDArray[Any]:
    return np.array([answer.score], dtype=np.float64)
