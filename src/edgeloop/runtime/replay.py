"""Prove a variant by its golden samples: what a device does before it trusts a bundle, and the toolchain before
it packs one."""

import statistics
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt, EdgeloopError
from edgeloop.contracts.manifest import Tolerance, Variant
from edgeloop.contracts.output import Task
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.predictor import Predictor

_TIMED_RUNS = 50
_TIMED_S = 2.0
_FEWEST_RUNS = 5
_WARM_UP_RUNS = 5


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What replaying the golden samples showed. failure: None when the variant passed, else why not."""

    max_abs_error: float
    mean_abs_error: float
    agreement: float
    latency_p50_ms: float
    failure: str | None


Pairs = tuple[NDArray[np.generic], NDArray[np.float32]]
"""Golden inputs (count, ...) and the float model's answers (count, K)."""


class Judge:
    """Compares a variant's answers to the golden samples with the float model's, one after another.

    Fails closed: a missing tolerance or an answer that is not finite is a failure.
    """

    def __init__(self, bundle: Bundle, variant: Variant, *, pairs: Pairs | None = None) -> None:
        """pairs: what `read` gave, for those who judge several variants."""
        self.bundle = bundle
        self._variant = variant
        self.inputs, self._wanted = pairs or self.read(bundle)
        self._head = make_head(bundle)
        self._made: list[NDArray[np.float32]] = []

    @staticmethod
    def read(bundle: Bundle) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """A bundle's golden inputs (count, ...) and the float model's answers (count, K). Raises Corrupt."""
        golden = bundle.manifest.golden
        inputs = from_npy(bundle.read(golden.inputs), what="golden inputs")
        wanted = from_npy(bundle.read(golden.outputs), what="golden outputs")
        fits = inputs.ndim >= 2 and len(inputs) == golden.count and wanted.ndim == 2 and len(wanted) == golden.count
        if bundle.manifest.task is Task.CLASSIFICATION:
            fits = fits and wanted.shape[1] == len(bundle.manifest.labels)
        if not fits:
            raise Corrupt(
                f"{bundle.manifest.ref}: golden samples are {inputs.shape} and {wanted.shape}, not {golden.count} pairs"
            )
        if not np.isfinite(wanted).all():
            raise Corrupt(f"{bundle.manifest.ref}: its golden outputs hold NaN or infinity")
        return inputs, wanted

    @property
    def seen(self) -> int:
        """How many samples it has answers to."""
        return len(self._made)

    def take(self, basis: NDArray[np.float32]) -> None:
        """The variant's answer to the next sample, as `Predictor.basis` gives it."""
        self._made.append(basis)

    def measured(self) -> tuple[float, float, float]:
        """Largest and mean error, and the share of samples with the same decision, once all samples are answered."""
        made = np.stack(self._made)
        if made.shape != self._wanted.shape:
            raise Corrupt(
                f"{self.bundle.manifest.ref}: the model answers {made.shape[1:]} numbers, its golden outputs have "
                f"{self._wanted.shape[1:]}"
            )
        if not np.isfinite(made).all():
            return np.inf, np.inf, 0.0
        with np.errstate(over="ignore"):  # infinitely wrong is wrong
            error = np.abs(made - self._wanted)
            agrees = self._head.agree(made, self._wanted)
            return float(error.max()), float(error.mean(dtype=np.float64)), float(np.mean(agrees))

    def verdict(self) -> str | None:
        """None if the variant holds to the tolerance of its precision, else why not."""
        precision = self._variant.precision
        return _outside(self.measured(), self.bundle.manifest.golden.tolerance.get(precision), precision=precision)


def golden_failure(bundle: Bundle, variant: Variant, predictor: Predictor) -> str | None:
    """None if the variant answers its golden samples as the float model does, else why not; nothing is timed."""
    judge = Judge(bundle, variant)
    return _answer_all(judge, predictor) or judge.verdict()


def replay(bundle: Bundle, variant: Variant, predictor: Predictor) -> Replay:
    """Run every golden sample through preprocessing and engine, and compare with the float model's answers.

    What answers right is timed, too, and held to the bundle's budget; of what does not, latency_p50_ms is 0.
    """
    judge = Judge(bundle, variant)
    failure = _answer_all(judge, predictor)
    if failure is not None:
        return Replay(max_abs_error=np.inf, mean_abs_error=np.inf, agreement=0.0, latency_p50_ms=0.0, failure=failure)
    max_abs_error, mean_abs_error, agreement = judge.measured()
    failure, latency_ms = judge.verdict(), 0.0
    if failure is None:
        latency_ms = latency_p50_ms(predictor, judge.inputs)
        failure = too_slow(bundle, latency_ms)
    return Replay(max_abs_error=max_abs_error, mean_abs_error=mean_abs_error, agreement=agreement,
                  latency_p50_ms=latency_ms, failure=failure)  # fmt: skip


def latency_p50_ms(predictor: Predictor, inputs: NDArray[np.generic]) -> float:
    """The median of 50 predictions after a warm-up; of fewer, but at least 5, where they take longer than 2 s."""
    for index in range(_WARM_UP_RUNS):
        predictor.predict(inputs[index % len(inputs)])
    took_ms: list[float] = []
    ends_s = time.perf_counter() + _TIMED_S
    while len(took_ms) < _FEWEST_RUNS or (len(took_ms) < _TIMED_RUNS and time.perf_counter() < ends_s):
        took_ms.append(predictor.predict(inputs[len(took_ms) % len(inputs)]).latency_ms)
    return statistics.median(took_ms)


def too_slow(bundle: Bundle, latency_ms: float) -> str | None:
    """None if a median latency is within the bundle's budget, or there is none; else both figures."""
    bound = bundle.manifest.budget.max_latency_p50_ms
    if bound is None or latency_ms <= bound:
        return None
    return f"too slow here: median {latency_ms:.2f} ms, the bundle's budget is {bound:.2f} ms"


def _answer_all(judge: Judge, predictor: Predictor) -> str | None:
    """Hand the judge the answer to each golden sample; why not, if one cannot be answered."""
    try:
        for sample in judge.inputs:
            judge.take(predictor.basis(sample))
    except Corrupt:
        raise
    except EdgeloopError as error:
        return f"golden samples: {error}"
    return None


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
            f"golden samples: answers are off by up to {max_abs:.4f} (mean {mean_abs:.4f}), "
            f"allowed {tolerance.max_abs_error:g} (mean {tolerance.mean_abs_error:g})"
        )
    return None
