"""What a simulated fleet saw, in counts that add up: workers hand over what came since they last did."""

import math
from collections import Counter

import msgspec

_STEP = math.log(1.02)
"""Latencies are counted in buckets 2 % wide."""


class Spread(msgspec.Struct):
    """How latencies are spread. buckets: how many by `bucket_of`."""

    buckets: dict[int, int] = {}

    def add(self, latency_s: float) -> None:
        """Count one."""
        bucket = bucket_of(latency_s)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: "Spread") -> None:
        """Count all that another counted."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self.buckets.values())

    def quantile_ms(self, share: float) -> float | None:
        """The latency that this share stayed below, at most 2 % too high; None without any.

        >>> spread = Spread()
        >>> for ms in range(1, 101): spread.add(ms / 1000)
        >>> 49 < spread.quantile_ms(0.5) < 52
        True
        """
        left = share * self.count
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return math.exp((bucket + 1) * _STEP)
        return None


def bucket_of(latency_s: float) -> int:
    """The bucket of a latency; whatever is below 0.1 ms is in one."""
    return math.floor(math.log(max(0.1, latency_s * 1000)) / _STEP)


class Tally(msgspec.Struct, kw_only=True):
    """Counts over many devices.

    requests, latency: by verb; a latency is from the request's last byte to the answer's first, without the link and
    without the time that a sync asked to be held. news: syncs that were answered before that time. errors: by
    what they mean to a device. up_bytes, down_bytes: HTTP heads and bodies, without TCP and TLS. bundle_bytes: of the
    latter, the bodies of bundles' files that were fetched; small ones come along with what is signed. reached,
    returned: when devices had a new bundle in hand, and when they were answered again after a failure, by the system's
    monotonic clock. lagging_ms: by how much the simulation itself came late at worst.
    """

    requests: dict[str, int] = {}
    latency: dict[str, Spread] = {}
    errors: dict[str, int] = {}
    news: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    bundle_bytes: int = 0
    made: int = 0
    acknowledged: int = 0
    overflowed: int = 0
    reached: list[float] = []
    returned: list[float] = []
    lagging_ms: float = 0.0

    def requested(self, verb: str) -> None:
        """One more request."""
        self.requests[verb] = self.requests.get(verb, 0) + 1

    def answered(self, verb: str, latency_s: float) -> None:
        """One more answer."""
        self.latency.setdefault(verb, Spread()).add(latency_s)

    def failed(self, kind: str) -> None:
        """One more failure."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def merge(self, other: "Tally") -> None:
        """Add what another counted."""
        self.requests = dict(Counter(self.requests) + Counter(other.requests))
        self.errors = dict(Counter(self.errors) + Counter(other.errors))
        for verb, spread in other.latency.items():
            self.latency.setdefault(verb, Spread()).merge(spread)
        for name in ("news", "up_bytes", "down_bytes", "bundle_bytes", "made", "acknowledged", "overflowed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reached += other.reached
        self.returned += other.returned
        self.lagging_ms = max(self.lagging_ms, other.lagging_ms)

    def quantile_ms(self, verb: str, share: float) -> float | None:
        """A quantile of a verb's latency."""
        spread = self.latency.get(verb)
        return None if spread is None else spread.quantile_ms(share)
