"""One small residual network, trained once."""

from typing import TYPE_CHECKING

import pytest

from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.fitting import FineTune, fine_tune
from edgeloop.toolchain.source.keras import wrap_keras
from striped import SHAPE, striped

if TYPE_CHECKING:
    from edgeloop.toolchain.source.model import Model


@pytest.fixture(scope="package")
def data() -> Prepared:
    """Stripes, labelled."""
    return striped()


@pytest.fixture(scope="package")
def trained(data: Prepared) -> "Model":
    """A residual network that knows stripes."""
    keras = import_keras()
    seed_everything(keras, 0)
    layers = keras.layers
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(image)
    y = layers.Conv2D(12, 3, padding="same", use_bias=False, name="inner")(x)
    y = layers.ReLU(name="inner_relu")(layers.BatchNormalization(name="inner_bn")(y))
    x = layers.ReLU(name="out")(layers.Add(name="plus")([x, layers.Conv2D(12, 3, padding="same", name="back")(y)]))
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(4, name="pool")(x))
    x = layers.Dense(16, activation="relu", name="features")(x)
    net = keras.Model(image, layers.Dense(3, name="logits")(x), name="stripes")
    fine_tune(net, data, FineTune(images_seen=3_000, batch_size=32, learning_rate=5e-3, augment=False))
    return wrap_keras(net, name="stripes.keras")
