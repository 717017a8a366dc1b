"""A file as what it takes to make it out of another one that is at hand, or out of nothing; see ADR 0033.

    HEAD     b"elpatch1", size of the result (u64), size of the base (u64, 0 for none)
    BLOCK    kind (u8), bytes of the result (u32), where in the base (u64), bytes of the base (u32), packed bytes (u32)
             and then the packed bytes; block after block until the result is whole; numbers are little-endian

A block is one zstd frame: of a part of the result, with the named part of the base as its dictionary (LIKE), or of the
difference, byte by byte and modulo 256, to as many bytes of the base (DIFFERENCE). Both sides hold a few blocks at a
time in memory, however large the files are.

Rules kept here: a patch proves nothing, and need not: who applies one knows size and hash of the result. Everything
that a patch says is bounded before memory is taken for it, so it may come from anybody. Neighbours: `cloud.patches`
makes them, `device.patched` applies them.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

import zstandard

from edgeloop.contracts.errors import Corrupt

BLOCK_BYTES = 1024 * 1024
"""Of the result, in a block that is made here."""
REACH_BYTES = 1024 * 1024
"""How far to both sides of its place in the base a block looks for what is like it."""

LEAST_BYTES = 2 * 1024
"""Below it a file is not worth a question."""
_MOST_SHARE = 0.9
_LEAST_SAVED_BYTES = 1024
"""About what asking for a patch and fetching it costs in headers."""

_MAGIC = b"elpatch1"
_HEAD = struct.Struct("<8sQQ")
_BLOCK = struct.Struct("<BIQII")
_MOST_RESULT_BYTES = 2 * 1024 * 1024
_MOST_BASE_BYTES = 4 * 1024 * 1024
_MOST_PACKED_BYTES = 3 * 1024 * 1024
"""What a block may hold that is applied here: a little more than is made, so that later makers have room."""
_LEVEL = 9
"""Of zstd. Measured on models: 19 takes 20 times as long for about 1 % of the bytes."""


class _Kind(IntEnum):
    LIKE = 0
    DIFFERENCE = 1


def is_worth(patch_bytes: int, whole_bytes: int) -> bool:
    """Whether so many bytes are clearly fewer than what the file itself would take."""
    return patch_bytes <= min(_MOST_SHARE * whole_bytes, whole_bytes - _LEAST_SAVED_BYTES)


@dataclass(frozen=True)
class Window:
    """What one block is made from: bytes start to stop of the result, and base_start to base_stop of the base."""

    start: int
    stop: int
    base_start: int
    base_stop: int


def windows(result_bytes: int, base_bytes: int) -> Iterator[Window]:
    """The blocks of a patch, in order. base_bytes: 0 for no base."""
    for start in range(0, result_bytes, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, result_bytes)
        yield Window(start, stop, min(max(0, start - REACH_BYTES), base_bytes), min(stop + REACH_BYTES, base_bytes))


def pack_head(result_bytes: int, base_bytes: int) -> bytes:
    """What a patch begins with."""
    return _HEAD.pack(_MAGIC, result_bytes, base_bytes)


def pack_block(part: bytes, near: bytes, window: Window, *, grown_bytes: int) -> bytes:
    """One block: the smallest way from what is near in the base to this part of the result.

    part, near: what the window names. grown_bytes: by how much the result is larger than its base, negative if it is
    smaller: what has come in or gone shifts the rest by that.
    """
    ways = [(_Kind.LIKE, window.base_start, len(near), _pack(part, near))]
    for start in {window.start, window.start - grown_bytes}:
        at = start - window.base_start
        if at >= 0 and at + len(part) <= len(near):
            difference = _minus(part, near[at : at + len(part)])
            ways.append((_Kind.DIFFERENCE, start, len(part), _pack(difference, b"")))
    kind, start, base_bytes, packed = min(ways, key=lambda way: len(way[3]))
    return _BLOCK.pack(kind, len(part), start, base_bytes, len(packed)) + packed


def apply_patch(patch: BinaryIO, base: BinaryIO | None, put: Callable[[bytes], None], *, result_bytes: int) -> None:
    """Hand the result to `put`, a block at a time; whether it is the right one only its hash says.

    base: seekable. Raises Corrupt if the patch is damaged, or is not for this base or a result of this size.
    """
    base_bytes = 0 if base is None else base.seek(0, 2)
    magic, said_bytes, said_base_bytes = _HEAD.unpack(_exactly(patch, _HEAD.size))
    if magic != _MAGIC:
        raise Corrupt(f"the patch begins with {magic!r}, expected {_MAGIC!r}; it is of a form that is not known here")
    if (said_bytes, said_base_bytes) != (result_bytes, base_bytes):
        raise Corrupt(
            f"the patch leads from {said_base_bytes:,} to {said_bytes:,} bytes, "
            f"wanted is one from {base_bytes:,} to {result_bytes:,}"
        )
    done_bytes = 0
    while done_bytes < result_bytes:
        part = _next_part(patch, base, base_bytes, left_bytes=result_bytes - done_bytes)
        put(part)
        done_bytes += len(part)
    if patch.read(1):
        raise Corrupt(f"the patch goes on after the {result_bytes:,} bytes that it makes")


def _next_part(patch: BinaryIO, base: BinaryIO | None, base_bytes: int, *, left_bytes: int) -> bytes:
    kind, part_bytes, start, near_bytes, packed_bytes = _BLOCK.unpack(_exactly(patch, _BLOCK.size))
    if not 0 < part_bytes <= min(left_bytes, _MOST_RESULT_BYTES):
        raise Corrupt(f"a block of the patch makes {part_bytes:,} bytes, {left_bytes:,} are left to make")
    if near_bytes > _MOST_BASE_BYTES or packed_bytes > _MOST_PACKED_BYTES:
        raise Corrupt(f"a block of the patch takes {near_bytes:,} bytes of the base and {packed_bytes:,} of its own")
    if near_bytes and start + near_bytes > base_bytes:
        raise Corrupt(f"a block of the patch takes bytes {start:,} and on of a base of {base_bytes:,} bytes")
    near = b""
    if base is not None and near_bytes:
        base.seek(start)
        near = _exactly(base, near_bytes)
    packed = _exactly(patch, packed_bytes)
    if kind == _Kind.LIKE:
        return _unpack(packed, near, part_bytes)
    if kind == _Kind.DIFFERENCE and near_bytes == part_bytes:
        return _plus(_unpack(packed, b"", part_bytes), near)
    raise Corrupt(f"a block of the patch is of kind {kind} with {near_bytes:,} bytes of the base: not known here")


def _pack(part: bytes, near: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, source_size=len(part), dict_size=len(near))
    return zstandard.ZstdCompressor(dict_data=_dictionary(near), compression_params=parameters).compress(part)


def _unpack(packed: bytes, near: bytes, part_bytes: int) -> bytes:
    try:
        if zstandard.frame_content_size(packed) != part_bytes:  # else it would be believed, and room made for it
            raise Corrupt(f"a block of the patch does not hold the {part_bytes:,} bytes that it says")
        frame = zstandard.ZstdDecompressor(dict_data=_dictionary(near))
        return frame.decompress(packed, max_output_size=part_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"a block of the patch cannot be unpacked: {error}") from error


def _dictionary(near: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(near, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if near else None


def _minus(part: bytes, near: bytes) -> bytes:
    import numpy as np  # only who makes patches: an agent that waits does without it

    return (np.frombuffer(part, np.uint8) - np.frombuffer(near, np.uint8)).tobytes()


def _plus(difference: bytes, near: bytes) -> bytes:
    """Byte by byte, modulo 256, in whole numbers: the lower seven bits of each byte carry into its upper one, and no
    further. A MiB takes a few milliseconds.
    """
    left, right = int.from_bytes(difference, "little"), int.from_bytes(near, "little")
    upper, lower = (int.from_bytes(bit * len(near), "little") for bit in (b"\x80", b"\x7f"))
    return (((left & lower) + (right & lower)) ^ ((left ^ right) & upper)).to_bytes(len(near), "little")


def _exactly(file: BinaryIO, size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise Corrupt(f"the patch or its base ends early: {len(data):,} of {size_bytes:,} bytes were there")
    return data
