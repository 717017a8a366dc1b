"""A classifier's few scores to a label in plain Python: of ten scores, each call into NumPy costs more than its work.

It computes what `classification` computes, in float64 where that has float32, so that the numbers are the same to
within float32's rounding. Scores that are stored in 8 bits become real, and their exponentials are found, by a table;
features by one product.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Activation, Classification
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor
from edgeloop.runtime.output.novelty import NoveltyScale
from edgeloop.runtime.output.scores import NOT_FINITE

MOST_LABELS = 24
"""Up to here it is faster than NumPy."""

_EIGHT_BITS = ("int8", "uint8")

Weighed = tuple[list[float], float, float | None]
"""What is not yet divided by the second number to be probabilities, and the energy."""


Decision = tuple[str | None, float, float, tuple[Scored, ...], float | None, float | None, float | None]
"""label, score, margin, top, energy, energy_z, novelty, as in Answer: a tuple costs a tenth of making one."""

Few = Callable[[NDArray[Any], NDArray[Any] | None], Decision]
"""From the score tensor (1, labels) and the feature tensor (1, D), as the engine stores them, to the decision."""


def decide_few(
    labels: tuple[str, ...],
    output: Classification,
    scale: NoveltyScale | None,
    *,
    scores: TensorSpec,
    features: TensorSpec | None,
) -> Few | None:
    """The short way for these tensors, None if there are too many labels for it or they are stored otherwise."""
    weigh = _weigher(scores, output.activation)
    if len(labels) > MOST_LABELS or weigh is None:
        return None
    strange = None if scale is None or features is None else _strangeness(scale, features)
    wanted = max(output.top_k, 2)
    places = range(len(labels))
    threshold, top_k = output.threshold, output.top_k

    def decide(stored: NDArray[Any], given: NDArray[Any] | None) -> Decision:
        values, total, energy = weigh(stored.tolist()[0])
        order = sorted(places, key=values.__getitem__, reverse=True)[:wanted]
        first = order[0]
        score = values[first] / total
        margin = score - values[order[1]] / total
        top = tuple([Scored(labels[place], values[place] / total) for place in order[:top_k]])
        label = labels[first] if score >= threshold else None
        if strange is None or energy is None:
            return label, score, margin, top, energy, None, None
        energy_z, novelty = strange(given, first, energy)
        return label, score, margin, top, energy, energy_z, novelty

    return decide


def _weigher(spec: TensorSpec, activation: Activation) -> Callable[[list[Any]], Weighed] | None:
    """From one row of stored scores to what is ranked. None where they are stored neither in 8 bits nor in float32."""
    reals = _table(spec)
    if not reals and (spec.scale != 0.0 or spec.dtype != "float32"):
        return None
    if not reals:
        return lambda row: _weigh(row, activation)
    if activation is not Activation.SOFTMAX:
        return lambda row: _weigh([reals[value] for value in row], activation)
    raised = [math.exp(-steps * spec.scale) for steps in range(256)]

    def by_table(row: list[int]) -> Weighed:
        top = max(row)
        values = [raised[top - value] for value in row]
        total = sum(values)
        return values, total, -(reals[top] + math.log(total))

    return by_table


def _weigh(values: list[float], activation: Activation) -> Weighed:
    """Raises InvalidInput if any score is not finite."""
    if not math.isfinite(sum(values)):
        raise InvalidInput(NOT_FINITE)
    if activation is Activation.NONE:
        return values, 1.0, None
    top = max(values)
    raised = [math.exp(value - top) for value in values]
    total = sum(raised)
    energy = -(top + math.log(total))
    if activation is Activation.SIGMOID:
        return [_sigmoid(value) for value in values], 1.0, energy
    return raised, total, energy


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else 1.0 - 1.0 / (1.0 + math.exp(value))


def _table(spec: TensorSpec) -> list[float]:
    """What each of the 256 stored values means, at its own index: Python counts negative ones from the end."""
    if spec.scale == 0.0 or spec.dtype not in _EIGHT_BITS:
        return []
    stored = np.arange(256).astype(np.uint8).view(spec.dtype)
    reals: list[float] = dequantize_tensor(stored, spec).tolist()
    return reals


def _strangeness(scale: NoveltyScale, spec: TensorSpec) -> Callable[[Any, int, float], tuple[float, float]]:
    """`NoveltyScale.energy_z` and `novelty`, of features as they are stored: (stored * step - mean) / std in one
    product."""
    step, zero_point = (spec.scale, spec.zero_point) if spec.scale else (1.0, 0)
    with np.errstate(over="ignore"):  # a spread next to nothing: every answer is told apart as not finite
        factor = (step / scale.std.astype(np.float64)).astype(np.float32)
        shifts = list(((scale.means.astype(np.float64) + zero_point * step) / scale.std).astype(np.float32))
    room = np.empty_like(factor)
    width, dot, isfinite, sqrt = len(room), room.dot, math.isfinite, math.sqrt
    reference = scale.reference
    distance_mean, distance_std = reference.distance_mean, reference.distance_std
    energy_mean, energy_std = reference.energy_mean, reference.energy_std
    multiply, subtract = np.multiply, np.subtract

    def strange(stored: NDArray[Any], predicted: int, energy: float) -> tuple[float, float]:
        room[...] = stored[0]  # on its own: a product that changes the type takes twice as long as both
        multiply(room, factor, room)
        subtract(room, shifts[predicted], room)
        novelty = (sqrt(dot(room) / width) - distance_mean[predicted]) / distance_std[predicted]
        if not isfinite(novelty):
            raise InvalidInput(NOT_FINITE)
        return (energy - energy_mean[predicted]) / energy_std[predicted], novelty

    if _stays_finite(spec, factor, shifts):
        return strange
    # What is not finite is refused. Around a block it takes 0.5 us more.
    return np.errstate(over="ignore", invalid="ignore")(strange)


def _stays_finite(spec: TensorSpec, factor: NDArray[np.float32], shifts: list[NDArray[np.float32]]) -> bool:
    """Whether no stored value can overflow: then NumPy need not be told to keep quiet about it, which takes 0.5 us."""
    if spec.dtype not in _EIGHT_BITS:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        farthest = 256 * np.abs(factor) + np.max(np.abs(shifts), axis=0)
        return bool(np.isfinite(farthest @ farthest))
