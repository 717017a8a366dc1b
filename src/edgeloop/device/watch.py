"""A new version on watch: what it does beside the old one, and the verdict.

`verdict` is pure; `Watch` only counts. Thread-safe: the inference loop counts, the updater asks.
"""

import statistics
import threading
from collections import deque

import msgspec

from edgeloop.contracts.messages import WatchBounds, WatchStats

_LATENCIES = 500


class Healthy(msgspec.Struct, frozen=True):
    """Confirm it."""

    reason: str


class Unhealthy(msgspec.Struct, frozen=True):
    """Go back."""

    reason: str


class Watch:
    """Counts of one version's time on watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings = 0
        self._disagreements = 0
        self._errors = 0
        self._latency_ms: deque[float] = deque(maxlen=_LATENCIES)
        self._shadow_latency_ms: deque[float] = deque(maxlen=_LATENCIES)

    def saw(self, *, latency_ms: float, shadow_latency_ms: float | None, disagrees: bool) -> None:
        """One reading was answered, by the old version too if it shadows."""
        with self._lock:
            self._readings += 1
            self._disagreements += disagrees
            self._latency_ms.append(latency_ms)
            if shadow_latency_ms is not None:
                self._shadow_latency_ms.append(shadow_latency_ms)

    def failed(self) -> None:
        """One reading could not be answered by the new version."""
        with self._lock:
            self._readings += 1
            self._errors += 1

    def stats(self) -> WatchStats:
        """The counts so far."""
        with self._lock:
            return WatchStats(
                readings=self._readings,
                disagreements=self._disagreements,
                errors=self._errors,
                latency_p50_ms=statistics.median(self._latency_ms) if self._latency_ms else 0.0,
                shadow_latency_p50_ms=statistics.median(self._shadow_latency_ms) if self._shadow_latency_ms else 0.0,
            )


def verdict(stats: WatchStats, bounds: WatchBounds, *, age_s: float) -> Healthy | Unhealthy | None:
    """Confirm, go back, or None: not known yet. A bound counts as passed only with min_readings behind it."""
    if stats.readings >= max(1, bounds.min_readings):
        broken = _broken(stats, bounds)
        if broken is not None:
            return Unhealthy(f"on watch over {stats.readings} readings: {broken}")
        if stats.shadow_latency_p50_ms == 0:
            return Healthy(f"{stats.readings} readings on watch; there was no old version to compare with")
        share = stats.disagreements / stats.readings
        return Healthy(f"{stats.readings} readings on watch, {share:.0%} differ from the old version")
    if bounds.min_readings == 0:
        return Healthy("accepted; no readings were asked for")
    if age_s > bounds.deadline_s:
        if stats.errors:
            return Unhealthy(f"{stats.errors} of {stats.readings} readings failed within {bounds.deadline_s:.0f} s")
        return Healthy(f"nothing failed within {bounds.deadline_s:.0f} s, over {stats.readings} readings")
    return None


def _broken(stats: WatchStats, bounds: WatchBounds) -> str | None:
    errors = stats.errors / stats.readings
    if errors > bounds.max_error_rate:
        return f"{errors:.0%} failed, allowed {bounds.max_error_rate:.0%}"
    disagreement = stats.disagreements / stats.readings
    if bounds.max_disagreement is not None and disagreement > bounds.max_disagreement:
        return f"{disagreement:.0%} differ from the old version, allowed {bounds.max_disagreement:.0%}"
    if stats.shadow_latency_p50_ms > 0 and stats.latency_p50_ms > bounds.latency_floor_ms:
        ratio = stats.latency_p50_ms / stats.shadow_latency_p50_ms
        if ratio > bounds.max_latency_ratio:
            return f"{ratio:.1f} times the old version's latency, allowed {bounds.max_latency_ratio:g}"
    return None
