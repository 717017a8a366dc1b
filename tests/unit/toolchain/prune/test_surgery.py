"""Cutting is exact: a network whose zero channels are taken out answers as before."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.prune.graph import ChannelGraph
from edgeloop.toolchain.prune.macs import count
from edgeloop.toolchain.prune.surgery import cost_of, cut, flattened
from edgeloop.toolchain.prune.trace import trace_channels

TOLERANCE = 1e-5
"""Float32 sums in another order: a few units in the last place of values near 1."""

keras = import_keras()
layers = keras.layers


def _residual() -> Any:
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.BatchNormalization(name="back_bn")(layers.Conv2D(8, 1, name="back")(y))
    x = layers.ReLU(name="out")(layers.Add(name="plus")([x, y]))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def _concatenated() -> Any:
    image = keras.Input((8, 8, 1), name="image")
    left = layers.Conv2D(4, 3, padding="same", activation="relu", name="left")(image)
    right = layers.Conv2D(6, 5, padding="same", activation="relu", name="right")(image)
    x = layers.MaxPooling2D(name="pool")(layers.Concatenate(name="both")([left, right]))
    whole = layers.Conv2D(10, 1, activation="relu", name="whole")(x)
    x = layers.ZeroPadding2D(1, name="pad")(layers.Add(name="plus")([x, whole]))
    x = layers.UpSampling2D(name="up")(layers.Conv2D(5, 3, activation="relu", name="after")(x))
    return keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalMaxPooling2D(name="gap")(x)))


def _depthwise() -> Any:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu", name="each")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="mix")(layers.BatchNormalization(name="bn")(x))
    x = layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2, activation="relu", name="apart")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="wider")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))


def _flattened() -> Any:
    image = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.Flatten(name="flat")(layers.Dropout(0.5, name="drop")(x))
    x = layers.Dense(7, activation="relu", name="features")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def _squeezed() -> Any:
    image = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    s = layers.Reshape((1, 1, 8), name="as_map")(layers.GlobalAveragePooling2D(name="squeeze")(x))
    s = layers.Conv2D(4, 1, activation="relu", name="fewer")(s)
    x = layers.Multiply(name="scaled")([x, layers.Conv2D(8, 1, activation="sigmoid", name="excite")(s)])
    x = x * 0.5 + layers.Conv2D(8, 1, name="beside")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))


def _series() -> Any:
    series = keras.Input((20, 3), name="series")
    x = layers.Conv1D(6, 3, activation="relu", name="first")(series)
    x = layers.DepthwiseConv1D(3, activation="relu", name="each")(x)
    x = layers.SeparableConv1D(8, 3, activation="relu", name="apart")(layers.MaxPooling1D(name="pool")(x))
    x = layers.Dense(5, activation="relu", name="step")(x)
    return keras.Model(series, layers.Dense(3, name="logits")(layers.Flatten(name="flat")(x)))


def _shared() -> Any:
    """Two branches through the same layer."""
    image = keras.Input((6, 6, 1), name="image")
    both = layers.Conv2D(5, 3, padding="same", activation="relu", name="both")
    left = both(layers.Conv2D(4, 3, padding="same", activation="relu", name="left")(image))
    right = both(layers.Conv2D(4, 1, activation="relu", name="right")(image))
    x = layers.Concatenate(name="side")([left, right])
    return keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))


def _nested() -> Any:
    inside = keras.Input((6, 6, 4), name="inside")
    x = layers.Conv2D(6, 3, activation="relu", name="deep")(inside)
    backbone = keras.Model(inside, layers.BatchNormalization(name="deep_bn")(x), name="backbone")
    head = keras.Sequential([layers.Dense(5, activation="relu", name="hidden"), layers.Dense(3, name="scores")])
    image = keras.Input((6, 6, 1), name="image")
    x = backbone(layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(image), training=False)
    return keras.Model(image, head(layers.GlobalAveragePooling2D(name="gap")(x)))


NETS: tuple[Callable[[], Any], ...] = (
    _residual,
    _concatenated,
    _depthwise,
    _flattened,
    _squeezed,
    _series,
    _shared,
    _nested,
)


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__.strip("_"))
def test_taking_out_zero_channels_changes_no_answer(build: Callable[[], Any]) -> None:
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    net = flattened(build())
    _shake(net, rng)
    graph = trace_channels(net)
    kept = graph.all_channels()
    for group in graph.groups:
        kept[rng.choice(group.channels, len(group.channels) // 2, replace=False)] = False
    _silence(net, graph, kept)

    smaller = cut(net, graph, kept)

    inputs = rng.normal(size=(4, *net.inputs[0].shape[1:])).astype(np.float32)
    before, after = net.predict(inputs, verbose=0), smaller.predict(inputs, verbose=0)
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, before, atol=TOLERANCE)
    found = count(smaller)
    assert (found.macs, found.parameters) == (cost_of(graph, kept).macs, cost_of(graph, kept).parameters)
    assert found.macs < count(net).macs


def test_copy_of_a_network_with_models_inside_answers_alike_and_has_none() -> None:
    rng = np.random.default_rng(0)
    net = _nested()
    _shake(net.get_layer("backbone"), rng)
    inputs = rng.normal(size=(4, 6, 6, 1)).astype(np.float32)

    flat = flattened(net)

    assert not any(hasattr(layer, "layers") for layer in flat.layers)
    np.testing.assert_allclose(flat.predict(inputs, verbose=0), net.predict(inputs, verbose=0), atol=TOLERANCE)
    # While training, too: the backbone was called with a stated mode, which counts for its layers as it did for it.
    np.testing.assert_allclose(flat(inputs, training=True), net(inputs, training=True), atol=TOLERANCE)


def test_models_inside_that_share_layer_names_are_refused() -> None:
    image = keras.Input((4, 4, 1), name="image")
    inner = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 1, name="conv")], name="inner")
    x = layers.Conv2D(3, 1, name="conv")(inner(image))
    net = keras.Model(image, layers.Dense(2, name="logits")(layers.Flatten(name="flat")(x)))
    with pytest.raises(InvalidInput, match=r"conv.*name of its own"):
        flattened(net)


def test_original_is_untouched_by_a_cut() -> None:
    net = flattened(_residual())
    weights = [one.copy() for one in net.get_weights()]
    graph = trace_channels(net)
    kept = graph.all_channels()
    kept[graph.groups[0].channels[:3]] = False
    cut(net, graph, kept)
    assert all(np.array_equal(one, other) for one, other in zip(weights, net.get_weights(), strict=True))


def test_cut_that_takes_an_output_is_refused() -> None:
    net = flattened(_flattened())
    graph = trace_channels(net)
    kept = graph.all_channels()
    kept[graph.made["logits"][0]] = False
    with pytest.raises(InvalidInput, match="outputs"):
        cut(net, graph, kept)


def test_cut_that_leaves_a_layer_empty_is_refused() -> None:
    net = flattened(_flattened())
    graph = trace_channels(net)
    kept = graph.all_channels()
    kept[graph.made["conv"]] = False
    with pytest.raises(InvalidInput, match="conv"):
        cut(net, graph, kept)


def _shake(net: Any, rng: np.random.Generator) -> None:
    """Batch normalization and biases as training leaves them, not as they start."""
    for layer in net.layers:
        for weight in layer.weights:
            if weight.name in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif weight.name in ("beta", "moving_mean", "bias", "alpha"):
                weight.assign(0.3 * rng.normal(size=weight.shape))


def _silence(net: Any, graph: ChannelGraph, kept: NDArray[np.bool_]) -> None:
    """Zero what makes the channels that leave: weights, bias, and all of the normalization."""
    for one in graph.weights:
        weight = next(weight for weight in net.get_layer(one.layer).weights if weight.name == one.name)
        values = weight.numpy().copy()
        for axis, channels in one.axes.items():
            if axis == one.makes or one.name in ("bias", "gamma", "beta", "moving_mean"):
                np.moveaxis(values, axis, 0)[~kept[channels]] = 0
        weight.assign(values)
