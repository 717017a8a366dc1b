"""The formulas of linear quantization, in plain NumPy: scales and zero points, and the ranges that calibration picks.

real = scale * (integer - zero_point)            Jacob et al. 2018 (arXiv 1712.05877), eq. 1

docs/quantization.md states them all with their sources. Engines compute the same in C; tests hold what stands in
their files to this module. Neighbours: `recipe` names the choices, `litert`, `onnx` and `openvino` use the ranges.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.quantize.recipe import Calibration, QuantizeRecipe, Symmetry

Floats = NDArray[np.floating]

SMALLEST_RANGE = 1e-9
"""A range is taken as at least this wide: a tensor that is always zero still needs a scale above zero."""

MOMENTUM = 0.95
"""What the moving average keeps of the range so far, at each sample."""

BINS = 4096
"""Of a histogram, over -|x|max to |x|max: 2,048 for |x|, as in Migacz 2017."""

_CANDIDATES = 128
_SHRINK = np.linspace(0.2, 1.0, 81)


def integer_range(bits: int, symmetry: Symmetry) -> tuple[int, int]:
    """Lowest and highest stored integer: -2^(b-1) + 1 when symmetric, so that both sides have as many, else -2^(b-1).

    Source: Krishnamoorthi 2018 (arXiv 1806.08342), sec. 2.
    """
    highest = 2 ** (bits - 1) - 1
    return (-highest if symmetry is Symmetry.SYMMETRIC else -highest - 1), highest


def scale_and_zero(
    low: Floats | float, high: Floats | float, *, bits: int, symmetry: Symmetry
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scale and zero point for real values from low to high, of any equal shape: one for each channel, or one.

    Symmetric: scale = max(|low|, |high|) / (2^(b-1) - 1), zero point 0. Asymmetric: the range is widened to hold 0,
    scale = (high - low) / (2^b - 1), zero point = round(-2^(b-1) - low / scale): real 0 is stored without error.
    Source: Jacob et al. 2018, sec. 2.1 and 3; Krishnamoorthi 2018 (arXiv 1806.08342), eq. 1 to 6.
    """
    below, above = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(below).all() and np.isfinite(above).all() and (below <= above).all()):
        raise InvalidInput(f"a range from {below} to {above} has no scale; ends must be finite, low <= high")
    lowest, highest = integer_range(bits, symmetry)
    if symmetry is Symmetry.SYMMETRIC:
        bound = np.maximum(np.maximum(np.abs(below), np.abs(above)), SMALLEST_RANGE)
        return bound / highest, np.zeros(bound.shape, np.int64)
    below, above = np.minimum(below, 0.0), np.maximum(above, 0.0)
    scale = np.maximum(above - below, SMALLEST_RANGE) / (highest - lowest)
    return scale, np.rint(lowest - below / scale).astype(np.int64)


def channel_range(weights: Floats, axis: int | None) -> tuple[Floats, Floats]:
    """Lowest and highest weight of each channel along `axis`, or of the tensor (None); axes are kept with size 1."""
    others = None if axis is None else tuple(one for one in range(weights.ndim) if one != axis % weights.ndim)
    return weights.min(axis=others, keepdims=True), weights.max(axis=others, keepdims=True)


def quantize(
    values: Floats, scale: Floats, zero_point: NDArray[np.int64], *, bits: int, symmetry: Symmetry
) -> NDArray[np.int64]:
    """round(values / scale) + zero_point, ties to even, clipped to the integer range. Source: Jacob et al., eq. 1."""
    lowest, highest = integer_range(bits, symmetry)
    return np.clip(np.rint(values / scale) + zero_point, lowest, highest).astype(np.int64)


def dequantize(stored: NDArray[np.int64], scale: Floats, zero_point: NDArray[np.int64]) -> NDArray[np.float64]:
    """scale * (stored - zero_point). Source: Jacob et al., eq. 1."""
    return np.asarray(scale * (stored - zero_point), dtype=np.float64)


def rounded(values: Floats, *, bits: int, symmetry: Symmetry, axis: int | None = None) -> NDArray[np.float64]:
    """The real values that weights become when they are stored in `bits`: quantized and back."""
    low, high = channel_range(values, axis)
    scale, zero_point = scale_and_zero(low, high, bits=bits, symmetry=symmetry)
    return dequantize(quantize(values, scale, zero_point, bits=bits, symmetry=symmetry), scale, zero_point)


@dataclass(frozen=True)
class Seen:
    """What a tensor was on the calibration samples.

    lows, highs: (N,) the lowest and highest value of each sample, in order. counts: (BINS,) a histogram of all values
    over -bound to bound, bound = max(|lows|, |highs|); empty where the calibration asks for none.
    """

    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def bound(self) -> float:
        """The largest |value|."""
        return float(max(np.abs(self.lows).max(), np.abs(self.highs).max()))


def counted(values: Floats, bound: float) -> NDArray[np.int64]:
    """A histogram (BINS,) of values over -bound to bound; those outside fall into the outermost bins."""
    bins = ((np.asarray(values, np.float64).ravel() + bound) * (BINS / (2 * bound))).astype(np.int64)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)


def seen_in(samples: Floats) -> Seen:
    """What a tensor was: samples (N, ...), N >= 1, all at once."""
    flat = np.asarray(samples, np.float64).reshape(len(samples), -1)
    seen = Seen(flat.min(axis=1), flat.max(axis=1), np.zeros(0, np.int64))
    return Seen(seen.lows, seen.highs, counted(flat, max(seen.bound, SMALLEST_RANGE)))


def needs_histogram(calibration: Calibration) -> bool:
    """Whether `chosen_range` reads counts: a second pass over the samples, where they do not fit into memory."""
    return calibration in (Calibration.PERCENTILE, Calibration.ENTROPY, Calibration.MSE)


def chosen_range(seen: Seen, recipe: QuantizeRecipe, *, bits: int) -> tuple[float, float]:
    """The range that the recipe's calibration picks for an activation.

    min_max: of all samples. moving_average: of each sample's ends, MOMENTUM kept (Jacob et al. 2018, sec. 3.1).
    percentile, entropy, mse: see the functions below. Always within the min-max range.
    """
    low, high = float(seen.lows.min()), float(seen.highs.max())
    if recipe.calibration is Calibration.MIN_MAX or seen.bound < SMALLEST_RANGE:
        return low, high
    if recipe.calibration is Calibration.MOVING_AVERAGE:
        return _moving_average(seen.lows), _moving_average(seen.highs)
    if recipe.calibration is Calibration.PERCENTILE:
        return _percentile_range(seen, recipe.percentile, recipe.activations)
    if recipe.calibration is Calibration.ENTROPY:
        threshold = _entropy_threshold(seen, bits, recipe.activations)
        return max(low, -threshold), min(high, threshold)
    return _mse_range(seen, bits, recipe.activations)


def _moving_average(ends: NDArray[np.float64]) -> float:
    average = float(ends[0])
    for end in ends[1:]:
        average = MOMENTUM * average + (1 - MOMENTUM) * float(end)
    return average


def _percentile_range(seen: Seen, percentile: float, symmetry: Symmetry) -> tuple[float, float]:
    """Symmetric: of |x|. Asymmetric: the same share of all values is cut off at each end. Exact to one bin.

    Source: Wu et al. 2020 (arXiv 2004.09602), sec. 3.2.
    """
    edges = np.linspace(-seen.bound, seen.bound, BINS + 1)
    low, high = float(seen.lows.min()), float(seen.highs.max())
    share = percentile / 100
    if symmetry is Symmetry.SYMMETRIC:
        folded = np.cumsum(_folded(seen.counts))
        threshold = edges[BINS // 2 + 1 + int(np.searchsorted(folded, share * folded[-1]))]
        return max(low, -float(threshold)), min(high, float(threshold))
    total = np.cumsum(seen.counts)
    above = edges[1 + int(np.searchsorted(total, share * total[-1]))]
    below = edges[int(np.searchsorted(total, (1 - share) * total[-1], side="right"))]
    return max(low, float(below)), min(high, float(above))


def _entropy_threshold(seen: Seen, bits: int, symmetry: Symmetry) -> float:
    """The |x| beyond which values are clipped so that the distribution loses the least information.

    For each candidate: P = |x| up to it, all beyond it added to its last bin; Q = the same bins merged into as many
    levels as the integers offer, spread evenly over those that were not empty; the least KL(P, Q) wins.
    Source: Migacz 2017, "8-bit inference with TensorRT" (GTC), slides 35 to 40.
    """
    folded = _folded(seen.counts).astype(np.float64)
    # Zero is stored exactly whatever the range: the many that a ReLU leaves must not outweigh all else.
    folded[0] = folded[1]
    one_sided = symmetry is Symmetry.ASYMMETRIC and (seen.lows.min() >= 0 or seen.highs.max() <= 0)
    levels = 2**bits if one_sided else 2 ** (bits - 1)
    # An empty last bin that outliers are added to has no counterpart in Q: infinitely far.
    ends = np.flatnonzero(folded)[np.flatnonzero(folded) >= levels] + 1
    if len(ends) == 0:
        return seen.bound
    picked = ends[np.unique(np.linspace(0, len(ends) - 1, _CANDIDATES).astype(np.int64))]
    losses = [_divergence(folded, int(end), levels) for end in picked]
    return float(picked[int(np.argmin(losses))] / len(folded) * seen.bound)


def _divergence(folded: NDArray[np.float64], end: int, levels: int) -> float:
    kept = folded[:end]
    starts = np.arange(levels) * end // levels
    filled = (kept > 0).astype(np.float64)
    mean = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat(filled, starts), 1)
    merged = np.repeat(mean, np.diff(np.append(starts, end))) * filled
    told = kept.copy()
    told[-1] += folded[end:].sum()
    here = told > 0
    p, q = told[here] / told.sum(), merged[here] / merged.sum()
    return float((p * np.log(p / q)).sum())


def _mse_range(seen: Seen, bits: int, symmetry: Symmetry) -> tuple[float, float]:
    """The range with the least mean squared error of values quantized and back, by the histogram's bin centres.

    The whole range is shrunk by 0.2 to 1 in steps of 0.01, then (asymmetric) each end alone.
    Source: Nagel et al. 2021 (arXiv 2106.08295), sec. 3.1.1.
    """
    edges = np.linspace(-seen.bound, seen.bound, BINS + 1)
    # With 0 inside, as scales have it, a shrunk end never passes the other one.
    low, high = min(0.0, float(seen.lows.min())), max(0.0, float(seen.highs.max()))
    filled = seen.counts > 0
    # The outermost bins are wider than what fell into them: no value lies beyond low and high.
    centres, counts = np.clip((edges[:-1] + edges[1:]) / 2, low, high)[filled], seen.counts[filled]

    def error(ends: tuple[float, float]) -> float:
        scale, zero_point = scale_and_zero(*ends, bits=bits, symmetry=symmetry)
        back = dequantize(quantize(centres, scale, zero_point, bits=bits, symmetry=symmetry), scale, zero_point)
        return float((counts * (centres - back) ** 2).sum())

    best = min(((low * share, high * share) for share in _SHRINK), key=error)
    if symmetry is Symmetry.SYMMETRIC:
        return best
    best = min(((best[0], high * share) for share in _SHRINK), key=error)
    return min(((low * share, best[1]) for share in _SHRINK), key=error)


def _folded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A histogram of |x| from one of x over -bound to bound."""
    half = len(counts) // 2
    return np.asarray(counts[half:] + counts[:half][::-1])
