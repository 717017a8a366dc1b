"""The Open Inference Protocol's inference request and response as bytes, with the binary tensor extension.

Sources: KServe, "Open Inference Protocol (V2)", REST; Triton Inference Server, extension_binary_data: a JSON part of
Inference-Header-Content-Length bytes, then the raw bytes of each tensor with a binary_data_size, in order; elements of
BYTES tensors each begin with their length, 4 bytes, little-endian.
"""

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.serve.bodies import as_float32, numbers

Parameters = dict[str, str | int | float | bool]

_MOST_AXES = 8
_REFUSED = ("sequence_id", "sequence_start", "sequence_end")


class TensorIn(msgspec.Struct, frozen=True):
    """An input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters = {}


class TensorWanted(msgspec.Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: Parameters = {}


class Infer(msgspec.Struct, frozen=True):
    """The JSON part of a request."""

    inputs: list[TensorIn]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[TensorWanted] | None = None


@dataclass(frozen=True)
class Asked:
    """A request: its JSON part, the one input, and what that holds.

    raw: its bytes, if they came as such. listed: its numbers from JSON, in the shape in which they came.
    """

    infer: Infer
    tensor: TensorIn
    raw: memoryview | None
    listed: NDArray[Any] | None


class TensorOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output of a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: Parameters | None = None


class Inferred(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON part of a response."""

    model_name: str
    model_version: str
    outputs: list[TensorOut]
    id: str = ""


_decoder = msgspec.json.Decoder(Infer)
_encoder = msgspec.json.Encoder()


def read_request(body: bytes, json_bytes: str | None) -> Asked:
    """A request's parts. json_bytes: the header Inference-Header-Content-Length. Raises InvalidInput."""
    split = _split(body, json_bytes)
    try:
        infer = _decoder.decode(memoryview(body)[:split])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request is not the JSON that the Open Inference Protocol asks for: {error}") from error
    for name in _REFUSED:
        if infer.parameters.get(name):
            raise InvalidInput(f"the parameter {name!r} is not taken: this model has no sequences")
    if len(infer.inputs) != 1:
        raise InvalidInput(f"the model has one input, the request has {len(infer.inputs)}")
    tensor = infer.inputs[0]
    raw = _raw_part(memoryview(body)[split:], tensor)
    if raw is None and tensor.data is msgspec.UNSET:
        raise InvalidInput(f'input {tensor.name!r} has neither "data" nor a "binary_data_size"')
    listed = None
    if tensor.data is not msgspec.UNSET and tensor.datatype != "BYTES":
        listed = numbers(tensor.data, what=f"input {tensor.name!r}")
    return Asked(infer, tensor, raw, listed)


def deadline_s(parameters: Parameters, default_s: float) -> float:
    """The request's `timeout` parameter, which is in microseconds, or the default; never more than that."""
    told = parameters.get("timeout", 0)
    if isinstance(told, bool) or not isinstance(told, int) or told < 0:
        raise InvalidInput(f"the parameter 'timeout' is {told!r}; expected microseconds, a whole number")
    return min(told, int(1e6 * default_s)) / 1e6 if told else default_s


def reals(asked: Asked, shape: tuple[int, ...], *, max_items: int) -> list[NDArray[np.float32]]:
    """The input as tensors of `shape` (whose first axis is 1), one for each place of the batch axis.

    Raises InvalidInput if it is of another shape or datatype, or holds NaN or infinity.
    """
    tensor = asked.tensor
    wanted = [_first(tensor.shape), *shape[1:]]
    if tensor.datatype != "FP32" or tensor.shape != wanted or not 1 <= wanted[0] <= max_items:
        raise InvalidInput(
            f"input {tensor.name!r} must be FP32 of shape {[-1, *shape[1:]]} with 1 to {max_items} at a time, got "
            f"{tensor.datatype} {tensor.shape}"
        )
    count = prod(wanted)
    if asked.raw is not None:
        if len(asked.raw) != 4 * count:
            raise InvalidInput(f"input {tensor.name!r} needs {4 * count:,} bytes for {wanted}, got {len(asked.raw):,}")
        values = np.frombuffer(asked.raw, dtype="<f4")
    else:
        assert asked.listed is not None
        if asked.listed.size != count:
            raise InvalidInput(f"input {tensor.name!r} needs {count:,} numbers for {wanted}, got {asked.listed.size:,}")
        values = as_float32(asked.listed, what=f"input {tensor.name!r}").reshape(-1)
    if not np.isfinite(values).all():
        raise InvalidInput(f"input {tensor.name!r} holds NaN or infinity")
    return list(values.reshape(wanted[0], *shape))


def encoded(asked: Asked, *, max_items: int) -> list[bytes]:
    """The elements of a BYTES input: encoded images, sounds or tables.

    In JSON they are text, or base64 if the input's parameter content_type says so. Raises InvalidInput.
    """
    tensor = asked.tensor
    items = _from_raw(asked.raw, tensor.name) if asked.raw is not None else _from_text(tensor)
    count = prod(tensor.shape) if 1 <= len(tensor.shape) <= _MOST_AXES else 0
    if count != len(items) or not 1 <= count <= max_items:
        raise InvalidInput(
            f"input {tensor.name!r} of shape {tensor.shape} has {len(items)} elements; expected as many as its shape "
            f"says, 1 to {max_items}"
        )
    return items


def joined(made: list[dict[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32] | list[bytes]]:
    """Outputs of several runs along the batch axis."""
    if len(made) == 1:
        return dict(made[0])
    first = made[0]
    for name, values in first.items():
        if values.shape[:1] != (1,):
            raise InvalidInput(f"output {name!r} is {values.shape}: it has no batch axis; send one input at a time")
    return {name: np.concatenate([one[name] for one in made]) for name in first}


def write_response(
    name: str, version: str, infer: Infer, outputs: Mapping[str, NDArray[np.float32] | list[bytes]]
) -> tuple[bytes, int | None]:
    """A response's bytes, and how many of them are JSON; None if all are. outputs: all that the model has.

    Raises InvalidInput if an output is asked for that there is not.
    """
    wanted = infer.outputs or [TensorWanted(one) for one in outputs]
    by_default = infer.parameters.get("binary_data_output") is True
    told: list[TensorOut] = []
    parts: list[bytes] = []
    for one in wanted:
        if one.name not in outputs:
            raise InvalidInput(f"there is no output {one.name!r}; there is {', '.join(map(repr, outputs))}")
        if one.parameters.get("classification"):
            raise InvalidInput("the parameter 'classification' is not taken; ask for a prediction instead")
        if one.parameters.get("binary_data", by_default) is True:
            raw = _to_raw(outputs[one.name])
            parts.append(raw)
            told.append(_told(one.name, outputs[one.name], {"binary_data_size": len(raw)}))
        else:
            told.append(_told(one.name, outputs[one.name], None))
    head = _encoder.encode(Inferred(name, version, told, infer.id))
    return (b"".join([head, *parts]), len(head)) if parts else (head, None)


def _first(shape: Sequence[int]) -> int:
    return shape[0] if shape else 0


def _told(name: str, values: NDArray[np.float32] | list[bytes], binary: Parameters | None) -> TensorOut:
    if isinstance(values, list):
        texts = None if binary else [one.decode() for one in values]
        return TensorOut(name, "BYTES", (len(values),), texts, binary)
    return TensorOut(name, "FP32", values.shape, None if binary else values.ravel().tolist(), binary)


def _to_raw(values: NDArray[np.float32] | list[bytes]) -> bytes:
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(one)) + one for one in values)
    return values.astype("<f4", copy=False).tobytes()


def _split(body: bytes, json_bytes: str | None) -> int:
    if json_bytes is None:
        return len(body)
    if not (json_bytes.isascii() and json_bytes.isdigit()) or int(json_bytes[:12]) > len(body):
        raise InvalidInput(f"Inference-Header-Content-Length is {json_bytes!r}, the body has {len(body)} bytes")
    return int(json_bytes)


def _raw_part(rest: memoryview, tensor: TensorIn) -> memoryview | None:
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise InvalidInput(f"{len(rest):,} bytes follow the JSON part, and no input has a binary_data_size")
        return None
    if size != len(rest) or isinstance(size, bool):
        raise InvalidInput(f"input {tensor.name!r} has binary_data_size {size!r}, but {len(rest):,} bytes follow")
    if tensor.data is not msgspec.UNSET:
        raise InvalidInput(f'input {tensor.name!r} has both "data" and a binary_data_size; send one')
    return rest


def _from_raw(raw: memoryview, name: str) -> list[bytes]:
    items: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 4 + (int.from_bytes(raw[at : at + 4], "little") if at + 4 <= len(raw) else len(raw))
        if end > len(raw):
            raise InvalidInput(f"input {name!r}: element {len(items)} ends after the tensor; lengths are 4 bytes each")
        items.append(bytes(raw[at + 4 : end]))
        at = end
    return items


def _from_text(tensor: TensorIn) -> list[bytes]:
    texts = np.array(tensor.data, dtype=object).ravel().tolist()
    if not all(isinstance(one, str) for one in texts):
        raise InvalidInput(f"input {tensor.name!r} is BYTES, so its data must be texts")
    if tensor.parameters.get("content_type") != "base64":
        return [one.encode() for one in texts]
    try:
        return [base64.b64decode(one, validate=True) for one in texts]
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input {tensor.name!r} is not base64: {error}") from error
