from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Modality, Precision
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared, prepare, split
from edgeloop.toolchain.fitting import FineTune, accuracy, fine_tune
from edgeloop.toolchain.quantize.aware import AwareRecipe, train_aware
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Model
from quantizable import images, mixed_model

RECIPE = QuantizeRecipe(precision=Precision.INT4, granularity=Granularity.TENSOR)
HOW = AwareRecipe(images_seen=8_000, learning_rate=1e-2, augment=False)


@pytest.fixture(scope="module")
def data() -> Prepared:
    """Points of 12 numbers of unlike sizes around 6 centres: one scale for all weights of a layer is a bad fit."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, size=1_500)
    points = (rng.normal(size=(6, 12))[labels] + 0.8 * rng.normal(size=(1_500, 12))).astype(np.float32)
    points *= np.logspace(-1.5, 1, 12, dtype=np.float32)
    made = split(
        "points", points, labels, label_names=tuple("abcdef"), sha256="0" * 64, seed=0, modality=Modality.TENSOR
    )
    return prepare(made, TensorSpec("point", (1, 12), "float32"))


@pytest.fixture(scope="module")
def trained(data: Prepared) -> Model:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    point = keras.Input((12,), name="point")
    x = keras.layers.Dense(8, activation="relu", name="one")(point)
    x = keras.layers.Dense(8, activation="relu", name="two")(x)
    net = keras.Model(point, keras.layers.Dense(6, name="scores")(x))
    fine_tune(net, data, FineTune(images_seen=20_000, learning_rate=2e-2, augment=False))
    return wrap_keras(net, name="points.keras")


@pytest.fixture(scope="module")
def taught(trained: Model, data: Prepared) -> tuple[Model, dict[str, tuple[float, float]]]:
    return train_aware(trained, HOW, RECIPE, data)


def test_training_with_rounding_beats_rounding_afterwards(
    trained: Model, taught: tuple[Model, dict[str, tuple[float, float]]], data: Prepared
) -> None:
    model, ranges = taught
    held_out = data.dataset.holdout
    afterwards = accuracy(quantize(trained, RECIPE, data)[0], data, held_out)
    aware = accuracy(quantize(model, RECIPE, data, ranges=ranges)[0], data, held_out)
    # Measured: 0.91 against 0.82, the float net has 0.95.
    assert aware >= afterwards + 0.04


def test_ranges_are_learned_for_each_layer_that_a_device_rounds(
    taught: tuple[Model, dict[str, tuple[float, float]]],
) -> None:
    _, ranges = taught
    assert set(ranges) == {"one", "two", "scores"}
    assert all(low <= 0 < high for low, high in ranges.values())


def test_what_comes_back_is_a_plain_float_model(
    trained: Model, taught: tuple[Model, dict[str, tuple[float, float]]]
) -> None:
    model, _ = taught
    assert [type(layer).__name__ for layer in model.native.layers] == [
        type(layer).__name__ for layer in trained.native.layers
    ]
    assert [step.kind for step in model.steps] == ["train_aware"]


def test_the_same_seed_teaches_the_same(trained: Model, data: Prepared) -> None:
    short = msgspec.structs.replace(HOW, images_seen=640)
    first, second = (train_aware(trained, short, RECIPE, data) for _ in range(2))
    assert first[1] == second[1]
    assert all(
        np.array_equal(a, b) for a, b in zip(first[0].native.get_weights(), second[0].native.get_weights(), strict=True)
    )


def test_the_rounding_net_answers_as_the_device_will(float_model: Model) -> None:
    """Convolutions, too: with weights alone rounded there is no range to differ in."""
    from edgeloop.toolchain.quantize.aware import rounding_net
    from edgeloop.toolchain.quantize.equalize import fold_batchnorm

    recipe = QuantizeRecipe(precision=Precision.INT4_WEIGHTS)
    net: Any = rounding_net(fold_batchnorm(float_model.native), recipe)[0]
    made, _ = quantize(float_model, recipe, images())
    expected = made.scores(images())
    answered = next(iter(net.predict(images(), verbose=0).values()))
    # The same weights but where one lies on the edge between two steps.
    assert np.abs(answered - expected).max() <= 0.02 * np.abs(expected).max()


def test_what_cannot_learn_is_refused(data: Prepared, float_litert: bytes) -> None:
    from edgeloop.toolchain.source.engine import wrap_runnable
    from edgeloop.toolchain.source.model import Format

    with pytest.raises(InvalidInput, match="takes Keras models"):
        train_aware(wrap_runnable(float_litert, Format.LITERT, name="a.tflite"), HOW, RECIPE, data)
    with pytest.raises(InvalidInput, match="nothing to learn"):
        train_aware(mixed_model(), HOW, QuantizeRecipe(precision=Precision.FLOAT16), data)
