"""The engine port: what the runtime asks of whatever executes a variant.

Neighbours: `litert`, `onnx` and `openvino` implement it, `predictor` uses it, `engines` finds those that are installed.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by tensor name."""


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor as the file declares it.

    scale, zero_point: real = (stored - zero_point) * scale when the tensor is quantized; scale 0.0 when not.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class Engine(Protocol):
    """A loaded variant. Not thread-safe: one engine a thread."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once.

        feeds: exactly the declared inputs, by name, with declared shape and dtype. Returns the declared outputs
        by name; the arrays are the caller's own. Raises InvalidInput on any other name, shape or dtype.
        """
        ...

    def close(self) -> None:
        """Give up memory; the engine cannot run after it. May be called twice."""
        ...
