"""From samples to mel spectrograms and cepstral coefficients (MFCC).

Rules kept here: every table (window, mel filters, cosines) is computed once, in float64, and used in float32; a
whole sound is framed and transformed in one go. Neighbours: `contracts.preprocess` defines the steps, `sound` runs
them.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import Dct, Logarithm, LogMel, MelAxis, MelNorm, MelScale, WindowKind
from edgeloop.runtime.input.stages import Reals, Stage, as_float32

_LEAST_FFT, _MOST_FFT, _MOST_MEL_BINS = 4, 8192, 512
_MOST_FRAME_VALUES = 2**22

_SLANEY_BREAK_HZ, _SLANEY_BREAK_MEL = 1000.0, 15.0
_SLANEY_HZ_A_MEL, _SLANEY_STEP = 200.0 / 3.0, math.log(6.4) / 27.0


def taper(kind: WindowKind, length: int) -> NDArray[np.float64]:
    """(length,): the periodic window of this kind. Source: see `WindowKind`."""
    turns = np.arange(length) / length
    if kind is WindowKind.HANN:
        return np.sin(np.pi * turns) ** 2
    if kind is WindowKind.HAMMING:
        return np.asarray(0.54 - 0.46 * np.cos(2 * np.pi * turns))
    return np.ones(length)


def to_mel(hz: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    """Frequencies on a mel scale. Source: see `MelScale`."""
    if scale is MelScale.HTK:
        return np.asarray(1127.0 * np.log1p(hz / 700.0))
    above = _SLANEY_BREAK_MEL + np.log(np.maximum(hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ) / _SLANEY_STEP
    return np.where(hz < _SLANEY_BREAK_HZ, hz / _SLANEY_HZ_A_MEL, above)


def from_mel(mel: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    """The inverse of `to_mel`."""
    if scale is MelScale.HTK:
        return np.asarray(700.0 * np.expm1(mel / 1127.0))
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_STEP * (np.maximum(mel, _SLANEY_BREAK_MEL) - _SLANEY_BREAK_MEL))
    return np.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_A_MEL, above)


def mel_matrix(step: LogMel, *, rate_hz: int) -> NDArray[np.float64]:
    """(fft_samples // 2 + 1, mel_bins): the weight of each bin of the transform in each mel filter.

    mel_bins + 2 points evenly spaced on `step.scale` from low_hz to high_hz; filter k rises from point k to k + 1 and
    falls to k + 2, in straight lines over `step.axis`.
    """
    bins_hz = np.arange(step.fft_samples // 2 + 1, dtype=np.float64) * (rate_hz / step.fft_samples)
    ends_mel = to_mel(np.array([step.low_hz, step.high_hz]), step.scale)
    points_mel = np.linspace(ends_mel[0], ends_mel[1], step.mel_bins + 2)
    points_hz = from_mel(points_mel, step.scale)
    on_hz = step.axis is MelAxis.HZ
    points = points_hz if on_hz else points_mel
    place = (bins_hz if on_hz else to_mel(bins_hz, step.scale))[:, np.newaxis]
    low, peak, high = points[:-2], points[1:-1], points[2:]
    weights = np.maximum(0.0, np.minimum((place - low) / (peak - low), (high - place) / (high - peak)))
    if step.norm is MelNorm.AREA:
        weights *= 2.0 / (points_hz[2:] - points_hz[:-2])
    return np.asarray(weights)


def dct_matrix(step: Dct, *, size: int) -> NDArray[np.float64]:
    """(size, coefficients): what `Dct` multiplies with. Source: Rao and Yip 1990, Discrete Cosine Transform, DCT-II."""
    angles = np.pi * np.arange(step.coefficients) * (2 * np.arange(size)[:, np.newaxis] + 1) / (2 * size)
    factors = np.full(step.coefficients, step.factor)
    factors[0] = step.first_factor
    return np.asarray(np.cos(angles) * factors)


def log_mel_stage(step: LogMel, *, rate_hz: int) -> Stage:
    """`LogMel` of a sound of this rate: (samples,) to (frames, mel_bins). Not thread-safe: it keeps its frames.

    Raises InvalidInput if the parameters do not fit together, Unavailable without OpenCV; the stage raises
    InvalidInput if the sound is shorter than a frame, or makes too many.
    """
    from edgeloop.runtime.input.opencv import cv2  # 17 MB, which sounds that are taken as they are need not have

    _check(step, rate_hz)
    window = taper(step.window, step.frame_samples).astype(np.float32)
    # Neither 0 Hz nor half the rate has a weight in any filter, so only whole bins between them are computed on.
    inner = mel_matrix(step, rate_hz=rate_hz)[1 : (step.fft_samples + 1) // 2]
    first, last = _extent(inner)
    mel = np.ascontiguousarray(inner[first:last], dtype=np.float32)
    emphasis = as_float32(step.preemphasis, what="log_mel's preemphasis")
    log = _logarithm(step)
    frames = np.zeros((0, step.fft_samples), np.float32)

    def log_mel(sound: Reals) -> Reals:
        nonlocal frames
        count = _frame_count(len(sound), step)
        if len(frames) != count:
            frames = np.zeros((count, step.fft_samples), np.float32)
        if emphasis:
            sound = _emphasized(sound, emphasis)
        # Frames that overlap, as a view: sliding_window_view says the same in ten times the time.
        sound = np.ascontiguousarray(sound)
        cut = np.ndarray((count, step.frame_samples), np.float32, sound, 0, (4 * step.hop_samples, 4))
        np.multiply(cut, window, out=frames[:, : step.frame_samples])
        # A third of the time of numpy.fft.rfft (16 and 52 us for 49 x 512). A row comes as Re 0, Re 1, Im 1, Re 2, ...
        packed = cv2.dft(frames, flags=cv2.DFT_ROWS)[:, 2 * first + 1 : 2 * last + 1]
        # Pairs of neighbours as one number: half the time of adding every second square to the one before.
        magnitude = np.abs(packed.view(np.complex64))
        return log((magnitude if step.power == 1 else np.square(magnitude, out=magnitude)) @ mel)

    return log_mel


def dct_stage(step: Dct, *, size: int) -> Stage:
    """`Dct` of frames of this many mel bins. Raises InvalidInput if it asks for more coefficients than there are."""
    if step.coefficients > size:
        raise InvalidInput(f"step 'dct' asks for {step.coefficients} coefficients of {size} mel bins")
    for value in (step.factor, step.first_factor):
        as_float32(value, what="a factor of 'dct'")
    matrix = dct_matrix(step, size=size).astype(np.float32)

    def dct(frames: Reals) -> Reals:
        return frames @ matrix

    return dct


def _check(step: LogMel, rate_hz: int) -> None:
    if not (_LEAST_FFT <= step.fft_samples <= _MOST_FFT and step.mel_bins <= _MOST_MEL_BINS):
        raise InvalidInput(
            f"step 'log_mel' has {step.fft_samples:,} fft_samples and {step.mel_bins:,} mel_bins; expected "
            f"{_LEAST_FFT} to {_MOST_FFT:,}, and at most {_MOST_MEL_BINS}"
        )
    if step.frame_samples > step.fft_samples:
        raise InvalidInput(
            f"step 'log_mel' transforms {step.fft_samples} samples, fewer than its frame of {step.frame_samples}"
        )
    if not 0 <= step.low_hz < step.high_hz <= rate_hz / 2:
        raise InvalidInput(
            f"step 'log_mel' goes from {step.low_hz} to {step.high_hz} Hz; expected a rise, up to half of the sound's "
            f"rate of {rate_hz:,} Hz"
        )
    if not as_float32(step.floor, what="log_mel's floor") > 0:
        raise InvalidInput(f"step 'log_mel' has a floor of {step.floor}, which is 0 in float32; expected more")


def _extent(weights: NDArray[np.float64]) -> tuple[int, int]:
    """From the first row with a weight to behind the last one."""
    weighty = np.flatnonzero(weights.any(axis=1))
    if not len(weighty):
        raise InvalidInput("step 'log_mel' has no bin of its transform in any filter; use more fft_samples")
    return int(weighty[0]), int(weighty[-1]) + 1


def _frame_count(samples: int, step: LogMel) -> int:
    if samples < step.frame_samples:
        raise InvalidInput(f"the sound has {samples:,} samples; one frame takes {step.frame_samples:,}")
    count = 1 + (samples - step.frame_samples) // step.hop_samples
    if count * step.fft_samples > _MOST_FRAME_VALUES:
        raise InvalidInput(
            f"the sound makes {count:,} frames of {step.fft_samples:,} values; at most {_MOST_FRAME_VALUES:,} values "
            "are taken at once: give the manifest a window"
        )
    return count


def _emphasized(sound: Reals, factor: np.float32) -> Reals:
    made = sound.copy()
    made[1:] -= factor * sound[:-1]
    return made


def _logarithm(step: LogMel) -> Callable[[Reals], Reals]:
    floor = np.float32(step.floor)
    if step.log is Logarithm.LN_ADD:
        return lambda mel: np.log(mel + floor)
    if step.log is Logarithm.LN_MAX:
        return lambda mel: np.log(np.maximum(mel, floor))
    factor = np.float32(10 if step.log is Logarithm.DECIBEL_MAX else 1)
    return lambda mel: factor * np.log10(np.maximum(mel, floor))
