"""What every engine does with what it is fed, said once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput
from edgeloop.runtime.engines.port import Tensors, TensorSpec
from edgeloop.runtime.engines.quiet import said


def check_feeds(feeds: Tensors, inputs: tuple[TensorSpec, ...]) -> None:
    """Raise InvalidInput unless `feeds` are exactly these inputs."""
    expected = {spec.name for spec in inputs}
    if set(feeds) != expected:
        raise InvalidInput(f"the model takes the inputs {sorted(expected)}, got {sorted(feeds)}")
    for spec in inputs:
        array = feeds[spec.name]
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise InvalidInput(
                f"input {spec.name!r} must be {spec.dtype} {spec.shape}, got {array.dtype} {array.shape}"
            )


class BoundEngine:
    """What engines do alike once a model is loaded: `_execute` computes `_answers` from `buffers`, bound for good.

    A base of implementations of Engine, which see for what it promises. _failures: what `_execute` raises where the
    model fails.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buffers: tuple[NDArray[Any], ...]
    _answers: tuple[NDArray[Any], ...]
    _execute: Callable[[], object]
    _failures: tuple[type[Exception], ...]

    def invoke(self) -> tuple[NDArray[Any], ...]:
        """Execute once on what lies in the buffers; see Engine.invoke."""
        try:
            self._execute()
        except EdgeloopError:
            raise
        except self._failures as error:
            raise Corrupt(f"the model failed while it ran: {said(error)}") from error
        return self._answers

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once; see Engine.run."""
        if not self.buffers:
            _refuse_closed()
        check_feeds(feeds, self.inputs)
        for spec, buffer in zip(self.inputs, self.buffers, strict=True):
            np.copyto(buffer, feeds[spec.name])
        return {spec.name: made.copy() for spec, made in zip(self.outputs, self.invoke(), strict=True)}

    def close(self) -> None:
        """Give up memory; what is left of it goes with the last array that a caller holds."""
        self._execute = _refuse_closed
        self.buffers = self._answers = ()


def _refuse_closed() -> None:
    raise InvalidInput("this engine was closed; load the model again")


def require_batch(outputs: tuple[TensorSpec, ...], batch: int) -> None:
    """Raise InvalidInput unless each output has one row for each of the batch, where there is more than one."""
    for spec in outputs:
        if batch > 1 and spec.shape[:1] != (batch,):
            raise InvalidInput(
                f"this model cannot take {batch} at a time: output {spec.name!r} would be {spec.shape}, expected "
                f"({batch}, ...); convert it with a free first axis"
            )
