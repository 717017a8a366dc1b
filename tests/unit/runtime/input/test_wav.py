import io
import struct
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.runtime.input.wav import decode_wav, encode_wav, read_wav

RATE_HZ = 16_000
SOUND = np.array([0, 1, -1, 12345, -32768, 32767], np.int16)
FLOATS = np.array([0.0, 0.5, -1.0, 1.25, 2**-20], np.float32)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def written(stored: bytes, *, width: int, channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    """PCM as Python's own `wave` writes it: another implementation than the one under test."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sink:
        sink.setnchannels(channels)
        sink.setsampwidth(width)
        sink.setframerate(rate_hz)
        sink.writeframes(stored)
    return file.getvalue()


def chunk(name: bytes, body: bytes, *, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(*, kind: int, bits: int, channels: int = 1, rate_hz: int = RATE_HZ, block: int | None = None) -> bytes:
    block_bytes = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * block_bytes % 2**32, block_bytes, bits)


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extensible(kind: int, bits: int) -> bytes:
    return fmt(kind=0xFFFE, bits=bits) + struct.pack("<HHIH", 22, bits, 0, kind) + GUID_TAIL


GOOD = riff(chunk(b"fmt ", fmt(kind=1, bits=16)), chunk(b"data", SOUND.tobytes()))


def test_16_bits_come_as_they_are_and_without_a_copy() -> None:
    data = written(SOUND.tobytes(), width=2)
    sound = decode_wav(data)
    assert sound.rate_hz == RATE_HZ
    assert sound.samples.dtype == np.int16
    assert sound.samples.tolist() == SOUND.tolist()
    assert not sound.samples.flags.owndata


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_other_pcm_is_a_share_of_full_scale(bits: int) -> None:
    """Exact: each value is a small multiple of a power of two. 8 bits are unsigned, by the specification."""
    half = 2 ** (bits - 1)
    values = [0, 1, -1, half // 3 >> (bits - 8) << (bits - 8), half - 2 ** (bits - 8), -half]
    shift = half if bits == 8 else 0
    stored = b"".join((value + shift).to_bytes(bits // 8, "little", signed=bits != 8) for value in values)
    made = decode_wav(written(stored, width=bits // 8)).samples
    assert made.dtype == np.float32
    assert made.tolist() == [value / half for value in values]


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("wide", [False, True])
def test_float_is_read_plain_and_extensible(dtype: str, wide: bool) -> None:
    bits = np.dtype(dtype).itemsize * 8
    form = extensible(3, bits) if wide else fmt(kind=3, bits=bits)
    made = decode_wav(riff(chunk(b"fmt ", form), chunk(b"data", FLOATS.astype(dtype).tobytes()))).samples
    assert made.dtype == np.float32
    assert made.tolist() == FLOATS.tolist()


def test_extensible_pcm_is_read() -> None:
    data = riff(chunk(b"fmt ", extensible(1, 16)), chunk(b"data", SOUND.tobytes()))
    assert decode_wav(data).samples.tolist() == SOUND.tolist()


def test_other_chunks_are_passed_over_with_the_byte_that_pads_them() -> None:
    data = riff(
        chunk(b"LIST", b"odd"),
        chunk(b"fmt ", fmt(kind=1, bits=16)),
        chunk(b"fact", b"1234"),
        chunk(b"data", SOUND.tobytes()),
        chunk(b"id3 ", b"xyz"),
    )
    assert decode_wav(data).samples.tolist() == SOUND.tolist()


def test_sound_from_a_pipe_reaches_to_the_end() -> None:
    data = riff(chunk(b"fmt ", fmt(kind=1, bits=16)), chunk(b"data", SOUND.tobytes(), size=0xFFFFFFFF))
    assert decode_wav(data).samples.tolist() == SOUND.tolist()


def test_file_is_read_and_a_missing_one_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(GOOD)
    assert read_wav(path).samples.tolist() == SOUND.tolist()
    with pytest.raises(NotFound, match=r"no sound at .*b\.wav"):
        read_wav(tmp_path / "b.wav")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no WAV file"),
        (b"ID3\x04 an mp3", "no WAV file"),
        (b"RIFX" + GOOD[4:], "no WAV file"),
        (GOOD[:-3], "cut short"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16)), chunk(b"data", SOUND.tobytes()[:-1])), "no whole 16-bit samples"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16))), "without a 'data' chunk"),
        (riff(chunk(b"data", SOUND.tobytes()), chunk(b"fmt ", fmt(kind=1, bits=16))), "before its 'fmt ' chunk"),
        (riff(chunk(b"fmt ", b"short"), chunk(b"data", b"")), "5 bytes; expected at least 16"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16, block=3)), chunk(b"data", b"")), "cannot be"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16, channels=0)), chunk(b"data", b"")), "cannot be"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16, rate_hz=1)), chunk(b"data", SOUND.tobytes())), "1,000 to 768,000"),
        (riff(chunk(b"fmt ", fmt(kind=0xFFFE, bits=16)), chunk(b"data", b"")), "does not name a known coding"),
        (riff(*[chunk(b"junk", b"")] * 2000), "more than 1000 chunks"),
    ],
)
def test_bytes_that_are_no_sound_are_corrupt(data: bytes, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        decode_wav(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (written(SOUND.tobytes(), width=2, channels=2), "2 channels.*ffmpeg -i IN -ac 1"),
        (riff(chunk(b"fmt ", fmt(kind=7, bits=8)), chunk(b"data", b"12")), "coding 0x0007 with 8 bits"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=12, block=1)), chunk(b"data", b"12")), "0x0001 with 12 bits"),
        (riff(chunk(b"fmt ", fmt(kind=1, bits=16)), chunk(b"data", b"")), "holds 0 samples"),
        (
            riff(chunk(b"fmt ", fmt(kind=3, bits=32)), chunk(b"data", np.array([np.nan], "<f4").tobytes())),
            "NaN or infinite",
        ),
        (
            riff(chunk(b"fmt ", fmt(kind=3, bits=64)), chunk(b"data", np.array([1e300], "<f8").tobytes())),
            "NaN or infinite",
        ),
    ],
)
def test_sounds_that_are_not_taken_are_refused_with_a_way_out(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode_wav(data)


def test_a_million_empty_chunks_are_given_up_at_once() -> None:
    data = riff(chunk(b"junk", b"") * 1_000_000)
    began_s = time.process_time()
    with pytest.raises(Corrupt):
        decode_wav(data)
    assert time.process_time() - began_s < 3.0


def outcome(data: bytes) -> str | NDArray[np.int16] | NDArray[np.float32]:
    try:
        return decode_wav(data).samples
    except (Corrupt, InvalidInput) as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_damaged_files_give_a_sound_or_a_clear_error(noise: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD)
    for place, value in changes:
        damaged[place] = value
    for data in (noise, b"RIFF1234WAVE" + noise, bytes(damaged), bytes(damaged) + noise):
        made = outcome(data)
        if isinstance(made, str):
            assert made.startswith("input ")
        else:
            assert made.ndim == 1
            assert made.dtype in (np.int16, np.float32)


def test_16_bits_are_written_as_python_writes_them() -> None:
    assert encode_wav(SOUND, RATE_HZ) == written(SOUND.tobytes(), width=2)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_floats_are_written_and_read_bit_by_bit(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    sound = decode_wav(encode_wav(samples, 8000))
    assert (sound.rate_hz, sound.samples.tobytes()) == (8000, samples.tobytes())
