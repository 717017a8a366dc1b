"""A new version on watch: what it does beside the old one, and the verdict.

`verdict` and `score_shift` are pure; `Watch` counts. Thread-safe: the inference loop counts, the updater asks.
"""

import statistics
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import msgspec

from edgeloop.contracts.messages import LEAST_TIMED, WatchBounds, WatchStats
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Prediction

_KEPT = 500
"""Newest latencies and scores."""

_LEAST_JUDGED = 5
"""Readings, of fewer than were asked for."""

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
        self._asked = 0
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

    def asks(self) -> None:
        """A frame came that it is to answer."""
        with self._lock:
            self._asked += 1

    def passes_over(self) -> None:
        """The frame that came was not one to be answered after all."""
        with self._lock:
            self._asked -= 1

    def verdict(self, bounds: WatchBounds, *, age_s: float) -> Healthy | Unhealthy | None:
        """See `verdict`."""
        return verdict(self.stats(), bounds, age_s=age_s, compares=self.compares, asked=self._asked)

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
    stats: WatchStats, bounds: WatchBounds, *, age_s: float, compares: bool = True, asked: int = 0
) -> Healthy | Unhealthy | None:
    """Confirm, go back, or None: not known yet. A bound counts as passed only with min_readings behind it, or with what
    there is of them at the deadline; with 0 of them there is no watch, and what the first reading happens to be like
    decides nothing.

    compares: an old version shadows, so that as many readings of its are waited for, until the deadline. asked: how
    many frames came.
    """
    if bounds.min_readings == 0:
        return Healthy("accepted; no readings were asked for")
    is_late = age_s > bounds.deadline_s
    is_compared = not compares or stats.compared >= bounds.min_readings
    if stats.readings >= bounds.min_readings and (is_compared or is_late):
        return _judged(stats, bounds)
    return _judged_late(stats, bounds, asked) if is_late else None


def _judged(stats: WatchStats, bounds: WatchBounds) -> Healthy | Unhealthy:
    broken = _broken(stats, bounds)
    if broken is not None:
        return Unhealthy(f"on watch over {stats.readings} readings: {broken}")
    if not stats.compared:
        return Healthy(f"{stats.readings} readings on watch; there was no old version to compare with")
    share = stats.disagreements / stats.compared
    return Healthy(f"{stats.readings} readings on watch, {share:.0%} differ from the old version")


def _judged_late(stats: WatchStats, bounds: WatchBounds, asked: int) -> Healthy | Unhealthy:
    """By fewer readings than were asked for. A device that sees little (a door, three times a day) must be able to come
    to a new version, too: of that its trial on this machine is the judge, and the reason says so."""
    within = f"within {bounds.deadline_s:.0f} s"
    if stats.errors:
        return Unhealthy(f"{stats.errors} of {stats.readings} readings failed {within}")
    if asked and not stats.readings:
        return Unhealthy(f"it answered none of {asked} readings {within}")
    if stats.readings >= _LEAST_JUDGED:
        return _judged(stats, bounds)
    if stats.readings:
        return Healthy(f"only {stats.readings} readings came {within}, too few to compare; none failed")
    return Healthy(f"no reading came {within}: its trial on this device alone speaks for it")


def _broken(stats: WatchStats, bounds: WatchBounds) -> str | None:
    errors = stats.errors / stats.readings
    if errors > bounds.max_error_rate:
        return f"{errors:.0%} failed, allowed {bounds.max_error_rate:.0%}"
    is_timed = stats.readings >= LEAST_TIMED and stats.shadow_latency_p50_ms > 0
    if is_timed and stats.latency_p50_ms > bounds.latency_floor_ms:
        ratio = stats.latency_p50_ms / stats.shadow_latency_p50_ms
        if ratio > bounds.max_latency_ratio:
            return f"{ratio:.1f} times the old version's latency, allowed {bounds.max_latency_ratio:g}"
    return _differs(stats, bounds) if stats.compared >= min(_LEAST_JUDGED, bounds.min_readings) else None


def _differs(stats: WatchStats, bounds: WatchBounds) -> str | None:
    """What speaks against it beside the old version's answers to the same readings."""
    least = 2 if stats.compared < bounds.min_readings else 1  # of few, one alone does not decide
    disagreement = stats.disagreements / stats.compared if stats.disagreements >= least else 0.0
    if bounds.max_disagreement is not None and disagreement > bounds.max_disagreement:
        return f"{disagreement:.0%} differ from the old version, allowed {bounds.max_disagreement:.0%}"
    more = stats.empty - stats.shadow_empty
    rise = more / stats.compared if more >= least else 0.0
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
