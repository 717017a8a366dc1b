import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.messages import WatchBounds, WatchStats
from edgeloop.device.watch import Healthy, Unhealthy, Watch, verdict

BOUNDS = WatchBounds(
    min_readings=20,
    max_disagreement=0.1,
    max_error_rate=0.05,
    max_latency_ratio=3.0,
    latency_floor_ms=2.0,
    deadline_s=60.0,
)
FINE = WatchStats(readings=20, disagreements=2, errors=1, latency_p50_ms=3.0, shadow_latency_p50_ms=1.0)


def _changed(**fields: float) -> WatchStats:
    return msgspec.structs.replace(FINE, **fields)


@pytest.mark.parametrize(
    ("stats", "age_s", "expected"),
    [
        (FINE, 0.0, Healthy),
        (_changed(disagreements=3), 0.0, Unhealthy),
        (_changed(errors=2), 0.0, Unhealthy),
        (_changed(latency_p50_ms=3.1), 0.0, Unhealthy),
        (_changed(latency_p50_ms=2.0, shadow_latency_p50_ms=0.1), 0.0, Healthy),
        (_changed(latency_p50_ms=2.1, shadow_latency_p50_ms=0.1), 0.0, Unhealthy),
        (_changed(latency_p50_ms=99.0, shadow_latency_p50_ms=0.0), 0.0, Healthy),
        (_changed(readings=19), 0.0, None),
        (_changed(readings=19, disagreements=19), 0.0, None),
        (_changed(readings=19), 60.0, None),
        (_changed(readings=19, errors=0), 60.1, Healthy),
        (_changed(readings=19, errors=1), 60.1, Unhealthy),
        (WatchStats(), 60.1, Healthy),
        (WatchStats(), 0.0, None),
    ],
)
def test_verdict(stats: WatchStats, age_s: float, expected: type[Healthy | Unhealthy] | None) -> None:
    assert type(verdict(stats, BOUNDS, age_s=age_s)) is (expected or type(None))


def test_disagreement_is_not_judged_without_a_bound() -> None:
    bounds = msgspec.structs.replace(BOUNDS, max_disagreement=None)
    assert isinstance(verdict(_changed(disagreements=20), bounds, age_s=0.0), Healthy)


def test_nothing_asked_for_is_healthy_at_once() -> None:
    bounds = msgspec.structs.replace(BOUNDS, min_readings=0)
    assert isinstance(verdict(WatchStats(), bounds, age_s=0.0), Healthy)


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        (_changed(disagreements=10), "50% differ from the old version, allowed 10%"),
        (_changed(errors=10), "50% failed, allowed 5%"),
        (_changed(latency_p50_ms=9.0), "9.0 times the old version's latency, allowed 3"),
    ],
)
def test_reason_says_how_far_over_which_bound(stats: WatchStats, said: str) -> None:
    found = verdict(stats, BOUNDS, age_s=0.0)
    assert isinstance(found, Unhealthy)
    assert said in found.reason


shares = st.floats(0.0, 1.0)


@given(
    readings=st.integers(1, 400),
    disagreements=shares,
    errors=shares,
    latency_ms=st.tuples(st.floats(0.01, 100.0), st.floats(0.0, 100.0)),
    bounds=st.builds(
        WatchBounds,
        min_readings=st.integers(0, 200),
        max_disagreement=st.one_of(st.none(), shares),
        max_error_rate=shares,
        max_latency_ratio=st.floats(0.1, 10.0),
        latency_floor_ms=st.floats(0.0, 50.0),
        deadline_s=st.floats(0.0, 100.0),
    ),
    age_s=st.floats(0.0, 200.0),
)
def test_never_healthy_over_a_bound_with_enough_readings(
    readings: int,
    disagreements: float,
    errors: float,
    latency_ms: tuple[float, float],
    bounds: WatchBounds,
    age_s: float,
) -> None:
    stats = WatchStats(
        readings=readings,
        disagreements=int(disagreements * readings),
        errors=int(errors * readings),
        latency_p50_ms=latency_ms[0],
        shadow_latency_p50_ms=latency_ms[1],
    )
    over = (
        stats.errors / readings > bounds.max_error_rate,
        bounds.max_disagreement is not None and stats.disagreements / readings > bounds.max_disagreement,
        latency_ms[1] > 0
        and latency_ms[0] > bounds.latency_floor_ms
        and latency_ms[0] / latency_ms[1] > bounds.max_latency_ratio,
    )
    found = verdict(stats, bounds, age_s=age_s)
    if readings >= max(1, bounds.min_readings):
        assert isinstance(found, Unhealthy) == any(over)
    elif stats.errors:
        assert not isinstance(found, Healthy)


# ---- counting


def test_counts_are_those_of_the_readings() -> None:
    watch = Watch()
    for latency_ms, disagrees in ((1.0, False), (3.0, True), (2.0, False)):
        watch.saw(latency_ms=latency_ms, shadow_latency_ms=latency_ms * 10, disagrees=disagrees)
    watch.failed()
    expected = WatchStats(readings=4, disagreements=1, errors=1, latency_p50_ms=2.0, shadow_latency_p50_ms=20.0)
    assert watch.stats() == expected


def test_fresh_watch_has_seen_nothing() -> None:
    assert Watch().stats() == WatchStats()


def test_old_latencies_are_forgotten() -> None:
    watch = Watch()
    for latency_ms in [100.0] * 500 + [1.0] * 500:
        watch.saw(latency_ms=latency_ms, shadow_latency_ms=None, disagrees=False)
    assert watch.stats().latency_p50_ms == 1.0


def test_no_count_is_lost_between_threads() -> None:
    watch = Watch()

    def count() -> None:
        for _ in range(1000):
            watch.saw(latency_ms=1.0, shadow_latency_ms=None, disagrees=True)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.stats().disagreements == 4000
