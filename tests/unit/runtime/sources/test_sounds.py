import io
import itertools
import os
import struct
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from specs import SOUND

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Resample, ResampleQuality, Step, Window
from edgeloop.runtime.sources.files import Descriptor
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Frame, FrameError
from edgeloop.runtime.sources.sounds import SoundCut
from edgeloop.runtime.sources.stream import Stream

RATE_HZ = 8000
WINDOW = Window(length=400, hop=160)
RNG = np.random.default_rng(0)
NOISE = RNG.integers(-20000, 20000, 100_001).astype(np.int16)
"""Longer than one block of a file, and not a whole number of windows."""


def _wav(samples: NDArray[Any], *, rate_hz: int = RATE_HZ, width: int = 2, channels: int = 1) -> bytes:
    """By Python's own writer."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype({1: np.uint8, 2: "<i2", 4: "<i4"}[width]).tobytes())
    return buffer.getvalue()


def _windows(samples: NDArray[Any], window: Window) -> list[NDArray[Any]]:
    return list(np.lib.stride_tricks.sliding_window_view(samples, window.length)[:: window.hop])


def _file(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "a.wav").write_bytes(data)
    return tmp_path / "a.wav"


def _same(frames: list[Frame | FrameError], expected: list[NDArray[Any]]) -> None:
    assert [type(frame) for frame in frames] == [Frame] * len(expected)
    assert all(np.array_equal(frame.data, one) for frame, one in zip(frames, expected, strict=True))  # type: ignore[union-attr,arg-type]


def test_file_is_cut_into_its_windows(tmp_path: Path, stop: threading.Event) -> None:
    frames = list(open_source(_file(tmp_path, _wav(NOISE)), SOUND, (WINDOW,)).frames(stop))
    _same(frames, _windows(NOISE, WINDOW))


def test_windows_bear_their_place_in_the_sound(tmp_path: Path, stop: threading.Event) -> None:
    frames = list(open_source(_file(tmp_path, _wav(NOISE[:1000])), SOUND, (WINDOW,)).frames(stop))
    assert [(frame.name, frame.at_s) for frame in frames] == [
        ("a.wav@00000.000s", 0.0),
        ("a.wav@00000.020s", 0.02),
        ("a.wav@00000.040s", 0.04),
        ("a.wav@00000.060s", 0.06),
    ]


def test_hop_beyond_the_length_leaves_samples_out(tmp_path: Path, stop: threading.Event) -> None:
    window = Window(length=400, hop=70_000)
    frames = list(open_source(_file(tmp_path, _wav(NOISE)), SOUND, (window,)).frames(stop))
    _same(frames, [NOISE[:400], NOISE[70_000:70_400]])


@pytest.mark.parametrize("width", [1, 4])
def test_other_depths_are_read_piece_by_piece_as_a_whole(tmp_path: Path, stop: threading.Event, width: int) -> None:
    samples = (NOISE.astype(np.int32) % 256) if width == 1 else NOISE.astype(np.int32) * 65536
    real = ((samples - 128) / 128 if width == 1 else samples / 2**31).astype(np.float32)
    frames = list(open_source(_file(tmp_path, _wav(samples, width=width)), SOUND, (WINDOW,)).frames(stop))
    _same(frames, _windows(real, WINDOW))


@pytest.mark.parametrize("count", [100, 400])
def test_clip_of_one_window_keeps_its_bytes_and_name(tmp_path: Path, stop: threading.Event, count: int) -> None:
    data = _wav(NOISE[:count])
    (frame,) = open_source(_file(tmp_path, data), SOUND, (WINDOW,)).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.name, frame.data, frame.media) == ("a.wav", data, "audio/wav")


def test_without_a_window_step_a_file_is_one_frame(tmp_path: Path, stop: threading.Event) -> None:
    data = _wav(NOISE)
    (frame,) = open_source(_file(tmp_path, data), SOUND, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert frame.data == data


def test_rest_is_padded_if_the_manifest_pads(tmp_path: Path, stop: threading.Event) -> None:
    window = Window(length=400, hop=400, pad=True)
    frames = list(open_source(_file(tmp_path, _wav(NOISE[:500])), SOUND, (window,)).frames(stop))
    _same(frames, [NOISE[:400], np.concatenate([NOISE[400:500], np.zeros(300, np.int16)])])


@pytest.mark.parametrize("quality", list(ResampleQuality))
def test_sound_resampled_as_it_comes_is_the_same_as_resampled_whole(
    tmp_path: Path, stop: threading.Event, quality: ResampleQuality
) -> None:
    steps = (Resample(quality=quality), WINDOW)
    frames = list(open_source(_file(tmp_path, _wav(NOISE, rate_hz=22050)), SOUND, steps).frames(stop))
    whole = soxr.resample(NOISE.astype(np.float32) / 32768, 22050, RATE_HZ, quality=str(quality))
    assert len(frames) > 200
    _same(frames, _windows(whole, WINDOW))


def test_other_rate_without_resampling_is_told(tmp_path: Path, stop: threading.Event) -> None:
    (told,) = open_source(_file(tmp_path, _wav(NOISE, rate_hz=44100)), SOUND, (WINDOW,)).frames(stop)
    assert isinstance(told, FrameError)
    assert "44,100" in str(told.error)


def test_two_channels_are_told_before_any_frame(tmp_path: Path, stop: threading.Event) -> None:
    (told,) = open_source(_file(tmp_path, _wav(NOISE[:5000], channels=2)), SOUND, (WINDOW,)).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, InvalidInput)


def test_file_that_is_cut_short_says_so_after_its_windows(tmp_path: Path, stop: threading.Event) -> None:
    *frames, told = open_source(_file(tmp_path, _wav(NOISE)[:50_044]), SOUND, (WINDOW,)).frames(stop)
    _same(frames, _windows(NOISE[:25_000], WINDOW))
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt)


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"RIFF____WAVE", _wav(NOISE)[:30], b"RIFF____WAVEdata\4\0\0\0abcd", b"x"]
)
def test_file_that_is_no_sound_is_told(tmp_path: Path, stop: threading.Event, data: bytes) -> None:
    (told,) = open_source(_file(tmp_path, data), SOUND, (WINDOW,)).frames(stop)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Corrupt | InvalidInput)


def test_long_head_in_small_blocks_costs_no_more_than_in_large_ones() -> None:
    plain = _wav(NOISE[:800])
    data = plain[:12] + struct.pack("<4sI", b"junk", 8) * 20_000 + plain[12:]
    data = data.replace(b"junk\x08\0\0\0junk\x08\0\0\0", b"junk\x08\0\0\0" + bytes(8))
    began_s = time.process_time()
    blocks = (data[place : place + 1] for place in range(len(data)))
    frames = list(SoundCut(SOUND, (WINDOW,)).of_bytes("pipe", iter([blocks]), lambda: 0.0))
    _same(frames, _windows(NOISE[:800], WINDOW))
    # A tenth of a second here; read from its beginning with each block it was minutes.
    assert time.process_time() - began_s < 3.0


def test_sound_without_a_stated_rate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="rate_hz"):
        open_source("-", InputSpec("sound", Modality.SOUND, (1, 400), "nt", (-1.0, 1.0)), (WINDOW,))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test may have closed it
            os.close(end)


def _piped(pipe: tuple[int, int], steps: tuple[Step, ...] = (WINDOW,)) -> Stream:
    return Stream(Descriptor("stdin", pipe[0], SoundCut(SOUND, steps)))


def test_pcm_is_answered_while_it_still_comes(pipe: tuple[int, int], stop: threading.Event) -> None:
    frames = _piped(pipe).frames(stop)
    os.write(pipe[1], NOISE[:401].tobytes()[:-1])
    first = next(frames)
    os.write(pipe[1], NOISE[:1000].tobytes()[801:])
    second = next(frames)
    _same([first, second], [NOISE[:400], NOISE[160:560]])


def test_pcm_ends_with_its_pipe(pipe: tuple[int, int], stop: threading.Event) -> None:
    os.write(pipe[1], NOISE[:1000].tobytes())
    os.close(pipe[1])
    _same(list(_piped(pipe).frames(stop)), _windows(NOISE[:1000], WINDOW))


def test_wav_of_unknown_length_is_answered_while_it_still_comes(pipe: tuple[int, int], stop: threading.Event) -> None:
    header = bytearray(_wav(NOISE[:0]))
    struct.pack_into("<I", header, 40, 0xFFFFFFFF)  # as programs write that cannot seek
    os.write(pipe[1], bytes(header[:20]))
    os.write(pipe[1], bytes(header[20:]) + NOISE[:400].tobytes())
    _same([next(_piped(pipe).frames(stop))], [NOISE[:400]])


def test_stop_is_heeded_while_nothing_comes(pipe: tuple[int, int], stop: threading.Event) -> None:
    threading.Timer(0.1, stop.set).start()
    assert list(_piped(pipe).frames(stop)) == []


def test_pcm_without_a_window_step_is_one_frame(pipe: tuple[int, int], stop: threading.Event) -> None:
    os.write(pipe[1], NOISE[:1000].tobytes())
    os.close(pipe[1])
    _same(list(_piped(pipe, ()).frames(stop)), [NOISE[:1000]])


def test_rate_skips_windows_by_the_sounds_own_time(tmp_path: Path, stop: threading.Event) -> None:
    source = open_source(_file(tmp_path, _wav(NOISE[:8000])), SOUND, (WINDOW,), rate_hz=10.0)
    frames = list(source.frames(stop))
    # Windows every 20 ms of which every fifth is due.
    assert [frame.at_s for frame in frames] == pytest.approx(list(np.arange(10) * 0.1), abs=1e-9)
    assert [frame.missed for frame in frames if isinstance(frame, Frame)] == [0, *itertools.repeat(4, 9)]
    assert source.counts.skipped == 48 - 10


def test_clips_of_a_folder_are_cut_each_by_itself(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "b.wav").write_bytes(_wav(NOISE[:700]))
    (tmp_path / "a.wav").write_bytes(_wav(NOISE[:600]))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    os.utime(tmp_path / "broken.wav", (1e9, 1e9))  # else it might still be written
    frames = list(open_source(tmp_path, SOUND, (WINDOW,)).frames(stop))
    assert [frame.name for frame in frames] == [
        "a.wav@00000.000s",
        "a.wav@00000.020s",
        "b.wav@00000.000s",
        "b.wav@00000.020s",
        "broken.wav",
    ]
