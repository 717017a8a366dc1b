"""Pruning as a step: from a Model and a recipe to a smaller Model and a report."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.prune.macs import count
from edgeloop.toolchain.prune.measures import By, Of
from edgeloop.toolchain.prune.structured import PruneRecipe, PruneReport, prune
from edgeloop.toolchain.source.keras import plain_keras, wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from striped import striped

HALF = PruneRecipe(keep=0.5, by=By.ACTIVATION, rounds=2, images_seen=600, learning_rate=3e-3, augment=False)


@pytest.fixture(scope="module")
def halved(trained: Model, data: Prepared) -> tuple[Model, PruneReport]:
    return prune(trained, HALF, data)


def test_half_of_the_arithmetic_leaves_with_the_report_telling_the_truth(
    trained: Model, halved: tuple[Model, PruneReport]
) -> None:
    made, report = halved
    before, after = count(plain_keras(trained)), count(plain_keras(made))
    assert (report.macs_before, report.macs_after) == (before.macs, after.macs)
    assert (report.parameters_before, report.parameters_after) == (before.parameters, after.parameters)
    assert (report.size_bytes_before, report.size_bytes_after) == (trained.size_bytes, made.size_bytes)
    assert after.macs <= 0.5 * before.macs
    assert report.missed_by == 0
    assert len(report.rounds) == 2
    assert report.rounds[0].kept > report.rounds[1].kept
    widths = {layer.name: layer.after for layer in report.layers}
    assert widths["stem"] == widths["back"] == plain_keras(made).get_layer("stem").filters
    assert widths["logits"] == 3


def test_pruned_network_still_knows_what_it_knew(halved: tuple[Model, PruneReport]) -> None:
    _, report = halved
    assert report.accuracy_before is not None
    assert report.accuracy_after is not None
    # Stripes are easy: a network of half the size has room for them.
    assert report.accuracy_after >= report.accuracy_before - 0.05


def test_pruned_model_keeps_its_outputs_and_its_history(trained: Model, halved: tuple[Model, PruneReport]) -> None:
    made, _ = halved
    assert {spec.name for spec in made.outputs} == {"logits", "features"}
    assert made.inputs == trained.inputs
    assert [step.kind for step in made.steps] == ["prune"]
    assert msgspec.convert(made.steps[0].recipe, PruneRecipe) == HALF


def test_same_seed_gives_the_same_network(trained: Model, data: Prepared) -> None:
    recipe = msgspec.structs.replace(HALF, rounds=1, images_seen=64)
    first, again = (prune(trained, recipe, data)[0] for _ in range(2))
    inputs = data.tensors(data.dataset.validation.inputs)
    assert np.array_equal(first.scores(inputs), again.scores(inputs))


def test_what_cannot_be_reached_is_reported_as_missed(trained: Model, data: Prepared) -> None:
    recipe = PruneRecipe(keep=0.01, images_seen=0, least_channels=6)
    made, report = prune(trained, recipe, data)
    assert report.missed_by == pytest.approx(report.macs_after / report.macs_before - 0.01)
    assert min(layer.after for layer in report.layers if layer.name != "logits") == 6
    assert report.accuracy_cut == report.accuracy_after
    assert made.size_bytes < trained.size_bytes


def test_unlabelled_data_teaches_through_the_original(trained: Model) -> None:
    unlabelled = striped(labelled=False)
    recipe = PruneRecipe(keep=0.6, of=Of.PARAMETERS, images_seen=64)
    with pytest.raises(InvalidInput, match="--distil"):
        prune(trained, recipe, unlabelled)
    made, report = prune(trained, msgspec.structs.replace(recipe, distil=True), unlabelled)
    assert report.parameters_after <= 0.6 * report.parameters_before
    assert report.accuracy_after is None
    assert np.isfinite(made.scores(unlabelled.tensors(unlabelled.dataset.validation.inputs))).all()


def test_model_of_another_format_is_refused(trained: Model, data: Prepared) -> None:
    with pytest.raises(InvalidInput, match=r"format onnx.*\.keras"):
        prune(replace(trained, format=Format.ONNX), PruneRecipe(), data)


def test_network_with_two_inputs_is_refused(data: Prepared) -> None:
    keras = import_keras()
    inputs = [keras.Input((8, 8, 1), name=name) for name in ("left", "right")]
    x = keras.layers.Flatten(name="flat")(keras.layers.Add(name="plus")(inputs))
    net = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    with pytest.raises(InvalidInput, match="2 inputs"):
        prune(wrap_keras(net, name="pair"), PruneRecipe(), data)


def test_network_with_nan_is_refused_before_anything_is_cut(data: Prepared) -> None:
    keras = import_keras()
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten(name="flat")(image)
    hidden = keras.layers.Dense(4, name="hidden")
    net = keras.Model(image, keras.layers.Dense(3, name="logits")(hidden(x)))
    hidden.bias.assign([0, 0, np.inf, 0])
    with pytest.raises(Refused, match="hidden"):
        prune(wrap_keras(net, name="broken"), PruneRecipe(images_seen=0), data)


@pytest.mark.parametrize("field", [{"keep": 0.0}, {"keep": 1.0}, {"rounds": 0}, {"least_channels": 0}])
def test_recipe_out_of_range_is_refused(trained: Model, data: Prepared, field: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(field))):
        prune(trained, PruneRecipe(**field), data)
