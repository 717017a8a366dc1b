"""The engine port: what the runtime asks of whatever executes a variant.

Neighbours: `litert`, `onnx` and `openvino` implement it, `predictor` uses it, `find` knows which are installed.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by tensor name."""

CPU = "cpu"

MOST_THREADS = 1024
"""More than any machine has cores. Asked for 100,000, LiteRT (2.3) ends the process and ONNX Runtime (1.31) hangs."""


class Setting(msgspec.Struct, frozen=True):
    """How an engine is to run a model.

    threads: for one inference. interface: of an engine that has several ("interpreter" or "compiled" of LiteRT), ""
    for its first. accelerator: "cpu", or what `accelerators` found: a LiteRT delegate, an ONNX Runtime provider, an
    OpenVINO device.
    """

    threads: int = 1
    interface: str = ""
    accelerator: str = CPU

    def __str__(self) -> str:
        """A word for people: "compiled, 2 threads"."""
        parts = [self.interface, "" if self.accelerator == CPU else self.accelerator]
        parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join(part for part in parts if part)


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
    """A loaded variant. Not thread-safe: one engine a thread.

    buffers: one array for each of `inputs`, in order, of its shape and dtype, C-contiguous and writable, allocated
    once: what lies in them is what `invoke` takes. They are the engine's memory where it allows that, and must not be
    touched after `close`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buffers: tuple[NDArray[Any], ...]

    def invoke(self) -> tuple[NDArray[Any], ...]:
        """Execute once on what lies in `buffers`: the outputs in the order of `outputs`.

        The arrays are the engine's own memory: the next invoke overwrites them, and close takes them away.
        Raises InvalidInput after `close`, Corrupt if the model fails while it runs.
        """
        ...

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once.

        feeds: exactly the declared inputs, by name, with declared shape and dtype. Returns the declared outputs
        by name; the arrays are the caller's own. Raises InvalidInput on any other name, shape or dtype.
        """
        ...

    def close(self) -> None:
        """Give up memory; the engine cannot run after it. May be called twice."""
        ...
