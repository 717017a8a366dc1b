"""Of boxes that overlap, the best: greedy non-maximum suppression, class by class.

In NumPy, not by cv2.dnn.NMSBoxes: that rounds overlaps to float32, takes widths for corners, and counts two boxes
without area as the same. Boxes are float64 (N, 4): left, top, right, bottom, right >= left and bottom >= top.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def overlaps(one: Boxes, many: Boxes) -> NDArray[np.float64]:
    """(N,) intersection over union of a box (4,) with each of (N, 4); 0 where neither has an area."""
    sides = np.maximum(np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2]), 0.0)
    shared = sides[:, 0] * sides[:, 1]
    union = _areas(one[np.newaxis]) + _areas(many) - shared
    return np.asarray(shared / np.where(union > 0.0, union, 1.0))


def suppress(
    boxes: Boxes, scores: NDArray[Any], classes: NDArray[Any], *, iou_threshold: float, most: int
) -> NDArray[np.intp]:
    """The indices of the boxes that stay, best first, at most so many; of equal scores the first comes first.

    From the best downwards each box that is still there stays, and takes those of its class away of which
    the intersection is more than iou_threshold of the union. Costs one round for each box that stays.
    Source: Girshick et al. 2014 (arXiv 1311.2524), 2.2.
    """
    left = np.argsort(-scores, kind="stable")
    low, high = boxes[left, :2].T, boxes[left, 2:].T
    area, kind = _areas(boxes)[left], classes[left]
    several = bool((kind != kind[:1]).any())
    kept: list[np.intp] = []
    while len(left) and len(kept) < most:
        kept.append(left[0])
        sides = np.minimum(high[:, :1], high[:, 1:]) - np.maximum(low[:, :1], low[:, 1:])
        np.maximum(sides, 0.0, out=sides)
        shared = sides[0] * sides[1]
        stays = shared <= iou_threshold * (area[0] + area[1:] - shared)
        if several:
            stays |= kind[1:] != kind[0]
        low, high = low[:, 1:][:, stays], high[:, 1:][:, stays]
        left, area, kind = left[1:][stays], area[1:][stays], kind[1:][stays]
    return np.array(kept, dtype=np.intp)


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
