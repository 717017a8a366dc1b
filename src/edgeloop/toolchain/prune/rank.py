"""How much each channel of a network matters: by its weights, by what it answers to real data, or by lot.

All measures are brought to a mean of 1 within a group, so that groups of different scale compare, but the share of
zeros, which is a share everywhere. Neighbours: `graph` says what a channel is, `structured` takes out the least.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.prune.graph import ChannelGraph
from edgeloop.toolchain.prune.measures import By

SAMPLES = 512
"""Training samples that the activation measures look at."""

_BATCH = 128


def importance(model: Any, graph: ChannelGraph, by: By, data: Prepared, *, seed: int) -> NDArray[np.float64]:
    """A value for each channel (graph.size,), higher for what matters more; 0 where nothing makes or reads it.

    data: its fit part is looked at, a seeded choice of SAMPLES. Raises Refused if the network holds or answers NaN.
    """
    rng = np.random.default_rng(seed)
    if by is By.RANDOM:
        return rng.random(graph.size)
    if by.needs_data:
        chosen = rng.permutation(len(data.dataset.fit))[:SAMPLES]
        found = _by_activation(model, graph, by, data.tensors(data.dataset.fit.inputs[np.sort(chosen)]))
    else:
        found = _by_weight(model, graph, by)
    if not np.isfinite(found).all():
        raise Refused(f"{model.name!r} holds or answers NaN or infinity: its channels cannot be ranked; train it again")
    return found if by is By.ZEROS else _by_group(found, graph)


def _by_weight(model: Any, graph: ChannelGraph, by: By) -> NDArray[np.float64]:
    """Norms over all weights that make a channel, summed over the layers that make it."""
    found = np.zeros(graph.size)
    for one in graph.weights:
        if one.makes is None:
            continue
        made = one.axes[one.makes]
        weight = next(weight for weight in model.get_layer(one.layer).weights if weight.name == one.name)
        values = np.moveaxis(np.asarray(weight.numpy(), np.float64), one.makes, 0).reshape(len(made), -1)
        norm = np.abs(values).sum(axis=1) if by is By.L1 else np.sqrt((values**2).sum(axis=1))
        if one.layer in graph.folds:
            norm = norm * _folded_scale(model.get_layer(graph.folds[one.layer]))
        np.add.at(found, made, norm)
    return found


def _folded_scale(normalization: Any) -> NDArray[np.float64]:
    """What batch normalization multiplies each channel by: without it, the norm of what comes before says nothing."""
    variance = normalization.moving_variance.numpy().astype(np.float64)
    scale = 1 / np.sqrt(variance + normalization.epsilon)
    return np.asarray(scale * np.abs(normalization.gamma.numpy()) if normalization.scale else scale)


def _by_activation(model: Any, graph: ChannelGraph, by: By, tensors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean over samples, positions and readers."""
    keras = import_keras()
    total, readers = np.zeros(graph.size), np.zeros(graph.size)
    seen = {id(tensor): (tensor, channels) for tensor, channels in graph.reads}
    probe = keras.Model(model.input, [tensor for tensor, _ in seen.values()])
    sums = [np.zeros(len(channels)) for _, channels in seen.values()]
    for start in range(0, len(tensors), _BATCH):
        made = probe(tensors[start : start + _BATCH], training=False)
        for index, values in enumerate(made if isinstance(made, list | tuple) else [made]):
            sums[index] += _measure(np.asarray(values, np.float64), by)
    for (_, channels), sum_ in zip(seen.values(), sums, strict=True):
        mean = sum_ / len(tensors)
        np.add.at(total, channels, mean)
        np.add.at(readers, channels, 1.0)
    return np.divide(total, readers, out=np.zeros_like(total), where=readers > 0)


def _measure(values: NDArray[np.float64], by: By) -> NDArray[np.float64]:
    """values (n, ..., C): the sum over samples of the mean over positions, (C,)."""
    measured = np.abs(values) if by is By.ACTIVATION else (values != 0).astype(np.float64)
    return np.asarray(measured.reshape(len(values), -1, values.shape[-1]).mean(axis=1).sum(axis=0))


def _by_group(found: NDArray[np.float64], graph: ChannelGraph) -> NDArray[np.float64]:
    scaled = found.copy()
    for group in graph.groups:
        mean = found[group.channels].mean()
        if mean > 0:
            scaled[group.channels] = found[group.channels] / mean
    return scaled
