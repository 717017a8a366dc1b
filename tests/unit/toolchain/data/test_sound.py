import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.open import calibration_samples, open_dataset

RATE_HZ = 400


def _wav(samples: NDArray[np.generic], *, rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    """RIFF bytes. Source: "Multimedia Programming Interface and Data Specifications 1.0", Microsoft and IBM 1991."""
    form, width = (3 if samples.dtype.kind == "f" else 1), samples.dtype.itemsize
    about = struct.pack("<HHIIHH", form, channels, rate_hz, rate_hz * width * channels, width * channels, 8 * width)
    data = samples.tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(about)) + about + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tone(count: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-20_000, 20_000, size=count).astype(np.int16)


def _fill(folder: Path, count: int, *, length: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:03d}.wav").write_bytes(_wav(_tone(length, index)))


def _values(where: Path, taken: TensorSpec) -> NDArray[np.float32]:
    made: NDArray[np.float32] = calibration_samples(str(where), taken).dataset.fit.inputs
    return made


def _taken(length: int) -> TensorSpec:
    return TensorSpec("sound", (1, length, 1), "float32")


def test_folders_of_wav_are_labelled_series(tmp_path: Path) -> None:
    _fill(tmp_path / "yes", 100)
    _fill(tmp_path / "no", 100)
    data = open_dataset(str(tmp_path))
    assert (data.label_names, data.modality, data.fit.inputs.shape[1:]) == (("no", "yes"), Modality.TENSOR, (100, 1))


@pytest.mark.parametrize(
    ("stored", "real"),
    [
        (np.array([-32768, 0, 16384], np.int16), [-1.0, 0.0, 0.5]),
        (np.array([-1.0, 0.0, 0.5], np.float32), [-1.0, 0.0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1.0, 0.0, 0.5]),
    ],
    ids=["16 bits", "float", "8 bits"],
)
def test_samples_are_read_as_real_numbers(tmp_path: Path, stored: NDArray[np.generic], real: list[float]) -> None:
    for index in range(16):
        (tmp_path / f"{index}.wav").write_bytes(_wav(stored))
    # Powers of two: exact.
    assert _values(tmp_path, _taken(3))[0, :, 0].tolist() == real


def test_sounds_are_padded_and_cut_to_the_models_length(tmp_path: Path) -> None:
    _fill(tmp_path, 15, length=50)
    (tmp_path / "long.wav").write_bytes(_wav(_tone(300)))
    values = _values(tmp_path, _taken(80))
    assert values.shape == (16, 80, 1)
    assert int((values[:, 60:] != 0).any(axis=(1, 2)).sum()) == 1


def test_without_a_model_the_longest_says_up_to_a_second(tmp_path: Path) -> None:
    _fill(tmp_path, 200)
    assert open_dataset(str(tmp_path)).fit.inputs.shape[1:] == (100, 1)
    (tmp_path / "long.wav").write_bytes(_wav(_tone(3 * RATE_HZ)))
    assert open_dataset(str(tmp_path)).fit.inputs.shape[1:] == (RATE_HZ, 1)


def test_other_sample_rate_is_named(tmp_path: Path) -> None:
    _fill(tmp_path, 20)
    (tmp_path / "fast.wav").write_bytes(_wav(_tone(50), rate_hz=800))
    with pytest.raises(InvalidInput, match=r"000\.wav has 400 Hz, fast\.wav has 800 Hz"):
        _values(tmp_path, _taken(50))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no sound at all", "no WAV file"),
        (_wav(_tone(100), channels=2), "2 channels; expected mono"),
        (_wav(_tone(0)), "holds no sound"),
        (_wav(np.array([0.0, np.nan], np.float32)), "holds NaN"),
        (_wav(_tone(100))[:120], "no WAV file"),
    ],
    ids=["text", "stereo", "empty", "nan", "cut short"],
)
def test_what_is_no_mono_sound_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    _fill(tmp_path, 20)
    (tmp_path / "bad.wav").write_bytes(data)
    with pytest.raises(Corrupt, match=rf"1 of 21 files .* bad\.wav \({reason}"):
        _values(tmp_path, _taken(50))


def test_sounds_among_images_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path, 20)
    (tmp_path / "one.png").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="holds images and WAV files"):
        open_dataset(str(tmp_path))
