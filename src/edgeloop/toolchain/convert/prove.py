"""The proof of a conversion: source and candidate on the same inputs, output by output, matched by name."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.source.model import Feeds, Model

TOLERANCE = 1e-4
"""How far an output may lie from the source's: this share of the output's largest magnitude, or this where that is
below 1. Engines differ in the order of float sums, which is a hundredth of it on common networks."""

INTEGER_MAX, INTEGER_MEAN = 0.25, 0.02
"""The same where the output is an integer tensor, as shares of its range: integer kernels round each layer their own
way. Measured on MLPerf Tiny's int8 ResNet-8 and keyword spotting with random inputs, LiteRT's kernels, its reference
kernels and the microcontroller's differ by up to 0.19 of the range, 0.013 on average; a wrong answer by 0.16 on
average."""

PROOF_SAMPLES = 64


class OutputParity(msgspec.Struct, frozen=True, kw_only=True):
    """One output beside the source's, over all samples. allowed, allowed_mean: what the errors are held to."""

    name: str
    max_abs_error: float
    mean_abs_error: float
    allowed: float
    allowed_mean: float


def proof_feeds(
    model: Model, data: Prepared | None, *, value_range: tuple[float, float], seed: int
) -> tuple[Feeds, bool]:
    """What to ask both, and whether it is real: validation samples, else seeded numbers in `value_range`, or in the
    range that a quantized input declares."""
    if data is not None:
        part = data.dataset.validation if len(data.dataset.validation) else data.dataset.fit
        return {model.only_input().name: data.tensors(part.take(PROOF_SAMPLES).inputs)}, True
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng, value_range) for spec in model.inputs}, False


def prove(source: Model, candidate: Model, feeds: Feeds) -> tuple[OutputParity, ...]:
    """Run both on `feeds` and compare. Raises Refused with the numbers if an output is missing, of another shape, not
    finite, or further from the source's than is allowed."""
    expected, made = source.run(feeds), candidate.run(feeds)
    missing = sorted(set(expected) - set(made))
    if missing:
        raise Refused(f"{candidate.name} lost the output {missing[0]!r}; it has {', '.join(sorted(made))}")
    specs = {spec.name: spec for spec in candidate.outputs}
    found = tuple(_compare(specs[name], expected[name], made[name]) for name in expected)
    for one in found:
        if one.max_abs_error > one.allowed or one.mean_abs_error > one.allowed_mean:
            raise Refused(
                f"{candidate.name} does not hold to {source.name}: output {one.name!r} is off by up to "
                f"{one.max_abs_error:.3g} (mean {one.mean_abs_error:.3g}) over {len(next(iter(feeds.values())))} "
                f"samples, allowed {one.allowed:.3g} (mean {one.allowed_mean:.3g}); it is not written"
            )
    return found


def _compare(spec: TensorSpec, expected: NDArray[np.generic], made: NDArray[np.generic]) -> OutputParity:
    if expected.shape != made.shape:
        raise Refused(f"output {spec.name!r} came out as {made.shape}, the source's is {expected.shape}")
    left, right = expected.astype(np.float64), made.astype(np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        whose = "source" if not np.isfinite(left).all() else "converted model"
        raise Refused(f"output {spec.name!r} of the {whose} is NaN or infinite on the proof's inputs; give real --data")
    error = np.abs(left - right)
    allowed, allowed_mean = _allowed(spec, float(np.abs(left).max(initial=0.0)))
    return OutputParity(
        name=spec.name,
        max_abs_error=float(error.max(initial=0.0)),
        mean_abs_error=float(error.mean()) if error.size else 0.0,
        allowed=allowed,
        allowed_mean=allowed_mean,
    )


def _allowed(spec: TensorSpec, largest: float) -> tuple[float, float]:
    if spec.scale == 0.0:
        bound = TOLERANCE * max(1.0, largest)
        return bound, bound
    low, high = _real_range(spec)
    return INTEGER_MAX * (high - low), INTEGER_MEAN * (high - low)


def _real_range(spec: TensorSpec) -> tuple[float, float]:
    """What a quantized tensor can say."""
    stored = np.iinfo(spec.dtype)
    return (stored.min - spec.zero_point) * spec.scale, (stored.max - spec.zero_point) * spec.scale


def _random(spec: TensorSpec, rng: np.random.Generator, value_range: tuple[float, float]) -> NDArray[np.generic]:
    low, high = value_range
    shape = (PROOF_SAMPLES, *spec.shape[1:])
    if spec.scale != 0.0:
        return rng.uniform(*_real_range(spec), size=shape).astype(np.float32)
    if np.dtype(spec.dtype).kind in "iu":
        return rng.integers(int(np.floor(low)), int(np.ceil(high)) + 1, size=shape).astype(spec.dtype)
    return rng.uniform(low, high, size=shape).astype(np.float32)
