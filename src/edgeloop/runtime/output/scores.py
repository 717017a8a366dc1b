"""From an output tensor to probabilities, labels and margins."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Activation
from edgeloop.contracts.prediction import Scored


def probabilities(scores: NDArray[Any], activation: Activation) -> NDArray[np.float32]:
    """Scores (..., labels) as probabilities. Raises InvalidInput if any is not finite."""
    values = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InvalidInput("the model answered NaN or infinity; do not trust it, build or fetch the bundle again")
    if activation is Activation.NONE:
        return values
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def energy(scores: NDArray[Any]) -> NDArray[np.float32]:
    """-logsumexp of raw scores over the last axis; lower means more like the training data.

    Source: Liu et al. 2020 (arXiv 2010.03759), eq. 4, at temperature 1.
    """
    values = np.asarray(scores, dtype=np.float32)
    top = values.max(axis=-1)
    return np.asarray(-(top + np.log(np.exp(values - top[..., np.newaxis]).sum(axis=-1))), dtype=np.float32)


def top_scores(probability: NDArray[np.float32], labels: tuple[str, ...], *, top_k: int) -> tuple[Scored, ...]:
    """The top_k labels of one (labels,) vector, best first; ties keep label order."""
    order = np.argsort(-probability, kind="stable")[: min(top_k, len(labels))]
    return tuple(Scored(labels[index], float(probability[index])) for index in order)


def margin(probability: NDArray[np.float32]) -> float:
    """Best minus second-best of one (labels,) vector."""
    second, best = np.partition(probability, -2)[-2:]
    return float(best - second)
