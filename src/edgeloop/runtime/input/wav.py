"""From the bytes of a WAV file to samples.

Reads PCM of 8, 16, 24 and 32 bits and IEEE float of 32 and 64 bits, one channel, plain and as WAVE_FORMAT_EXTENSIBLE.
Two channels are refused: which of them the model should hear, or how they are mixed, is for the caller to say.
Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft 1991), "WAVE"; Multiple Channel
Audio Data and WAVE Files (Microsoft 2001). Neighbour: `sound` brings the samples to the model's rate.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.input.files import read_bounded

MAX_SAMPLES = 2**26
"""Of one sound: 70 minutes at 16 kHz."""

_MOST_BYTES = 2**28
_MOST_CHUNKS = 1000
_LEAST_RATE_HZ, _MOST_RATE_HZ = 1000, 768_000

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_TO_THE_END = 0xFFFFFFFF

Samples = NDArray[np.int16] | NDArray[np.float32]
"""(samples,): int16, where 32768 is full scale, or float32, where 1.0 is."""


class Sound(msgspec.Struct, frozen=True):
    """A sound with one channel. samples: int16 from 16-bit PCM (read-only, the file's own bytes), else float32."""

    rate_hz: int
    samples: Samples


class _Format(msgspec.Struct, frozen=True):
    """What a "fmt " chunk says. kind: _PCM or _FLOAT, whichever stands behind _EXTENSIBLE."""

    kind: int
    channels: int
    rate_hz: int
    block_bytes: int
    bits: int


def read_wav(source: str | os.PathLike[str]) -> Sound:
    """Read a WAV file. Raises what `read_bounded` and `decode_wav` raise."""
    return decode_wav(read_bounded(source, what="sound", most_bytes=_MOST_BYTES), what=str(source))


def decode_wav(data: bytes, *, what: str = "input") -> Sound:
    """Decode the bytes of a WAV file. 8-bit PCM is unsigned, all other PCM signed; full scale is 1.0.

    A data chunk of 0xFFFFFFFF bytes, as ffmpeg writes into a pipe, reaches to the end.
    Raises Corrupt if it is no WAV file or is cut short, InvalidInput if it is one that is not taken: another coding,
    several channels, no samples, more than MAX_SAMPLES, samples that are not finite.
    """
    if len(data) > _MOST_BYTES:
        raise InvalidInput(f"{what} has {len(data):,} bytes; a sound has at most {_MOST_BYTES:,}: cut it into parts")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise Corrupt(f"{what} is no WAV file (its first bytes: {data[:12]!r}); expected b'RIFF....WAVE'")
    made: _Format | None = None
    for name, body in _chunks(data, what):
        if name == b"fmt ":
            made = _format(bytes(body), what)
        if name == b"data":
            if made is None:
                raise Corrupt(f"{what} has its data before its 'fmt ' chunk; a WAV file says first how to read them")
            return Sound(made.rate_hz, _samples(body, made, what))
    raise Corrupt(f"{what} is a WAV file without a 'data' chunk: it holds no sound")


def encode_wav(samples: NDArray[Any], rate_hz: int) -> bytes:
    """A WAV file of (samples,): int16 as PCM of 16 bits, all else as float of 32 bits; `decode_wav` gives them back."""
    is_pcm = samples.dtype == np.int16
    body = samples.astype("<i2" if is_pcm else "<f4", copy=False).tobytes()
    wide = 2 if is_pcm else 4
    form = struct.pack("<HHIIHH", _PCM if is_pcm else _FLOAT, 1, rate_hz, wide * rate_hz, wide, 8 * wide)
    return wav_around(struct.pack("<4sI", b"fmt ", len(form)) + form, body)


def wav_around(form: bytes, body: bytes) -> bytes:
    """A WAV file of a "fmt " chunk and the bytes of its samples."""
    rest = b"WAVE" + form + struct.pack("<4sI", b"data", len(body)) + body
    return struct.pack("<4sI", b"RIFF", len(rest)) + rest


def _chunks(data: bytes, what: str) -> Iterator[tuple[bytes, memoryview]]:
    """Name and body of each chunk; a body of odd length is followed by a byte that belongs to none."""
    whole, place = memoryview(data), 12
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(data):
            return
        name, size = struct.unpack_from("<4sI", data, place)
        place += 8
        if name == b"data" and size == _TO_THE_END:
            size = len(data) - place
        if place + size > len(data):
            raise Corrupt(
                f"{what} is cut short: its chunk {name!r} has {size:,} bytes, of which {len(data) - place:,} are there"
            )
        yield name, whole[place : place + size]
        place += size + size % 2
    raise Corrupt(f"{what} has more than {_MOST_CHUNKS} chunks before its sound ends")


def _format(body: bytes, what: str) -> _Format:
    if len(body) < 16:
        raise Corrupt(f"{what} has a 'fmt ' chunk of {len(body)} bytes; expected at least 16")
    kind, channels, rate_hz, _, block_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE:
        if len(body) < 40 or body[26:40] != _GUID_TAIL:
            raise Corrupt(f"{what} is an extensible WAV file that does not name a known coding; expected PCM or float")
        (kind,) = struct.unpack_from("<H", body, 24)
    if (kind, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)):
        raise InvalidInput(
            f"{what} is a WAV file of coding {kind:#06x} with {bits} bits; PCM (0x0001) of 8, 16, 24 and 32 bits and "
            "float (0x0003) of 32 and 64 bits are taken: convert it, say with: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        )
    if channels == 0 or block_bytes != channels * bits // 8:
        raise Corrupt(f"{what} says {channels} channels of {bits} bits in {block_bytes} bytes, which cannot be")
    if not _LEAST_RATE_HZ <= rate_hz <= _MOST_RATE_HZ:
        raise Corrupt(f"{what} says {rate_hz:,} samples a second; expected {_LEAST_RATE_HZ:,} to {_MOST_RATE_HZ:,}")
    return _Format(kind, channels, rate_hz, block_bytes, bits)


def _samples(body: memoryview, made: _Format, what: str) -> Samples:
    if made.channels != 1:
        raise InvalidInput(
            f"{what} has {made.channels} channels; one is taken, since the manifest does not say how to mix: make it "
            "mono, say with: ffmpeg -i IN -ac 1 OUT.wav"
        )
    count, rest = divmod(len(body), made.block_bytes)
    if rest:
        raise Corrupt(f"{what} is cut short: {len(body):,} bytes of data, which are no whole {made.bits}-bit samples")
    if not 0 < count <= MAX_SAMPLES:
        raise InvalidInput(f"{what} holds {count:,} samples; expected 1 to {MAX_SAMPLES:,}")
    return _float(body, made.bits, what) if made.kind == _FLOAT else _pcm(body, made.bits)


def _pcm(body: memoryview, bits: int) -> Samples:
    if bits == 16:
        return np.frombuffer(body, "<i2").astype(np.int16, copy=False)
    if bits == 8:
        return (np.frombuffer(body, np.uint8).astype(np.float32) - np.float32(128)) * np.float32(2**-7)
    if bits == 24:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        return _from_32_bits(wide.reshape(-1).view("<i4"))
    return _from_32_bits(np.frombuffer(body, "<i4"))


def _from_32_bits(stored: NDArray[Any]) -> NDArray[np.float32]:
    return stored.astype(np.float32) * np.float32(2**-31)


def _float(body: memoryview, bits: int, what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        made = np.frombuffer(body, "<f4" if bits == 32 else "<f8").astype(np.float32)
    if not np.isfinite(made).all():
        raise InvalidInput(f"{what} holds samples that are NaN or infinite in float32; expected -1..1")
    return made
