"""Small Keras networks to quantize, and inputs for them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Model


def images(count: int = 96) -> NDArray[np.float32]:
    """(N, 8, 8, 2) around zero."""
    return np.random.default_rng(0).normal(size=(count, 8, 8, 2)).astype(np.float32)


def mixed_net(*, unequal: bool = False) -> Any:
    """Convolution, BatchNorm, depthwise, an addition, dense layers; with every weight away from what it begins as.

    unequal: the same answers, but the first channels between `first` and `depth` are a hundredth of the last one.
    """
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="cut")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depth")(x)
    branch = layers.Conv2D(8, 1, name="point")(x)
    x = layers.Add(name="sum")([x, branch])
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(4, name="pool")(x))
    x = layers.Dense(12, activation="relu", name="hidden")(x)
    net = keras.Model(image, layers.Dense(5, name="scores")(x))
    rng = np.random.default_rng(1)
    for layer in net.layers:
        if layer.name == "norm":
            layer.set_weights([weight + rng.uniform(0, 0.5, weight.shape) for weight in layer.get_weights()])
        else:
            layer.set_weights([weight + rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    if unequal:
        spread = np.logspace(-2, 0, 8)
        gamma, beta, *seen = net.get_layer("norm").get_weights()
        net.get_layer("norm").set_weights([gamma * spread, beta * spread, *seen])
        kernel, bias = net.get_layer("depth").get_weights()
        net.get_layer("depth").set_weights([kernel / spread[:, np.newaxis], bias])
    return net


def mixed_model(*, unequal: bool = False) -> Model:
    """The same as a Model."""
    return wrap_keras(mixed_net(unequal=unequal), name="mixed.keras")
