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
