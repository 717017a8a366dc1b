"""Opening a bundle: what is raced, what is remembered, what is said when nothing runs."""

from pathlib import Path

import msgspec
import pytest

from builders import LABELS, Damage, Parts, as_bundle, make_bundle, make_parts, pack, quadrant_images
from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable
from edgeloop.contracts.manifest import EngineName, Variant
from edgeloop.runtime.engines.port import MOST_THREADS
from edgeloop.runtime.load import load, load_fastest, load_first, race_key
from edgeloop.runtime.outcome import Race
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.remembered import recall

IMAGES = quadrant_images(4, seed=3)
RACE_S = 0.2


def _bundle(parts: Parts | None = None) -> Bundle:
    return as_bundle(parts or make_parts())


def _fastest(bundle: Bundle, folder: Path, *, race_s: float = RACE_S, threads: int | None = None) -> Predictor:
    return load_fastest(bundle, bundle.manifest.variants, threads=threads, race_s=race_s, folder=folder)


def _known(bundle: Bundle, folder: Path) -> Race | None:
    return recall(folder, race_key(bundle, bundle.manifest.variants, None), Race)


def test_bundle_is_loaded_from_its_path(tmp_path: Path) -> None:
    assert load(make_bundle(tmp_path)).predict(IMAGES[0]).label == LABELS[0]


def test_absent_bundle_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load(tmp_path / "x.edgeloop")


def test_unknown_engine_is_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="litert, onnxruntime"):
        load(make_bundle(tmp_path), engine="tvm")


def test_no_threads_at_all_is_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="threads is 0"):
        load(make_bundle(tmp_path), threads=0)


@pytest.mark.parametrize("threads", [-1, MOST_THREADS + 1])
def test_threads_beyond_reason_are_invalid_input(tmp_path: Path, threads: int) -> None:
    with pytest.raises(InvalidInput, match="expected 1 to 1,024"):
        load(make_bundle(tmp_path), threads=threads)


@pytest.mark.parametrize("race_s", [-1.0, float("nan"), float("inf")])
def test_race_of_no_length_is_invalid_input(tmp_path: Path, race_s: float) -> None:
    with pytest.raises(InvalidInput, match="race_s is"):
        load(make_bundle(tmp_path), race_s=race_s)


def test_engine_that_no_variant_is_for_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="it offers onnxruntime float32"):
        load(make_bundle(tmp_path), engine="litert")


def test_engine_that_is_insisted_on_is_used(tmp_path: Path) -> None:
    assert load(make_bundle(tmp_path), engine="onnxruntime").variant.engine == "onnxruntime"


def test_threads_that_are_insisted_on_are_used(tmp_path: Path) -> None:
    assert load(make_bundle(tmp_path), threads=1, race_s=RACE_S).setting.threads == 1


def test_cache_is_off_unless_asked_for(tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    assert load(path).cache is None
    assert load(path, cache=True).cache is not None


def test_winner_is_remembered_and_taken_without_a_race(tmp_path: Path) -> None:
    bundle = _bundle()
    first = _fastest(bundle, tmp_path)
    assert first.race is not None
    assert first.race.seconds > 0
    known = _known(bundle, tmp_path)
    assert known is not None
    second = _fastest(bundle, tmp_path)
    assert second.race == known
    assert (second.variant, second.setting) == (first.variant, first.setting)


def test_winner_that_is_remembered_is_not_measured_again(tmp_path: Path) -> None:
    bundle = _bundle()
    _fastest(bundle, tmp_path)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    _fastest(bundle, tmp_path)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == before


def test_another_bundle_is_raced_by_itself(tmp_path: Path) -> None:
    _fastest(_bundle(), tmp_path)
    other = _bundle(make_parts(version="1.0.1"))
    assert _known(other, tmp_path) is None


def test_other_library_versions_call_for_another_race(tmp_path: Path) -> None:
    bundle = _bundle()
    key = race_key(bundle, bundle.manifest.variants, None)
    newer = msgspec.structs.replace(key, libraries=(*key.libraries, "onnxruntime 99"))
    _fastest(bundle, tmp_path)
    assert recall(tmp_path, key, Race) is not None
    assert recall(tmp_path, newer, Race) is None


def test_another_machine_calls_for_another_race(tmp_path: Path) -> None:
    bundle = _bundle()
    key = race_key(bundle, bundle.manifest.variants, None)
    _fastest(bundle, tmp_path)
    assert recall(tmp_path, msgspec.structs.replace(key, machine=f"{key.machine} more cores"), Race) is None


@pytest.mark.parametrize("damage", [b"{ half of", b"", b'{"runners": [], "seconds": 1.0}'])
def test_memory_that_is_damaged_calls_for_another_race(tmp_path: Path, damage: bytes) -> None:
    bundle = _bundle()
    _fastest(bundle, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(damage)
    again = _fastest(bundle, tmp_path)
    assert again.race is not None
    assert _known(bundle, tmp_path) is not None


def test_folder_that_cannot_be_written_costs_the_memory_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert _fastest(_bundle(), blocked / "races").predict(IMAGES[1]).label == LABELS[1]


def test_race_of_no_time_takes_the_first_variant_on_one_thread(tmp_path: Path) -> None:
    predictor = _fastest(_bundle(), tmp_path, race_s=0)
    assert (predictor.race, predictor.setting.threads) == (None, 1)
    assert list(tmp_path.iterdir()) == []


def test_variant_that_answers_wrong_never_wins(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="golden samples"):
        _fastest(_bundle(make_parts(damage=Damage.WEIGHTS)), tmp_path)


def _two_engines() -> tuple[Parts, Variant]:
    """A variant that does not load, said to be fast, and one that does."""
    parts = make_parts()
    good = parts.manifest.variants[0]
    return parts.changed(variants=(msgspec.structs.replace(good, engine=EngineName.LITERT), good)), good


def test_next_variant_is_taken_when_the_best_does_not_load() -> None:
    parts, good = _two_engines()
    assert load_first(as_bundle(parts), parts.manifest.variants).variant == good


def test_variant_that_does_not_load_is_passed_over_in_a_race(tmp_path: Path) -> None:
    parts, good = _two_engines()
    predictor = _fastest(as_bundle(parts), tmp_path)
    assert predictor.variant == good
    assert predictor.race is not None
    assert {one.engine for one in predictor.race.runners if one.failure} == {EngineName.LITERT}


def test_every_reason_is_given_when_none_loads(tmp_path: Path) -> None:
    parts = make_parts().with_model(b"no model")
    with pytest.raises(Unavailable, match=r"onnxruntime float32: .*cannot load this model"):
        load_first(as_bundle(parts), parts.manifest.variants)
    with pytest.raises(Unavailable, match=r"onnxruntime float32: .*cannot load this model"):
        _fastest(as_bundle(parts), tmp_path)


def test_bundle_written_before_others_than_classifiers_is_loaded(tmp_path: Path) -> None:
    path = pack(make_parts(), tmp_path)
    assert load(path).manifest.task == "classification"
