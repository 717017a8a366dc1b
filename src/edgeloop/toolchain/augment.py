"""Small honest variations of training samples: images shifted, turned and scaled a little, series shifted and noisy."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.manifest import Modality

_TURN_DEGREES = 10.0
_SHIFT_SHARE = 1 / 14
_SCALE = 0.1
_SERIES_SHIFT_SHARE = 0.05
_SERIES_NOISE = 0.02


def vary_samples(inputs: NDArray[Any], modality: Modality, rng: np.random.Generator) -> NDArray[Any]:
    """One variation of each sample of a Part: images and series; arrays of any other form stay as they are."""
    if modality is Modality.IMAGE:
        return vary(inputs, rng)
    return vary_series(inputs, rng) if inputs.ndim == 3 else inputs


def vary(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One variation of each image. images: (N, H, W) or (N, H, W, 3) uint8; edges are repeated, so a background
    stays one."""
    count, height, width = images.shape[:3]
    center = ((width - 1) / 2, (height - 1) / 2)
    varied = np.empty_like(images)
    # All at once: drawing them one by one takes longer than turning a small image.
    drawn = rng.uniform(-1.0, 1.0, size=(count, 4))
    turns, scales = (drawn[:, 0] * _TURN_DEGREES).tolist(), (1.0 + drawn[:, 1] * _SCALE).tolist()
    shifts = drawn[:, 2:] * (np.array([width, height]) * _SHIFT_SHARE)
    for index in range(count):
        matrix = np.asarray(cv2.getRotationMatrix2D(center, turns[index], scales[index]), np.float64)
        matrix[:, 2] += shifts[index]
        cv2.warpAffine(images[index], matrix, (width, height), dst=varied[index], borderMode=cv2.BORDER_REPLICATE)
    return varied


def vary_series(series: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """One variation of each series (N, T, C): shifted by up to 5 % of its length, its end values repeated, with
    noise of 2 % of its own standard deviation added."""
    count, length = series.shape[:2]
    most = int(length * _SERIES_SHIFT_SHARE)
    shifts = np.asarray(rng.integers(-most, most + 1, size=(count, 1)))
    steps = np.clip(np.arange(length) - shifts, 0, length - 1)
    shifted = np.take_along_axis(series, steps[:, :, np.newaxis], axis=1)
    spread = series.std(axis=(1, 2), keepdims=True)
    noise = rng.standard_normal(series.shape, dtype=np.float32) * np.float32(_SERIES_NOISE) * spread
    return np.asarray(shifted + noise, np.float32)
