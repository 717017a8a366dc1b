"""Sounds: from a WAV file or samples to the tensor that a model takes.

Rules kept here: int16 means value / 32768; a sound has one channel; only a WAV file is ever resampled, since
samples come at the manifest's rate. Neighbours: `wav` reads files, `spectrum` makes mel spectrograms, `windows` cuts
streams.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import (
    Dct,
    LogMel,
    Normalize,
    Peak,
    PeakNormalize,
    Resample,
    ResampleQuality,
    Scale,
    Step,
    Window,
)
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.input.spectrum import dct_stage, log_mel_stage
from edgeloop.runtime.input.stages import (
    Reals,
    Stage,
    as_float32,
    check_tensor,
    empty_window,
    fill_window,
    name_of,
    normalize_stage,
    place_stage,
    put_reals,
    run_stages,
    scale_stage,
)
from edgeloop.runtime.input.wav import MAX_SAMPLES, Samples, Sound, decode_wav, read_wav

_FULL_SCALE = np.float32(1 / 32768)
_LOUDEST = 2.0
_AXES = "tf"
_HINT = "the manifest's steps make numbers that float32 cannot hold"


class SoundFront:
    """The manifest's preprocessing of sounds for one variant's input tensor. Not thread-safe.

    In the layout, t is time (samples or frames) and f frequency (mel bins or coefficients). window: how a stream is
    to be cut, None where the manifest does not say. Raises InvalidInput if the rate is not stated, a step is not for
    sounds or stands in the wrong place, or a whole window does not come out in the tensor's shape.
    """

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> None:
        check_tensor(spec, tensor)
        if spec.rate_hz is None:
            raise InvalidInput("the input is a sound, but the manifest states no rate_hz; expected samples a second")
        self.rate_hz = spec.rate_hz
        self._tensor = tensor
        first = steps[0] if steps else None
        self._quality = first.quality if isinstance(first, Resample) else None
        rest = steps if self._quality is None else steps[1:]
        self.window = rest[0] if rest and isinstance(rest[0], Window) else None
        stages = _stages(rest[1:] if self.window else rest, rate_hz=spec.rate_hz)
        self._stages = (*stages, place_stage(spec, _AXES))
        if self.window is not None:
            # Silence goes through all of it once: what does not fit is refused now and not at the first sound.
            run_stages(self._stages, empty_window(self.window, unit="samples"), hint=_HINT)

    def write(self, source: Source, buffer: NDArray[Any]) -> None:
        """Prepare one sound and write it into the engine's buffer, quantized as the tensor stores it.

        Raises as `tensor` does, and InvalidInput if the tensor cannot hold it; the buffer is then as it was.
        """
        put_reals(self.tensor(source), self._tensor, buffer)

    def tensor(self, source: Source) -> Reals:
        """One sound as real values, float32 of the manifest's input shape.

        Raises InvalidInput if it is not one window, and what `samples` raises.
        """
        samples = self.samples(source)
        if self.window is not None:
            samples = fill_window(samples, self.window, unit="samples")
        return run_stages(self._stages, as_float(samples), hint=_HINT)

    def samples(self, source: Source) -> Samples:
        """A whole sound at the manifest's rate, before it is cut into windows: (samples,), int16 or float32.

        Raises NotFound if there is no such file, Corrupt if its bytes are no WAV file, Unavailable if it must be
        resampled without soxr, InvalidInput if the sound cannot be used.
        """
        if isinstance(source, np.ndarray):
            return as_samples(source)
        sound = decode_wav(source) if isinstance(source, bytes) else read_wav(source)
        if sound.rate_hz == self.rate_hz:
            return as_samples(sound.samples)
        if self._quality is None:
            raise InvalidInput(
                f"the sound has {sound.rate_hz:,} samples a second, the model takes {self.rate_hz:,}; resample it, or "
                "give the manifest a step 'resample'"
            )
        return resample(sound, rate_hz=self.rate_hz, quality=self._quality)


def as_samples(value: NDArray[Any]) -> Samples:
    """An array as samples: (N,) or (N, 1), int16, or float of -1..1, which may overshoot to -2..2.

    Raises InvalidInput on any other array. Returns int16 or float32, (N,), C-contiguous.
    """
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1 or not (value.dtype == np.int16 or value.dtype in (np.float32, np.float64)):
        raise InvalidInput(
            f"a sound is an array of (samples,), int16 or float of -1..1, with one channel; got {value.dtype} "
            f"{value.shape}"
        )
    if not 0 < len(value) <= MAX_SAMPLES:
        raise InvalidInput(f"the sound has {len(value):,} samples; expected 1 to {MAX_SAMPLES:,}")
    if value.dtype == np.int16:
        return np.ascontiguousarray(value, np.int16)
    least, most = value.min(), value.max()
    if not (least >= -_LOUDEST and most <= _LOUDEST):
        raise InvalidInput(
            f"the sound goes from {least} to {most}; float samples are -1..1 and finite: divide what was int16 by "
            "32768, or pass it as int16"
        )
    return np.ascontiguousarray(value, np.float32)


def as_float(samples: Samples) -> Reals:
    """Samples as float32; int16 means value / 32768."""
    if samples.dtype == np.int16:
        return np.asarray(samples * _FULL_SCALE, np.float32)
    return np.asarray(samples, np.float32)


def resample(sound: Sound, *, rate_hz: int, quality: ResampleQuality) -> Reals:
    """Samples at another rate, float32, by soxr. Raises Unavailable if it is not installed, InvalidInput if the
    result would be longer than MAX_SAMPLES."""
    if len(sound.samples) * rate_hz > MAX_SAMPLES * sound.rate_hz:
        raise InvalidInput(
            f"{len(sound.samples):,} samples of {sound.rate_hz:,} Hz are more than {MAX_SAMPLES:,} of {rate_hz:,} Hz"
        )
    try:
        import soxr
    except ImportError as error:
        raise Unavailable(
            f"resampling from {sound.rate_hz:,} to {rate_hz:,} Hz needs soxr ({error}); install it with: pip install "
            "'edgeloop[sound]'"
        ) from error
    return np.asarray(soxr.resample(as_float(sound.samples), sound.rate_hz, rate_hz, quality=str(quality)), np.float32)


def _stages(steps: tuple[Step, ...], *, rate_hz: int) -> tuple[Stage, ...]:
    """The steps behind Resample and Window. mel_bins follows what a step is given: 0 samples, else frames."""
    made: list[Stage] = []
    mel_bins, done = 0, False
    for step in steps:
        if isinstance(step, LogMel | PeakNormalize) and mel_bins:
            raise InvalidInput(f"step {name_of(step)!r} takes a sound, but stands behind 'log_mel'")
        if isinstance(step, Dct):
            if not mel_bins or done:
                raise InvalidInput("step 'dct' takes the frames of 'log_mel': it stands behind it, once")
            done = True
        made.append(_stage(step, mel_bins=mel_bins, rate_hz=rate_hz))
        if isinstance(step, LogMel):
            mel_bins = step.mel_bins
    return tuple(made)


def _stage(step: Step, *, mel_bins: int, rate_hz: int) -> Stage:
    if isinstance(step, Resample | Window):
        raise InvalidInput(f"step {name_of(step)!r} is not the first; only 'resample' may stand before 'window'")
    if isinstance(step, LogMel):
        return log_mel_stage(step, rate_hz=rate_hz)
    if isinstance(step, Dct):
        return dct_stage(step, size=mel_bins)
    if isinstance(step, PeakNormalize):
        return _peak_stage(step)
    if isinstance(step, Scale):
        return scale_stage(step)
    if isinstance(step, Normalize):
        return normalize_stage(step)
    raise InvalidInput(
        f"step {name_of(step)!r} is not for sounds; resample, window, peak_normalize, log_mel, dct, scale and "
        "normalize are"
    )


def _peak_stage(step: PeakNormalize) -> Stage:
    least = as_float32(step.least, what="peak_normalize's least")
    if not least > 0:
        raise InvalidInput(f"step 'peak_normalize' has a least of {step.least}, which is 0 in float32")

    def peak_normalize(sound: Reals) -> Reals:
        highest = sound.max()
        if step.peak is Peak.MAGNITUDE:
            highest = max(highest, -sound.min())
        return np.divide(sound, max(highest, least))

    return peak_normalize
