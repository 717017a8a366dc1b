"""What the predictor asks of the way out: from the tensors that a model answers to a decision.

Neighbours: `head` chooses the implementation by the manifest's output: one module a task.
"""

from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Box, Prediction, Scored
from edgeloop.runtime.input.port import Geometry


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a head decides; the fields mean what they mean in Prediction."""

    label: str | None
    score: float
    margin: float
    top: tuple[Scored, ...]
    energy: float | None = None
    energy_z: float | None = None
    novelty: float | None = None
    boxes: tuple[Box, ...] = ()
    mask_png: bytes | None = None
    vector: tuple[float, ...] = ()


def predicted(
    answer: Answer, *, bundle: str, engine: str, precision: str, task: Task, latency_ms: float, cached: bool = False
) -> Prediction:
    """An answer as it is handed out: with who gave it, and in what time."""
    return Prediction(
        label=answer.label,
        score=answer.score,
        margin=answer.margin,
        top=answer.top,
        energy=answer.energy,
        energy_z=answer.energy_z,
        novelty=answer.novelty,
        boxes=answer.boxes,
        mask_png=answer.mask_png,
        vector=answer.vector,
        cached=cached,
        latency_ms=latency_ms,
        bundle=bundle,
        engine=engine,
        precision=precision,
        task=task,
    )


Reals = tuple[NDArray[np.float32], ...]
"""Output tensors as real values, in the order of a head's `wants`. They may be the engine's memory: copy to keep."""


class Head(Protocol):
    """The manifest's output for one bundle: stateless, but for what is enrolled in an embedding.

    wants: the manifest's names of the tensors that it reads, in order. wants_input: whether it reads the
    preprocessed input, too.
    """

    wants: tuple[str, ...]
    wants_input: bool

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Raise InvalidInput unless it can read tensors of these shapes (in the order of `wants`)."""
        ...

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """Decide. given: the preprocessed input as real values, if `wants_input`.

        Raises InvalidInput if a tensor holds NaN or infinity.
        """
        ...

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """(K,) what is decided by, to be compared with the float model's: see `manifest.Golden`. The caller's own."""
        ...

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """(N,) booleans: whether two (N, K) of `basis` lead to the same decision, row by row."""
        ...
