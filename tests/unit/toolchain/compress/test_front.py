"""The front: dominance, misses with their amounts, and the marks on candidates."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.manifest import Measured
from edgeloop.toolchain.compress.front import Candidate, dominates, misses, undominated, with_front
from edgeloop.toolchain.compress.page import page
from edgeloop.toolchain.compress.plan import Body, BodyKind, Finish, Plan
from edgeloop.toolchain.compress.report import Baseline, CompressReport
from edgeloop.toolchain.package import Bounds

POINTS = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=12)


def _candidate(number: int = 0, *, size: int = 1000, lost: float = 0.0, ms: float = 1.0, mb: int = 50) -> Candidate:
    measured = Measured(
        accuracy=0.9, agreement=1.0, max_abs_error=0.0, mean_abs_error=0.0, latency_p50_ms=ms, latency_p99_ms=ms,
        peak_memory_bytes=mb * 2**20, samples=100, measured_on="here",
    )  # fmt: skip
    plan = Plan(body=Body(kind=BodyKind.SOURCE), finish=Finish())
    return Candidate(
        number=number, plan=plan, title=plan.title, size_bytes=size, lost_points=lost, multiply_adds=1,
        measured=measured, memory_bytes=mb * 2**20, target_latency_ms=ms, latency_is="measured", method="timed",
    )  # fmt: skip


@given(POINTS)
def test_front_is_what_a_plain_double_loop_finds(points: list[tuple[float, ...]]) -> None:
    def beaten(index: int) -> bool:
        mine = points[index]
        for place, other in enumerate(points):
            worse_nowhere = all(other[axis] <= mine[axis] for axis in range(3))
            if worse_nowhere and (other != mine or place < index):
                return True
        return False

    assert undominated(points) == [index for index in range(len(points)) if not beaten(index)]


@given(POINTS)
def test_nothing_dominates_itself_and_nothing_twice(points: list[tuple[float, ...]]) -> None:
    first, last = points[0], points[-1]
    assert not dominates(first, first)
    assert not (dominates(first, last) and dominates(last, first))


def test_a_candidate_that_is_beaten_in_everything_is_not_on_the_front() -> None:
    marked = with_front([_candidate(1, size=2000, lost=1.0, ms=2.0), _candidate(2, size=1000, lost=0.5, ms=1.0)])
    assert [(one.number, one.on_front) for one in marked] == [(2, True), (1, False)]


def test_some_pages_of_memory_win_no_place_on_the_front() -> None:
    larger = msgspec.structs.replace(_candidate(1, size=2000), memory_bytes=50 * 2**20 + 4096)
    smaller = msgspec.structs.replace(_candidate(2, size=1000), memory_bytes=50 * 2**20 + 8192)
    assert {one.number: one.on_front for one in with_front([larger, smaller])} == {1: False, 2: True}


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (Bounds(max_drop_points=0.3), "loses 0.50 points, 0.20 too many"),
        (Bounds(max_size_bytes=900), "has 1,000 bytes, 100 too many"),
        (Bounds(max_latency_p50_ms=1.5), "takes 2 ms (measured), 0.5 too many"),
        (Bounds(max_memory_bytes=49 * 2**20), "peaks at 52,428,800 bytes, 1,048,576 too many"),
    ],
)
def test_a_miss_says_by_how_much(bounds: Bounds, said: str) -> None:
    assert misses(_candidate(lost=0.5, ms=2.0), bounds) == (said,)


def test_nothing_is_missed_at_the_bound_itself() -> None:
    bounds = Bounds(max_drop_points=0.5, max_size_bytes=1000, max_latency_p50_ms=2.0, max_memory_bytes=50 * 2**20)
    assert misses(_candidate(lost=0.5, ms=2.0), bounds) == ()


def test_a_latency_that_nobody_knows_keeps_no_bound() -> None:
    unknown = msgspec.structs.replace(_candidate(), target_latency_ms=None, method="unknown: no figure")
    assert misses(unknown, Bounds(max_latency_p50_ms=5.0)) == ("its latency is not known there (unknown: no figure)",)
    assert misses(unknown, Bounds()) == ()


@pytest.mark.parametrize(("profile", "shown"), [("this", ">2 ms<"), ("pi4", ">here 2 ms<")])
def test_the_page_does_not_mix_the_clocks_of_two_machines(profile: str, shown: str) -> None:
    baseline = Baseline(format="keras", size_bytes=9000, accuracy=0.9, samples=100, latency_p50_ms=2.0)
    report = CompressReport(
        model="m.keras", profile=profile, bounds=Bounds(), seed=0, trials=1, spent_s=1.0, baseline=baseline,
        candidates=with_front([_candidate()]),
    )  # fmt: skip
    assert shown in page(report)
