"""From trials to bundles: what is mixed is measured as such, made again byte for byte, and gone with its report."""

import math
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeloop.bundle.archive import open_bundle
from edgeloop.contracts.manifest import Precision
from edgeloop.steps import Bounds, CompressRecipe, Origin, compress, open_dataset, open_model, repeat, student_data
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.compress.compress import _remove_disowned
from edgeloop.toolchain.compress.crew import LocalCrew
from edgeloop.toolchain.compress.finals import Finals, Naming
from edgeloop.toolchain.compress.lessons import prepare_setting
from edgeloop.toolchain.compress.plan import Body, BodyKind, Finish, Outcome, Plan
from edgeloop.toolchain.compress.records import Records, Search
from edgeloop.toolchain.compress.report import CompressReport
from edgeloop.toolchain.compress.sitting import Clock
from edgeloop.toolchain.compress.workbench import Task
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.profiles.open import open_profile
from edgeloop.toolchain.progress import silent
from edgeloop.toolchain.quantize.recipe import Granularity
from edgeloop.toolchain.source.keras import keras_bytes, plain_keras
from edgeloop.toolchain.source.model import Model

_AS_IT_IS = Body(kind=BodyKind.SOURCE)
_PLANS = (
    Plan(body=_AS_IT_IS, finish=Finish()),
    Plan(body=_AS_IT_IS, finish=Finish(mixed_agreement=0.99)),
    Plan(body=_AS_IT_IS, finish=Finish(granularity=Granularity.TENSOR)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """source.keras, whose first layer 8 bits ruin: one of its channels is a thousand times the others, and counts a
    thousandth of them in the next. points.npz, with its answers as labels."""
    folder = tmp_path_factory.mktemp("source")
    keras = import_keras()
    keras.utils.set_random_seed(0)
    point = keras.Input((12,), name="point")
    x = keras.layers.Dense(16, activation="relu", name="wide")(point)
    x = keras.layers.Dense(16, activation="relu", name="narrow")(x)
    net = keras.Model(point, keras.layers.Dense(4, name="scores")(x))
    kernel, bias, following, *rest = net.get_weights()
    kernel[:, 0], following[0] = 3000 * kernel[:, 0], following[0] / 3000
    net.set_weights([kernel, bias, following, *rest])
    (folder / "source.keras").write_bytes(keras_bytes(net))
    points = np.random.default_rng(0).normal(size=(1200, 12)).astype(np.float32)
    np.savez(folder / "points.npz", inputs=points, labels=np.asarray(net(points)).argmax(axis=1))
    return folder


def _opened(folder: Path) -> tuple[Model, Prepared]:
    source = open_model(folder / "source.keras")
    return source, student_data(source, open_dataset(str(folder / "points.npz")))


@pytest.fixture(scope="module")
def tried(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Outcome]]:
    """The plans, tried in a worker as a search does, and a search's folder with what came of them."""
    source, data = _opened(folder)
    out = tmp_path_factory.mktemp("out")
    setting = prepare_setting(source, data, seed=0, progress=silent)
    with LocalCrew(setting, size=1) as crew:
        found = dict(crew.run([Task(plan) for plan in _PLANS], deadline=math.inf))
    outcomes = {}
    for number, one in sorted(found.items()):
        assert one.outcome.failure is None
        outcomes[number] = msgspec.structs.replace(one.outcome, variant=Records(out).put(one.variant or b""))
    return out, outcomes


def _report(folder: Path, tried: tuple[Path, dict[int, Outcome]], bounds: Bounds) -> CompressReport:
    source, data = _opened(folder)
    out, outcomes = tried
    search = Search(
        recipe=CompressRecipe(bounds=bounds, profile="pi4"), model="source.keras", model_sha256=source.sha256,
        data="points", data_sha256=data.dataset.sha256, data_seed=0, input_range=data.spec.value_range,
    )  # fmt: skip
    facts = {"model": str(folder / "source.keras"), "data": str(folder / "points.npz"), "seed": 0}
    span = "{}..{}".format(*data.spec.value_range)
    naming = Naming("points", "1.0.0", {**facts, "input_range": span})
    finals = Finals(source, data, search, open_profile("pi4"), out=out, naming=naming)
    return finals.report(outcomes, clock=Clock(None, 0.0, time.monotonic()), progress=silent)


def test_layers_that_suffer_most_stay_in_float_until_the_answers_agree(
    tried: tuple[Path, dict[int, Outcome]],
) -> None:
    plain, mixed, by_tensor = (tried[1][number] for number in range(3))
    assert plain.agreement < 0.9
    assert mixed.agreement >= 0.98
    assert plain.bit_operations == 64 * (plain.multiply_adds or 0)
    assert plain.bit_operations < mixed.bit_operations < 16 * plain.bit_operations
    assert by_tensor.size_bytes < plain.size_bytes


def test_a_mixed_candidate_is_estimated_packed_and_made_again(
    folder: Path, tried: tuple[Path, dict[int, Outcome]]
) -> None:
    report = _report(folder, tried, Bounds(max_drop_points=2.0))
    found = {one.number: one for one in report.candidates}
    assert 0 not in found
    assert any("golden samples" in failure for failure in report.failures)
    mixed = found[1]
    assert (mixed.latency_is, mixed.on_front) == ("estimated", True)
    assert mixed.target_latency_ms is not None
    assert "litert int8" in mixed.method
    assert "litert float32" in mixed.method
    (variant,) = open_bundle(Path(mixed.bundle)).manifest.variants
    assert variant.precision is Precision.MIXED
    assert repeat(Path(mixed.bundle)).same_bytes


def test_a_finished_search_is_measured_again_and_not_searched_on(folder: Path, tmp_path: Path) -> None:
    source, data = _opened(folder)
    origin = Origin(str(folder / "source.keras"), str(folder / "points.npz"), 0, "points", "1.0.0")
    recipe = CompressRecipe(
        bounds=Bounds(max_drop_points=90.0), trials=2, budget_s=None, images_seen=256,
        precisions=(Precision.INT8, Precision.FLOAT32),
    )  # fmt: skip
    first = compress(source, recipe, data, out=tmp_path, origin=origin)
    # What is kept for measuring is beyond what trials took.
    spent = msgspec.structs.replace(recipe, trials=None, budget_s=first.search_s + 15.0)
    again = compress(source, spent, data, out=tmp_path, origin=origin)
    assert again.trials == first.trials == 2
    assert {one.number for one in again.candidates} == {one.number for one in first.candidates} == {1}
    (bundle,) = (Path(one.bundle) for one in again.candidates)
    assert bundle.is_file()
    # By the clock it misses a bound now: its bundle goes, and nothing else.
    foreign = tmp_path / "bundles" / "mine.edgeloop"
    foreign.write_bytes(b"mine")
    lost = msgspec.structs.replace(again.candidates[0], bundle="", misses=("takes longer",))
    _remove_disowned(again, msgspec.structs.replace(again, candidates=(lost,)))
    assert (bundle.exists(), foreign.exists()) == (False, True)


def test_a_savedmodel_is_searched_from_its_folder(folder: Path, tmp_path: Path) -> None:
    net = plain_keras(open_model(folder / "source.keras"))
    net.export(tmp_path / "saved_model", verbose=False)
    source = open_model(tmp_path / "saved_model")
    data = student_data(source, open_dataset(str(folder / "points.npz")))
    recipe = CompressRecipe(bounds=Bounds(), trials=2, budget_s=None, images_seen=256, precisions=(Precision.FLOAT32,))
    origin = Origin(str(tmp_path / "saved_model"), str(folder / "points.npz"), 0, "points", "1.0.0")
    report = compress(source, recipe, data, out=tmp_path / "out", origin=origin)
    assert (report.trials, report.failures, report.baseline.accuracy) == (2, (), 1.0)
    as_it_is = next(one for one in report.candidates if one.plan.body.kind is BodyKind.SOURCE)
    assert as_it_is.lost_points == 0.0
    assert open_bundle(Path(as_it_is.bundle)).manifest.variants[0].precision is Precision.FLOAT32
