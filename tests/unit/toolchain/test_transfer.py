from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared, prepare, split
from edgeloop.toolchain.fitting import accuracy
from edgeloop.toolchain.nets.build import build_net
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.source.keras import load_keras, wrap_keras
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Format, Model
from edgeloop.toolchain.transfer import Kept, TransferRecipe, TransferReport, transfer

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

COUNT, SIDE_PX = 300, 12
HEAD = TransferRecipe(unfreeze=0.0, head_images_seen=1_500, head_learning_rate=3e-2)
WRECKING = TransferRecipe(
    unfreeze=1.0, head_images_seen=1_500, head_learning_rate=3e-2, images_seen=320, learning_rate=1.0
)


@dataclass(frozen=True)
class Made:
    """What one recipe made of the backbone."""

    model: Model
    report: TransferReport


@pytest.fixture(scope="module")
def backbone() -> Model:
    """A slim net of four classes with weights that nobody trained: even those tell colours apart."""
    import_keras().utils.set_random_seed(0)
    return wrap_keras(build_net(NetName.SLIM, (SIDE_PX, SIDE_PX, 3), 4, width=0.5, depth=2), name="backbone.keras")


@pytest.fixture(scope="module")
def data(backbone: Model) -> Prepared:
    """Noise that is brighter in the one or the other colour."""
    labels = np.arange(COUNT, dtype=np.int64) % 2
    images = np.random.default_rng(0).integers(0, 100, size=(COUNT, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    names = ("red", "blue")
    dataset = split("colours", images, labels, label_names=names, sha256="0" * 64, seed=0)
    return prepare(dataset, backbone.only_input())


@pytest.fixture(scope="module")
def headed(backbone: Model, data: Prepared) -> Made:
    return Made(*transfer(backbone, HEAD, data))


@pytest.fixture(scope="module")
def wrecked(backbone: Model, data: Prepared) -> Made:
    """A second stage at a learning rate that destroys what the backbone knew."""
    return Made(*transfer(backbone, WRECKING, data))


def _body(model: Model) -> dict[str, list[np.ndarray[Any, Any]]]:
    layers = [layer for layer in model.native.layers if layer.weights and layer.name != LOGITS]
    return {layer.name: [np.asarray(weight) for weight in layer.get_weights()] for layer in layers}


def _same(first: Model, other: Model) -> bool:
    one, two = _body(first), _body(other)
    return set(one) == set(two) and all(
        np.array_equal(weight, again) for name in one for weight, again in zip(one[name], two[name], strict=True)
    )


def test_new_end_scores_the_datas_classes(headed: Made, data: Prepared) -> None:
    assert {spec.name: spec.shape for spec in headed.model.outputs} == {LOGITS: (1, 2), FEATURES: (1, 32)}
    # Colours that differ by half the range; chance is a half.
    assert headed.report.head_accuracy > 0.9
    assert headed.report.holdout_accuracy == accuracy(headed.model, data, data.dataset.holdout)


def test_first_stage_leaves_the_backbone_as_it_was(headed: Made, backbone: Model) -> None:
    assert _same(headed.model, backbone)
    assert (headed.report.kept, headed.report.tuned_accuracy, headed.report.tuned_layers) == (Kept.HEAD, None, 0)


def test_step_is_in_the_models_history(headed: Made) -> None:
    assert [(step.kind, step.recipe["unfreeze"]) for step in headed.model.steps] == [("transfer", 0.0)]


def test_second_stage_that_is_worse_is_not_kept(wrecked: Made, backbone: Model) -> None:
    report = wrecked.report
    assert report.tuned_accuracy is not None
    assert report.tuned_accuracy < report.head_accuracy
    assert report.kept is Kept.HEAD
    assert _same(wrecked.model, backbone)


def test_second_stage_trains_the_last_layers_and_leaves_batch_norm(backbone: Model, data: Prepared) -> None:
    before = {name: [weight.copy() for weight in weights] for name, weights in _body(backbone).items()}
    recipe = replace_recipe(HEAD, unfreeze=0.4, head_images_seen=64, images_seen=64, learning_rate=1e-4)
    made, report = transfer(backbone, recipe, data)
    assert report.tuned_layers == 2
    after = _body(made)
    changed = {name for name in after if any(map(_differ, after[name], before[name]))}
    if report.kept is Kept.TUNED:
        assert len(changed) == 2
        assert all("norm" not in name for name in changed)
        assert "stem" not in changed
    assert not any(map(_differ, _body(backbone)["stem"], before["stem"]))


def test_result_can_be_trained_whole(wrecked: Made) -> None:
    assert all(layer.trainable for layer in wrecked.model.native.layers)


def test_place_of_the_cut_can_be_named(backbone: Model, data: Prepared) -> None:
    recipe = replace_recipe(HEAD, cut_at="block1_point_relu", head_images_seen=64)
    made, report = transfer(backbone, recipe, data)
    assert (report.cut_at, report.features) == ("block1_point_relu", 16)
    assert "block2_depth" not in {layer.name for layer in made.native.layers}


def test_convolution_before_the_pooling_of_a_loaded_sequential_is_found(data: Prepared, tmp_path: Path) -> None:
    keras = import_keras()
    layers = keras.layers
    convolutions = [layers.Conv2D(8, 3, activation="relu", name=name) for name in ("near", "far")]
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    net = keras.Sequential([image, *convolutions, layers.GlobalAveragePooling2D(), layers.Dense(10)])
    net.save(tmp_path / "plain.keras")
    _, report = transfer(load_keras(tmp_path / "plain.keras"), replace_recipe(HEAD, head_images_seen=64), data)
    assert (report.cut_at, report.features) == ("far", 8)


def test_second_stage_trains_one_layer_of_the_backbone_at_least(backbone: Model, data: Prepared) -> None:
    recipe = replace_recipe(HEAD, unfreeze=0.01, head_images_seen=64, images_seen=64)
    assert transfer(backbone, recipe, data)[1].tuned_layers == 1


# ---- what cannot be transferred


def test_unknown_layer_is_refused_with_those_there_are(backbone: Model, data: Prepared) -> None:
    with pytest.raises(InvalidInput, match=r"has no layer 'nowhere'; its last ones are .*features, logits"):
        transfer(backbone, replace_recipe(HEAD, cut_at="nowhere"), data)


def test_layer_without_places_is_refused(backbone: Model, data: Prepared) -> None:
    with pytest.raises(
        InvalidInput, match=r"no layer with an image-like output .*'features' has none; name one with --cut-at"
    ):
        transfer(backbone, replace_recipe(HEAD, cut_at="features"), data)


def test_custom_layer_is_refused_by_name(data: Prepared) -> None:
    keras = import_keras()

    class Doubled(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    places = Doubled(name="doubled")(keras.layers.Conv2D(4, 3)(image))
    net = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(places)))
    with pytest.raises(Refused, match="custom layer 'doubled' of type Doubled"):
        transfer(wrap_keras(net, name="own.keras"), HEAD, data)


def test_model_of_another_framework_is_refused(backbone: Model, data: Prepared) -> None:
    with pytest.raises(InvalidInput, match="is a litert model; transfer learning trains Keras backbones"):
        transfer(replace(backbone, format=Format.LITERT), HEAD, data)


def test_data_without_labels_is_refused(backbone: Model, data: Prepared) -> None:
    blank = replace(data, dataset=replace(data.dataset, label_names=()))
    with pytest.raises(InvalidInput, match="colours has no labels"):
        transfer(backbone, HEAD, blank)


def test_data_that_is_no_image_is_refused(data: Prepared) -> None:
    net = wrap_keras(build_net(NetName.DENSE, (5,), 2), name="dense.keras")
    rows = np.zeros((COUNT, 5), np.float32)
    labels = np.arange(COUNT, dtype=np.int64) % 2
    names = ("a", "b")
    table = split("t", rows, labels, label_names=names, sha256="0" * 64, seed=0, modality=Modality.TENSOR)
    with pytest.raises(InvalidInput, match="transfer learning needs images"):
        transfer(net, HEAD, prepare(table, TensorSpec("sample", (1, 5), "float32")))


def replace_recipe(recipe: TransferRecipe, **changes: Any) -> TransferRecipe:
    return msgspec.structs.replace(recipe, **changes)


def _differ(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return not np.array_equal(one, other)
