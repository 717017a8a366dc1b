"""A bundle's lineage is enough to make its models again: each step, from the files that it names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.build import BuildFolder
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Prepared, prepare
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.draft import add_variant, begin_draft
from edgeloop.toolchain.fitting import FineTune, fine_tune
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.package import pack
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.prune.unstructured import SparsifyRecipe, sparsify
from edgeloop.toolchain.quantize.aware import AwareRecipe, QuantizeAwareRecipe, quantize_aware
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed
from edgeloop.toolchain.repeat import Sources, repeat
from edgeloop.toolchain.source.keras import keras_bytes, plain_keras, wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.targets import Target

Make = Callable[[Model, Prepared], tuple[Model, Model]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.keras, which tells six clouds of points apart, and points.npz."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, size=900)
    points = (3 * rng.normal(size=(6, 12))[labels] + rng.normal(size=(900, 12))).astype(np.float32)
    np.savez(folder / "points.npz", inputs=points, labels=labels)
    keras = import_keras()
    keras.utils.set_random_seed(0)
    point = keras.Input((12,), name="point")
    x = keras.layers.Dense(64, activation="relu", name="one")(point)
    x = keras.layers.Dense(64, activation="relu", name="two")(x)
    net = keras.Model(point, keras.layers.Dense(6, name="scores")(x))
    data = prepare(open_dataset(str(folder / "points.npz")), _taken(net))
    fine_tune(net, data, FineTune(images_seen=8_000, learning_rate=1e-2, augment=False))
    (folder / "model.keras").write_bytes(keras_bytes(net))
    return folder


def _taken(net: object) -> TensorSpec:
    return wrap_keras(net, name="net").only_input()


def _bundle(place: Path, out: Path, make: Make) -> Path:
    """What `convert --out` and `package` make of a float model and its variant that came about by `make`."""
    model = open_model(place / "model.keras")
    where = str(place / "points.npz")
    data = prepare(open_dataset(where), model.only_input())
    floats, made = make(model, data)
    facts = {"model": str(place / "model.keras"), "data": where, "seed": 0, "input_range": "0.0..1.0"}
    judged = prepare(data.dataset, floats.only_input())
    draft = begin_draft(floats, judged, BuildFolder(out / "draft"), recipe=facts)
    add_variant(draft, made, Precision.INT8)
    path = out / "points-1.0.0.edgeloop"
    pack(out / "draft", name="points", version="1.0.0", out=path)
    return path


def _converted(model: Model, data: Prepared) -> tuple[Model, Model]:
    return model, convert(model, ConvertRecipe(to=Target.ONNX), data=data)[0]


def _quantized(model: Model, data: Prepared, to: Format | None = None) -> tuple[Model, Model]:
    return model, quantize(model, QuantizeRecipe(), data, to=to)[0]


def _for_onnx(model: Model, data: Prepared) -> tuple[Model, Model]:
    return _quantized(model, data, Format.ONNX)


def _aware(model: Model, data: Prepared) -> tuple[Model, Model]:
    recipe = QuantizeAwareRecipe(aware=AwareRecipe(images_seen=640, augment=False))
    return model, quantize_aware(model, recipe, data)[0]


def _mixed(model: Model, data: Prepared) -> tuple[Model, Model]:
    return model, mixed(model, MixedRecipe(min_agreement=0.9), data)[0]


def _pruned(model: Model, data: Prepared) -> tuple[Model, Model]:
    return _quantized(prune(model, PruneRecipe(keep=0.7, images_seen=640), data)[0], data)


def _sparse(model: Model, data: Prepared) -> tuple[Model, Model]:
    return _quantized(sparsify(model, SparsifyRecipe(sparsity=0.3, updates=2, images_seen=640), data)[0], data)


def _taught(model: Model, data: Prepared) -> tuple[Model, Model]:
    recipe = DistilRecipe(student=NetName.DENSE, images_seen=4_000, learning_rate=1e-2)
    student = distil(model, recipe, data)[0]
    return _quantized(student, prepare(data.dataset, student.only_input()))


@pytest.mark.parametrize(
    "make",
    [_converted, _for_onnx, _aware, _mixed, _pruned, _sparse, _taught],
    ids=lambda make: make.__name__,
)
def test_the_same_bytes_come_out(make: Make, place: Path, tmp_path: Path) -> None:
    (variant,) = repeat(_bundle(place, tmp_path, make)).variants
    assert (variant.same_bytes, variant.size_bytes) == (True, variant.size_was_bytes)


@pytest.fixture(scope="module")
def quantized(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the model in 8 bits."""
    return _bundle(place, tmp_path_factory.mktemp("quantized"), _quantized)


def test_same_bytes_of_a_quantized_model_come_out_and_are_kept_where_it_is_asked_for(
    quantized: Path, tmp_path: Path
) -> None:
    report = repeat(quantized, out=tmp_path / "again")
    assert (report.same_bytes, report.variants[0].size_bytes) == (True, report.variants[0].size_was_bytes)
    (made,) = (tmp_path / "again").iterdir()
    assert (made.name, made.stat().st_size) == ("litert-int8.tflite", report.variants[0].size_bytes)


def test_steps_on_different_data_are_each_given_their_own(place: Path, tmp_path: Path) -> None:
    made = np.load(place / "points.npz")
    elsewhere = tmp_path / "elsewhere.npz"
    np.savez(elsewhere, inputs=made["inputs"][::-1] + np.float32(0.1), labels=made["labels"][::-1])

    def pruned_on_other_data(model: Model, data: Prepared) -> tuple[Model, Model]:
        others = prepare(open_dataset(str(elsewhere)), model.only_input())
        return _quantized(prune(model, PruneRecipe(keep=0.7, images_seen=640), others)[0], data)

    bundle = _bundle(place, tmp_path, pruned_on_other_data)
    with pytest.raises(InvalidInput, match=r"the step 'prune' of points@1\.0\.0 took data with SHA-256"):
        repeat(bundle)
    report = repeat(bundle, sources=Sources(data=(str(place / "points.npz"), str(elsewhere))))
    assert report.same_bytes


def test_another_source_and_other_data_are_refused(place: Path, quantized: Path, tmp_path: Path) -> None:
    net = plain_keras(open_model(place / "model.keras"))
    net.set_weights([2 * weight for weight in net.get_weights()])
    other, moved = tmp_path / "other.keras", tmp_path / "points.npz"
    other.write_bytes(keras_bytes(net))
    made = np.load(place / "points.npz")
    np.savez(moved, inputs=made["inputs"] + 1, labels=made["labels"])
    with pytest.raises(InvalidInput, match="holds other data"):
        repeat(quantized, sources=Sources(data=(str(moved),)))
    with pytest.raises(NotFound, match="Say where it lies with --model"):
        repeat(quantized, sources=Sources(model=other))
