"""How far an input lies from the clean data that a bundle was made with.

Two channels, since either alone misses drifts that the other sees: the distance in feature space to the
predicted class, and the energy, each standardised by predicted class.
Sources: distance, Lee et al. 2018 (arXiv 1807.03888), eq. 2, with a diagonal covariance; energy, Liu et al. 2020
(arXiv 2010.03759), eq. 4.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt


def feature_distance(
    features: NDArray[Any], predicted: NDArray[Any], class_means: NDArray[Any], feature_std: NDArray[Any]
) -> NDArray[np.float32]:
    """Root mean square of (features - mean of the predicted class) / std. features (N, D); returns (N,)."""
    scaled = (np.asarray(features, np.float32) - class_means[predicted]) / feature_std
    return np.asarray(np.sqrt((scaled**2).mean(axis=-1)), dtype=np.float32)


class NoveltyScale:
    """A bundle's drift reference, ready to standardise one input's distance and energy.

    means: (labels, D) of clean features; std: (D,). reference: the rest of it, number by number.
    """

    def __init__(self, bundle: Bundle) -> None:
        reference = bundle.manifest.reference
        if reference is None:
            raise Corrupt(f"{bundle.manifest.ref} ships no drift reference")
        self.means = from_npy(bundle.read(reference.class_means), what="class means")
        self.std = from_npy(bundle.read(reference.feature_std), what="feature std")
        labels = len(bundle.manifest.labels)
        per_label = (reference.distance_mean, reference.distance_std, reference.energy_mean, reference.energy_std)
        if self.means.shape != (labels, *self.std.shape) or any(len(row) != labels for row in per_label):
            raise Corrupt(f"{bundle.manifest.ref}: its drift reference does not fit its {labels} labels")
        spreads = (*reference.distance_std, *reference.energy_std, *self.std.ravel().tolist())
        if not all(0.0 < spread < float("inf") for spread in spreads):
            raise Corrupt(f"{bundle.manifest.ref}: its drift reference has a standard deviation that is not above 0")
        self.reference = reference

    @property
    def width(self) -> int:
        """How many features it is for."""
        return int(self.std.shape[0])

    def novelty(self, features: NDArray[Any], predicted: int) -> float:
        """Distance of one (1, D) feature row, in standard deviations of clean data of the predicted label."""
        # feature_distance of a single row, number by number, at a third of its cost.
        with np.errstate(over="ignore", invalid="ignore"):  # who asks refuses what is not finite
            scaled = (np.asarray(features, np.float32)[0] - self.means[predicted]) / self.std
            distance = np.float32(math.sqrt(np.add.reduce(scaled * scaled) / len(scaled)))
        return float((distance - self.reference.distance_mean[predicted]) / self.reference.distance_std[predicted])

    def energy_z(self, energy: float, predicted: int) -> float:
        """Energy in standard deviations of clean data of the predicted label."""
        return (energy - self.reference.energy_mean[predicted]) / self.reference.energy_std[predicted]
