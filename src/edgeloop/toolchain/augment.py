"""Small honest variations of training images: shifted, turned and scaled a little."""

import cv2
import numpy as np
from numpy.typing import NDArray

_TURN_DEGREES = 10.0
_SHIFT_PX = 2.0
_SCALE = 0.1


def vary(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One variation of each image. images: (N, H, W) uint8; edges are repeated, so a background stays one."""
    count, height, width = images.shape
    center = ((width - 1) / 2, (height - 1) / 2)
    varied = np.empty_like(images)
    matrix: NDArray[np.float64]
    for index in range(count):
        turn = rng.uniform(-_TURN_DEGREES, _TURN_DEGREES)
        matrix = np.asarray(cv2.getRotationMatrix2D(center, turn, 1.0 + rng.uniform(-_SCALE, _SCALE)), np.float64)
        matrix[:, 2] += rng.uniform(-_SHIFT_PX, _SHIFT_PX, size=2)
        varied[index] = cv2.warpAffine(images[index], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return varied
