"""Real values to what a tensor stores, and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.runtime.engines.port import TensorSpec


def quantize_tensor(values: NDArray[np.float32], spec: TensorSpec) -> NDArray[Any]:
    """Real values to what the tensor stores: round(x / scale) + zero_point, clipped; unchanged if not quantized.

    Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 1, inverted.
    """
    dtype = np.dtype(spec.dtype)
    if spec.scale == 0.0:
        return values.astype(dtype, copy=False)
    bounds = np.iinfo(dtype)
    with np.errstate(over="ignore"):  # what is infinite in steps is cut like all that is too large
        steps = np.rint(values / np.float32(spec.scale)) + spec.zero_point
    return np.asarray(np.clip(steps, bounds.min, bounds.max), dtype=dtype)


def dequantize_tensor(stored: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """What the tensor stores as real values: (stored - zero_point) * scale. Source: as above, eq. 1."""
    if spec.scale == 0.0:
        return stored.astype(np.float32, copy=False)
    return (stored.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
