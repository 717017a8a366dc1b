"""Which channels hang together, what blocks them, and what is refused."""

from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.prune.graph import ChannelGraph, require_prunable
from edgeloop.toolchain.prune.trace import trace_channels

keras = import_keras()
layers = keras.layers


def _image_net(*middle: Any, width: int = 6) -> Any:
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(width, 3, activation="relu", name="conv")(image)
    for layer in middle:
        x = layer(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(layers.Dense(5, name="hidden")(x)))


def _layers_of(graph: ChannelGraph) -> set[tuple[str, ...]]:
    return {group.layers for group in graph.groups}


def test_addition_ties_the_layers_that_it_adds() -> None:
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 1, name="one")(image)
    y = layers.Conv2D(4, 1, name="two")(x)
    x = layers.Add(name="plus")([x, y])
    net = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))
    graph = trace_channels(net)
    assert _layers_of(graph) == {("one", "two")}
    assert np.array_equal(graph.made["one"], graph.made["two"])


def test_addition_to_a_concatenation_ties_each_part_to_its_own() -> None:
    image = keras.Input((6, 6, 2), name="image")
    parts = [layers.Conv2D(width, 1, name=f"part{width}")(image) for width in (2, 3)]
    x = layers.Add(name="plus")([layers.Concatenate(name="both")(parts), layers.Conv2D(5, 1, name="whole")(image)])
    net = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))
    graph = trace_channels(net)
    assert _layers_of(graph) == {("part2", "whole"), ("part3", "whole")}
    assert [len(group.channels) for group in graph.groups] == [2, 3]


def test_addition_to_the_input_keeps_a_layer_whole() -> None:
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Add(name="plus")([image, layers.Conv2D(2, 1, name="conv")(image)])
    x = layers.Dense(5, name="hidden")(layers.GlobalAveragePooling2D(name="gap")(x))
    graph = trace_channels(keras.Model(image, layers.Dense(3, name="logits")(x)))
    assert _layers_of(graph) == {("hidden",)}
    assert graph.blocked == ()


def test_scores_are_never_cut_and_features_may_be() -> None:
    image = keras.Input((4,), name="image")
    features = layers.Dense(6, name="features")(image)
    scores = layers.Dense(3, name="logits")(features)
    net = keras.Model(image, {"logits": scores, "features": features})
    assert _layers_of(trace_channels(net)) == set()
    assert _layers_of(trace_channels(net, may_shrink=[features])) == {("features",)}


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (layers.LayerNormalization(name="norm"), "norm"),
        (layers.Softmax(name="soft"), "soft"),
        (layers.Activation("softmax", name="act"), "act"),
        (layers.Permute((3, 2, 1), name="turn"), "turn"),
        (layers.Conv2D(6, 1, groups=2, name="grouped"), "grouped"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layer_across_channels_blocks_what_it_touches_and_is_named(layer: Any, named: str) -> None:
    graph = trace_channels(_image_net(layer))
    assert ("conv",) not in _layers_of(graph)
    assert ("hidden",) in _layers_of(graph)
    assert any(named in one.reason and "conv" in one.layers for one in graph.blocked)


def test_reshape_that_mixes_channels_with_positions_blocks_them() -> None:
    image = keras.Input((4, 4, 2), name="image")
    x = layers.Conv2D(6, 1, name="conv")(image)
    x = layers.Dense(5, name="hidden")(layers.Reshape((4, 8, 3), name="mixed")(x))
    net = keras.Model(image, layers.Dense(3, name="logits")(layers.Flatten(name="flat")(x)))
    graph = trace_channels(net)
    assert _layers_of(graph) == {("hidden",)}
    assert "mixed" in graph.blocked[0].reason


def test_one_channel_spread_over_many_stays() -> None:
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(6, 1, name="conv")(image)
    x = layers.Multiply(name="times")([x, layers.Conv2D(1, 1, activation="sigmoid", name="where")(x)])
    net = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))
    graph = trace_channels(net)
    assert _layers_of(graph) == {("conv",)}
    assert graph.blocked[0].layers == ("where",)


def test_stateful_layer_is_refused_by_name() -> None:
    series = keras.Input((8, 3), name="series")
    net = keras.Model(series, layers.Dense(2, name="logits")(layers.GRU(4, name="memory")(series)))
    with pytest.raises(InvalidInput, match=r"'memory' \(GRU\) keeps a state"):
        trace_channels(net)


def test_lambda_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"'mine' \(Lambda\)"):
        trace_channels(_image_net(layers.Lambda(lambda x: x * 2, name="mine")))


def test_custom_layer_is_refused_by_name() -> None:
    class Doubled(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    with pytest.raises(InvalidInput, match=r"'own' \(Doubled\) is code of its own"):
        trace_channels(_image_net(Doubled(name="own")))


def test_network_whose_only_layer_scores_cannot_be_pruned() -> None:
    image = keras.Input((4,), name="image")
    net = keras.Model(image, layers.Dense(3, name="logits")(image))
    with pytest.raises(Refused, match="no channel of tiny"):
        require_prunable(trace_channels(net), "tiny")


def test_subclassed_model_is_refused() -> None:
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(InvalidInput, match="functional"):
        trace_channels(_built(Own(name="own")))


def _built(model: Any) -> Any:
    model(np.zeros((1, 4), np.float32))
    return model
