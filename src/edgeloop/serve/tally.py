"""Counts of requests, as plain numbers: a request costs a microsecond of counting, and no lock."""

from bisect import bisect_left
from collections import Counter

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram, inclusive, as Prometheus counts."""


class Tally:
    """Requests to one version: by status, and how long they took from the whole request to its answer."""

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.in_bucket = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, status: int, took_s: float) -> None:
        """Count a request."""
        self.by_status[status] += 1
        self.in_bucket[bisect_left(BUCKETS_S, took_s)] += 1
        self.total_s += took_s
