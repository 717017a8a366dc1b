"""The manifest's steps for images and tensors, applied one by one as they are written: the plain path.

Each step is a pure function of an (H, W) or (H, W, C) array. This says what is right; `pixels` and `arrays` are the
quick ways to the same. Neighbours: `contracts.preprocess` defines the steps, `image_steps` has those that need OpenCV.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    Grey,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    Scale,
    Step,
)
from edgeloop.runtime.input.stages import name_of

CHANNELS_FIRST = "nchw"
"""The layout of models from PyTorch and of most in ONNX. Steps work on (H, W, C); channels move last of all."""

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
            from edgeloop.runtime.input.image_steps import apply_to_image

            array = apply_to_image(array, step)
    return array


def require_shape(made: tuple[int, ...], spec: InputSpec) -> None:
    """Raise InvalidInput unless this is the model's shape, without batch."""
    if made != spec.shape[1:]:
        raise InvalidInput(f"after preprocessing the input is {made}, the model takes {spec.shape[1:]}")


def require_finite(values: NDArray[np.float32]) -> None:
    """Raise InvalidInput unless all are."""
    if not np.isfinite(values).all():
        raise InvalidInput("after preprocessing the input holds NaN or infinity; clean it before predicting")


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
