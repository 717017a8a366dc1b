"""From an output tensor to probabilities, labels and margins: the readable definitions.

Neighbours: `classification` computes the same numbers in one pass, held to these by a property test; `reached` picks
a detector's scores.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Activation
from edgeloop.contracts.prediction import Scored

NOT_FINITE = "the model answered NaN or infinity; do not trust it, build or fetch the bundle again"

_LARGEST_EXPONENT = np.float32(88)
_ONE = np.float32(1)


def require_finite(values: NDArray[Any]) -> None:
    """Raise InvalidInput if a tensor that a model answered holds NaN or infinity."""
    if not np.isfinite(values).all():
        raise InvalidInput(NOT_FINITE)


def probabilities(scores: NDArray[Any], activation: Activation) -> NDArray[np.float32]:
    """Scores (..., labels) as probabilities. Raises InvalidInput if any is not finite."""
    values = np.asarray(scores, dtype=np.float32)
    require_finite(values)
    if activation is Activation.NONE:
        return values
    if activation is Activation.SIGMOID:
        return sigmoid(values)
    with np.errstate(over="ignore"):  # as far apart as float32 goes: the lower one's share is 0
        shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) of finite values; below -88, where exp(-x) would overflow, that of -88: 6e-39."""
    raised = np.negative(values)
    np.exp(np.minimum(raised, _LARGEST_EXPONENT, out=raised), out=raised)
    np.add(raised, _ONE, out=raised)
    return np.divide(_ONE, raised, out=raised)


def energy(scores: NDArray[Any]) -> NDArray[np.float32]:
    """-logsumexp of raw scores over the last axis; lower means more like the training data.

    Source: Liu et al. 2020 (arXiv 2010.03759), eq. 4, at temperature 1.
    """
    values = np.asarray(scores, dtype=np.float32)
    top = values.max(axis=-1)
    with np.errstate(over="ignore"):
        return np.asarray(-(top + np.log(np.exp(values - top[..., np.newaxis]).sum(axis=-1))), dtype=np.float32)


def top_scores(probability: NDArray[np.float32], labels: tuple[str, ...], *, top_k: int) -> tuple[Scored, ...]:
    """The top_k labels of one (labels,) vector, best first; ties keep label order."""
    order = np.argsort(-probability, kind="stable")[: min(top_k, len(labels))]
    return tuple(Scored(labels[index], float(probability[index])) for index in order)


def margin(probability: NDArray[np.float32]) -> float:
    """Best minus second-best of one (labels,) vector."""
    second, best = np.partition(probability, -2)[-2:]
    return float(best - second)


def least_float32(threshold: float) -> np.float32:
    """The smallest float32 that is not below the threshold: comparing with it is comparing with the threshold."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) >= threshold else np.float32(np.nextafter(nearest, np.float32(math.inf)))
