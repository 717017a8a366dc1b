import math

import msgspec
import numpy as np
import pytest
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import Dct, Logarithm, LogMel, MelAxis, MelNorm, MelScale, WindowKind
from edgeloop.runtime.input.spectrum import dct_matrix, dct_stage, from_mel, log_mel_stage, mel_matrix, taper, to_mel

RATE_HZ = 16_000
STEP = LogMel(
    frame_samples=400,
    hop_samples=160,
    fft_samples=512,
    window=WindowKind.HANN,
    power=1,
    mel_bins=40,
    low_hz=20.0,
    high_hz=7600.0,
    scale=MelScale.HTK,
    axis=MelAxis.MEL,
    norm=MelNorm.PEAK,
    log=Logarithm.LN_ADD,
    floor=1e-6,
)

STEPS = {
    "mlperf tiny": msgspec.structs.replace(STEP, frame_samples=480, hop_samples=320, high_hz=4000.0),
    "librosa": msgspec.structs.replace(
        STEP,
        power=2,
        scale=MelScale.SLANEY,
        axis=MelAxis.HZ,
        norm=MelNorm.AREA,
        log=Logarithm.DECIBEL_MAX,
        floor=1e-10,
        low_hz=0.0,
        high_hz=8000.0,
    ),
    "whisper": msgspec.structs.replace(
        STEP, power=2, fft_samples=400, log=Logarithm.LOG10_MAX, floor=1e-10, mel_bins=80, scale=MelScale.SLANEY
    ),
    "kaldi": msgspec.structs.replace(
        STEP, power=2, window=WindowKind.HAMMING, preemphasis=0.97, log=Logarithm.LN_MAX, floor=1.1920929e-7
    ),
    "odd transform": msgspec.structs.replace(STEP, fft_samples=401, window=WindowKind.RECTANGULAR, mel_bins=10),
    "short hop": msgspec.structs.replace(STEP, frame_samples=64, fft_samples=100, hop_samples=7, mel_bins=5),
}


def sounds() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    time_s = np.arange(4000) / RATE_HZ
    return {
        "noise": (0.3 * rng.standard_normal(4000)).astype(np.float32),
        "faint noise": (1e-4 * rng.standard_normal(4001)).astype(np.float32),
        "tone": (0.9 * np.sin(2 * np.pi * 1234.5 * time_s)).astype(np.float32),
        "click": np.eye(1, 3999, 1500, dtype=np.float32)[0],
        "silence": np.zeros(4000, np.float32),
    }


def hz_to_mel(hz: float, scale: MelScale) -> float:
    if scale is MelScale.HTK:
        return 1127.0 * math.log(1 + hz / 700)
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def mel_to_hz(mel: float, scale: MelScale) -> float:
    if scale is MelScale.HTK:
        return 700 * (math.exp(mel / 1127) - 1)
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def filters(step: LogMel) -> NDArray[np.float64]:
    """The triangles of the docstring, one weight at a time."""
    low, high = hz_to_mel(step.low_hz, step.scale), hz_to_mel(step.high_hz, step.scale)
    points_mel = [low + (high - low) * k / (step.mel_bins + 1) for k in range(step.mel_bins + 2)]
    points_hz = [mel_to_hz(mel, step.scale) for mel in points_mel]
    made = np.zeros((step.fft_samples // 2 + 1, step.mel_bins))
    for row in range(made.shape[0]):
        hz = row * RATE_HZ / step.fft_samples
        at, points = (hz, points_hz) if step.axis is MelAxis.HZ else (hz_to_mel(hz, step.scale), points_mel)
        for k in range(step.mel_bins):
            left, middle, right = points[k : k + 3]
            if left < at <= middle:
                made[row, k] = (at - left) / (middle - left)
            elif middle < at < right:
                made[row, k] = (right - at) / (right - middle)
            if step.norm is MelNorm.AREA:
                made[row, k] *= 2 / (points_hz[k + 2] - points_hz[k])
    return made


def defined(sound: NDArray[np.float32], step: LogMel) -> NDArray[np.float64]:
    """LogMel by its definition: the transform as a matrix, frame by frame, all in float64."""
    samples = sound.astype(np.float64)
    samples = samples - step.preemphasis * np.concatenate([[0.0], samples[:-1]])
    name = {"rectangular": "boxcar"}.get(str(step.window), str(step.window))
    window = scipy.signal.get_window(name, step.frame_samples, fftbins=True)
    places, bins = np.arange(step.frame_samples), np.arange(step.fft_samples // 2 + 1)
    fourier = np.exp(-2j * np.pi * np.outer(places, bins) / step.fft_samples)
    rows = []
    for start in range(0, len(samples) - step.frame_samples + 1, step.hop_samples):
        spectrum = np.abs((samples[start : start + step.frame_samples] * window) @ fourier) ** step.power
        rows.append(spectrum @ filters(step))
    mel = np.array(rows)
    if step.log is Logarithm.LN_ADD:
        return np.log(mel + step.floor)
    if step.log is Logarithm.LN_MAX:
        return np.log(np.maximum(mel, step.floor))
    return (10 if step.log is Logarithm.DECIBEL_MAX else 1) * np.log10(np.maximum(mel, step.floor))


@pytest.mark.parametrize("sound", sounds())
@pytest.mark.parametrize("name", STEPS)
def test_log_mel_is_its_definition_in_float64(name: str, sound: str) -> None:
    """Held in linear units, where float32 has its error: within 2e-5 of each filter's value, or, since a transform
    spreads the rounding of its loudest bin over all, within 3e-6 (a magnitude; squared for a power) of the loudest
    filter. A logarithm would blow up what is 120 dB below."""
    step, given = STEPS[name], sounds()[sound]
    wanted = defined(given, step)
    made = log_mel_stage(step, rate_hz=RATE_HZ)(given)
    assert made.dtype == np.float32
    assert made.shape == wanted.shape == (1 + (len(given) - step.frame_samples) // step.hop_samples, step.mel_bins)
    base = {Logarithm.LOG10_MAX: 10.0, Logarithm.DECIBEL_MAX: 10**0.1}.get(step.log, math.e)
    linear, expected = base ** made.astype(np.float64), base**wanted
    noise = (3e-6) ** step.power * expected.max() + (3e-6 if step.power == 2 else 0) * np.sqrt(
        expected * expected.max()
    )
    assert np.abs(linear - expected).max() > 0 or sound == "silence"
    assert (np.abs(linear - expected) <= 2e-5 * expected + noise).all()


@pytest.mark.parametrize("name", STEPS)
def test_mel_filters_are_the_triangles_of_the_formula(name: str) -> None:
    """Two spellings of one formula in float64: to 1e-9 of a peak of 1, of which an area of 1 has less."""
    np.testing.assert_allclose(mel_matrix(STEPS[name], rate_hz=RATE_HZ), filters(STEPS[name]), rtol=0, atol=1e-9)


def test_filters_with_an_area_of_one_have_it() -> None:
    """Summed over fine bins (1 Hz), the triangles' area is 1 to the width of a bin: 2 %."""
    step = msgspec.structs.replace(STEPS["librosa"], fft_samples=8192, mel_bins=20)
    areas = mel_matrix(step, rate_hz=RATE_HZ).sum(axis=0) * RATE_HZ / 8192
    np.testing.assert_allclose(areas, 1.0, atol=0.02)


@pytest.mark.parametrize("scale", MelScale)
def test_mel_scales_have_inverses_and_known_points(scale: MelScale) -> None:
    hz = np.array([0.0, 440.0, 999.0, 1000.0, 1001.0, 8000.0])
    np.testing.assert_allclose(from_mel(to_mel(hz, scale), scale), hz, rtol=1e-12, atol=1e-9)
    thousand = to_mel(np.array([1000.0]), scale)[0]
    assert thousand == pytest.approx({MelScale.HTK: 999.99, MelScale.SLANEY: 15.0}[scale], abs=0.01)


@pytest.mark.parametrize("length", [1, 2, 5, 480])
@pytest.mark.parametrize("kind", WindowKind)
def test_tapers_are_scipys_periodic_windows(kind: WindowKind, length: int) -> None:
    name = "boxcar" if kind is WindowKind.RECTANGULAR else str(kind)
    wanted = scipy.signal.get_window(name, length, fftbins=True) if length > 1 else taper(kind, 1)
    np.testing.assert_allclose(taper(kind, length), wanted, rtol=0, atol=1e-15)


def test_orthonormal_dct_is_scipys() -> None:
    step = Dct(coefficients=13, factor=math.sqrt(2 / 40), first_factor=math.sqrt(1 / 40))
    frames = np.random.default_rng(1).standard_normal((9, 40)).astype(np.float32) * 5
    wanted = scipy.fft.dct(frames.astype(np.float64), type=2, norm="ortho")[:, :13]
    np.testing.assert_allclose(frames @ dct_matrix(step, size=40), wanted, rtol=0, atol=1e-12)
    made = dct_stage(step, size=40)(frames)
    assert made.dtype == np.float32
    # 40 products of values about 5 in float32.
    np.testing.assert_allclose(made, wanted, rtol=0, atol=2e-5)


def test_sounds_of_changing_length_do_not_see_each_other() -> None:
    """A stage keeps its frames: what it makes must depend on its own sound only."""
    stage = log_mel_stage(STEP, rate_hz=RATE_HZ)
    rng = np.random.default_rng(3)
    given = [rng.standard_normal(size).astype(np.float32) for size in (4000, 400, 4000, 5000, 400)]
    made = [stage(sound) for sound in given]
    fresh = [log_mel_stage(STEP, rate_hz=RATE_HZ)(sound) for sound in given]
    for one, other in zip(made, fresh, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fft_samples": 256}, "fewer than its frame of 400"),
        ({"fft_samples": 1 << 40}, "expected 4 to 8,192"),
        ({"mel_bins": 1 << 40}, "at most 512"),
        ({"high_hz": 8001.0}, "up to half of the sound's rate of 16,000 Hz"),
        ({"low_hz": 7600.0}, "expected a rise"),
        ({"high_hz": math.nan}, "expected a rise"),
        ({"floor": 1e-60}, "0 in float32"),
        ({"preemphasis": math.inf}, "expected a finite number"),
        ({"low_hz": 40.0, "high_hz": 41.0}, "no bin of its transform"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changed: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        log_mel_stage(msgspec.structs.replace(STEP, **changed), rate_hz=RATE_HZ)


def test_a_sound_shorter_than_a_frame_is_refused_and_one_frame_is_made() -> None:
    stage = log_mel_stage(STEP, rate_hz=RATE_HZ)
    assert stage(np.ones(400, np.float32)).shape == (1, 40)
    with pytest.raises(InvalidInput, match="399 samples; one frame takes 400"):
        stage(np.ones(399, np.float32))


def test_more_frames_than_fit_are_refused_before_they_are_made() -> None:
    stage = log_mel_stage(msgspec.structs.replace(STEP, hop_samples=1), rate_hz=RATE_HZ)
    with pytest.raises(InvalidInput, match="give the manifest a window"):
        stage(np.zeros(100_000, np.float32))


def test_more_coefficients_than_mel_bins_are_refused() -> None:
    with pytest.raises(InvalidInput, match="41 coefficients of 40 mel bins"):
        dct_stage(Dct(coefficients=41, factor=1.0, first_factor=1.0), size=40)
    with pytest.raises(InvalidInput, match="factor of 'dct'"):
        dct_stage(Dct(coefficients=4, factor=math.inf, first_factor=1.0), size=40)
