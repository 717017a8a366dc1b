"""Faces by hand: a JPEG to boxes in its own pixels, by UltraFace RFB-320.

Source: the demos of Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: decoding and anchors as in
tflite/TFLiteFaceDetector.py, (x - 127) / 128, thresholds and hard suppression in NumPy as in detect_imgs_onnx.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float32]

WIDTH_PX, HEIGHT_PX = 320, 240
THRESHOLD, IOU_THRESHOLD = 0.7, 0.3
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_STRIDES_PX = (8, 16, 32, 64)
_SIZES_PX = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))


class Face(NamedTuple):
    """Edges in pixels of the original image, and how sure."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


def make(model: Path) -> Callable[[bytes], list[Face]]:
    """From a JPEG's bytes to its faces, the surest first. model: the LiteRT file without postprocessing."""
    import cv2
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    offsets_of, scores_of = interpreter.get_output_details()
    anchors = all_anchors()

    def faces(jpeg: bytes) -> list[Face]:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        height_px, width_px = image.shape[:2]
        small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (WIDTH_PX, HEIGHT_PX))
        interpreter.set_tensor(taken["index"], ((small.astype(np.float32) - 127.0) / 128.0)[np.newaxis])
        interpreter.invoke()
        boxes = decoded(interpreter.get_tensor(offsets_of["index"])[0], anchors)
        scores = interpreter.get_tensor(scores_of["index"])[0, :, 1]
        sure = scores > THRESHOLD
        boxes, scores = boxes[sure], scores[sure]
        kept = suppressed(boxes, scores)
        pixels = boxes[kept] * np.array([width_px, height_px, width_px, height_px], np.float32)
        return [Face(*box, score) for box, score in zip(pixels.tolist(), scores[kept].tolist(), strict=True)]

    return faces


def all_anchors() -> Reals:
    """(4420, 4): centre x, y, width, height of each anchor in shares of the input's sides, cut to 0..1."""
    made = []
    for stride, sizes in zip(_STRIDES_PX, _SIZES_PX, strict=True):
        rows, columns = -(-HEIGHT_PX // stride), -(-WIDTH_PX // stride)
        y, x = np.mgrid[:rows, :columns]
        centres = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], axis=-1)
        for_each = np.repeat(centres[:, :, np.newaxis], len(sizes), axis=2)
        sides = np.array([(size / WIDTH_PX, size / HEIGHT_PX) for size in sizes])
        made.append(np.concatenate([for_each, np.broadcast_to(sides, for_each.shape)], axis=-1).reshape(-1, 4))
    return np.clip(np.concatenate(made), 0.0, 1.0).astype(np.float32)


def decoded(offsets: Reals, anchors: Reals) -> Reals:
    """(N, 4): left, top, right, bottom in shares of the image's sides."""
    centres = offsets[:, :2] * _CENTER_VARIANCE * anchors[:, 2:] + anchors[:, :2]
    halves = np.exp(offsets[:, 2:] * _SIZE_VARIANCE) * anchors[:, 2:] / 2
    return np.clip(np.concatenate([centres - halves, centres + halves], axis=1), 0.0, 1.0)


def suppressed(boxes: Reals, scores: Reals) -> list[int]:
    """Hard suppression: which boxes stay, the surest first; of two that overlap by more than the threshold, it does."""
    order = scores.argsort()[::-1]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.maximum(sides, 0.0).prod(axis=1)
        order = rest[shared / (areas[best] + areas[rest] - shared + 1e-5) <= IOU_THRESHOLD]
    return kept
