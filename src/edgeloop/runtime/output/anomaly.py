"""How far a reconstruction lies from its input, against a threshold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.output import Anomaly, ErrorKind
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.scores import require_finite

_LARGEST = float(np.finfo(np.float32).max)


class AnomalyHead:
    """A reconstruction of the preprocessed input to the first label (normal) or the second."""

    wants_input = True

    def __init__(self, manifest: Manifest, output: Anomaly) -> None:
        if len(manifest.labels) != 2:
            raise InvalidInput(
                f"{manifest.ref} has the labels {list(manifest.labels)}; an anomaly's are two, normal first"
            )
        self.wants: tuple[str, ...] = (output.reconstruction,)
        self._ref = manifest.ref
        self._shape = manifest.input.shape
        self._labels = manifest.labels
        self._output = output

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        if shapes[0] != self._shape:
            raise InvalidInput(
                f"{self._ref} takes {self._shape}, but its reconstruction {self.wants[0]!r} is {shapes[0]}; expected "
                "the same shape"
            )

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer."""
        return judged(float(self.basis(tensors, given)[0]), self._labels, self._output)

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """(1,) the error, summed up in float64; see Head.basis."""
        if given is None:
            raise InvalidInput(f"{self._ref} compares with its input, which was not handed over")
        require_finite(tensors[0])
        away = np.subtract(tensors[0].reshape(-1), given.reshape(-1), dtype=np.float64)
        squared = self._output.error is ErrorKind.MEAN_SQUARED
        error = float(away.dot(away) if squared else np.abs(away).sum()) / len(away)
        if error != error:
            raise InvalidInput("the input holds NaN; clean it before predicting")
        return np.array([min(error, _LARGEST)], dtype=np.float32)

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether both lie on the same side of the threshold; see Head.agree."""
        bound = float(self._output.threshold)
        return np.asarray((made[:, 0].astype(np.float64) > bound) == (wanted[:, 0].astype(np.float64) > bound))


def judged(error: float, labels: tuple[str, ...], output: Anomaly) -> Answer:
    """The answer that this error is. Its margin is the distance to the threshold in shares of the larger of both."""
    label = labels[error > output.threshold]
    margin = abs(error - output.threshold) / max(error, output.threshold)
    return Answer(label=label, score=error, margin=margin, top=(Scored(label, error),))
