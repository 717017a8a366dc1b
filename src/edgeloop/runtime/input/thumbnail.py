"""A picture in 256 numbers, to tell whether two pictures are nearly the same.

Neighbour: `runtime.cache` compares thumbnails.
"""

import numpy as np
from numpy.typing import NDArray

from edgeloop.runtime.input.images import Image
from edgeloop.runtime.input.opencv import cv2

THUMBNAIL_SIDE = 16
THUMBNAIL_CELLS = THUMBNAIL_SIDE * THUMBNAIL_SIDE

_SAMPLED_SIDE_PX = 6 * THUMBNAIL_SIDE


def thumbnail(image: Image, *, is_bgr: bool = False) -> NDArray[np.uint8]:
    """(16, 16) grey values: the mean of each cell of an even 16 by 16 grid; grey is 0.299 R + 0.587 G + 0.114 B.

    is_bgr: the channels come in BGR order. Of a side longer than 96 pixels, a cell's mean is taken of 6 samples, each
    interpolated between its two neighbours: 36 samples of up to 4 pixels a cell, since to add up every pixel takes
    five times as long as the cache may cost. What is smaller than the distance of two samples may be missed.
    """
    height_px, width_px = image.shape[:2]
    sampled = (min(width_px, _SAMPLED_SIDE_PX), min(height_px, _SAMPLED_SIDE_PX))
    if sampled != (width_px, height_px):
        image = np.asarray(cv2.resize(image, sampled, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    if image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if is_bgr else cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    made = cv2.resize(image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(made, dtype=np.uint8)
