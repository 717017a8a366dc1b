import random

import pytest

from edgeloop.backoff import Backoff


@pytest.mark.parametrize(("draw", "waits_s"), [(1.0, [1, 2, 4, 5, 5]), (0.0, [0.5, 1, 2, 2.5, 2.5])])
def test_waits_double_up_to_a_bound(draw: float, waits_s: list[float]) -> None:
    backoff = Backoff(first_s=1.0, longest_s=5.0, draw=lambda: draw)
    assert [backoff.failed() for _ in range(5)] == waits_s


def test_success_begins_again() -> None:
    backoff = Backoff(first_s=1.0, longest_s=5.0, draw=lambda: 1.0)
    backoff.failed()
    backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 1.0


def test_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(first_s=1.0, longest_s=5.0, draw=lambda: 1.0)
    assert [backoff.failed() for _ in range(1000)][-1] == 5.0


def test_waits_spread_evenly_over_the_upper_half_of_their_bound() -> None:
    """Kolmogorov and Smirnov's distance to a uniform distribution: below 1.95 / sqrt(n) but once in 1,000 times."""
    count = 4000
    waits_s = []
    for seed in range(count):
        backoff = Backoff(first_s=1.0, longest_s=60.0, draw=random.Random(seed).random)
        for _ in range(3):
            backoff.failed()
        waits_s.append(backoff.failed())
    shares = sorted((wait_s - 4.0) / 4.0 for wait_s in waits_s)
    assert shares[0] >= 0.0
    assert shares[-1] <= 1.0
    distance = max(abs(share - (place + 0.5) / count) for place, share in enumerate(shares))
    assert distance < 1.95 / count**0.5


def test_devices_that_fail_together_do_not_come_back_together() -> None:
    one, other = Backoff(first_s=1.0, longest_s=60.0), Backoff(first_s=1.0, longest_s=60.0)
    assert [one.failed() for _ in range(20)] != [other.failed() for _ in range(20)]
