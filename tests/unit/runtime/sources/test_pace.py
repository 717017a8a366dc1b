import pytest

from edgeloop.runtime.sources.pace import Pace


def _taken(rate_hz: float, times_s: list[float]) -> list[float]:
    pace = Pace(rate_hz)
    return [at_s for at_s in times_s if pace.is_due(at_s)]


def test_no_rate_takes_all() -> None:
    times_s = [0.0, 0.0, 0.1, 0.05, 7.0]
    assert _taken(0.0, times_s) == times_s


@pytest.mark.parametrize(("rate_hz", "count"), [(10.0, 100), (7.0, 70), (30.0, 300), (60.0, 300)])
def test_rate_is_kept_on_average(rate_hz: float, count: int) -> None:
    # Ten seconds of 30 frames a second; one more or less by where the last interval falls.
    assert abs(len(_taken(rate_hz, [index / 30 for index in range(300)])) - count) <= 1


def test_pause_is_not_made_up_for() -> None:
    times_s = [0.0, *(10 + index / 100 for index in range(100))]
    # After ten silent seconds, one second at 10 a second.
    assert len(_taken(10.0, times_s)) <= 1 + 11


def test_time_that_begins_again_is_taken_from_there() -> None:
    assert _taken(1.0, [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]) == [0.0, 1.0, 0.0, 1.0]


def test_time_that_stands_still_is_no_reason_to_skip() -> None:
    assert _taken(1.0, [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]
