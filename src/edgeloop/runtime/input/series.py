"""Series: from a CSV table or rows to the tensor that a model takes.

Rules kept here: a row is a moment, a column a channel; a value that is not there is NaN until a step fills it.
Neighbours: `table` reads CSV, `windows` cuts streams.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import FillMissing, Missing, Normalize, Scale, Step, Window
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.input.stages import (
    Reals,
    Stage,
    check_tensor,
    empty_window,
    fill_window,
    name_of,
    normalize_stage,
    place_stage,
    put_reals,
    run_stages,
    scale_stage,
)
from edgeloop.runtime.input.table import MAX_CELLS, decode_rows, read_rows

_AXES = "tc"
_HINT = "fill what is missing with the manifest's step 'fill_missing', or before"


class SeriesFront:
    """The manifest's preprocessing of series for one variant's input tensor. Not thread-safe.

    In the layout, t is time (rows) and c the channels. window: how a stream is to be cut, None where the manifest
    does not say. Raises InvalidInput if a step is not for series or stands in the wrong place, or a whole window does
    not come out in the tensor's shape.
    """

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> None:
        check_tensor(spec, tensor)
        self.channels = spec.channels
        self.window = steps[0] if steps and isinstance(steps[0], Window) else None
        self._tensor = tensor
        stages = tuple(_stage(step) for step in (steps[1:] if self.window else steps))
        self._stages = (*stages, place_stage(spec, _AXES))
        if self.window is not None:
            # Zeros go through all of it once: what does not fit is refused now.
            empty = empty_window(self.window, channels=channel_count(spec, self.window), unit="rows")
            run_stages(self._stages, empty, hint=_HINT)

    def write(self, source: Source, buffer: NDArray[Any]) -> None:
        """Prepare one window of a series and write it into the engine's buffer, quantized as the tensor stores it.

        Raises as `tensor` does, and InvalidInput if the tensor cannot hold it; the buffer is then as it was.
        """
        put_reals(self.tensor(source), self._tensor, buffer)

    def tensor(self, source: Source) -> Reals:
        """One window of a series as real values, float32 of the manifest's input shape.

        Raises InvalidInput if it is not one window or a value is still missing at the end, and what `rows` raises.
        """
        rows = self.rows(source)
        if self.window is not None:
            rows = fill_window(rows, self.window, unit="rows")
        return run_stages(self._stages, rows, hint=_HINT)

    def rows(self, source: Source) -> Reals:
        """A whole series, before it is cut into windows: (rows, channels) float32, NaN where a value is missing.

        Raises NotFound if there is no such file, Corrupt if it is no table of numbers, InvalidInput if the series
        cannot be used.
        """
        if isinstance(source, np.ndarray):
            return as_rows(source, channels=self.channels)
        if isinstance(source, bytes):
            return decode_rows(source, channels=self.channels)
        return read_rows(source, channels=self.channels)


def channel_count(spec: InputSpec, window: Window) -> int:
    """How many channels a series has: those with a name, else what the tensor has room for, since no step changes the
    number of values."""
    return len(spec.channels) or max(1, math.prod(spec.shape) // window.length)


def as_rows(value: NDArray[Any], *, channels: tuple[str, ...] = ()) -> Reals:
    """An array as a series: (rows, channels), or (rows,) of one channel; numbers, NaN where one is missing.

    channels: if any, so many are expected. Raises InvalidInput on any other array. Returns float32, C-contiguous.
    """
    if value.ndim == 1:
        value = value[:, np.newaxis]
    if value.ndim != 2 or value.dtype.kind not in "fiu" or (channels and value.shape[1] != len(channels)):
        raise InvalidInput(
            f"a series is an array of numbers of (rows, {len(channels) or 'channels'}); got {value.dtype} {value.shape}"
        )
    if not 0 < value.size <= MAX_CELLS:
        raise InvalidInput(f"the series has {value.size:,} values; expected 1 to {MAX_CELLS:,}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(value, np.float32)
    if np.isinf(rows).any():
        raise InvalidInput("the series holds values that are infinite in float32; use NaN for what is missing")
    return rows


def fill_missing(rows: Reals, step: FillMissing) -> Reals:
    """`FillMissing` of (rows, channels). Raises InvalidInput if too much is missing, or all of a channel."""
    missing = np.isnan(rows)
    count = int(missing.sum())
    if count == 0:
        return rows
    if count > step.most_share * rows.size:
        raise InvalidInput(
            f"{count} of {rows.size} values are missing; step 'fill_missing' allows a share of {step.most_share:g}"
        )
    if step.how is Missing.ZERO:
        return np.where(missing, np.float32(0), rows)
    empty = np.flatnonzero(missing.all(axis=0))
    if len(empty):
        raise InvalidInput(f"channel {int(empty[0]) + 1} of {rows.shape[1]} has no value in the window to fill it from")
    filled = rows.copy()
    for channel in np.flatnonzero(missing.any(axis=0)):
        there = np.flatnonzero(~missing[:, channel])
        gaps = np.flatnonzero(missing[:, channel])
        filled[gaps, channel] = _between(gaps, there, rows[there, channel], step.how)
    return filled


def _between(gaps: NDArray[np.intp], there: NDArray[np.intp], values: Reals, how: Missing) -> NDArray[Any]:
    """What stands at the places `gaps`, from the `values` at the places `there`."""
    if how is Missing.LINEAR:
        return np.interp(gaps, there, values)
    before = np.searchsorted(there, gaps) - 1
    return values[np.maximum(before, 0)]


def _stage(step: Step) -> Stage:
    if isinstance(step, Window):
        raise InvalidInput("step 'window' is not the first of a series")
    if isinstance(step, FillMissing):
        return lambda rows: fill_missing(rows, step)
    if isinstance(step, Scale):
        return scale_stage(step)
    if isinstance(step, Normalize):
        return normalize_stage(step)
    raise InvalidInput(f"step {name_of(step)!r} is not for series; window, fill_missing, scale and normalize are")
