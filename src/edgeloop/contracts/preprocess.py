"""What is done to an input before the model sees it: an ordered list of steps, each with all its parameters.

No step depends on a library's default. Images are (H, W) or (H, W, 3) in RGB order, uint8; sounds are (samples,) and
series (rows, channels), float32. In an input's layout, n is the batch, h and w are an image's axes, t is time, f a
spectrum's bins, c channels. Neighbours: `contracts.manifest` holds the list, `runtime.input` obeys it.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from edgeloop.contracts.strict import Positive, Strict


class Interpolation(StrEnum):
    """How a resize fills pixels (OpenCV's INTER_* of the same name)."""

    AREA = "area"
    CUBIC = "cubic"
    LINEAR = "linear"
    NEAREST = "nearest"


class Grey(Strict, frozen=True, tag="grey", tag_field="step"):
    """Colour to one channel: the weighted sum of R, G and B; a grey image passes unchanged.

    In whole numbers, so that it is the same on every machine: weights are rounded to 2^-15ths by largest remainder, the
    sum to the nearest level, a half of one up, and cut to 0..255.
    """

    weights_rgb: tuple[float, float, float] = (0.299, 0.587, 0.114)


class Colour(Strict, frozen=True, tag="colour", tag_field="step"):
    """Three channels in this order; a grey image is repeated, one in RGB order is turned round for "bgr"."""

    order: "ColourOrder"


class ColourOrder(StrEnum):
    """The order in which a model wants its channels."""

    RGB = "rgb"
    BGR = "bgr"


class Resize(Strict, frozen=True, tag="resize", tag_field="step"):
    """To exactly this size; the aspect ratio is not kept.

    reduced_decode: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as that is no smaller
    than this: several times faster, averaged over the pixels that a plain resize skips, and not the same pixels. Only
    as the first step.
    """

    height_px: Positive
    width_px: Positive
    interpolation: Interpolation
    reduced_decode: bool = False


class ResizeShorter(Strict, frozen=True, tag="resize_shorter", tag_field="step"):
    """The shorter side to this length, the longer one in proportion, rounded to the nearest whole pixel."""

    side_px: Positive
    interpolation: Interpolation


class Letterbox(Strict, frozen=True, tag="letterbox", tag_field="step"):
    """As large as fits into this size in proportion, in the middle or at the top left, the rest filled with one value.

    Sides in proportion are rounded to the nearest whole pixel; of an odd rest, the smaller half is above and left.
    """

    height_px: Positive
    width_px: Positive
    interpolation: Interpolation
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    centered: bool = True


class CenterCrop(Strict, frozen=True, tag="center_crop", tag_field="step"):
    """The middle height_px x width_px pixels; an image that is smaller is refused."""

    height_px: Positive
    width_px: Positive


class Scale(Strict, frozen=True, tag="scale", tag_field="step"):
    """x * factor + offset, in float32."""

    factor: float
    offset: float = 0.0


class Normalize(Strict, frozen=True, tag="normalize", tag_field="step"):
    """(x - mean) / std for each channel (the last axis), in float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Window(Strict, frozen=True, tag="window", tag_field="step"):
    """So many samples of a sound, or rows of a series, at a time; a stream moves on by `hop`. Only before
    all other steps but Resample.

    pad: what is shorter is filled up with zeros at its end; else it is refused. A single input that is longer is
    refused: it is more than one question, which `stream` asks one by one.
    """

    length: Positive
    hop: Positive
    pad: bool = False


class WindowKind(StrEnum):
    """The taper of a short-time Fourier transform. Source: Oppenheim and Schafer, Discrete-Time Signal Processing,
    7.5; "hann" and "hamming" are the periodic forms, sin^2(pi n / N) and 0.54 - 0.46 cos(2 pi n / N)."""

    HANN = "hann"
    HAMMING = "hamming"
    RECTANGULAR = "rectangular"


class MelScale(StrEnum):
    """Hz to mel: htk is 1127 ln(1 + f / 700) (O'Shaughnessy 1987); slaney is linear below 1 kHz, logarithmic above
    (Slaney 1998, Auditory Toolbox)."""

    HTK = "htk"
    SLANEY = "slaney"


class MelAxis(StrEnum):
    """In which unit a mel filter's triangle has straight sides."""

    HZ = "hz"
    MEL = "mel"


class MelNorm(StrEnum):
    """How high a mel filter is: 1 at its peak, or of an area of 1 (2 over its width in Hz)."""

    PEAK = "peak"
    AREA = "area"


class Logarithm(StrEnum):
    """Of what, and to which base: ln(x + floor), log10(max(x, floor)), or 10 log10(max(x, floor)) decibels."""

    LN_ADD = "ln_add"
    LN_MAX = "ln_max"
    LOG10_MAX = "log10_max"
    DECIBEL_MAX = "decibel_max"


class LogMel(Strict, frozen=True, tag="log_mel", tag_field="step", kw_only=True):
    """A sound's mel spectrogram: (samples,) to (frames, mel_bins), float32.

    Frames of frame_samples, hop_samples apart, tapered by `window`; the sound is not padded, and what does not fill
    a frame is left out: frames = 1 + (samples - frame_samples) // hop_samples. fft_samples: a frame is zero-padded to
    this many. power: of the magnitude of each bin, 1 or 2. mel_bins triangles between low_hz and high_hz, evenly
    spaced on `scale`. preemphasis: y[n] = x[n] - preemphasis x[n-1] before all else, with x[-1] as 0; 0 for none.
    """

    frame_samples: Positive
    hop_samples: Positive
    fft_samples: Positive
    window: WindowKind
    power: Annotated[int, msgspec.Meta(ge=1, le=2)]
    mel_bins: Positive
    low_hz: Annotated[float, msgspec.Meta(ge=0)]
    high_hz: Annotated[float, msgspec.Meta(gt=0)]
    scale: MelScale
    axis: MelAxis
    norm: MelNorm
    log: Logarithm
    floor: Annotated[float, msgspec.Meta(gt=0)]
    preemphasis: float = 0.0


class Dct(Strict, frozen=True, tag="dct", tag_field="step", kw_only=True):
    """Log-mel frames to cepstral coefficients (MFCC): the first `coefficients` of the DCT-II along the last axis.

    y[k] = factor * sum over n of x[n] cos(pi k (2 n + 1) / (2 N)). Orthonormal form: factor sqrt(2 / N), with
    first_factor sqrt(1 / N) for k = 0.
    """

    coefficients: Positive
    factor: float
    first_factor: float


class Resample(Strict, frozen=True, tag="resample", tag_field="step"):
    """Sound to the input's rate_hz by a band-limited filter. Only as the first step; without it a sound of another
    rate is refused. quality: soxr's name of a setting."""

    quality: "ResampleQuality"


class ResampleQuality(StrEnum):
    """soxr's settings: stop band of 16 (LQ), 16 to 20 (MQ) and 20 bits (HQ)."""

    LOW = "LQ"
    MEDIUM = "MQ"
    HIGH = "HQ"


class Missing(StrEnum):
    """What stands for a value that is not there: the one before it, the line between its neighbours, or zero."""

    PREVIOUS = "previous"
    LINEAR = "linear"
    ZERO = "zero"


class Peak(StrEnum):
    """What counts as a sound's peak: its highest sample, or the largest magnitude of any."""

    HIGHEST = "highest"
    MAGNITUDE = "magnitude"


class PeakNormalize(Strict, frozen=True, tag="peak_normalize", tag_field="step"):
    """x / max(peak, least), in float32: each window of a sound to the same loudness. Only before LogMel.

    least: a peak below it counts as this much, so that silence stays silence; int16 has steps of 1 / 32768.
    """

    peak: Peak
    least: Annotated[float, msgspec.Meta(gt=0)]


class FillMissing(Strict, frozen=True, tag="fill_missing", tag_field="step"):
    """NaN in a series, channel by channel. most_share: a window of whose cells more are missing is refused; those
    that a Window pads count as there.

    previous and linear take the nearest value there is at the ends of a window; a channel without any is refused.
    """

    how: Missing
    most_share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


Step = (
    Grey
    | Colour
    | Resize
    | ResizeShorter
    | Letterbox
    | CenterCrop
    | Scale
    | Normalize
    | Window
    | Resample
    | PeakNormalize
    | LogMel
    | Dct
    | FillMissing
)
