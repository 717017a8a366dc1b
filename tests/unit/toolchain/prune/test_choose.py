"""Which channels leave, on networks that are never run."""

from typing import Any

import numpy as np
import pytest

from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.prune.choose import amount, choose
from edgeloop.toolchain.prune.graph import ChannelGraph
from edgeloop.toolchain.prune.measures import Of, Scope
from edgeloop.toolchain.prune.trace import trace_channels

keras = import_keras()


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    """Dense layers of 16, 12 and 8 on 10 inputs."""
    x: Any = keras.Input((10,), name="x")
    start = x
    for width in (16, 12, 8):
        x = keras.layers.Dense(width, name=f"dense{width}")(x)
    return trace_channels(keras.Model(start, keras.layers.Dense(3, name="logits")(x)))


@pytest.fixture(scope="module")
def importance(graph: ChannelGraph) -> Any:
    return np.random.default_rng(0).random(graph.size)


@pytest.mark.parametrize("of", list(Of))
@pytest.mark.parametrize("scope", list(Scope))
def test_target_is_reached_and_by_no_more_than_a_layer_each(
    graph: ChannelGraph, importance: Any, of: Of, scope: Scope
) -> None:
    whole = amount(graph, graph.all_channels(), of)
    kept = choose(graph, importance, target=0.5 * whole, of=of, scope=scope)
    # The dearest channels, one of each layer: 16 reads 10, is read by 12; and so on.
    step = {Of.MACS: 22 + 24 + 15, Of.PARAMETERS: 23 + 25 + 16, Of.CHANNELS: 3}[of]
    assert 0.5 * whole - step <= amount(graph, kept, of) <= 0.5 * whole


def test_network_scope_takes_the_least_important_wherever_they_are(graph: ChannelGraph) -> None:
    importance = np.ones(graph.size)
    weak = graph.made["dense12"][:5]
    importance[weak] = 0.1
    whole = amount(graph, graph.all_channels(), Of.CHANNELS)
    kept = choose(graph, importance, target=whole - 5, of=Of.CHANNELS, scope=Scope.NETWORK)
    assert set(np.flatnonzero(~kept)) == set(weak.tolist())


def test_layer_scope_takes_the_same_share_of_each(graph: ChannelGraph, importance: Any) -> None:
    kept = choose(graph, importance, target=18, of=Of.CHANNELS, scope=Scope.LAYER)
    assert [int(kept[graph.made[f"dense{width}"]].sum()) for width in (16, 12, 8)] == [8, 6, 4]


def test_least_channels_stay_and_the_best_ones(graph: ChannelGraph, importance: Any) -> None:
    kept = choose(graph, importance, target=0, of=Of.MACS, scope=Scope.NETWORK, least_channels=3)
    for group in graph.groups:
        best = group.channels[np.argsort(-importance[group.channels])[:3]]
        assert set(group.channels[kept[group.channels]]) == set(best)


@pytest.mark.parametrize("scope", list(Scope))
def test_widths_are_multiples(graph: ChannelGraph, importance: Any, scope: Scope) -> None:
    whole = amount(graph, graph.all_channels(), Of.MACS)
    kept = choose(graph, importance, target=0.6 * whole, of=Of.MACS, scope=scope, multiple_of=4)
    assert all(int(kept[group.channels].sum()) % 4 == 0 for group in graph.groups)
    assert amount(graph, kept, Of.MACS) <= 0.6 * whole


def test_nothing_leaves_when_the_target_is_met_already(graph: ChannelGraph, importance: Any) -> None:
    whole = amount(graph, graph.all_channels(), Of.MACS)
    for scope in Scope:
        assert choose(graph, importance, target=whole, of=Of.MACS, scope=scope).all()
