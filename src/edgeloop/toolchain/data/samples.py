"""Everything that lies somewhere, as it was read: samples and labels in a stable order, before any split.

Neighbours: `open` chooses the reader, the readers (`images`, `sound`, `idx`, `table`, `arrays`) make Samples.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.dataset import UNLABELLED, Dataset, Part, field_to_fit, split

_SHOWN = 5
_FEWEST_FOR_CALIBRATION = 16


@dataclass(frozen=True)
class Samples:
    """What a reader found. Arrays as in dataset.Part; label_names: by class index, empty where nothing is labelled."""

    name: str
    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    modality: Modality

    @property
    def sha256(self) -> str:
        """Of the samples, their labels and the labels' names."""
        made = hashlib.sha256(f"{self.inputs.dtype.str} {self.inputs.shape} {self.label_names}".encode())
        made.update(np.ascontiguousarray(self.inputs).data)
        made.update(np.ascontiguousarray(self.labels).data)
        return made.hexdigest()

    def dataset(self, *, seed: int) -> Dataset:
        """Split to train and judge with. Raises InvalidInput if it is labelled with one class only, or too small."""
        present = np.unique(self.labels[self.labels != UNLABELLED])
        if self.label_names and len(present) < 2:
            only = ", ".join(self.label_names[index] for index in present) or "none"
            raise InvalidInput(
                f"{self.name} has samples of one class only ({only}); a classifier needs two or more. "
                "For unlabelled data put the files straight into the folder, or leave the label column out"
            )
        return field_to_fit(
            split(
                self.name,
                self.inputs,
                self.labels,
                label_names=self.label_names,
                sha256=self.sha256,
                seed=seed,
                modality=self.modality,
            )
        )

    def unsplit(self, *, seed: int) -> Dataset:
        """All in the fit part, shuffled, to calibrate with. Raises InvalidInput if there are fewer than 16."""
        count = len(self.labels)
        if count < _FEWEST_FOR_CALIBRATION:
            raise InvalidInput(
                f"{self.name} has {count} samples; calibration needs {_FEWEST_FOR_CALIBRATION} or more, better 100"
            )
        order = np.random.default_rng(seed).permutation(count)
        none = Part(self.inputs[:0], self.labels[:0])
        fit = Part(np.ascontiguousarray(self.inputs[order]), self.labels[order])
        return Dataset(self.name, self.label_names, fit, none, none, none, self.sha256, modality=self.modality)


def named_labels(names: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices and label names of labels given by name: in the order of numbers if all are whole numbers, else
    of the alphabet."""
    found = set(names)
    numeric = all(name.lstrip("-").isdigit() for name in found)
    ordered = tuple(sorted(found, key=int) if numeric else sorted(found))
    index = {name: position for position, name in enumerate(ordered)}
    return np.array([index[name] for name in names], np.int64), ordered


def unlabelled(count: int) -> NDArray[np.int64]:
    """The labels of samples that have none."""
    return np.full(count, UNLABELLED, np.int64)


def require_readable(failures: list[str], total: int, where: object) -> None:
    """Raise Corrupt that names the first few of the files that could not be read, if there are any."""
    if failures:
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise Corrupt(
            f"{len(failures)} of {total} files in {where} cannot be used: {'; '.join(failures[:_SHOWN])}{more}. "
            "Repair or remove them"
        )
