"""A classifier's scores to a label.

`answer` computes what `scores` and `novelty` define, number by number, but looks at each score as few times as it can:
a call into NumPy costs as much as its work on a thousand scores. Neighbours: `smooth` decides again, on medians.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.output import Activation, Classification
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.few import Few, decide_few
from edgeloop.runtime.output.novelty import NoveltyScale
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.scores import NOT_FINITE, least_float32, probabilities, sigmoid

_MOST_ROUNDS = 8
"""Up to here, k times argmax find the best k sooner than sorting does: 2 us against 13 of 1,001 scores at k = 3."""

_NEVER = np.float32(-math.inf)


class ClassificationHead:
    """Scores (1, labels), and features (1, D) where the manifest names them, to a label.

    scale: what novelty is measured by, None where the bundle ships no reference.
    """

    wants_input = False

    def __init__(self, manifest: Manifest, output: Classification, scale: NoveltyScale | None) -> None:
        self.wants: tuple[str, ...] = (output.scores,) if output.features is None else (output.scores, output.features)
        self._ref = manifest.ref
        self._labels = manifest.labels
        self._output = output
        self._scale = scale if output.features is not None else None

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        if shapes[0] != (1, len(self._labels)):
            raise InvalidInput(
                f"{self._ref} has {len(self._labels)} labels, but its score tensor {self.wants[0]!r} is {shapes[0]}"
            )
        if self._scale is not None and shapes[1] != (1, self._scale.width):
            raise InvalidInput(
                f"{self._ref}: its drift reference is for {self._scale.width} features, the model gives {shapes[1]}"
            )

    def decide_few(self, specs: tuple[TensorSpec, ...]) -> Few | None:
        """The short way from tensors so stored (in the order of `wants`) to the same answer; None if there is none."""
        features = specs[1] if len(specs) > 1 else None
        return decide_few(self._labels, self._output, self._scale, scores=specs[0], features=features)

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer."""
        output = self._output
        probability, energy = _activated(tensors[0][0], output.activation)
        order, values = ranked(probability, output.top_k)
        energy_z = novelty = None
        if self._scale is not None and energy is not None:
            energy_z = self._scale.energy_z(energy, order[0])
            novelty = self._scale.novelty(tensors[1], order[0])
            if not math.isfinite(novelty):
                raise InvalidInput(NOT_FINITE)
        label, margin, top = decided(order, values, self._labels, output)
        return Answer(
            label=label,
            score=values[0],
            margin=margin,
            top=top,
            energy=energy,
            energy_z=energy_z,
            novelty=novelty,
        )

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The probabilities; see Head.basis."""
        return np.array(probabilities(tensors[0][0], self._output.activation))

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether the label is the same, or none both times; see Head.agree."""
        return np.asarray(self._decisions(made) == self._decisions(wanted))

    def _decisions(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """The label's index of each row, -1 for none."""
        reaches = rows.max(axis=1) >= least_float32(self._output.threshold)
        return np.where(reaches, rows.argmax(axis=1), -1)


def ranked(probability: NDArray[np.float32], top_k: int) -> tuple[list[int], list[float]]:
    """The indices of the top_k of one (labels,) vector, but at least of two, and their values; best first.

    Ties keep label order. The vector is used up: some of it is overwritten.
    """
    count = min(max(top_k, 2), len(probability))
    if count > _MOST_ROUNDS:
        order = np.argsort(-probability, kind="stable")[:count]
        return order.tolist(), probability[order].tolist()
    found, values = [], []
    for _ in range(count):
        index = int(probability.argmax())
        found.append(index)
        values.append(probability.item(index))
        probability[index] = _NEVER
    return found, values


def decided(
    order: list[int], values: list[float], labels: tuple[str, ...], output: Classification
) -> tuple[str | None, float, tuple[Scored, ...]]:
    """Label, margin and top of what `ranked` gave."""
    label = labels[order[0]] if values[0] >= output.threshold else None
    margin = float(np.float32(values[0] - values[1]))  # what float32 subtraction gives, too
    top = tuple([Scored(labels[i], value) for i, value in zip(order[: output.top_k], values, strict=False)])
    return label, margin, top


@np.errstate(over="ignore")  # as far apart as float32 goes: the lower one's share is 0
def _activated(row: NDArray[np.float32], activation: Activation) -> tuple[NDArray[np.float32], float | None]:
    """The probabilities of one (labels,) vector in memory of their own, and its energy unless they were that already.

    Raises InvalidInput if any is not finite: argmax and argmin find a NaN first, and infinity at the ends.
    """
    top = row[row.argmax()]
    if not math.isfinite(float(top) - row.item(row.argmin())):
        raise InvalidInput(NOT_FINITE)
    if activation is Activation.NONE:
        return row.copy(), None
    raised = np.subtract(row, top)
    np.exp(raised, out=raised)
    total = np.add.reduce(raised)
    energy = -float(top + np.log(total))
    if activation is Activation.SIGMOID:
        return sigmoid(row), energy
    return np.divide(raised, total, out=raised), energy
