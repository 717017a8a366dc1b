"""Against non-maximum suppression written out box by box in plain Python."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.runtime.output.nms import overlaps, suppress

Floats = NDArray[np.float64]


def _iou(a: Floats, b: Floats) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union) if union > 0 else 0.0


def _naive(boxes: Floats, scores: Floats, classes: NDArray[np.intp], iou_threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [other for other in kept if classes[other] == classes[index]]
        if all(_iou(boxes[index], boxes[other]) <= iou_threshold for other in rivals):
            kept.append(index)
    return kept


def _random(seed: int, count: int, classes: int) -> tuple[Floats, Floats, NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 90, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, (count, 2))], axis=1)
    # One digit, so that scores are equal now and then.
    return boxes, rng.uniform(size=count).round(1), rng.integers(0, classes, count)


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("classes", [1, 3])
def test_keeps_the_boxes_that_the_definition_keeps(iou_threshold: float, classes: int) -> None:
    for seed in range(25):
        boxes, scores, kinds = _random(seed, count=seed * 4, classes=classes)
        found = suppress(boxes, scores, kinds, iou_threshold=iou_threshold, most=1000)
        assert found.tolist() == _naive(boxes, scores, kinds, iou_threshold)


def test_stops_when_there_are_enough() -> None:
    boxes, scores, kinds = _random(3, count=80, classes=2)
    everything = _naive(boxes, scores, kinds, 0.4)
    assert suppress(boxes, scores, kinds, iou_threshold=0.4, most=7).tolist() == everything[:7]


def test_an_overlap_of_just_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float64)  # exactly a half
    kinds = np.zeros(2, np.intp)
    scores = np.array([0.9, 0.8])
    assert suppress(boxes, scores, kinds, iou_threshold=0.5, most=9).tolist() == [0, 1]
    assert suppress(boxes, scores, kinds, iou_threshold=0.49, most=9).tolist() == [0]


def test_boxes_without_area_take_nothing_away() -> None:
    boxes = np.array([[1, 1, 1, 1]] * 2, np.float64)
    assert suppress(boxes, np.array([0.5, 0.4]), np.zeros(2), iou_threshold=0.5, most=9).tolist() == [0, 1]
    assert overlaps(boxes[0], boxes).tolist() == [0.0, 0.0]


def test_overlaps_are_intersection_over_union() -> None:
    boxes = _random(5, count=60, classes=1)[0]
    wanted = [_iou(boxes[0], box) for box in boxes]
    # The same sums in float64, in another order at most.
    np.testing.assert_allclose(overlaps(boxes[0], boxes), wanted, atol=1e-12)
