"""The nearest of enrolled examples: how a face unlocks.

Examples are those that the bundle ships and those that are enrolled where it runs. Only the latter are written to the
file, which is bound to the bundle's name and model: a vector of another model says nothing.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.arrays import from_npy, to_npy
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import SCHEMA, from_json, to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.names import Name, Sha256
from edgeloop.contracts.output import Distance, Embedding
from edgeloop.contracts.prediction import Scored
from edgeloop.contracts.strict import Strict
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.scores import require_finite

SAME_COSINE = 0.95
"""Two variants embed an input alike if their vectors enclose at most 18 degrees: an error of a third of the vector's
length and across it is no longer rounding."""

_OWNER_ONLY = 0o600  # examples are people's faces and voices


@dataclass(frozen=True)
class Examples:
    """Labelled vectors: (N, D) float32, and the label of each."""

    labels: tuple[str, ...]
    vectors: NDArray[np.float32]


class EnrolledFile(Strict, frozen=True, kw_only=True):
    """What `save` writes, as JSON. golden: the bundle's golden outputs, by which its model is told from another.
    vectors: .npy, (N, D) float32."""

    bundle: Name
    golden: Sha256
    labels: tuple[str, ...]
    vectors: bytes
    schema: int = SCHEMA


class EmbeddingHead:
    """A vector (1, D) to the label of the nearest example, if it is near enough.

    shipped: the bundle's own examples. Not thread-safe; each predictor has its own examples. The margin is how far
    the score lies from what it would be at the threshold or, if that is nearer, from the next label's.
    """

    wants_input = False

    def __init__(self, manifest: Manifest, output: Embedding, shipped: Examples | None = None) -> None:
        self.wants: tuple[str, ...] = (output.vector,)
        self._manifest = manifest
        self._output = output
        self._own: list[tuple[str, NDArray[np.float32]]] = []
        self._shipped: list[tuple[str, NDArray[np.float32]]] = []
        self._width = 0
        self._nearest: _Nearest | None = None
        if shipped is not None:
            self._shipped = self._checked(shipped, what=f"{manifest.ref}: its enrolled examples")

    @property
    def enrolled(self) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """The label of each example, those that the bundle ships first, and their vectors (N, D)."""
        examples = _stacked(self._shipped + self._own, self._width)
        return examples.labels, examples.vectors

    def enrol(self, label: str, vector: NDArray[Any]) -> None:
        """Remember (D,) or (1, D) as an example of a label; a label may have several.

        Raises InvalidInput if the vector is not finite, of another width, or without a direction where angles count.
        """
        if not label:
            raise InvalidInput("an example needs a label; '' is none")
        row = np.array(vector, dtype=np.float32, ndmin=2)
        try:
            self._own += self._checked(Examples((label,), row), what=f"the example of {label!r}")
        except Corrupt as error:
            raise InvalidInput(str(error)) from error
        self._nearest = None

    def forget(self, label: str) -> int:
        """Drop the examples of a label that were enrolled here; how many they were. Shipped ones stay."""
        kept = [one for one in self._own if one[0] != label]
        dropped = len(self._own) - len(kept)
        self._own, self._nearest = kept, None
        return dropped

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was enrolled here, so that it survives a power cut; readable by the owner alone.

        Raises Unavailable if the disk is full, InvalidInput if the place cannot be written.
        """
        own = _stacked(self._own, self._width)
        golden = self._manifest.golden.outputs
        file = EnrolledFile(bundle=self._manifest.name, golden=golden, labels=own.labels, vectors=to_npy(own.vectors))
        write_durable(Path(path), to_json(file), mode=_OWNER_ONLY)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take what `save` wrote in place of what was enrolled here so far.

        Raises NotFound, Corrupt, or InvalidInput if it was enrolled with another bundle or model.
        """
        source = Path(path)
        if not source.is_file():
            raise NotFound(f"no enrolled examples at {source}; 'edgeloop enrol' and Predictor.save_enrolled write them")
        file = from_json(source.read_bytes(), EnrolledFile, what=str(source))
        manifest = self._manifest
        if (file.bundle, file.golden) != (manifest.name, manifest.golden.outputs):
            raise InvalidInput(
                f"{source} was enrolled with {file.bundle}, model {file.golden[:12]}; this is {manifest.ref}, model "
                f"{manifest.golden.outputs[:12]}, in which those vectors mean nothing. Enrol again"
            )
        vectors = from_npy(file.vectors, what=f"{source}: vectors")
        self._own = self._checked(Examples(file.labels, vectors), what=str(source))
        self._nearest = None

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        shape = shapes[0]
        is_vector = len(shape) >= 2 and shape[0] == 1 and max(shape) == math.prod(shape)
        if not is_vector or (self._width and math.prod(shape) != self._width):
            raise InvalidInput(
                f"{self._manifest.ref}: its embedding {self.wants[0]!r} is {shape}; expected (1, "
                f"{self._width or 'D'})" + (", the width of its examples" if self._width else "")
            )
        self._width = math.prod(shape)

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer. With no examples the label is None, the score 0.0 and the margin 1.0."""
        row = tensors[0].reshape(-1)
        require_finite(row)
        vector = tuple(row.tolist())
        if self._nearest is None:
            self._nearest = _Nearest(_stacked(self._shipped + self._own, self._width), self._output.distance)
        top = self._nearest.top(row, max(self._output.top_k, 2))
        if not top:
            return Answer(label=None, score=0.0, margin=1.0, top=(), vector=vector)
        near = top[0].score < self._output.threshold
        score = _likeness(top[0].score)
        steps = [abs(score - _likeness(self._output.threshold))]
        if near and len(top) > 1:
            steps.append(score - _likeness(top[1].score))
        label = top[0].label if near else None
        return Answer(label=label, score=score, margin=min(steps), top=top[: self._output.top_k], vector=vector)

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The vector; see Head.basis."""
        require_finite(tensors[0])
        return np.array(tensors[0]).reshape(-1)

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether the cosine of the vectors is at least SAME_COSINE; with examples in the bundle, whether both are
        given the same label or, without one, are alike. See Head.agree."""
        alike = _cosines(made, wanted) >= SAME_COSINE
        if not self._shipped:
            return np.asarray(alike)
        nearest = _Nearest(_stacked(self._shipped, self._width), self._output.distance)
        pairs = zip(self._named(nearest, made), self._named(nearest, wanted), alike, strict=True)
        return np.array([one == other and (one is not None or same) for one, other, same in pairs], dtype=np.bool_)

    def _named(self, nearest: "_Nearest", rows: NDArray[np.float32]) -> list[str | None]:
        tops = [nearest.top(row, 1)[0] for row in rows]
        return [top.label if top.score < self._output.threshold else None for top in tops]

    def _checked(self, examples: Examples, *, what: str) -> list[tuple[str, NDArray[np.float32]]]:
        """Row by row, of the width that all have. Raises Corrupt if they cannot be examples of this model."""
        vectors = examples.vectors
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(examples.labels):
            raise Corrupt(
                f"{what}: {len(examples.labels)} labels with {vectors.dtype} {vectors.shape}; expected float32 (N, D)"
            )
        if not len(vectors):
            return []
        if vectors.shape[1] != (self._width or vectors.shape[1]) or not vectors.shape[1]:
            raise Corrupt(
                f"{what}: {vectors.shape[1]} numbers, where this model's vectors have {self._width or 'some'}"
            )
        if not np.isfinite(vectors).all():
            raise Corrupt(f"{what}: a vector holds NaN or infinity")
        if self._output.distance is Distance.COSINE and not vectors.any(axis=1).all():
            raise Corrupt(f"{what}: a vector is all zeros, which has no direction")
        self._width = vectors.shape[1]
        return list(zip(examples.labels, vectors, strict=True))


class _Nearest:
    """Examples ready to be compared with: sorted by label, so that a label's nearest is the least of a run."""

    def __init__(self, examples: Examples, distance: Distance) -> None:
        self._labels = tuple(dict.fromkeys(examples.labels))
        place = {label: index for index, label in enumerate(self._labels)}
        of = np.array([place[label] for label in examples.labels], dtype=np.intp)
        rows = examples.vectors[np.argsort(of, kind="stable")]
        self._starts = np.searchsorted(np.sort(of), np.arange(len(self._labels)))
        self._cosine = distance is Distance.COSINE
        self._rows = np.stack([_unit(row) for row in rows]) if self._cosine and len(rows) else rows

    def top(self, vector: NDArray[np.float32], count: int) -> tuple[Scored, ...]:
        """The nearest labels and their distances, nearest first; ties in the order of enrolment."""
        if not self._labels:
            return ()
        least = np.minimum.reduceat(self._distances(vector), self._starts)
        order = np.argsort(least, kind="stable")[:count].tolist()
        return tuple([Scored(self._labels[index], float(least[index])) for index in order])

    def _distances(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._cosine:
            return np.asarray(np.maximum(np.float32(1) - self._rows @ _unit(vector), np.float32(0)))
        with np.errstate(over="ignore"):
            away = self._rows - vector
            return np.asarray(np.sqrt(np.einsum("ij,ij->i", away, away)))


def _cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) row by row, in float64, whose range holds squares of float32; 0 where a vector has no direction."""
    one, two = some.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return np.asarray(np.einsum("ij,ij->i", one, two) / np.where(lengths > 0, lengths, 1))


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = vector.astype(np.float64)
    length = float(np.sqrt(wide.dot(wide)))
    if length == 0.0:
        raise InvalidInput("the model answered a vector of zeros, which has no direction; check what it was shown")
    return np.asarray(wide / length, dtype=np.float32)


def _stacked(examples: list[tuple[str, NDArray[np.float32]]], width: int) -> Examples:
    vectors = np.stack([vector for _, vector in examples]) if examples else np.empty((0, width), np.float32)
    return Examples(tuple(label for label, _ in examples), vectors)


def _likeness(distance: float) -> float:
    return 1.0 / (1.0 + distance)
