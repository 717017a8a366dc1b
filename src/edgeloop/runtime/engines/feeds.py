"""What every engine does with what it is fed, said once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.port import Engine, Tensors, TensorSpec


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


def run_once(engine: Engine, feeds: Tensors) -> dict[str, NDArray[Any]]:
    """`Engine.run` by way of the engine's buffers and its `invoke`."""
    if not engine.buffers:
        refuse_closed()
    check_feeds(feeds, engine.inputs)
    for spec, buffer in zip(engine.inputs, engine.buffers, strict=True):
        np.copyto(buffer, feeds[spec.name])
    return {spec.name: made.copy() for spec, made in zip(engine.outputs, engine.invoke(), strict=True)}


def refuse_closed() -> None:
    """What a closed engine does instead of running."""
    raise InvalidInput("this engine was closed; load the model again")


def require_batch(outputs: tuple[TensorSpec, ...], batch: int) -> None:
    """Raise InvalidInput unless each output has one row for each of the batch, where there is more than one."""
    for spec in outputs:
        if batch > 1 and spec.shape[:1] != (batch,):
            raise InvalidInput(
                f"this model cannot take {batch} at a time: output {spec.name!r} would be {spec.shape}, expected "
                f"({batch}, ...); convert it with a free first axis"
            )
