import pytest

from edgeloop.cloud.listening import Listening
from small_cloud import Clock


@pytest.mark.parametrize(
    ("clock_s", "ticks", "since_s"),
    [
        (3600.0, 3600.0, 1000.0),
        (3700.0, 3600.0, 1000.0),  # a clock that runs a little fast
        (7200.0, 60.0, 8200.0),  # it was set on, or the machine slept
        (-500.0, 60.0, 500.0),  # it was set back
    ],
)
def test_cloud_has_listened_since_it_began_or_since_its_clock_leapt(
    clock_s: float, ticks: float, since_s: float
) -> None:
    clock, ticking = Clock(1000.0), Clock(0.0)
    listening = Listening(clock=clock, ticks=ticking)
    clock.now_s += clock_s
    ticking.now_s += ticks
    listening.look()
    assert listening.since_s(clock.now_s) == since_s


def test_cloud_has_never_listened_since_a_time_to_come() -> None:
    clock = Clock(1000.0)
    listening = Listening(clock=clock, ticks=clock)
    assert [listening.since_s(now_s) for now_s in (2000.0, 400.0, 900.0)] == [1000.0, 400.0, 400.0]
