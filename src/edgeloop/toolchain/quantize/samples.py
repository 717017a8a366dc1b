"""Whether real samples can calibrate a model: enough of them, finite, unlike, and for its inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.quantize.recipe import FEWEST_SAMPLES


def require_calibratable(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raise InvalidInput unless each input (N, ...) has N >= 16 samples, the same N, all finite, not all equal."""
    if not tensors:
        raise InvalidInput("there is nothing to calibrate with; give real inputs, 16 or more")
    counts = {name: len(array) for name, array in tensors.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInput(f"inputs have different numbers of calibration samples: {counts}; give as many of each")
    for name, array in tensors.items():
        values = np.asarray(array)
        if len(values) < FEWEST_SAMPLES or not np.isfinite(values).all() or values.min() == values.max():
            seen = f"from {values.min():g} to {values.max():g}" if values.size else "without values"
            raise InvalidInput(
                f"{len(values)} calibration inputs {seen} cannot calibrate {name!r}; give {FEWEST_SAMPLES} or more "
                "real, finite, unlike ones"
            )


def require_taken(calibration: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> None:
    """Raise InvalidInput unless the samples (N, ...) are for exactly the model's inputs, by name, in their shapes."""
    if set(calibration) != set(specs):
        raise InvalidInput(f"calibration data is for inputs {sorted(calibration)}; the model has {sorted(specs)}")
    for name, spec in specs.items():
        if calibration[name].shape[1:] != spec.shape[1:]:
            raise InvalidInput(
                f"calibration data for {name!r} has shape {calibration[name].shape}; the model takes "
                f"(samples, {', '.join(map(str, spec.shape[1:]))})"
            )
