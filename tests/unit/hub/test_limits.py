import pytest

from edgeloop.hub.limits import Buckets, Failures, Limits, Shares, TooMany
from small_cloud import Clock

SMALL = Limits(requests_hz=1, requests_burst=3, bytes_hz=10, bytes_burst=100, most_at_once=2, failures_burst=2)


def _ask(shares: Shares, times: int, *, size_bytes: int = 1, who: str = "a") -> int:
    """How many of them were let through."""
    let_in = 0
    for _ in range(times):
        try:
            with shares.taking(who, size_bytes):
                let_in += 1
        except TooMany:
            pass
    return let_in


def test_device_may_ask_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    shares = Shares(SMALL, clock=clock)
    assert _ask(shares, 10) == 3
    clock.now_s += 2
    assert _ask(shares, 10) == 2


def test_saved_up_requests_end_at_the_burst() -> None:
    clock = Clock()
    shares = Shares(SMALL, clock=clock)
    _ask(shares, 3)
    clock.now_s += 1e6
    assert _ask(shares, 10) == 3


def test_one_device_does_not_use_up_anothers_share() -> None:
    shares = Shares(SMALL, clock=Clock())
    _ask(shares, 10)
    assert _ask(shares, 10, who="b") == 3


def test_bytes_are_limited_too_and_told_when_there_is_room() -> None:
    shares = Shares(SMALL, clock=Clock())
    assert _ask(shares, 2, size_bytes=60) == 1
    with pytest.raises(TooMany) as held, shares.taking("a", 60):
        pass
    assert held.value.retry_after_s == pytest.approx(2.0)


def test_request_larger_than_the_burst_is_possible_when_all_is_saved_up() -> None:
    clock = Clock()
    shares = Shares(SMALL, clock=clock)
    assert _ask(shares, 2, size_bytes=1000) == 1
    clock.now_s += 99
    assert _ask(shares, 1, size_bytes=1000) == 0
    clock.now_s += 1
    assert _ask(shares, 1, size_bytes=100) == 1


def test_so_many_may_be_open_at_once() -> None:
    shares = Shares(SMALL, clock=Clock())
    with shares.taking("a", 1):
        assert _ask(shares, 1) == 1
        with shares.taking("a", 1), pytest.raises(TooMany, match="2 requests open"), shares.taking("a", 1):
            pass
    shares = Shares(SMALL, clock=Clock())
    with shares.taking("a", 1):
        pass


def test_end_of_a_request_that_failed_gives_its_place_back() -> None:
    shares = Shares(SMALL, clock=Clock())
    for _ in range(2):
        with pytest.raises(KeyError), shares.taking("a", 1):
            raise KeyError
    assert not shares._at_once


def test_what_is_remembered_is_bounded() -> None:
    buckets = Buckets(hz=1, burst=1, most=100, clock=Clock())
    for number in range(10_000):
        buckets.take(number)
    assert len(buckets) == 100
    assert buckets.take(9_999) > 0


def test_address_that_got_too_much_wrong_is_held_up_and_then_let_in() -> None:
    clock = Clock()
    failures = Failures(SMALL, clock=clock)
    for _ in range(5):
        failures.note_failure("10.0.0.1")
    with pytest.raises(TooMany, match=r"10\.0\.0\.1"):
        failures.check("10.0.0.1")
    failures.check("10.0.0.2")
    clock.now_s += 1
    failures.check("10.0.0.1")


def test_device_that_proved_itself_there_is_let_through_while_others_there_are_not() -> None:
    failures = Failures(SMALL, clock=Clock())
    failures.note_proven("10.0.0.1", "camera-1")
    for _ in range(5):
        failures.note_failure("10.0.0.1")
    failures.check("10.0.0.1", "camera-1")
    for address, claimed in (("10.0.0.1", "camera-2"), ("10.0.0.1", "")):
        with pytest.raises(TooMany):
            failures.check(address, claimed)


def test_those_who_proved_themselves_are_forgotten_at_the_bound() -> None:
    failures = Failures(Limits(most_remembered=10), clock=Clock())
    for number in range(100):
        failures.note_proven("10.0.0.1", f"camera-{number}")
    assert len(failures._proven) == 10
