"""Importance against NumPy, on the network's own weights and activations."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.prune.measures import By
from edgeloop.toolchain.prune.rank import SAMPLES, importance
from edgeloop.toolchain.prune.surgery import flattened
from edgeloop.toolchain.prune.trace import trace_channels
from edgeloop.toolchain.source.keras import plain_keras
from edgeloop.toolchain.source.model import Model


def _relative(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(values / values.mean(), np.float64)


@pytest.mark.parametrize(("by", "order"), [(By.L1, 1), (By.L2, 2)])
def test_weight_norms_are_folded_and_summed_over_the_layers_that_make_a_channel(
    trained: Model, data: Prepared, by: By, order: int
) -> None:
    net = flattened(plain_keras(trained))
    graph = trace_channels(net)
    found = importance(net, graph, by, data, seed=0)

    def norms(name: str) -> NDArray[np.floating]:
        kernel = net.get_layer(name).get_weights()[0]
        return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64), ord=order, axis=0)

    gamma, _, _, variance = (one.astype(np.float64) for one in net.get_layer("inner_bn").get_weights())
    folded = norms("inner") * np.abs(gamma) / np.sqrt(variance + net.get_layer("inner_bn").epsilon)
    # Float64 sums in another order.
    np.testing.assert_allclose(found[graph.made["inner"]], _relative(folded), rtol=1e-12)
    np.testing.assert_allclose(found[graph.made["stem"]], _relative(norms("stem") + norms("back")), rtol=1e-12)


def test_activation_measures_look_where_the_channel_is_read(trained: Model, data: Prepared) -> None:
    net = flattened(plain_keras(trained))
    graph = trace_channels(net)
    chosen = np.sort(np.random.default_rng(3).permutation(len(data.dataset.fit))[:SAMPLES])
    tensors = data.tensors(data.dataset.fit.inputs[chosen])
    read = import_keras().Model(net.input, net.get_layer("inner_relu").output).predict(tensors, verbose=0)

    mean = importance(net, graph, By.ACTIVATION, data, seed=3)[graph.made["inner"]]
    alive = importance(net, graph, By.ZEROS, data, seed=3)[graph.made["inner"]]

    # Float32 activations, computed in batches of another size.
    np.testing.assert_allclose(mean, _relative(np.abs(read).mean(axis=(0, 1, 2))), rtol=1e-4)
    np.testing.assert_allclose(alive, (read != 0).mean(axis=(0, 1, 2)), atol=1e-4)


def test_lot_is_the_same_for_the_same_seed(trained: Model, data: Prepared) -> None:
    net = flattened(plain_keras(trained))
    graph = trace_channels(net)
    first, again, other = (importance(net, graph, By.RANDOM, data, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_nan_in_the_weights_is_refused(trained: Model, data: Prepared) -> None:
    net = flattened(plain_keras(trained))
    kernel = net.get_layer("inner").weights[0]
    kernel.assign(np.full(kernel.shape, np.nan))
    for by in (By.L1, By.ACTIVATION):
        with pytest.raises(Refused, match="NaN"):
            importance(net, trace_channels(net), by, data, seed=0)
