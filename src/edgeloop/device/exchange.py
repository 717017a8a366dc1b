"""What the agent and the process in which a version answers say to one another, on two pipes.

A message is 12 bytes, `<IQ`: how long its header and its body are; the header in MessagePack; the body as it is. The
agent says an Order, with the manifest's bytes as its body, and then one Asked after another, each with its frame as its
body: an array's numbers are written from where they lie. To each it hears one Said, without a body. What comes is
bounded before it is read.

Neighbours: `worker` is the agent's end, `answer` the other.
"""

import os
import struct
from io import BufferedReader
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edgeloop.contracts.codec import ready
from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.prediction import Prediction

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame

T = TypeVar("T")

PREFIX = struct.Struct("<IQ")
MOST_HEADER_BYTES = 256 * 1024 * 1024
"""An answer may hold a mask of the largest image."""
MOST_BODY_BYTES = 2**32


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to load: a variant, by its file's hash, of a bundle whose files are on the shelf.

    races, threads: see `device.config.Pace`. cache: see DeviceConfig. load_s, answer_s: after so long at one of them
    the process is to end by itself. parent: the agent's process number, with which it is to end; set where it starts.
    """

    shelf: str
    variant: str
    races: str
    threads: int | None
    cache: bool
    load_s: float
    answer_s: float
    parent: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A frame, but for its data. dtype, shape: of an array, as NumPy writes them; dtype is "" of encoded bytes.
    forgets: answers to earlier frames are not to stand for this one."""

    name: str
    media: str
    at_s: float
    dtype: str = ""
    shape: tuple[int, ...] = ()
    forgets: bool = False


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """It is ready. setting: in which the engine runs, for people. is_raced: whether a race chose that."""

    setting: str
    is_raced: bool


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: one of loaded and prediction, or the code and the text of an EdgeloopError."""

    loaded: Loaded | None = None
    prediction: Prediction | None = None
    code: str = ""
    detail: str = ""


def packed(header: msgspec.Struct, body: "bytes | memoryview" = b"") -> list[memoryview]:
    """A message as the parts to write, one after another; the body is not copied. Raises InvalidInput if too long."""
    said = msgspec.msgpack.encode(header)
    data = memoryview(body)
    if len(said) > MOST_HEADER_BYTES or data.nbytes > MOST_BODY_BYTES:
        raise InvalidInput(
            f"{len(said):,} and {data.nbytes:,} bytes are too much for one input or answer; at most "
            f"{MOST_HEADER_BYTES:,} and {MOST_BODY_BYTES:,}"
        )
    return [memoryview(PREFIX.pack(len(said), data.nbytes) + said), data]


def write_some(pipe: int, parts: list[memoryview]) -> None:
    """As much of a message as the pipe takes at once; what is left of it stays in parts."""
    written = os.writev(pipe, parts)
    while parts and written >= parts[0].nbytes:
        written -= parts.pop(0).nbytes
    if parts:
        parts[0] = parts[0][written:]


def asked_of(frame: "Frame", *, forgets: bool = False) -> tuple[Asked, "bytes | memoryview"]:
    """A frame as a message. Its data are bytes or an array, as sources hand them over."""
    data: Any = frame.data
    if isinstance(data, bytes):
        return Asked(name=frame.name, media=frame.media, at_s=frame.at_s, forgets=forgets), data
    # Memory can be shown as bytes only where it is whole and of this machine's byte order.
    is_plain = data.flags.c_contiguous and data.dtype.isnative and data.size > 0
    body = memoryview(data).cast("B") if is_plain else data.tobytes()
    asked = Asked(
        name=frame.name,
        media=frame.media,
        at_s=frame.at_s,
        dtype=data.dtype.str,
        shape=data.shape,
        forgets=forgets,
    )
    return asked, body


def lengths_of(prefix: bytes | bytearray) -> tuple[int, int]:
    """How long header and body are. Raises Corrupt if they are longer than any of ours."""
    header_bytes, body_bytes = PREFIX.unpack(prefix)
    if header_bytes > MOST_HEADER_BYTES or body_bytes > MOST_BODY_BYTES:
        raise Corrupt(
            f"a message of {header_bytes:,} and {body_bytes:,} bytes came on a pipe; another program wrote to it"
        )
    return header_bytes, body_bytes


def read_header(stream: BufferedReader, kind: type[T]) -> tuple[T, int] | None:
    """The next message's header, and how long its body is; None at the end."""
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    header_bytes, body_bytes = lengths_of(prefix)
    header = stream.read(header_bytes)
    return None if len(header) < header_bytes else (msgspec.msgpack.decode(header, type=ready(kind)), body_bytes)
