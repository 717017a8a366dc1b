"""The steps for images that move or mix pixels, each as a pure function of an (H, W) or (H, W, C) array.

A module of its own, since it brings OpenCV: 17 MB that rows of numbers need not have. Neighbours: `preprocess` applies
all steps one by one, `pixels` is the quick way, `geometry` says where pixels go.
"""

import math
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Grey,
    Interpolation,
    Letterbox,
    Resize,
    ResizeShorter,
    Step,
)
from edgeloop.runtime.input.geometry import Geometric, place
from edgeloop.runtime.input.opencv import cv2
from edgeloop.runtime.input.stages import name_of

INTERPOLATION = {
    Interpolation.AREA: cv2.INTER_AREA,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.NEAREST: cv2.INTER_NEAREST,
}

_GREY_BITS = 15
_BT601 = (9798, 19235, 3735)


def apply_to_image(array: NDArray[Any], step: Step) -> NDArray[Any]:
    """One step, applied. Raises InvalidInput if it does not fit the array, or is none for images."""
    if array.ndim not in (2, 3):
        raise InvalidInput(f"step {name_of(step)!r} takes an (H, W) or (H, W, C) image, got {array.shape}")
    if isinstance(step, Geometric):
        return _placed(array, step)
    is_grey = array.ndim == 2 or array.shape[2] == 1
    if not is_grey and array.shape[2] != 3:
        raise InvalidInput(f"step {name_of(step)!r} takes an (H, W) or (H, W, 3) image, got {array.shape}")
    if isinstance(step, Grey):
        return array if is_grey else grey(array, step)
    if isinstance(step, Colour):
        if is_grey:
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        return array if step.order is ColourOrder.RGB else array[:, :, ::-1]
    raise InvalidInput(f"step {name_of(step)!r} is not for images")


def grey(image: NDArray[Any], step: Grey) -> NDArray[Any]:
    """(H, W) of an (H, W, 3) image in RGB order: of uint8 in whole numbers to uint8, else as the float sum comes."""
    if image.dtype != np.uint8:
        return np.asarray(image.astype(np.float32) @ np.asarray(step.weights_rgb, dtype=np.float32))
    weights = whole_weights(step.weights_rgb)
    if weights == _BT601:
        # Equal on all 2^24 colours, and twenty times as fast.
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    summed = image.astype(np.int64) @ np.asarray(weights, np.int64)
    return np.asarray(np.clip((summed + (1 << (_GREY_BITS - 1))) >> _GREY_BITS, 0, 255), dtype=np.uint8)


def whole_weights(weights: tuple[float, float, float]) -> tuple[int, ...]:
    """In 2^-15ths, rounded by largest remainder, so that they add up to what the real ones do."""
    real = [weight * (1 << _GREY_BITS) for weight in weights]
    whole = [math.floor(one) for one in real]
    by_remainder = sorted(range(len(real)), key=lambda index: whole[index] - real[index])
    for index in by_remainder[: round(sum(real)) - sum(whole)]:
        whole[index] += 1
    return tuple(whole)


def _placed(array: NDArray[Any], step: Geometric) -> NDArray[Any]:
    to = place(step, *array.shape[:2])
    match step:
        case Resize() | ResizeShorter():
            return _resized(array, to.height_px, to.width_px, step.interpolation)
        case CenterCrop():
            return array[-to.top : to.height_px - to.top, -to.left : to.width_px - to.left]
        case Letterbox():
            inner = _resized(array, to.inner_height_px, to.inner_width_px, step.interpolation)
            canvas = np.full((to.height_px, to.width_px, *inner.shape[2:]), step.fill, inner.dtype)
            canvas[to.top : to.top + to.inner_height_px, to.left : to.left + to.inner_width_px] = inner
            return canvas
    assert_never(step)


def _resized(array: NDArray[Any], height_px: int, width_px: int, how: Interpolation) -> NDArray[Any]:
    if array.shape[:2] == (height_px, width_px):
        return array
    try:
        return np.asarray(cv2.resize(array, (width_px, height_px), interpolation=INTERPOLATION[how]))
    except cv2.error as error:
        raise InvalidInput(f"an array of {array.dtype} {array.shape} cannot be resized: {error.err}") from error
