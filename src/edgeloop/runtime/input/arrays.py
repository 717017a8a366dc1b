"""Arrays of numbers into the engine's buffer: the model's input as it is, scaled and quantized.

Neighbours: `preprocess` is the plain path, whose arithmetic this repeats without its copies.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import Normalize, Scale, Step
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.input.preprocess import check_steps, preprocess, require_finite, require_shape
from edgeloop.runtime.input.stages import check_tensor, require_room

_Operation = tuple[np.ufunc, np.float32 | NDArray[np.float32]]


class ArrayFront:
    """The way in for tensors: an array of the model's shape without batch. Not thread-safe.

    Raises InvalidInput if a step does not fit.
    """

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> None:
        check_steps(steps, spec)
        check_tensor(spec, tensor)
        self._spec, self._steps, self._tensor = spec, steps, tensor
        self._operations = _operations(steps, spec.shape[1:])
        self._is_float = tensor.dtype == "float32" and tensor.scale == 0.0
        # In float32 the buffer itself is worked in, else this.
        self._reals = np.empty(spec.shape, np.float32)

    def write(self, source: Source, buffer: NDArray[Any]) -> None:
        """Prepare one array into the engine's buffer; see Front.write."""
        array = _as_numbers(source)
        require_shape(array.shape, self._spec)
        reals = buffer if self._is_float else self._reals
        if not self._operations and array.dtype == np.float32:
            np.copyto(reals, array)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(reals, array, casting="unsafe")
                for operation, number in self._operations:
                    operation(reals, number, out=reals)
        require_finite(reals)
        if not self._is_float:
            require_room(reals, self._tensor)
            _quantize_in_place(reals, self._tensor)
            np.copyto(buffer, reals, casting="unsafe")

    def tensor(self, source: Source) -> NDArray[np.float32]:
        """The same by the plain path; see Front.tensor."""
        return preprocess(_as_numbers(source), self._steps, self._spec)


def _as_numbers(source: Source) -> NDArray[Any]:
    if not isinstance(source, np.ndarray):
        raise InvalidInput(f"this bundle takes arrays, got {type(source).__name__}; read it with numpy first")
    if source.dtype.kind not in "fiub":
        raise InvalidInput(f"the input holds {source.dtype}; expected numbers")
    return source


@np.errstate(over="ignore")  # what is infinite in steps is cut like all that is too large
def _quantize_in_place(reals: NDArray[np.float32], tensor: TensorSpec) -> None:
    """`quantize_tensor` but for the last change of type, without its four copies."""
    if tensor.scale == 0.0:
        return
    bounds = np.iinfo(tensor.dtype)
    np.divide(reals, np.float32(tensor.scale), out=reals)
    np.rint(reals, out=reals)
    np.add(reals, tensor.zero_point, out=reals)
    reals.clip(bounds.min, bounds.max, out=reals)


def _operations(steps: tuple[Step, ...], shape: tuple[int, ...]) -> tuple[_Operation, ...]:
    """The steps as what NumPy does, one after the other. Raises InvalidInput on other channels than the model's."""
    made: list[_Operation] = []
    for step in steps:
        if isinstance(step, Scale):
            made += [(np.multiply, np.float32(step.factor)), (np.add, np.float32(step.offset))]
        elif isinstance(step, Normalize):
            channels = shape[-1] if shape else 1
            if len(step.mean) != channels:
                raise InvalidInput(f"step 'normalize' has {len(step.mean)} means for the model's {channels} channels")
            made += [(np.subtract, np.array(step.mean, np.float32)), (np.divide, np.array(step.std, np.float32))]
    return tuple(made)
