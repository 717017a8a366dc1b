"""The body of a request for a prediction, as a Source: by its content type and what the model takes.

image/*                     an encoded image
audio/wav                   a WAV file
text/csv                    a table
application/octet-stream    an array's bytes, C order, little-endian; X-Shape "28,28" and X-Dtype "uint8" say what
                            it is: by default the model's own input without its batch axis, uint8 for images and
                            float32 for all else
application/json            {"array": [[0, 255], ...]}; null is a missing value of a series
"""

from functools import lru_cache
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Manifest, Modality
from edgeloop.runtime.input.port import Source
from edgeloop.serve.asgi import BINARY, JSON, Request, WrongType

_WAV = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
_CSV = ("text/csv", "application/csv")
_DTYPES = {
    Modality.IMAGE: ("uint8",),
    Modality.SOUND: ("float32", "int16"),
    Modality.SERIES: ("float32", "float64"),
    Modality.TENSOR: ("float32",),
}
"""What a raw array may be made of, the default first."""
_LITTLE = {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "int16", "float32", "float64")}


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    array: list[Any]


_array_decoder = msgspec.json.Decoder(_Array)


def source_of(request: Request, manifest: Manifest) -> Source:
    """What the model is asked about. Raises InvalidInput, or WrongType for a content type that it does not take."""
    kind = (request.header(b"content-type") or BINARY.decode()).partition(";")[0].strip().lower()
    if not request.body:
        raise InvalidInput(f"the body is empty; expected what {_takes(manifest)}")
    if kind == BINARY.decode():
        return _raw(request, manifest.input)
    if kind == JSON.decode():
        return _listed(request.body, manifest.input)
    if _modality(kind) is not manifest.input.modality:
        raise WrongType(f"{manifest.ref} does not take {kind!r}; {_takes(manifest)}")
    return request.body


def _modality(kind: str) -> Modality | None:
    if kind.startswith("image/"):
        return Modality.IMAGE
    if kind in _WAV:
        return Modality.SOUND
    return Modality.SERIES if kind in _CSV else None


def _takes(manifest: Manifest) -> str:
    own = {Modality.IMAGE: "image/* (PNG, JPEG, ...)", Modality.SOUND: "audio/wav", Modality.SERIES: "text/csv"}
    kinds = [own[manifest.input.modality]] if manifest.input.modality in own else []
    return f"it takes {', '.join([*kinds, JSON.decode(), BINARY.decode()])}"


def _raw(request: Request, spec: InputSpec) -> NDArray[Any]:
    allowed = _DTYPES[spec.modality]
    dtype = request.header(b"x-dtype") or allowed[0]
    if dtype not in allowed:
        raise InvalidInput(f"X-Dtype is {dtype!r}; {spec.modality} bodies may be of {' or '.join(allowed)}")
    told = request.header(b"x-shape")
    shape = spec.shape[1:] if told is None else _shape(told)
    wanted = prod(shape) * _LITTLE[dtype].itemsize
    if wanted != len(request.body):
        raise InvalidInput(
            f"the body has {len(request.body):,} bytes, but {dtype} of shape {shape} is {wanted:,}; say its shape "
            "and type with X-Shape and X-Dtype"
        )
    return np.frombuffer(request.body, dtype=_LITTLE[dtype]).reshape(shape)


@lru_cache(maxsize=64)  # clients send the same few again and again
def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not 1 <= len(parts) <= 8 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise InvalidInput(f"X-Shape is {text!r}; expected whole numbers with commas between, such as 28,28")
    return tuple(int(part[:12]) for part in (one.strip() for one in parts))


def _listed(body: bytes, spec: InputSpec) -> NDArray[Any]:
    try:
        listed = _array_decoder.decode(body).array
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f'the body is no {{"array": [...]}} in JSON: {error}') from error
    if spec.modality is Modality.IMAGE:
        values = numbers(listed, what='"array"')
        if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
            raise InvalidInput('"array" of an image holds whole numbers from 0 to 255')
        return values.astype(np.uint8)
    return as_float32(numbers(listed, what='"array"', missing=spec.modality is Modality.SERIES), what='"array"')


def _require_numbers(listed: list[Any], what: str, *, missing: bool) -> None:
    """Before NumPy sees it: one long text beside many numbers would take as many bytes for each of them."""
    waiting = [listed]
    while waiting:
        for one in waiting.pop():
            if isinstance(one, list):
                waiting.append(one)
            elif type(one) not in (int, float) and not (missing and one is None):
                raise InvalidInput(f"{what} holds something other than numbers: {type(one).__name__}")


def numbers(listed: list[Any], *, what: str, missing: bool = False) -> NDArray[Any]:
    """Nested lists as an array of numbers. missing: null is NaN. Raises InvalidInput on anything else, such as texts,
    or lists of different lengths."""
    _require_numbers(listed, what, missing=missing)
    try:
        values = np.array(listed)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{what} is no array of numbers: {error}") from error
    if missing and values.dtype == object and all(one is None or type(one) in (int, float) for one in values.flat):
        values = values.astype(np.float64)
    if values.dtype.kind not in "iuf":
        raise InvalidInput(f"{what} holds something other than numbers")
    return values


def as_float32(values: NDArray[Any], *, what: str) -> NDArray[np.float32]:
    """The same numbers, rounded. Raises InvalidInput if one is too large."""
    with np.errstate(over="ignore"):
        made = values.astype(np.float32)
    if np.isinf(made).any():
        raise InvalidInput(f"{what} holds numbers that are infinite or too large for float32")
    return made
