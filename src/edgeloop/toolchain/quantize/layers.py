"""Keras' layer names and the operators that an exporter makes of the layers.

An exporter fuses layers, and adds one suffix to all names when a model is traced again ("conv" to "conv_1", beside a
"conv_1" that turns into "conv_1_1"); so the suffix is found first, from all layers at once.
"""

from typing import Any

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.quantize.flatbuffer import Graph, Operator

_MOST_TRACES = 20


def operators_of_layers(net: Any, graph: Graph) -> dict[str, Operator]:
    """For each layer of a keras.Model the operator that it became, or was fused into; none for those that vanished.

    net: the model that the graph was exported from.
    """
    names = [layer.name for layer in net.layers]
    suffixes = ["", *(f"_{count}" for count in range(1, _MOST_TRACES))]
    best = max(suffixes, key=lambda suffix: _hits(names, suffix, graph))
    found: dict[str, Operator] = {}
    for name in names:
        made = [one for one in graph.operators if one.is_called(name + best)]
        if made:
            # A layer of several operators ends with the last of them.
            found[name] = made[-1]
    return found


def scopes_of(names: tuple[str, ...], net: Any, graph: Graph) -> tuple[str, ...]:
    """The operators' own names for names of layers; names of operators stay. Raises InvalidInput for any other."""
    layers = operators_of_layers(net, graph)
    own = {one.scope for one in graph.operators} | {one.name for one in graph.operators}
    unknown = [name for name in names if name not in layers and name not in own]
    if unknown:
        raise InvalidInput(f"no layer is called {unknown[0]!r}; the model has: {', '.join(layers)}")
    return tuple(layers[name].scope if name in layers else name for name in names)


def _hits(names: list[str], suffix: str, graph: Graph) -> int:
    return sum(any(one.is_called(name + suffix) for one in graph.operators) for name in names)
