"""Arrays over memory that an engine owns, and arrays that an engine can take as they are."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.runtime.engines.port import TensorSpec

_ALIGNMENT_BYTES = 64  # a cache line, and what every engine asks for at most


class _Memory:
    """Foreign memory as NumPy reads it; the array that is made of it keeps `owner` alive."""

    def __init__(self, address: int, spec: TensorSpec, owner: object) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": spec.shape,
            "typestr": np.dtype(spec.dtype).str,
        }


def view_memory(address: int, spec: TensorSpec, *, owner: object) -> NDArray[Any]:
    """A writable array over the spec's bytes at `address`, without a copy.

    owner: what frees that memory; it lives as long as the array does, so that a view kept too long reads old numbers
    but never freed memory.
    """
    return np.asarray(_Memory(address, spec, owner))


def address_of(array: NDArray[Any]) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


def size_bytes(spec: TensorSpec) -> int:
    """What the tensor takes, without gaps."""
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def aligned_array(spec: TensorSpec) -> NDArray[Any]:
    """Zeros of the spec's shape and dtype, C-contiguous, at an address that engines use without a copy."""
    size = size_bytes(spec)
    room = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    start = -address_of(room) % _ALIGNMENT_BYTES
    return room[start : start + size].view(spec.dtype).reshape(spec.shape)
