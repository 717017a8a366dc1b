import pytest

from edgeloop.simulate.plan import Plan
from edgeloop.simulate.report import Window, figures, spreading
from edgeloop.simulate.tally import Tally

PLAN = Plan(devices=10)


def test_quantiles_are_at_most_two_percent_too_high() -> None:
    tally = Tally()
    for ms in range(1, 1001):
        tally.answered("sync", ms / 1000)
    for share in (0.5, 0.95, 0.99):
        assert 1000 * share <= (tally.quantile_ms("sync", share) or 0.0) <= 1000 * share * 1.021


def test_tallies_add_up() -> None:
    both, one, other = Tally(), Tally(), Tally()
    one.requested("sync")
    one.answered("sync", 0.01)
    other.requested("sync")
    other.requested("send")
    other.failed("HTTP 503")
    other.reached.append(1.0)
    both.merge(one)
    both.merge(other)
    assert both.requests == {"sync": 2, "send": 1}
    assert both.errors == {"HTTP 503": 1}
    assert both.reached == [1.0]
    assert both.latency["sync"].count == 1


def test_figures_are_for_each_device_and_hour() -> None:
    tally = Tally(requests={"sync": 20}, up_bytes=1000, acknowledged=600)
    found = figures(Window(seconds=60.0, tally=tally, server_cores=None, server_peak_bytes=None, own_cores=0.1), PLAN)
    assert found.requests_a_device_hour == pytest.approx(120)
    assert found.up_bytes_a_device_hour == pytest.approx(6000)
    assert found.readings_acknowledged_per_s == pytest.approx(10)
    assert found.sync_p99_ms is None


def test_spreading_tells_when_shares_were_reached_and_leaves_open_what_was_not() -> None:
    found = spreading(
        [100.0 + second for second in range(1, 10)], since_s=100.0, plan=PLAN, bundle="a@1.0.0", size_bytes=1
    )
    assert (found.to_half_s, found.to_95_s, found.to_all_s, found.reached) == (5.0, None, None, 9)
