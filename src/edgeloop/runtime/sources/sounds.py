"""Sounds: WAV files, WAV and raw PCM as they come, samples from a program; cut into the manifest's windows.

Rules kept here: memory does not grow with the length of a sound; what is resampled as it comes is the same as if it
had been resampled as a whole; a clip that is one window at most keeps its own bytes and its own name. Neighbours:
`runtime.input.wav` decodes samples, `runtime.input.windows` cuts.
"""

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import Resample, Step, Window
from edgeloop.runtime.input.sound import as_float, as_samples
from edgeloop.runtime.input.wav import decode_wav, wav_around
from edgeloop.runtime.input.windows import windows
from edgeloop.runtime.sources.pictures import joined
from edgeloop.runtime.sources.pieces import each_a_frame, pieces_of_one
from edgeloop.runtime.sources.port import Arrays, Frame, FrameError, Parts

_MOST_BYTES = 2**28
_MOST_HEADER_BYTES = 2**22
_OPEN_END = (0, 0xFFFFFFFF)


class SoundCut:
    """Sounds; a Cut. Bytes that do not begin as a WAV file are PCM: int16, little endian, one channel, at spec.rate_hz.

    Without a window step a file or stream is one frame.
    """

    suffixes: tuple[str, ...] = (".wav",)

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...]) -> None:
        if spec.rate_hz is None:
            raise InvalidInput("the manifest states no rate_hz for its sound; say how many samples a second")
        self._rate_hz = spec.rate_hz
        self._window = next((step for step in steps if isinstance(step, Window)), None)
        self._resample = next((step for step in steps if isinstance(step, Resample)), None)
        self.has_own_time = self.can_follow = self._window is not None

    def of_bytes(self, name: str, parts: Parts, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. Raises Corrupt or InvalidInput if a sound cannot be used, Unavailable if it must be resampled
        without soxr."""
        for part in parts:
            head = _read_head(part, what=name)
            if self._window is None or self._is_one_window(head):
                data = head.taken + joined(part, _MOST_BYTES, what=name)
                yield Frame(name, data if head.is_wav else _pcm(data, name), now_s(), head.media)
            else:
                yield from self._windows(name, self._samples(head, part, name))

    def of_arrays(self, name: str, arrays: Arrays, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. With a window step the arrays are one sound, piece by piece; else each is one.

        A piece that cannot be used is a gap: a new window begins behind it, and its time is not counted.
        """
        if self._window is None:
            return each_a_frame(name, arrays, now_s, media="sound/raw")
        return self._windows(name, pieces_of_one(name, arrays, as_samples, now_s))

    def _is_one_window(self, head: "_Head") -> bool:
        if self._window is None or head.data_bytes is None:
            return False
        samples = head.data_bytes // head.block_bytes
        return samples * self._rate_hz <= self._window.length * head.rate_hz

    def _windows(self, name: str, pieces: Arrays) -> Iterator[Frame | FrameError]:
        assert self._window is not None
        window = self._window
        for one in windows(pieces, length=window.length, hop=window.hop, pad=window.pad):
            if isinstance(one, FrameError):
                yield one
                continue
            start, samples = one
            at_s = start / self._rate_hz
            yield Frame(f"{name}@{at_s:09.3f}s", samples, at_s, "sound/raw")

    def _samples(self, head: "_Head", part: Iterator[bytes], name: str) -> Iterator[NDArray[Any]]:
        """Pieces of the sound at the manifest's rate."""
        bodies = _whole_samples(itertools.chain([head.taken[head.data_at :]], part), head, name)
        if not head.is_wav:
            return (_pcm(body, name) for body in bodies)
        pieces = (decode_wav(head.around(body), what=name).samples for body in bodies)
        if head.rate_hz == self._rate_hz:
            return pieces
        if self._resample is None:
            raise InvalidInput(
                f"{name} has {head.rate_hz:,} samples a second, the model takes {self._rate_hz:,}; resample it, or "
                "give the manifest a step 'resample'"
            )
        return _resampled(pieces, head.rate_hz, self._rate_hz, str(self._resample.quality))


class _Head(msgspec.Struct, frozen=True):
    """What comes before the samples.

    taken: all bytes read so far; samples begin at data_at. form: the WAV file's "fmt " chunk, empty of PCM.
    data_bytes: of all samples; None where that is not known before the end.
    """

    taken: bytes
    data_at: int = 0
    form: bytes = b""
    rate_hz: int = 0
    block_bytes: int = 2
    data_bytes: int | None = None

    @property
    def is_wav(self) -> bool:
        """Else it is raw PCM."""
        return bool(self.form)

    @property
    def media(self) -> str:
        """The MIME type of the whole, or of the array that PCM becomes."""
        return "audio/wav" if self.is_wav else "sound/raw"

    def around(self, body: bytes) -> bytes:
        """Some of the samples, as a WAV file of their own."""
        return wav_around(self.form, body)


def _read_head(part: Iterator[bytes], *, what: str) -> _Head:
    """Read up to the samples. Raises Corrupt, or InvalidInput, if it is a WAV file that cannot be used."""
    taken = bytearray()
    search = _Search()
    for block in part:
        taken += block
        if len(taken) >= 4 and taken[:4] != b"RIFF":
            return _Head(bytes(taken))
        found = search.go_on(taken)
        if found is not None:
            decode_wav(found.around(bytes(found.block_bytes)), what=what)  # refuses what is not taken, before any frame
            return found
        if len(taken) > _MOST_HEADER_BYTES:
            raise Corrupt(f"{what} has no sound in its first {_MOST_HEADER_BYTES:,} bytes; expected a WAV file")
    if taken[:4] == b"RIFF":
        decode_wav(bytes(taken), what=what)
    return _Head(bytes(taken))


class _Search:
    """Looks for the samples in what has come so far, each time from where it stopped: a head may come byte by byte.

    Source: see `runtime.input.wav`.
    """

    def __init__(self) -> None:
        self._place = 12
        self._form = b""

    def go_on(self, taken: bytearray) -> _Head | None:
        """The head, if all of it is there."""
        while self._place + 8 <= len(taken):
            name, size = struct.unpack_from("<4sI", taken, self._place)
            if name == b"data" and len(self._form) >= 24:
                rate_hz, block_bytes = struct.unpack_from("<I4xH", self._form, 12)
                known = None if size in _OPEN_END else size
                return _Head(bytes(taken), self._place + 8, self._form, rate_hz, max(1, block_bytes), known)
            end = self._place + 8 + size
            if name == b"fmt ":
                if end > len(taken):
                    return None
                self._form = bytes(taken[self._place : end])
            self._place = end + size % 2
        return None


def _whole_samples(blocks: Iterator[bytes], head: _Head, name: str) -> Iterator[bytes]:
    """The bytes of whole samples, up to the end that the head states. Raises Corrupt if it is not reached."""
    held, read_bytes = b"", 0
    for block in blocks:
        wanted = block if head.data_bytes is None else block[: head.data_bytes - read_bytes]
        read_bytes += len(wanted)
        held += wanted
        whole = len(held) - len(held) % head.block_bytes
        if whole:
            yield held[:whole]
        held = held[whole:]
        if read_bytes == head.data_bytes:
            return
    if not read_bytes:
        raise InvalidInput(f"{name} holds no sound; expected a WAV file, or int16 samples")
    if held or head.data_bytes is not None:
        expected = "whole samples" if head.data_bytes is None else f"{head.data_bytes:,}"
        raise Corrupt(f"{name} is cut short: its sound ends after {read_bytes:,} bytes; expected {expected}")


def _pcm(body: bytes, name: str) -> NDArray[np.int16]:
    if not body or len(body) % 2:
        raise InvalidInput(f"{name} holds {len(body):,} bytes; expected int16 samples, or a WAV file")
    return np.frombuffer(body, "<i2").astype(np.int16, copy=False)


def _resampled(pieces: Iterator[NDArray[Any]], from_hz: int, to_hz: int, quality: str) -> Iterator[NDArray[np.float32]]:
    try:
        import soxr
    except ImportError as error:
        raise Unavailable(
            f"resampling from {from_hz:,} to {to_hz:,} Hz needs soxr ({error}); install it with: pip install "
            "'edgeloop[sound]'"
        ) from error
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=quality)
    for piece in pieces:
        made = stream.resample_chunk(as_float(piece))
        if len(made):
            yield made
    made = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(made):
        yield made
