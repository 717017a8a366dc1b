"""What sounds and series have in common: the steps that both take, and the way into the model's tensor.

Neighbours: `sound` and `series` compose their steps from these.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import Normalize, Scale, Window
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor

Reals = NDArray[np.float32]
Stage = Callable[[Reals], Reals]
"""One step, with its tables computed."""

MAX_WINDOW_VALUES = 2**22
"""Samples, or rows times channels, of one window."""


def name_of(step: msgspec.Struct) -> str:
    """What a manifest calls this step."""
    return str(step.__struct_config__.tag)


def as_float32(value: float, *, what: str) -> np.float32:
    """A parameter as it is computed with. Raises InvalidInput if it is not finite in float32."""
    with np.errstate(over="ignore"):
        made = np.float32(value)
    if not np.isfinite(made):
        raise InvalidInput(f"{what} is {value}, which float32 cannot hold; expected a finite number")
    return made


def scale_stage(step: Scale) -> Stage:
    """`Scale`. Raises InvalidInput if a parameter is not finite."""
    factor, offset = as_float32(step.factor, what="scale's factor"), as_float32(step.offset, what="scale's offset")

    def scale(values: Reals) -> Reals:
        return values * factor + offset

    return scale


def normalize_stage(step: Normalize) -> Stage:
    """`Normalize` over the last axis of two; a sound of one axis has one channel. Raises InvalidInput if a parameter
    is not finite, a std is 0, or, later, the channels are not so many."""
    if len(step.mean) != len(step.std):
        raise InvalidInput(f"step 'normalize' has {len(step.mean)} means and {len(step.std)} stds; expected as many")
    mean = np.array([as_float32(value, what="a mean of 'normalize'") for value in step.mean], np.float32)
    std = np.array([as_float32(value, what="a std of 'normalize'") for value in step.std], np.float32)
    if not std.all():
        raise InvalidInput("step 'normalize' has a std of 0 in float32; nothing can be divided by it")

    def normalize(values: Reals) -> Reals:
        channels = 1 if values.ndim == 1 else values.shape[-1]
        if len(mean) != channels:
            raise InvalidInput(f"step 'normalize' has {len(mean)} means; the input has {channels} channels here")
        return (values - mean) / std

    return normalize


def empty_window(step: Window, *, channels: int = 0, unit: str) -> Reals:
    """Zeros of one window: (length,), or (length, channels). Raises InvalidInput if that is more than is taken."""
    if step.length * (channels or 1) > MAX_WINDOW_VALUES:
        raise InvalidInput(
            f"step 'window' asks for {step.length:,} {unit} of {channels or 1} values; at most {MAX_WINDOW_VALUES:,} "
            "values are taken at once"
        )
    return np.zeros((step.length, channels) if channels else step.length, np.float32)


def fill_window(values: NDArray[Any], step: Window, *, unit: str) -> NDArray[Any]:
    """One window from an input of (count,) or (count, channels): itself, or padded at its end with zeros.

    Raises InvalidInput if it is longer, or is shorter and `step.pad` is off.
    """
    count = len(values)
    if count == step.length:
        return values
    if count > step.length:
        raise InvalidInput(
            f"the input has {count:,} {unit}, the model takes {step.length:,} at a time: that is more than one "
            "question; ask them one by one with stream()"
        )
    if not step.pad:
        raise InvalidInput(
            f"the input has {count:,} {unit}, the model takes {step.length:,}; pass as many, or let the manifest's "
            "window pad"
        )
    filled = np.zeros((step.length, *values.shape[1:]), values.dtype)
    filled[:count] = values
    return filled


def check_tensor(spec: InputSpec, tensor: TensorSpec) -> None:
    """Raise InvalidInput unless the variant's tensor is shaped as the manifest says, and the layout names its axes."""
    if tensor.shape != spec.shape:
        raise InvalidInput(f"input {tensor.name!r} of the variant is {tensor.shape}; the manifest says {spec.shape}")
    if len(spec.layout) != len(spec.shape):
        raise InvalidInput(f"layout {spec.layout!r} names {len(spec.layout)} axes of a shape of {len(spec.shape)}")


def require_room(values: NDArray[np.float32], tensor: TensorSpec) -> None:
    """Raise InvalidInput if a small type without a scale cannot hold these: NumPy would wrap them round."""
    dtype = np.dtype(tensor.dtype)
    if tensor.scale != 0.0 or (dtype.kind not in "iu" and dtype != np.float16):
        return
    bounds: np.iinfo[Any] | np.finfo[Any] = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    low, high = float(values.min()), float(values.max())
    if low < bounds.min or high > bounds.max:
        raise InvalidInput(
            f"after preprocessing the input is {low:g} to {high:g}, but tensor {tensor.name!r} stores {tensor.dtype} "
            f"without a scale: {bounds.min} to {bounds.max}"
        )


def put_reals(values: Reals, tensor: TensorSpec, buffer: NDArray[Any]) -> None:
    """Into the engine's buffer, quantized as the tensor stores it. Raises InvalidInput if the tensor cannot hold it;
    the buffer is then as it was."""
    require_room(values, tensor)
    np.copyto(buffer, quantize_tensor(values, tensor))


def place_stage(spec: InputSpec, axes: str) -> Stage:
    """To the model's shape: only axes of length 1 are added.

    axes: the layout's two letters for the axes of the prepared input, in order; a layout with both of them in the
    other order turns them round. The stage raises InvalidInput if the sizes are not the model's.
    """
    turned = 0 <= spec.layout.find(axes[1]) < spec.layout.find(axes[0])
    wanted = tuple(size for size in spec.shape if size != 1)

    def place(values: Reals) -> Reals:
        made = values.T if turned and values.ndim == 2 else values
        if tuple(size for size in made.shape if size != 1) != wanted:
            raise InvalidInput(
                f"after preprocessing the input is {values.shape}; the model takes {spec.shape} in layout "
                f"{spec.layout!r}, and only axes of length 1 are added"
            )
        return np.ascontiguousarray(made).reshape(spec.shape)

    return place


def run_stages(stages: tuple[Stage, ...], values: Reals, *, hint: str) -> Reals:
    """All stages in order. hint: what to do about it when the result is not finite, which is InvalidInput."""
    with np.errstate(over="ignore", invalid="ignore"):
        for stage in stages:
            values = stage(values)
    if not np.isfinite(values).all():
        raise InvalidInput(f"after preprocessing the input holds NaN or infinity; {hint}")
    return values
