"""Malformed sounds, and the ways in that they take."""

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    Dct,
    Logarithm,
    LogMel,
    MelAxis,
    MelNorm,
    MelScale,
    Normalize,
    Peak,
    PeakNormalize,
    Resample,
    ResampleQuality,
    Scale,
    Step,
    Window,
    WindowKind,
)
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.sound import SoundFront
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.sounds import SoundCut
from fuzz_bytes import Mutator, mutated
from fuzz_case import Case, by_file, in_blocks, take_frames

_RATES_HZ = (0, 1, 7, 999, 1000, 8000, 16_000, 44_100, 768_000, 768_001, 2**31, 2**32 - 1)
_SIZES = (0, 1, 2, 7, 15, 16, 17, 40, 255, 65_536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


def _mel(**fields: Any) -> LogMel:
    stated: dict[str, Any] = {
        "frame_samples": 128,
        "hop_samples": 64,
        "fft_samples": 128,
        "window": WindowKind.HANN,
        "power": 2,
        "mel_bins": 10,
        "low_hz": 20.0,
        "high_hz": 4000.0,
        "scale": MelScale.HTK,
        "axis": MelAxis.HZ,
        "norm": MelNorm.PEAK,
        "log": Logarithm.LN_ADD,
        "floor": 1e-6,
    }
    return LogMel(**(stated | fields))


_FRAMES = InputSpec("sound", Modality.SOUND, (1, 5, 6, 1), "ntfc", (-1.0, 1.0), rate_hz=8000)
_BINS = InputSpec("sound", Modality.SOUND, (1, 10, 5), "nft", (-1.0, 1.0), rate_hz=16_000)
_SAMPLES = InputSpec("sound", Modality.SOUND, (1, 400), "nt", (-1.0, 1.0), rate_hz=8000)
_FRONTS: tuple[tuple[InputSpec, tuple[Step, ...], TensorSpec], ...] = (
    (
        _FRAMES,
        (
            Resample(ResampleQuality.LOW),
            Window(400, 100, pad=True),
            _mel(),
            Dct(coefficients=6, factor=0.3, first_factor=0.2),
            Normalize((0.0,) * 6, (4.0,) * 6),
        ),
        TensorSpec("sound", (1, 5, 6, 1), "int8", 0.1, 3),
    ),
    (
        _BINS,
        (
            Window(400, 400),
            PeakNormalize(Peak.MAGNITUDE, 1e-4),
            _mel(power=1, log=Logarithm.DECIBEL_MAX, preemphasis=0.97),
        ),
        TensorSpec("sound", (1, 10, 5), "float32"),
    ),
    (
        _SAMPLES,
        (Resample(ResampleQuality.HIGH), Window(400, 200, pad=True), Scale(2.0)),
        TensorSpec("sound", (1, 400), "float32"),
    ),
    (_SAMPLES, (), TensorSpec("sound", (1, 400), "float32")),
)


class Sounds:
    """Sounds by every way that a bundle takes them. folder: where a case may write a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sound.wav"
        self._seeds = _seeds()
        self._ways = [
            (spec, steps, SoundFront(spec, steps, tensor), np.zeros(tensor.shape, tensor.dtype))
            for spec, steps, tensor in _FRONTS
        ]

    def case(self, rng: Random) -> Case:
        """One sound and its way."""
        spec, steps, front, buffer = rng.choice(self._ways)
        write = partial(_write, front, buffer)
        if rng.random() < 0.05:
            return _array(rng, spec, steps, write)
        name, data = mutated(rng, self._seeds, _OWN)
        route = rng.choices(("write", "file", "stream", "pipe"), (55, 5, 20, 20))[0]
        if route == "file":
            return Case(route, name, data, partial(by_file, self._path, data, write))
        if route == "stream":
            return Case(route, name, data, lambda: take_frames(open_source(data, spec, steps).frames(), write))
        if route == "pipe":
            blocks = in_blocks(data, rng.choice((1, 11, 64, 4096)))
            return Case(route, name, data, lambda: take_frames(_piped(spec, steps, blocks), write))
        return Case(route, name, data, lambda: write(data))


def _write(front: SoundFront, buffer: Any, source: Any) -> None:
    front.write(source, buffer)


def _piped(spec: InputSpec, steps: tuple[Step, ...], blocks: Iterator[bytes]) -> Any:
    return SoundCut(spec, steps).of_bytes("pipe", iter([blocks]), lambda: 0.0)


def _array(rng: Random, spec: InputSpec, steps: tuple[Step, ...], write: Any) -> Case:
    shape = rng.choice(((400,), (400,), (400, 1), (400, 2), (0,), (), (3,), (1000,), (1, 400)))
    array = np.full(shape, rng.choice((0.0, 0.5, -3.0, float("nan"), float("inf"), 1e300)))
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(rng.choice(("float32", "float64", "float64", "int16", "int32", "uint8", "bool")))
    name = f"{array.dtype} {shape} of {array.flat[0] if array.size else 'nothing'}"
    if rng.random() < 0.5:
        return Case("array", name, b"", partial(write, array))
    return Case(
        "array stream", name, b"", lambda: take_frames(open_source([array, array], spec, steps).frames(), write)
    )


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(5)
    sound = (np.sin(np.arange(400) / 9) * 0.4 + rng.normal(0, 0.01, 400)).astype(np.float32)
    pcm = (sound * 32767).astype("<i2")
    wide = (sound * 2**31 * 0.99).astype("<i4")
    eight = ((sound + 1) * 127).astype(np.uint8)
    in_24 = wide.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    info = _chunk(b"LIST", b"INFOISFT\x05\0\0\0edge\0\0")
    guid = bytes.fromhex("000000001000800000aa00389b71")
    extensible = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 8000, 16_000, 2, 16, 22, 16, 4) + b"\x01\0" + guid
    plain = wav(pcm.tobytes())
    return [
        plain,
        plain,
        wav(pcm.tobytes(), rate_hz=16_000),
        wav(np.tile(pcm, 4).tobytes(), rate_hz=16_000),
        wav(pcm[:300].tobytes(), rate_hz=11_025),
        wav(eight.tobytes(), bits=8),
        wav(in_24, bits=24),
        wav(wide.tobytes(), bits=32),
        wav(sound.astype("<f4").tobytes(), kind=3, bits=32),
        wav(sound.astype("<f8").tobytes(), kind=3, bits=64),
        wav(np.repeat(pcm, 2).tobytes(), channels=2),
        _riff(_chunk(b"fmt ", extensible), _chunk(b"data", pcm.tobytes())),
        _riff(
            info,
            _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)),
            info,
            _chunk(b"data", pcm.tobytes()),
        ),
        plain[:40] + b"\xff\xff\xff\xff" + plain[44:],
        pcm.tobytes(),
    ]


def wav(data: bytes, *, kind: int = 1, channels: int = 1, rate_hz: int = 8000, bits: int = 16) -> bytes:
    """A WAV file of these samples. kind: 1 PCM, 3 float."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * block, block, bits)
    return _riff(_chunk(b"fmt ", form), _chunk(b"data", data))


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _riff(*chunks: bytes) -> bytes:
    return _chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def form_changed(rng: Random, data: bytes) -> bytes:
    """A field of the "fmt " chunk is another: coding, channels, rate, block, bits."""
    at = data.find(b"fmt ") + 8
    if at < 8:
        return data
    place, made = rng.choice(
        (
            (0, struct.pack("<H", rng.choice((0, 1, 2, 3, 6, 0xFFFE, 0xFFFF)))),
            (2, struct.pack("<H", rng.choice((0, 1, 2, 255, 65_535)))),
            (4, struct.pack("<I", rng.choice(_RATES_HZ))),
            (4, struct.pack("<I", rng.choice(_RATES_HZ))),
            (12, struct.pack("<H", rng.choice((0, 1, 2, 3, 4, 8, 65_535)))),
            (14, struct.pack("<H", rng.choice((0, 1, 8, 12, 16, 24, 32, 64, 65_535)))),
            (12, struct.pack("<HH", *rng.choice(((1, 8), (2, 16), (3, 24), (4, 32), (8, 64))))),
        )
    )
    return data[: at + place] + made + data[at + place + len(made) :]


def chunk_resized(rng: Random, data: bytes) -> bytes:
    """A chunk says another length."""
    at = data.find(rng.choice((b"RIFF", b"fmt ", b"data", b"data", b"LIST"))) + 4
    return data[:at] + struct.pack("<I", rng.choice(_SIZES)) + data[at + 4 :] if at >= 4 else data


def chunks_moved(rng: Random, data: bytes) -> bytes:
    """Chunks in another order, said many times, left out."""
    at = data.find(b"data")
    if at < 12:
        return data
    form, sound = data[12:at], data[at:]
    return data[:12] + rng.choice(
        (
            sound + form,
            form * rng.choice((2, 1100)) + sound,
            sound,
            form,
            form + sound + sound,
            _chunk(b"junk", bytes(rng.randrange(40))) * 3 + form + sound,
        )
    )


def samples_changed(rng: Random, data: bytes) -> bytes:
    """Other samples behind a header that holds: NaN, infinity, full scale."""
    at = data.find(b"data") + 8
    if at < 8 or at >= len(data):
        return data
    number = rng.choice(
        (
            struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, -2.5))),
            struct.pack("<d", 1e300),
            struct.pack("<d", float("-inf")),
            b"\x00\x80",
            b"\xff\x7f",
            rng.randbytes(8),
        )
    )
    return data[:at] + (number * (len(data) // len(number) + 1))[: len(data) - at]


_OWN: tuple[Mutator, ...] = (form_changed, form_changed, chunk_resized, chunks_moved, samples_changed)
