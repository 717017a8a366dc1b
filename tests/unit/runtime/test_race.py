"""The race's rules; how well it picks is measured in benchmarks, since tests assert no times."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import Damage, Parts, as_bundle, make_parts, onnx_model, quadrant_images, quadrant_weights
from edgeloop.bundle.archive import digest, entries
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import EngineName, Variant
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.outcome import Race
from edgeloop.runtime.race import Lane, ranking, run_race, stragglers
from edgeloop.runtime.replay import Judge

ROUNDS = [4, 10, 24, 60]
SECONDS = 0.2


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.sampled_from(ROUNDS))
def test_the_fastest_never_leaves(latency_ms: list[float], rounds: int) -> None:
    assert int(np.argmin(latency_ms)) not in stragglers(latency_ms, latency_ms, rounds)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.sampled_from(ROUNDS))
def test_nobody_within_4_percent_of_the_best_leaves(latency_ms: list[float], rounds: int) -> None:
    left = stragglers(latency_ms, latency_ms, rounds)
    assert not [one for index, one in enumerate(latency_ms) if one <= 1.04 * min(latency_ms) and index in left]


def test_who_is_far_behind_leaves_early_and_who_is_near_late() -> None:
    latency_ms = [1.0, 1.05, 1.2, 1.5, 2.0]
    left = [stragglers(latency_ms, latency_ms, rounds) for rounds in ROUNDS]
    assert left == [[4], [3, 4], [2, 3, 4], [1, 2, 3, 4]]


def test_who_is_often_as_quick_as_the_best_stays_whatever_fell_on_its_other_turns() -> None:
    assert stragglers([1.0, 1.0], [1.0, 50.0], 60) == []
    assert stragglers([0.5, 2.0], [1.0, 2.0], 60) == [1]


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 59, 61])
def test_nobody_leaves_between_the_stated_rounds(rounds: int) -> None:
    assert stragglers([1.0, 100.0], [1.0, 100.0], rounds) == []


def test_least_latency_wins_and_fewer_threads_where_it_is_not_told_apart() -> None:
    assert ranking([1.0, 0.9, 0.8], [1, 2, 4]) == [2, 1, 0]
    assert ranking([1.0, 0.99, 1.01], [4, 2, 1]) == [2, 1, 0]  # two hundredths are noise
    assert ranking([1.02, 1.0, 1.01], [1, 1, 1]) == [1, 2, 0]
    assert ranking([], []) == []


@given(st.lists(st.tuples(st.floats(0.01, 100), st.sampled_from([1, 2, 4])), min_size=1, max_size=12))
def test_nobody_clearly_behind_wins(both: list[tuple[float, int]]) -> None:
    latency_ms, threads = zip(*both, strict=True)
    assert latency_ms[ranking(latency_ms, threads)[0]] <= 1.03 * min(latency_ms)


def test_latency_of_a_candidate_is_the_median_of_its_turns() -> None:
    bundle = as_bundle(make_parts())
    lane = Lane(bundle.manifest.variants[0], Setting(threads=2), None, Judge(bundle, bundle.manifest.variants[0]))
    assert lane.latency_ms == float("inf")
    lane.took_ms.extend([0.5, 0.5, 1.0, 1.1, 1.2])  # quick when both threads are awake, and usually they are not
    assert (lane.latency_ms, lane.hopeful_ms) == (1.0, 0.5)
    assert lane.runner().latency_ms == 1.0


def _with_second(parts: Parts, model: bytes) -> tuple[Parts, Variant]:
    """A second variant of the same engine and precision."""
    variant = msgspec.structs.replace(parts.manifest.variants[0], file=digest(model), size_bytes=len(model))
    files = parts.files | {digest(model): model}
    manifest = msgspec.structs.replace(
        parts.manifest, variants=(*parts.manifest.variants, variant), files=entries(files.values())
    )
    return Parts(manifest, files), variant


def _run(parts: Parts, *, seconds: float = SECONDS, threads: int | None = None) -> Race:
    race, predictor = run_race(as_bundle(parts), variants=parts.manifest.variants, threads=threads, seconds=seconds)
    assert predictor.predict(quadrant_images(2)[1]).label == "top_right"
    predictor.close()
    return race


def test_winner_comes_first_and_is_loaded() -> None:
    parts = make_parts()
    race, predictor = run_race(as_bundle(parts), variants=parts.manifest.variants, seconds=SECONDS)
    assert (race.winner.variant, race.winner.setting) == (predictor.variant.file, predictor.setting)
    assert predictor.race is race
    assert race.winner.failure is None
    assert race.winner.latency_ms is not None
    assert race.winner.rounds >= parts.manifest.golden.count
    predictor.close()


def test_every_candidate_is_told_of() -> None:
    race = _run(make_parts(), threads=1)
    assert {one.setting.threads for one in race.runners} == {1}
    assert {one.engine for one in race.runners} == {EngineName.ONNXRUNTIME}


def test_variant_that_answers_wrong_is_out_with_the_reason() -> None:
    wrong = onnx_model(quadrant_weights(sharpness=-20.0))
    parts, variant = _with_second(make_parts(), wrong)
    race = _run(parts, threads=1)
    assert race.winner.variant == parts.manifest.variants[0].file
    (out,) = [one for one in race.runners if one.variant == variant.file]
    assert out.failure is not None
    assert "golden samples" in out.failure


def test_variant_that_answers_nan_is_out_with_the_reason() -> None:
    parts, variant = _with_second(make_parts(), make_parts(damage=Damage.NAN).files[_model_of(Damage.NAN)])
    race = _run(parts, threads=1)
    (out,) = [one for one in race.runners if one.variant == variant.file]
    assert out.failure is not None
    assert "NaN" in out.failure


def _model_of(damage: Damage) -> str:
    return make_parts(damage=damage).manifest.variants[0].file


def test_no_time_at_all_still_proves_the_winner() -> None:
    race = _run(make_parts(), seconds=0.0, threads=1)
    assert race.winner.rounds >= 1


def test_bundle_of_which_nothing_passes_is_unavailable() -> None:
    parts = make_parts(damage=Damage.WEIGHTS)
    with pytest.raises(Unavailable, match=r"onnxruntime float32: golden samples"):
        run_race(as_bundle(parts), variants=parts.manifest.variants, seconds=SECONDS)


def test_bundle_without_candidates_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="None of these engines"):
        run_race(as_bundle(make_parts()), variants=(), seconds=SECONDS)


def test_setting_reads_as_words() -> None:
    assert str(Setting(threads=2, interface="compiled")) == "compiled, 2 threads"
    assert str(Setting()) == "1 thread"
    assert str(Setting(accelerator="CUDAExecutionProvider")) == "CUDAExecutionProvider, 1 thread"


def test_everybody_is_timed_however_long_loading_takes() -> None:
    wrong_clock = iter(range(0, 10**9, 10))  # each look at it finds ten seconds gone
    parts = make_parts()
    race, predictor = run_race(
        as_bundle(parts), variants=parts.manifest.variants, seconds=1.0, now_s=lambda: float(next(wrong_clock))
    )
    predictor.close()
    assert all(one.rounds >= 3 for one in race.runners if one.failure is None)
