"""Statistics of batch normalization against NumPy."""

import numpy as np

from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.prune.settle import settle
from edgeloop.toolchain.prune.surgery import flattened
from edgeloop.toolchain.source.keras import plain_keras
from edgeloop.toolchain.source.model import Model


def test_statistics_are_those_of_the_training_samples(trained: Model, data: Prepared) -> None:
    net = flattened(plain_keras(trained))
    layer = net.get_layer("inner_bn")
    momentum = layer.momentum
    layer.moving_mean.assign(np.full(layer.moving_mean.shape, 7.0))
    settle(net, data, seed=0)
    before = import_keras().Model(net.input, net.get_layer("inner").output)
    made = before.predict(data.tensors(data.dataset.fit.inputs), verbose=0).astype(np.float64)
    # Batches of the last size weigh as much as full ones.
    np.testing.assert_allclose(layer.moving_mean.numpy(), made.mean(axis=(0, 1, 2)), atol=0.05 * made.std())
    np.testing.assert_allclose(layer.moving_variance.numpy(), made.var(axis=(0, 1, 2)), rtol=0.2)
    assert layer.momentum == momentum


def test_frozen_statistics_stay(trained: Model, data: Prepared) -> None:
    net = flattened(plain_keras(trained))
    net.get_layer("inner_bn").trainable = False
    before = net.get_layer("inner_bn").moving_mean.numpy().copy()
    settle(net, data, seed=0)
    assert np.array_equal(net.get_layer("inner_bn").moving_mean.numpy(), before)
