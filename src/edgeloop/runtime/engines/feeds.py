"""The check that every engine makes of what it is fed, said once."""

import numpy as np

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.port import Tensors, TensorSpec


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
