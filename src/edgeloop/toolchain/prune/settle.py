"""Batch normalization's statistics, estimated anew: after a cut, what reaches a layer is no longer what it was.

Fitting brings them along, but slowly: at Keras's momentum of 0.99 they are hundreds of steps behind the weights, so
they are estimated anew after a short fit, too.
"""

from typing import Any

import numpy as np

from edgeloop.toolchain.data.dataset import Prepared

_BATCHES, _BATCH = 8, 128


def settle(net: Any, data: Prepared, *, seed: int) -> None:
    """Set each trainable BatchNormalization of a keras.Model, in place, to the statistics of training samples.

    Those are the mean over a few batches, chosen by seed. A frozen layer keeps its own. Source: Li et al. 2020,
    EagleEye (arXiv 2007.02491), sec. 3.4, adaptive batch normalization.
    """
    found = [layer for layer in net.layers if type(layer).__name__ == "BatchNormalization" and layer.trainable]
    if not found:
        return
    momenta = [layer.momentum for layer in found]
    fit = data.dataset.fit
    order = np.random.default_rng(seed).permutation(len(fit))[: _BATCHES * _BATCH]
    for index, start in enumerate(range(0, len(order), _BATCH)):
        for layer in found:
            # A running mean: what was kept so far weighs as much as the batches that it came from.
            layer.momentum = index / (index + 1)
        net(data.tensors(fit.inputs[order[start : start + _BATCH]]), training=True)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum
