"""The manifest's preprocessing steps, applied as they are written.

Each step is a pure function of an (H, W) or (H, W, C) array. Neighbours: `contracts.manifest` defines the steps,
`predictor` calls `preprocess`.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import (
    CenterCrop,
    Grey,
    InputSpec,
    Interpolation,
    Modality,
    Normalize,
    Resize,
    Scale,
    Step,
)

_INTERPOLATION = {
    Interpolation.AREA: cv2.INTER_AREA,
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.NEAREST: cv2.INTER_NEAREST,
}


CHANNELS_FIRST = "nchw"
"""The layout of models from PyTorch and of most in ONNX. Steps work on (H, W, C); channels move last of all."""


def preprocess(value: NDArray[Any], steps: tuple[Step, ...], spec: InputSpec) -> NDArray[np.float32]:
    """Apply the steps in order and shape the result as the model's input.

    value: (H, W) or (H, W, 3) uint8 for images; any float array of the input's shape without batch for tensors.
    Returns float32 of spec.shape. Raises InvalidInput if a step does not fit or a value is not finite.
    """
    if value.dtype.kind not in "fiub":
        raise InvalidInput(f"the input holds {value.dtype}; expected numbers")
    array = value
    for step in steps:
        array = _apply(array, step)
    if spec.modality is Modality.IMAGE and array.ndim == 2:
        array = array[:, :, np.newaxis]
    if spec.layout == CHANNELS_FIRST:
        array = np.moveaxis(array, -1, 0)
    expected = spec.shape[1:]
    if array.shape != expected:
        raise InvalidInput(f"after preprocessing the input is {array.shape}, the model takes {expected}")
    with np.errstate(over="ignore"):
        batch = np.ascontiguousarray(array[np.newaxis], dtype=np.float32)
    if spec.modality is Modality.TENSOR and not np.isfinite(batch).all():
        raise InvalidInput("the input holds NaN or infinity; clean it before predicting")
    return batch


def _apply(array: NDArray[Any], step: Step) -> NDArray[Any]:
    if isinstance(step, Grey):
        return _grey(array, step)
    if isinstance(step, Resize):
        size = (step.width_px, step.height_px)
        if array.shape[:2] == (step.height_px, step.width_px):
            return array
        return np.asarray(cv2.resize(array, size, interpolation=_INTERPOLATION[step.interpolation]))
    if isinstance(step, CenterCrop):
        return _center_crop(array, step)
    if isinstance(step, Scale):
        return array.astype(np.float32) * np.float32(step.factor) + np.float32(step.offset)
    return _normalize(array, step)


def _grey(array: NDArray[Any], step: Grey) -> NDArray[Any]:
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInput(f"step 'grey' takes an (H, W) or (H, W, 3) image, got {array.shape}")
    grey = array.astype(np.float32) @ np.asarray(step.weights_rgb, dtype=np.float32)
    return np.rint(grey).astype(array.dtype) if array.dtype == np.uint8 else grey


def _center_crop(array: NDArray[Any], step: CenterCrop) -> NDArray[Any]:
    if array.ndim < 2:
        raise InvalidInput(f"step 'center_crop' takes an image, got {array.shape}")
    height, width = array.shape[:2]
    if height < step.height_px or width < step.width_px:
        raise InvalidInput(
            f"step 'center_crop' wants {step.height_px}x{step.width_px} pixels, the image has {height}x{width}"
        )
    top, left = (height - step.height_px) // 2, (width - step.width_px) // 2
    return array[top : top + step.height_px, left : left + step.width_px]


def _normalize(array: NDArray[Any], step: Normalize) -> NDArray[Any]:
    channels = 1 if array.ndim == 2 else array.shape[-1]
    if not len(step.mean) == len(step.std) == channels:
        raise InvalidInput(
            f"step 'normalize' has {len(step.mean)} means and {len(step.std)} stds for {channels} channels"
        )
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    if array.ndim == 2:
        mean, std = mean[0], std[0]
    return (array.astype(np.float32) - mean) / std
