import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from answered import answer
from builders import LABELS
from edgeloop.contracts.messages import LEAST_TIMED, WatchBounds, WatchStats
from edgeloop.contracts.output import Task
from edgeloop.device.watch import Healthy, Unhealthy, Watch, score_shift, verdict

BOUNDS = WatchBounds(
    min_readings=20,
    max_disagreement=0.1,
    max_error_rate=0.05,
    max_latency_ratio=3.0,
    latency_floor_ms=2.0,
    deadline_s=60.0,
    max_score_shift=0.5,
    max_empty_rise=0.2,
)
FINE = WatchStats(
    readings=20, disagreements=2, errors=1, latency_p50_ms=3.0, shadow_latency_p50_ms=1.0, compared=20, score_shift=0.5
)


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
        (_changed(score_shift=0.51), 0.0, Unhealthy),
        (_changed(empty=4), 0.0, Healthy),
        (_changed(empty=5), 0.0, Unhealthy),
        (_changed(empty=20, shadow_empty=16), 0.0, Healthy),
        (_changed(shadow_empty=20), 0.0, Healthy),
        (_changed(compared=19), 0.0, None),
        (_changed(compared=0, disagreements=0), 0.0, None),
        (_changed(readings=100, compared=10, disagreements=2), 60.1, Unhealthy),
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


@pytest.mark.parametrize(
    ("bound", "stats"),
    [("max_score_shift", _changed(score_shift=1.0)), ("max_empty_rise", _changed(empty=20))],
)
def test_what_has_no_bound_is_not_judged(bound: str, stats: WatchStats) -> None:
    bounds = msgspec.structs.replace(BOUNDS, **{bound: None})
    assert isinstance(verdict(stats, bounds, age_s=0.0), Healthy)
    assert isinstance(verdict(stats, BOUNDS, age_s=0.0), Unhealthy)


def test_first_version_is_judged_without_a_comparison() -> None:
    found = verdict(_changed(compared=0, disagreements=0), BOUNDS, age_s=0.0, compares=False)
    assert found == Healthy("20 readings on watch; there was no old version to compare with")


def test_share_of_disagreement_is_of_what_was_compared() -> None:
    bounds = msgspec.structs.replace(BOUNDS, min_readings=10)
    found = verdict(_changed(readings=100, compared=10, disagreements=2), bounds, age_s=0.0)
    assert isinstance(found, Unhealthy)
    assert "20% differ from the old version" in found.reason


def test_nothing_asked_for_is_healthy_at_once() -> None:
    bounds = msgspec.structs.replace(BOUNDS, min_readings=0)
    assert isinstance(verdict(WatchStats(), bounds, age_s=0.0), Healthy)


@pytest.mark.parametrize("readings", [1, 3])
def test_without_a_watch_the_first_readings_decide_nothing(readings: int) -> None:
    bounds = msgspec.structs.replace(BOUNDS, min_readings=0)
    cold = WatchStats(readings=readings, compared=readings, latency_p50_ms=900.0, shadow_latency_p50_ms=1.0)
    failed = msgspec.structs.replace(cold, errors=readings)
    assert {type(verdict(one, bounds, age_s=0.0)) for one in (cold, failed)} == {Healthy}


@pytest.mark.parametrize(("readings", "expected"), [(1, Healthy), (4, Healthy), (5, Unhealthy)])
def test_latency_of_the_first_few_readings_does_not_decide(readings: int, expected: type[object]) -> None:
    bounds = msgspec.structs.replace(BOUNDS, min_readings=1)
    cold = WatchStats(readings=readings, compared=readings, latency_p50_ms=900.0, shadow_latency_p50_ms=1.0)
    assert type(verdict(cold, bounds, age_s=0.0)) is expected
    assert isinstance(verdict(msgspec.structs.replace(cold, errors=1), bounds, age_s=0.0), Unhealthy)


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        (_changed(disagreements=10), "50% differ from the old version, allowed 10%"),
        (_changed(errors=10), "50% failed, allowed 5%"),
        (_changed(latency_p50_ms=9.0), "9.0 times the old version's latency, allowed 3"),
        (_changed(score_shift=0.8), "80% of top scores lie elsewhere than the old version's, allowed 50%"),
        (_changed(empty=12, shadow_empty=2), "60% of answers are empty, of the old version's 10%; allowed 20% more"),
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
        compared=readings,
    )
    over = (
        stats.errors / readings > bounds.max_error_rate,
        bounds.max_disagreement is not None and stats.disagreements / readings > bounds.max_disagreement,
        readings >= LEAST_TIMED
        and latency_ms[1] > 0
        and latency_ms[0] > bounds.latency_floor_ms
        and latency_ms[0] / latency_ms[1] > bounds.max_latency_ratio,
    )
    found = verdict(stats, bounds, age_s=age_s)
    if bounds.min_readings == 0:
        assert isinstance(found, Healthy)
    elif readings >= bounds.min_readings:
        assert isinstance(found, Unhealthy) == any(over)
    elif stats.errors:
        assert not isinstance(found, Healthy)


# ---- at the deadline, with fewer readings than were asked for


def _few(count: int, **changes: object) -> WatchStats:
    """So many readings, all compared."""
    fine = {"readings": count, "compared": count, "disagreements": 0, "errors": 0}
    return _changed(**(fine | changes))


@pytest.mark.parametrize(
    ("stats", "expected", "said"),
    [
        (_few(19, disagreements=19), Unhealthy, "100% differ from the old version"),
        (_few(19, score_shift=1.0), Unhealthy, "100% of top scores lie elsewhere"),
        (_few(19, empty=19), Unhealthy, "100% of answers are empty"),
        (_few(5, latency_p50_ms=99.0), Unhealthy, "99.0 times the old version's latency"),
        (_few(5, disagreements=2), Unhealthy, "40% differ"),
        (_few(5, disagreements=1), Healthy, "5 readings on watch, 20% differ"),
        (_few(5, empty=1), Healthy, "5 readings on watch"),
        (_few(4, disagreements=4), Healthy, "only 4 readings came within 60 s, too few"),
        (_few(4, errors=1), Unhealthy, "1 of 4 readings failed within 60 s"),
        (_few(30, compared=4, disagreements=4), Healthy, "30 readings on watch"),
    ],
)
def test_deadline_judges_what_there_is(stats: WatchStats, expected: type[object], said: str) -> None:
    assert verdict(stats, BOUNDS, age_s=60.0) is None
    found = verdict(stats, BOUNDS, age_s=60.1)
    assert isinstance(found, Healthy | Unhealthy)
    assert (type(found), said in found.reason) == (expected, True), found


def test_watch_knows_of_frames_that_were_never_answered() -> None:
    watch = Watch(compares=False)
    for _ in range(3):
        watch.asks()
    assert watch.verdict(BOUNDS, age_s=60.1) == Unhealthy("it answered none of 3 readings within 60 s")
    unused = "no reading came within 60 s: its trial on this device alone speaks for it"
    assert Watch().verdict(BOUNDS, age_s=60.1) == Healthy(unused)


# ---- how far scores lie apart


def test_same_scores_lie_nowhere_apart() -> None:
    assert score_shift([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], near=0.0) == 0.0


@pytest.mark.parametrize(
    ("new", "old", "near", "expected"),
    [
        ([0.1, 0.1], [0.9, 0.9], 0.2, 1.0),
        ([0.9, 0.9], [0.1, 0.1], 0.2, 1.0),
        ([0.1, 0.9], [0.9, 0.9], 0.2, 0.5),
        ([0.80, 0.85], [0.95, 0.99], 0.2, 0.0),
        ([0.80, 0.85], [0.95, 0.99], 0.05, 1.0),
        ([0.5], [], 0.2, 0.0),
    ],
)
def test_share_of_scores_that_moved_further_than_near(
    new: list[float], old: list[float], near: float, expected: float
) -> None:
    assert score_shift(new, old, near=near) == expected


scores = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)


@given(new=scores, old=scores)
def test_without_a_tolerance_it_is_the_two_sample_kolmogorov_smirnov_statistic(
    new: list[float], old: list[float]
) -> None:
    at = sorted({*new, *old})
    expected = max(abs(sum(v <= x for v in new) / len(new) - sum(v <= x for v in old) / len(old)) for x in at)
    assert score_shift(sorted(new), sorted(old), near=0.0) == pytest.approx(expected, abs=1e-12)


@given(new=scores, old=scores, near=st.floats(0.0, 1.0), more=st.floats(0.0, 1.0))
def test_it_is_a_share_and_falls_with_the_tolerance(
    new: list[float], old: list[float], near: float, more: float
) -> None:
    found = score_shift(sorted(new), sorted(old), near=near)
    assert 0.0 <= score_shift(sorted(new), sorted(old), near=near + more) <= found <= 1.0


# ---- counting


def _seen(*pairs: tuple[float, float], task: Task = Task.CLASSIFICATION) -> WatchStats:
    """Top scores of the new and the old version."""
    watch = Watch()
    for new, old in pairs:
        watch.saw(answer(score=new, task=task), answer(score=old, task=task))
    return watch.stats()


def test_counts_are_those_of_the_readings() -> None:
    watch = Watch()
    for latency_ms, label in ((1.0, LABELS[0]), (3.0, LABELS[1]), (2.0, None)):
        watch.saw(answer(label, latency_ms=latency_ms), answer(LABELS[0], latency_ms=latency_ms * 10))
    watch.saw(answer(None, latency_ms=2.0), None)
    watch.failed()
    assert watch.stats() == WatchStats(
        readings=5,
        disagreements=2,
        errors=1,
        latency_p50_ms=2.0,
        shadow_latency_p50_ms=20.0,
        compared=3,
        empty=1,
        shadow_empty=0,
    )


def test_answers_that_were_not_computed_say_nothing_of_latency() -> None:
    watch = Watch()
    watch.saw(answer(latency_ms=9.0, cached=True), answer(latency_ms=9.0, cached=True))
    stats = watch.stats()
    assert (stats.latency_p50_ms, stats.shadow_latency_p50_ms, stats.compared) == (0.0, 0.0, 1)


def test_scores_that_collapse_are_told() -> None:
    assert _seen(*[(0.3, 0.9)] * 15, *[(0.9, 0.9)] * 5).score_shift == 0.75


def test_version_that_is_a_little_surer_is_no_shift() -> None:
    assert _seen(*[(0.99, 0.85)] * 20).score_shift == 0.0


@pytest.mark.parametrize("task", [Task.REGRESSION, Task.ANOMALY])
def test_scores_of_any_scale_are_measured_by_the_old_versions_spread(task: Task) -> None:
    readings = [1000.0 + 10 * index for index in range(20)]
    slightly = _seen(*[(value + 10, value) for value in readings], task=task)
    far = _seen(*[(value + 300, value) for value in readings], task=task)
    assert (slightly.score_shift, far.score_shift) == (0.0, 1.0)


def test_fresh_watch_has_seen_nothing() -> None:
    assert Watch().stats() == WatchStats()


def test_old_latencies_are_forgotten() -> None:
    watch = Watch()
    for latency_ms in [100.0] * 500 + [1.0] * 500:
        watch.saw(answer(latency_ms=latency_ms), None)
    assert watch.stats().latency_p50_ms == 1.0


def test_no_count_is_lost_between_threads() -> None:
    watch = Watch()
    new, old = answer(LABELS[0]), answer(LABELS[1])

    def count() -> None:
        for _ in range(1000):
            watch.saw(new, old)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.stats().disagreements == 4000
