"""What follows the last resize of an 8-bit image, folded into one table of 256 entries for each channel.

A pixel has 256 values, so scaling, mean/std, the tensor's quantization and its type are a look-up. The tables are
computed by the plain path's own functions: what they hold is what it gives, bit for bit. Neighbours: `pixels` uses
them, `preprocess` is the plain path.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.contracts.preprocess import Step
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.input.opencv import cv2
from edgeloop.runtime.input.preprocess import apply_steps
from edgeloop.runtime.input.stages import require_room

Tables = NDArray[Any]
"""(channels, 256) in the tensor's type."""

Put = Callable[[NDArray[Any]], None]
"""Writes a uint8 image of the model's size, in the order of channels that it was made for, into the buffer."""

_RAMP = np.arange(256, dtype=np.uint8)
_TOP_BIT = 128
# What cv2.LUT takes in every OpenCV since 4.10.
_LUT_DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "int32", "float32", "float64"})
# Below, three calls more cost more than one look-up a channel in one plane saves: 4 microseconds.
_FEWEST_TO_SPLIT_PX = 64 * 64


def fold(tail: Sequence[Step], channels: int, tensor: TensorSpec) -> Tables | None:
    """What each value of each channel becomes by these steps and in this tensor.

    channels: before the steps. None if the steps do not take so many, or some value would be refused. Raises
    InvalidInput if an unquantized integer tensor cannot hold what they make.
    """
    ramp = _RAMP[:, np.newaxis] if channels == 1 else np.repeat(_RAMP[:, np.newaxis, np.newaxis], channels, axis=2)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            made = apply_steps(ramp, tail, Modality.IMAGE)
        except InvalidInput:
            return None
        values = made.reshape(256, -1).astype(np.float32)
        if not np.isfinite(values).all():
            return None
        require_room(values, tensor)
        return np.ascontiguousarray(quantize_tensor(values, tensor).T)


def is_same_for_all(tables: Tables) -> bool:
    """Whether all channels have one table."""
    return all(table.tobytes() == tables[0].tobytes() for table in tables)


def is_identity(tables: Tables) -> bool:
    """Whether nothing is to be done but to copy."""
    return tables.dtype == np.uint8 and bool((tables == _RAMP).all())


def put_into(buffer: NDArray[Any], tables: Tables, *, turned: bool) -> Put:
    """For an image of the buffer's order: (H, W), or (H, W, channels) where all channels have one table.

    buffer: (H, W) or (H, W, channels), or (channels, H, W) if it has other axes than the image. turned: the image's
    channels come in the opposite order of the buffer's.
    """
    if buffer.ndim == 2 or (not turned and is_same_for_all(tables)):
        return _put_whole(buffer, tables[0])
    small = buffer.shape[0] * buffer.shape[1] < _FEWEST_TO_SPLIT_PX
    if small and not turned and tables.dtype.name in _LUT_DTYPES:
        return _look_up(buffer, np.ascontiguousarray(tables.T))
    return _put_merged(buffer, tables, turned=turned)


def put_planes(planes: NDArray[Any], tables: Tables, *, turned: bool) -> Put:
    """For an (H, W, channels) image into (channels, H, W)."""
    order = _order(len(planes), turned=turned)
    if is_identity(tables):
        into = [planes[channel] for channel in order]

        def split(image: NDArray[Any]) -> None:
            for made, plane in zip(cv2.split(image, into), into, strict=True):
                _keep(made, plane)

        return split
    scratch = [np.empty(planes.shape[1:], np.uint8) for _ in order]
    puts = [_put_whole(planes[channel], tables[channel]) for channel in order]

    def put(image: NDArray[Any]) -> None:
        for plane, put_one in zip(cv2.split(image, scratch), puts, strict=True):
            put_one(plane)

    return put


def _put_merged(buffer: NDArray[Any], tables: Tables, *, turned: bool) -> Put:
    """Channel by channel: cv2.LUT takes twice as long with a table for each channel as with one."""
    scratch = np.empty((len(tables), *buffer.shape[:2]), tables.dtype)
    fill = put_planes(scratch, tables, turned=turned)
    if tables.dtype.name not in _LUT_DTYPES:
        last = np.moveaxis(scratch, 0, -1)

        def stack(image: NDArray[Any]) -> None:
            fill(image)
            np.copyto(buffer, last)

        return stack
    planes = list(scratch)

    def merge(image: NDArray[Any]) -> None:
        fill(image)
        _keep(cv2.merge(planes, buffer), buffer)

    return merge


def _put_whole(buffer: NDArray[Any], table: NDArray[Any]) -> Put:
    """One table for every value of an array of the buffer's shape."""
    if is_identity(table):
        return lambda image: None if image is buffer else np.copyto(buffer, image)
    if table.dtype == np.int8 and bool((table.view(np.uint8) == _RAMP ^ _TOP_BIT).all()):
        # x - 128, as of most int8 models: 20 times as fast as a look-up.
        unsigned = buffer.view(np.uint8)
        return lambda image: _keep(np.bitwise_xor(image, _TOP_BIT, out=unsigned), unsigned)
    if table.dtype.name in _LUT_DTYPES:
        return _look_up(buffer, table)

    def take(image: NDArray[Any]) -> None:
        table.take(image, out=buffer, mode="clip")

    return take


def _look_up(buffer: NDArray[Any], table: NDArray[Any]) -> Put:
    table = table.reshape(1, 256, -1) if table.ndim == 2 else table.reshape(1, 256)

    def look_up(image: NDArray[Any]) -> None:
        _keep(cv2.LUT(image, table, buffer), buffer)

    return look_up


def _keep(made: NDArray[Any], buffer: NDArray[Any]) -> None:
    """OpenCV writes into the array that it is given if that suits it, and else makes one without a word."""
    if made is not buffer:
        np.copyto(buffer, made)


def _order(channels: int, *, turned: bool) -> list[int]:
    """Where an image's channels, one after the other, belong."""
    return list(reversed(range(channels))) if turned else list(range(channels))
