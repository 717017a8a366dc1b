import pytest

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.transport.again import asked_wait_s


def _backoff() -> Backoff:
    return Backoff(first_s=0.5, longest_s=10.0, draw=lambda: 1.0)


@pytest.mark.parametrize(("asked_s", "expected_s"), [(7.0, 7.0), (0.1, 0.5), (0.0, 0.5)])
def test_hub_that_asks_for_patience_gets_it_and_no_less_than_the_back_off_says(
    asked_s: float, expected_s: float
) -> None:
    busy = Unavailable("too much was asked for")
    busy.retry_after_s = asked_s
    assert asked_wait_s(busy, _backoff()) == expected_s


def test_time_that_was_asked_for_is_a_failure_of_the_back_off_too() -> None:
    busy, backoff = Unavailable("too much was asked for"), _backoff()
    busy.retry_after_s = 7.0
    asked_wait_s(busy, backoff)
    assert asked_wait_s(Unavailable("away"), backoff) == 1.0


def test_other_failures_ask_for_nothing() -> None:
    assert asked_wait_s(Corrupt("torn"), _backoff()) == 0.5
