"""Contract types to bytes and back, with one answer for each kind of mismatch.

Rules kept here (docs/wire.md states them for people):
- a document from a newer schema is refused with InvalidInput that names both versions;
- unknown fields are ignored, except in types that change what a model computes: those forbid them;
- malformed bytes are Corrupt, well-formed bytes of a wrong shape are InvalidInput;
- no type is used by a thread while another one finds out about it: see `ready`.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from edgeloop.contracts.errors import Corrupt, InvalidInput

T = TypeVar("T")

SCHEMA = 1
"""The newest schema version that this edgeloop writes and reads."""

_ready: set[object] = set()
_readying = threading.Lock()


def ready(kind: type[T]) -> type[T]:
    """The type itself, once msgspec knows all about it: for whoever decodes with msgspec's own functions.

    msgspec (0.22) finds out about a type and those within it when it is first used, and gives the interpreter away
    meanwhile: another thread that uses one of them then reads what is not there yet, and the process ends by SIGSEGV.
    """
    if kind not in _ready:
        with _readying:
            msgspec.json.Decoder(kind)
            _ready.add(kind)
    return kind


def ready_all() -> None:
    """The same for all of the contracts' types that are loaded: where others decode them, too, as Litestar does."""
    found = set(msgspec.Struct.__subclasses__())
    while more := {sub for kind in found for sub in kind.__subclasses__()} - found:
        found |= more
    for kind in found:
        if kind.__module__.startswith("edgeloop.contracts."):
            ready(kind)


_json_encoder = msgspec.json.Encoder(order="deterministic")
_msgpack_encoder = msgspec.msgpack.Encoder()


def to_json(value: Any) -> bytes:
    """Deterministic JSON: the same value gives the same bytes."""
    return _json_encoder.encode(value)


def to_pretty_json(value: Any) -> bytes:
    """The same JSON, indented for people and ending with a newline."""
    return msgspec.json.format(to_json(value), indent=2) + b"\n"


def to_msgpack(value: Any) -> bytes:
    """MessagePack, the wire form between tiers."""
    return _msgpack_encoder.encode(value)


def from_json(data: bytes, kind: type[T], *, what: str) -> T:
    """Decode JSON into `kind`; `what` names the document in errors, e.g. "manifest.json".

    Raises Corrupt if it is not JSON, InvalidInput if it is of another shape or a newer schema.
    """
    try:
        return require_known_schema(msgspec.json.decode(data, type=ready(kind)), what)
    except msgspec.ValidationError as error:
        raise _mismatch(data, msgspec.json.decode, error, what=what, form="JSON") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{what} is not JSON: {error}") from error


def from_msgpack(data: bytes, kind: type[T], *, what: str) -> T:
    """Decode MessagePack into `kind`; errors as in `from_json`."""
    try:
        return require_known_schema(msgspec.msgpack.decode(data, type=ready(kind)), what)
    except msgspec.ValidationError as error:
        raise _mismatch(data, msgspec.msgpack.decode, error, what=what, form="MessagePack") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{what} is not MessagePack: {error}") from error


def require_known_schema(value: T, what: str) -> T:
    """The value itself. Raises InvalidInput if it is of a newer schema than this edgeloop reads."""
    schema = getattr(value, "schema", SCHEMA)
    if schema > SCHEMA:
        raise InvalidInput(_newer(what, schema))
    return value


def _mismatch(
    data: bytes, decode: Callable[[bytes], Any], error: Exception, *, what: str, form: str
) -> InvalidInput | Corrupt:
    """Why typed decoding failed: a newer schema, another shape, or (found only now) bytes that are malformed."""
    try:
        document = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        return Corrupt(f"{what} is not {form}: {broken}")
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        return InvalidInput(_newer(what, schema))
    return InvalidInput(f"{what} does not have the expected form: {error}")


def _newer(what: str, schema: int) -> str:
    return (
        f"{what} has schema version {schema}; this edgeloop reads up to {SCHEMA}. "
        "Update edgeloop here, or write the document with an older edgeloop."
    )
