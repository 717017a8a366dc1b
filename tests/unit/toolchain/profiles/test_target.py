import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.target import Point, Speed, TargetProfile, estimate_latency, fits, speed_from


def _points(*timed: tuple[float, float]) -> list[Point]:
    return [
        Point(network=f"net {index}", multiply_adds=count, latency_ms=latency_ms, source="made up")
        for index, (count, latency_ms) in enumerate(timed)
    ]


def _speed(*timed: tuple[float, float], with_overhead: bool = True) -> Speed:
    return speed_from(
        _points(*timed),
        engine=EngineName.LITERT,
        precision=Precision.INT8,
        measured=True,
        with_overhead=with_overhead,
    )


def _profile(*speeds: Speed) -> TargetProfile:
    return TargetProfile(
        name="board",
        title="A board",
        memory_bytes=1_000_000,
        storage_bytes=500_000,
        engines=(EngineName.LITERT,),
        precisions=(Precision.INT8, Precision.FLOAT32),
        speeds=speeds,
    )


def test_line_through_exact_points_is_found() -> None:
    # 2 ms and 1 billion a second: what comes back differs by float64 rounding only.
    speed = _speed(*((count, 2 + 1e3 * count / 1e9) for count in (1e5, 1e6, 1e7, 1e8)))
    assert (speed.overhead_ms, speed.multiply_adds_per_s) == pytest.approx((2, 1e9), rel=1e-6)
    assert speed.error_ratios == pytest.approx((1, 1), rel=1e-6)


def test_overhead_is_never_negative() -> None:
    speed = _speed((1e6, 0.1), (1e7, 2.0), (1e8, 40.0))
    assert speed.overhead_ms == 0


def test_without_overhead_the_speed_is_the_geometric_mean() -> None:
    speed = _speed((1e6, 1.0), (1e6, 4.0), with_overhead=False)
    assert speed.multiply_adds_per_s == pytest.approx(0.5e9)
    assert speed.error_ratios == pytest.approx((0.5, 2.0))


def test_points_of_one_size_tell_no_overhead_apart() -> None:
    speed = _speed((1e6, 1.0), (1e6, 1.0), (1e6, 1.0))
    assert (speed.overhead_ms, speed.multiply_adds_per_s) == pytest.approx((0, 1e9))


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 timed networks are too few"):
        _speed((1e6, 1.0), (2e6, 2.0))


timed = st.tuples(st.floats(1e4, 1e10), st.floats(1e-3, 1e5))


@given(points=st.lists(timed, min_size=3, max_size=8), sizes=st.tuples(st.integers(0, 10**11), st.integers(0, 10**11)))
def test_more_multiply_adds_never_take_less(points: list[tuple[float, float]], sizes: tuple[int, int]) -> None:
    profile = _profile(_speed(*points))
    less, more = (estimate_latency(profile, {Precision.INT8: size}) for size in sorted(sizes))
    assert less.latency_ms is not None
    assert more.latency_ms is not None
    assert less.latency_ms <= more.latency_ms
    for one in (less, more):
        assert one.low_ms is not None
        assert one.high_ms is not None
        assert one.latency_ms is not None
        assert 0 <= one.low_ms <= one.latency_ms <= one.high_ms


@given(points=st.lists(timed, min_size=3, max_size=8))
def test_bounds_of_an_estimate_hold_for_the_points_behind_it(points: list[tuple[float, float]]) -> None:
    profile = _profile(_speed(*points))
    for count, latency_ms in points:
        found = estimate_latency(profile, {Precision.INT8: int(count)})
        assert found.low_ms is not None
        assert found.high_ms is not None
        # int() drops a fraction of a multiply-add, and rounding the rest of it.
        assert found.low_ms * (1 - 1e-3) <= latency_ms <= found.high_ms * (1 + 1e-3)


def test_estimate_says_its_method() -> None:
    found = estimate_latency(_profile(_speed((1e6, 1.0), with_overhead=False)), {Precision.INT8: 2_000_000})
    assert found.latency_ms == pytest.approx(2.0)
    assert found.method == (
        "estimated: 1.00 billion multiply-adds a second, one thread, litert int8, measured there with 1 networks"
    )


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.MIXED, Precision.INT8_DYNAMIC])
def test_precision_without_a_figure_is_unknown(precision: Precision) -> None:
    found = estimate_latency(_profile(_speed((1e6, 1.0), with_overhead=False)), {precision: 1})
    assert (found.latency_ms, found.low_ms, found.high_ms) == (None, None, None)
    assert found.method == f"unknown: no trusted figure for litert {precision} on A board"


def test_layers_of_different_precisions_take_each_their_own_time() -> None:
    board = KNOWN["pi4"]
    counts = {Precision.INT8: 9 * 10**6, Precision.FLOAT32: 10**6}
    alone = [estimate_latency(board, {precision: count}) for precision, count in counts.items()]
    both = estimate_latency(board, counts)
    assert both.latency_ms == pytest.approx(sum(one.latency_ms or math.inf for one in alone))
    assert both.method == "; ".join(one.method for one in alone)
    unknown = estimate_latency(board, {**counts, Precision.INT8_DYNAMIC: 1})
    assert unknown.latency_ms is None


def test_engine_without_a_figure_is_unknown() -> None:
    found = estimate_latency(KNOWN["pi4"], {Precision.INT8: 1}, engine=EngineName.ONNXRUNTIME)
    assert found.latency_ms is None


def test_model_that_cannot_be_counted_is_unknown() -> None:
    assert estimate_latency(KNOWN["pi4"], {}).method.startswith("unknown: the multiply-adds")


def test_weights_only_precisions_compute_in_float() -> None:
    of_float = estimate_latency(KNOWN["pi4"], {Precision.FLOAT32: 10**6})
    assert estimate_latency(KNOWN["pi4"], {Precision.INT8_WEIGHTS: 10**6}) == of_float
    assert estimate_latency(KNOWN["pi4"], {Precision.FLOAT16: 10**6}) == of_float


def test_model_that_fits_has_no_reasons() -> None:
    found = fits(
        _profile(), size_bytes=500_000, precision=Precision.INT8, engine=EngineName.LITERT, peak_memory_bytes=1_000_000
    )
    assert found == ()


def test_each_reason_against_a_model_is_named() -> None:
    reasons = fits(
        _profile(),
        size_bytes=1_000_001,
        precision=Precision.INT16,
        engine=EngineName.ONNXRUNTIME,
        peak_memory_bytes=1_000_002,
    )
    assert reasons == (
        "it runs litert, not onnxruntime",
        "it computes in int8 or float32, not in int16",
        "the file has 1,000,001 bytes, its storage 500,000",
        "the file has 1,000,001 bytes, its memory 1,000,000",
        "running it takes 1,000,002 bytes, its memory has 1,000,000",
    )


def test_what_cannot_be_told_is_not_judged() -> None:
    assert fits(_profile(), size_bytes=1, precision=None, engine=None) == ()


@pytest.mark.parametrize(
    ("arena_bytes", "reasons"),
    [(300_000, ()), (400_000, ("running it takes 400,000 bytes, its memory has 327,680",))],
)
def test_microcontroller_runs_from_flash_and_needs_memory_for_its_arena_only(
    arena_bytes: int, reasons: tuple[str, ...]
) -> None:
    found = fits(
        KNOWN["esp32-s3"],
        size_bytes=1_000_000,
        precision=Precision.INT8,
        engine=EngineName.LITERT,
        peak_memory_bytes=arena_bytes,
    )
    assert found == reasons
