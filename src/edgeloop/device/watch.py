"""A new version on watch: what it does beside the old one, and the verdict.

`verdict` and `score_shift` are pure; `Watch` only counts. Thread-safe: the inference loop counts, the updater asks.
"""

import statistics
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import msgspec

from edgeloop.contracts.messages import WatchBounds, WatchStats
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Prediction

_KEPT = 500
"""Newest latencies and scores."""

_NEAR = 0.2
"""Top scores that lie nearer than this count as equal; see WatchStats."""

_UNBOUNDED = (Task.REGRESSION, Task.ANOMALY)
"""Their scores are no shares: they have any scale."""


class Healthy(msgspec.Struct, frozen=True):
    """Confirm it."""

    reason: str


class Unhealthy(msgspec.Struct, frozen=True):
    """Go back."""

    reason: str


class Watch:
    """Counts of one version's time on watch. compares: an old version that takes the same inputs shadows it."""

    def __init__(self, *, compares: bool = True) -> None:
        self.compares = compares
        self._lock = threading.Lock()
        self._readings = 0
        self._compared = 0
        self._disagreements = 0
        self._empty = 0
        self._shadow_empty = 0
        self._errors = 0
        self._task = Task.CLASSIFICATION
        self._latency_ms: deque[float] = deque(maxlen=_KEPT)
        self._shadow_latency_ms: deque[float] = deque(maxlen=_KEPT)
        self._scores: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def saw(self, new: Prediction, old: Prediction | None) -> None:
        """One reading was answered, by the old version too if it shadows. An answer that was not computed says nothing
        of latency."""
        with self._lock:
            self._readings += 1
            if not new.cached:
                self._latency_ms.append(new.latency_ms)
            if old is None:
                return
            if not old.cached:
                self._shadow_latency_ms.append(old.latency_ms)
            self._compared += 1
            self._disagreements += new.label != old.label
            self._empty += new.label is None
            self._shadow_empty += old.label is None
            self._task = old.task
            self._scores.append((new.score, old.score))

    def failed(self) -> None:
        """One reading could not be answered by the new version."""
        with self._lock:
            self._readings += 1
            self._errors += 1

    def stats(self) -> WatchStats:
        """The counts so far."""
        with self._lock:
            new, old = sorted(one for one, _ in self._scores), sorted(one for _, one in self._scores)
            near = _NEAR * _middle(old) if self._task in _UNBOUNDED else _NEAR
            return WatchStats(
                readings=self._readings,
                disagreements=self._disagreements,
                errors=self._errors,
                latency_p50_ms=statistics.median(self._latency_ms) if self._latency_ms else 0.0,
                shadow_latency_p50_ms=statistics.median(self._shadow_latency_ms) if self._shadow_latency_ms else 0.0,
                compared=self._compared,
                empty=self._empty,
                shadow_empty=self._shadow_empty,
                score_shift=score_shift(new, old, near=near),
            )


def score_shift(new: Sequence[float], old: Sequence[float], *, near: float) -> float:
    """By what share of their scores two versions' distributions lie apart, 0 to 1; 0.0 for none.

    new, old: sorted. The largest distance between the two empirical distribution functions where values that are at
    most `near` apart count as equal: sup over x of F(x) - G(x + near), either way round. With near 0 it is the
    two-sample Kolmogorov-Smirnov statistic.
    Source: Conover 1999, Practical Nonparametric Statistics, 6.3; the tolerance is ours, since a version that is a
    little surer of the same answers is no worse.
    """
    if not new or not old:
        return 0.0
    return max(0.0, _excess(new, old, near), _excess(old, new, near))


def _excess(low: Sequence[float], high: Sequence[float], near: float) -> float:
    """How far the distribution function of `low` rises above that of `high`, moved by `near`."""
    return max((index + 1) / len(low) - bisect_right(high, value + near) / len(high) for index, value in enumerate(low))


def _middle(values: Sequence[float]) -> float:
    """The width of the middle 80 % of sorted values."""
    last = len(values) - 1
    return values[round(0.9 * last)] - values[round(0.1 * last)] if values else 0.0


def verdict(
    stats: WatchStats, bounds: WatchBounds, *, age_s: float, compares: bool = True
) -> Healthy | Unhealthy | None:
    """Confirm, go back, or None: not known yet. A bound counts as passed only with min_readings behind it.

    compares: an old version shadows, so that as many readings of its are waited for, until the deadline.
    """
    if bounds.min_readings == 0 and not stats.readings:
        return Healthy("accepted; no readings were asked for")
    is_late = age_s > bounds.deadline_s
    is_compared = not compares or stats.compared >= bounds.min_readings
    if stats.readings >= max(1, bounds.min_readings) and (is_compared or is_late):
        broken = _broken(stats, bounds)
        if broken is not None:
            return Unhealthy(f"on watch over {stats.readings} readings: {broken}")
        if not stats.compared:
            return Healthy(f"{stats.readings} readings on watch; there was no old version to compare with")
        share = stats.disagreements / stats.compared
        return Healthy(f"{stats.readings} readings on watch, {share:.0%} differ from the old version")
    if is_late and stats.errors:
        return Unhealthy(f"{stats.errors} of {stats.readings} readings failed within {bounds.deadline_s:.0f} s")
    if is_late:
        return Healthy(f"nothing failed within {bounds.deadline_s:.0f} s, over {stats.readings} readings")
    return None


def _broken(stats: WatchStats, bounds: WatchBounds) -> str | None:
    errors = stats.errors / stats.readings
    if errors > bounds.max_error_rate:
        return f"{errors:.0%} failed, allowed {bounds.max_error_rate:.0%}"
    if stats.shadow_latency_p50_ms > 0 and stats.latency_p50_ms > bounds.latency_floor_ms:
        ratio = stats.latency_p50_ms / stats.shadow_latency_p50_ms
        if ratio > bounds.max_latency_ratio:
            return f"{ratio:.1f} times the old version's latency, allowed {bounds.max_latency_ratio:g}"
    return _differs(stats, bounds) if stats.compared else None


def _differs(stats: WatchStats, bounds: WatchBounds) -> str | None:
    """What speaks against it beside the old version's answers to the same readings."""
    disagreement = stats.disagreements / stats.compared
    if bounds.max_disagreement is not None and disagreement > bounds.max_disagreement:
        return f"{disagreement:.0%} differ from the old version, allowed {bounds.max_disagreement:.0%}"
    rise = (stats.empty - stats.shadow_empty) / stats.compared
    if bounds.max_empty_rise is not None and rise > bounds.max_empty_rise:
        was, now = stats.shadow_empty / stats.compared, stats.empty / stats.compared
        allowed = f"allowed {bounds.max_empty_rise:.0%} more"
        return f"{now:.0%} of answers are empty, of the old version's {was:.0%}; {allowed}"
    if bounds.max_score_shift is not None and stats.score_shift > bounds.max_score_shift:
        return (
            f"{stats.score_shift:.0%} of top scores lie elsewhere than the old version's, allowed "
            f"{bounds.max_score_shift:.0%}"
        )
    return None
