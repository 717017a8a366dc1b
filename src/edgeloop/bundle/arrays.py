"""Arrays as .npy bytes, read as data: no pickle, and no allocation beyond the bytes that are there."""

import io
import tokenize
import warnings
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt

_HEADER_ERRORS = (
    # All that numpy's header parser, which evaluates a Python literal, was seen to raise on malformed headers.
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    UserWarning,
)
_ALLOWED = ("uint8", "int8", "int16", "float32", "float64", "int64")


def to_npy(array: NDArray[Any]) -> bytes:
    """The array as .npy bytes, C order; the same array gives the same bytes."""
    buffer = io.BytesIO()
    npy.write_array(buffer, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes, *, what: str) -> NDArray[Any]:
    """Read .npy bytes; the array is read-only. Raises Corrupt on anything malformed, truncated or of object dtype."""
    buffer = io.BytesIO(data)
    try:
        if npy.read_magic(buffer) != (1, 0):
            raise ValueError("expected .npy format version 1.0")
        with warnings.catch_warnings(action="error"):
            shape, fortran_order, dtype = npy.read_array_header_1_0(buffer)
        if fortran_order or dtype.name not in _ALLOWED:
            raise ValueError(f"dtype {dtype} or its order is not allowed here; expected C order and one of {_ALLOWED}")
        if any(size < 0 for size in shape):
            raise ValueError(f"shape {shape} has a negative size")
        flat = np.frombuffer(data, dtype=dtype, offset=buffer.tell())
        return flat.reshape(shape)
    except _HEADER_ERRORS as error:
        raise Corrupt(f"{what} is not a usable .npy array: {error}") from error
