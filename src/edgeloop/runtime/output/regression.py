"""Numbers: the tensor times a factor plus an offset, one for each label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.output import Regression
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.scores import require_finite


class RegressionHead:
    """Values (1, labels) to as many numbers, in the order of labels; the score is the first."""

    wants_input = False

    def __init__(self, manifest: Manifest, output: Regression) -> None:
        if len(output.unit) != len(manifest.labels):
            raise InvalidInput(
                f"{manifest.ref} has {len(manifest.labels)} labels and {len(output.unit)} units; expected one for each"
            )
        self.wants: tuple[str, ...] = (output.value,)
        self._ref = manifest.ref
        self._labels = manifest.labels
        self._output = output

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        if shapes[0] != (1, len(self._labels)):
            raise InvalidInput(
                f"{self._ref} has {len(self._labels)} labels, but its tensor of values {self.wants[0]!r} is {shapes[0]}"
            )

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer."""
        return valued(self._values(tensors).tolist(), self._labels)

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The values; see Head.basis."""
        return self._values(tensors)

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether no value differs by more than the manifest's agree_within; see Head.agree."""
        return np.asarray((np.abs(made - wanted) <= self._output.agree_within).all(axis=1))

    def _values(self, tensors: Reals) -> NDArray[np.float32]:
        """Finite, or InvalidInput."""
        raw = tensors[0][0]
        require_finite(raw)
        with np.errstate(over="ignore"):
            values = np.asarray(raw * np.float32(self._output.factor) + np.float32(self._output.offset))
        require_finite(values)
        return values


def valued(values: list[float], labels: tuple[str, ...]) -> Answer:
    """The answer that these values are."""
    top = tuple([Scored(label, value) for label, value in zip(labels, values, strict=True)])
    return Answer(label=None, score=values[0], margin=1.0, top=top)
