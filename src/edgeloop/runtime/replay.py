"""Prove a variant by its golden samples: what a device does before it trusts a bundle, and the toolchain before
it packs one."""

import statistics

import msgspec
import numpy as np

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.manifest import Tolerance, Variant
from edgeloop.runtime.output.scores import probabilities
from edgeloop.runtime.predictor import Predictor

_TIMED_RUNS = 50
_WARM_UP_RUNS = 5


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What replaying the golden samples showed. failure: None when the variant passed, else why not."""

    max_abs_error: float
    mean_abs_error: float
    agreement: float
    latency_p50_ms: float
    failure: str | None


def replay(bundle: Bundle, variant: Variant, predictor: Predictor) -> Replay:
    """Run every golden sample through preprocessing and engine, and compare with the float model's outputs.

    Fails closed: a missing tolerance or an answer that is not finite is a failure. Latency is the median of
    predictions after a warm-up, held to the bundle's budget.
    """
    golden = bundle.manifest.golden
    inputs = from_npy(bundle.read(golden.inputs), what="golden inputs")
    expected = from_npy(bundle.read(golden.outputs), what="golden outputs")
    if inputs.ndim < 2 or len(inputs) != golden.count or expected.shape != (golden.count, len(bundle.manifest.labels)):
        raise Corrupt(
            f"{bundle.manifest.ref}: golden samples are {inputs.shape} and {expected.shape}, not {golden.count} pairs"
        )
    if not np.isfinite(expected).all():
        raise Corrupt(f"{bundle.manifest.ref}: its golden outputs hold NaN or infinity")
    scores = np.concatenate([predictor.run(predictor.tensor(sample))[0] for sample in inputs])
    if not np.isfinite(scores).all():
        return Replay(max_abs_error=np.inf, mean_abs_error=np.inf, agreement=0.0, latency_p50_ms=0.0,
                      failure="the model answers NaN or infinity on golden samples")  # fmt: skip
    error = np.abs(probabilities(scores, bundle.manifest.output.activation) - expected)
    agreement = float((scores.argmax(axis=1) == expected.argmax(axis=1)).mean())
    for index in range(_WARM_UP_RUNS):
        predictor.predict(inputs[index % len(inputs)])
    latency = statistics.median(predictor.predict(inputs[i % len(inputs)]).latency_ms for i in range(_TIMED_RUNS))
    measured = (float(error.max()), float(error.mean()), agreement)
    failure = _outside(measured, golden.tolerance.get(variant.precision), precision=variant.precision)
    bound = bundle.manifest.budget.max_latency_p50_ms
    if failure is None and bound is not None and latency > bound:
        failure = f"too slow here: median {latency:.2f} ms, the bundle's budget is {bound:.2f} ms"
    return Replay(max_abs_error=measured[0], mean_abs_error=measured[1], agreement=agreement,
                  latency_p50_ms=latency, failure=failure)  # fmt: skip


def _outside(measured: tuple[float, float, float], tolerance: Tolerance | None, *, precision: str) -> str | None:
    if tolerance is None:
        return f"the bundle states no tolerance for {precision}"
    max_abs, mean_abs, agreement = measured
    if agreement < tolerance.min_agreement:
        return (
            f"golden samples: {agreement:.0%} of labels agree with the float model's, "
            f"at least {tolerance.min_agreement:.0%} must (mean error {mean_abs:.3f})"
        )
    if max_abs > tolerance.max_abs_error or mean_abs > tolerance.mean_abs_error:
        return (
            f"golden samples: probabilities are off by up to {max_abs:.4f} (mean {mean_abs:.4f}), "
            f"allowed {tolerance.max_abs_error:g} (mean {tolerance.mean_abs_error:g})"
        )
    return None
