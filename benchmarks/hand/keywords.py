"""Keyword spotting by hand: a second of raw sound to one of twelve words, by MLPerf Tiny's DS-CNN.

Source of the features: get_dataset.py of mlcommons/tiny, keyword spotting ("mfcc"), written out in NumPy: each clip
divided by its highest sample, frames of 30 ms every 20 ms, periodic Hann window, magnitudes of a 512-point transform,
40 mel filters from 20 to 4,000 Hz (HTK), ln(x + 1e-6), the first ten of a DCT-II scaled by sqrt(2 / N). Of the int8
features in assets/speech_commands, MLPerf Tiny's own, 99.7 % come out the same: the cast cuts off instead of rounding,
as theirs does.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Reals = NDArray[np.float32]

LABELS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
RATE_HZ = 16_000
_FRAME, _HOP, _FFT = 480, 320, 512
_MELS, _LOW_HZ, _HIGH_HZ = 40, 20.0, 4000.0
_COEFFICIENTS = 10


def make(model: Path) -> Callable[[NDArray[np.int16]], str]:
    """From (16000,) int16 to the word. model: MLPerf Tiny's int8 LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = taken["quantization"]
    features = make_features()

    def word(samples: NDArray[np.int16]) -> str:
        quantized = np.clip(features(samples) / scale + zero_point, -128, 127).astype(taken["dtype"])
        interpreter.set_tensor(taken["index"], quantized.reshape(taken["shape"]))
        interpreter.invoke()
        return LABELS[int(interpreter.get_tensor(given["index"])[0].argmax())]

    return word


def make_features() -> Callable[[NDArray[np.int16]], Reals]:
    """From (16000,) int16 to MFCC (49, 10)."""
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    mels, cosines = mel_filters(), dct_table()

    def features(samples: NDArray[np.int16]) -> Reals:
        sound = samples.astype(np.float32)
        sound /= max(sound.max(), 1.0)
        frames = sliding_window_view(sound, _FRAME)[::_HOP] * window
        spectrum = np.abs(np.fft.rfft(frames, _FFT)).astype(np.float32)
        return np.asarray(np.log(spectrum @ mels + np.float32(1e-6)) @ cosines, np.float32)

    return features


def mel_filters() -> Reals:
    """(257, 40): triangles with straight sides on the mel scale; the constant belongs to none."""
    bins = _mel(np.linspace(0.0, RATE_HZ / 2, _FFT // 2 + 1))[:, np.newaxis]
    edges = np.linspace(_mel(np.float64(_LOW_HZ)), _mel(np.float64(_HIGH_HZ)), _MELS + 2)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    weights[0] = 0.0
    return np.asarray(weights, np.float32)


def dct_table() -> Reals:
    """(40, 10): the DCT-II as TensorFlow scales it for MFCC, sqrt(2 / N) throughout."""
    angles = np.outer(2 * np.arange(_MELS) + 1, np.arange(_COEFFICIENTS)) * (np.pi / (2 * _MELS))
    return np.asarray(np.sqrt(2 / _MELS) * np.cos(angles), np.float32)


def _mel(hz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hz / 700.0))
