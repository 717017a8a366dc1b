"""The manifest's steps for images and tensors, applied one by one as they are written: the plain path.

Each step is a pure function of an (H, W) or (H, W, C) array. This says what is right; `pixels` and `arrays` are the
quick ways to the same. Neighbours: `contracts.preprocess` defines the steps, `geometry` places pixels.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Grey,
    Interpolation,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    Scale,
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

CHANNELS_FIRST = "nchw"
"""The layout of models from PyTorch and of most in ONNX. Steps work on (H, W, C); channels move last of all."""

_GREY_BITS = 15
_BT601 = (9798, 19235, 3735)

_MOST_FLOAT32 = float(np.finfo(np.float32).max)
_LAYOUTS = ("nhwc", CHANNELS_FIRST, "nhw")
_IMAGE_STEPS = (Grey, Colour, Resize, ResizeShorter, Letterbox, CenterCrop, Scale, Normalize)
_STEPS: dict[Modality, tuple[type[msgspec.Struct], ...]] = {
    Modality.IMAGE: _IMAGE_STEPS,
    Modality.TENSOR: (Scale, Normalize),
}


def preprocess(value: NDArray[Any], steps: tuple[Step, ...], spec: InputSpec) -> NDArray[np.float32]:
    """Apply the steps in order and shape the result as the model's input.

    value: (H, W) or (H, W, 3) for images, uint8 in RGB order; any array of the input's shape without batch for
    tensors. Returns float32 of spec.shape. Raises InvalidInput if a step does not fit or a value is not finite.
    """
    check_steps(steps, spec)
    if value.dtype.kind not in "fiub":
        raise InvalidInput(f"the input holds {value.dtype}; expected numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        array = apply_steps(value, steps, spec.modality)
        if spec.modality is Modality.IMAGE:
            array = _laid_out(array, spec.layout.lower())
        require_shape(array.shape, spec)
        batch = np.ascontiguousarray(array[np.newaxis], dtype=np.float32)
    require_finite(batch)
    return batch


def check_steps(steps: Sequence[Step], spec: InputSpec) -> None:
    """Raise InvalidInput, naming the step, unless such an input can take these steps one after the other."""
    allowed = _STEPS.get(spec.modality)
    if allowed is None:
        raise InvalidInput(f"input {spec.name!r} is a {spec.modality}; images and tensors are prepared here")
    seen: set[type] = set()
    for step in steps:
        if not isinstance(step, allowed):
            names = ", ".join(str(kind.__struct_config__.tag) for kind in allowed)
            raise InvalidInput(f"step {name_of(step)!r} does not go with {spec.modality} inputs; these take {names}")
        _check_step(step, seen)
        seen.add(type(step))
    if spec.modality is Modality.IMAGE:
        _check_layout(spec)


def apply_steps(array: NDArray[Any], steps: Iterable[Step], modality: Modality) -> NDArray[Any]:
    """The steps one after the other; of a tensor, every axis but the last is left alone. Raises InvalidInput if one
    does not fit the array. Warns of overflow as NumPy does, unless the caller says otherwise."""
    for step in steps:
        if isinstance(step, Scale):
            array = array.astype(np.float32) * np.float32(step.factor) + np.float32(step.offset)
        elif isinstance(step, Normalize):
            array = _normalize(array, step, is_grey=modality is Modality.IMAGE and array.ndim == 2)
        else:
            array = _apply_to_image(array, step)
    return array


def require_shape(made: tuple[int, ...], spec: InputSpec) -> None:
    """Raise InvalidInput unless this is the model's shape, without batch."""
    if made != spec.shape[1:]:
        raise InvalidInput(f"after preprocessing the input is {made}, the model takes {spec.shape[1:]}")


def require_finite(values: NDArray[np.float32]) -> None:
    """Raise InvalidInput unless all are."""
    if not np.isfinite(values).all():
        raise InvalidInput("after preprocessing the input holds NaN or infinity; clean it before predicting")


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


def _check_step(step: Step, seen: set[type]) -> None:
    """seen: the kinds of the steps before it."""
    match step:
        case Resize() if step.reduced_decode and seen:
            raise InvalidInput("step 'resize' with reduced_decode must be the first: it says how a JPEG is decoded")
        case Colour() if Colour in seen:
            raise InvalidInput("step 'colour' comes a second time; one of them says the model's order")
        case Grey() if Colour in seen:
            raise InvalidInput("step 'grey' comes after 'colour'; its weights are of R, G and B: leave one of them out")
        case Grey():
            _require_finite_numbers(step, step.weights_rgb)
        case Scale():
            _require_finite_numbers(step, (step.factor, step.offset))
        case Normalize():
            _require_finite_numbers(step, step.mean + step.std)
            if len(step.mean) != len(step.std) or 0.0 in np.asarray(step.std, np.float32):
                raise InvalidInput(
                    f"step 'normalize' has {len(step.mean)} means and the stds {step.std}; expected one std a mean, "
                    "none of them 0 in float32"
                )


def _require_finite_numbers(step: Step, numbers: tuple[float, ...]) -> None:
    if not all(abs(number) <= _MOST_FLOAT32 for number in numbers):
        raise InvalidInput(f"step {name_of(step)!r} has {numbers}; expected numbers that float32 can hold")


def _check_layout(spec: InputSpec) -> None:
    layout = spec.layout.lower()
    if layout not in _LAYOUTS or len(spec.shape) != len(layout) or spec.shape[0] != 1:
        raise InvalidInput(
            f"input {spec.name!r} has shape {spec.shape} in layout {spec.layout!r}; an image's layout is one of "
            f"{', '.join(_LAYOUTS)}, with a batch of 1"
        )


def _apply_to_image(array: NDArray[Any], step: Step) -> NDArray[Any]:
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


def _normalize(array: NDArray[Any], step: Normalize, *, is_grey: bool) -> NDArray[Any]:
    channels = 1 if is_grey or array.ndim == 0 else array.shape[-1]
    if not len(step.mean) == len(step.std) == channels:
        raise InvalidInput(
            f"step 'normalize' has {len(step.mean)} means and {len(step.std)} stds for {channels} channels"
        )
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    if is_grey or array.ndim == 0:
        mean, std = mean[0], std[0]
    return np.asarray((array.astype(np.float32) - mean) / std)


def _laid_out(array: NDArray[Any], layout: str) -> NDArray[Any]:
    if layout == "nhw":
        return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    return np.moveaxis(array, -1, 0) if layout == CHANNELS_FIRST else array
