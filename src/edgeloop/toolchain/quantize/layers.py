"""Keras' layers and the operators that an exporter made of them, matched by what they compute.

Names do not tell: an exporter counts them up when a model is traced again ("conv" becomes "conv_1", beside a layer
"conv_1" that becomes "conv_1_1"). Values do: a layer's output on a real input is that of its operator, to float error.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.quantize.activations import Tap
from edgeloop.toolchain.quantize.flatbuffer import Graph, Operator
from edgeloop.toolchain.quantize.topology import Topology

_SAMPLES = 4
_NEAR = 1e-3
"""Relative: the exporter folds factors, which changes the order of float sums."""


def operators_of_layers(net: Any, graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Operator]:
    """For each layer of a keras.Model the operator that makes its value, or that of the layer it was fused into.

    net: the model that the graph was exported from. feeds: real inputs (N, ...) by name, of which four are used.
    Layers that vanished are left out.
    """
    some = {name: np.asarray(array[:_SAMPLES]) for name, array in feeds.items()}
    topology = Topology(net)
    made = _operator_values(graph, some)
    values = _layer_values(net, topology, some)
    found: dict[str, Operator] = {}
    for node in reversed(topology.nodes):
        name, user = node.operation.name, topology.only_user(node)
        matching = [operator for operator, value in made if _same(values.get(name), value)]
        if matching:
            found[name] = matching[0]
        elif user is not None and user.operation.name in found:
            found[name] = found[user.operation.name]
    return found


def scopes_of(names: tuple[str, ...], layers: Mapping[str, Operator], graph: Graph) -> tuple[str, ...]:
    """The operators' own names for names of layers; names of operators stay. Raises InvalidInput for any other."""
    own = {one.scope for one in graph.operators} | {one.name for one in graph.operators}
    unknown = [name for name in names if name not in layers and name not in own]
    if unknown:
        raise InvalidInput(f"no layer is called {unknown[0]!r}; the model has: {', '.join(layers)}")
    return tuple(layers[name].scope if name in layers else name for name in names)


def _layer_values(net: Any, topology: Topology, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    keras = import_keras()
    tensors = {
        node.operation.name: node.outputs[0]
        for node in topology.nodes
        if len(node.outputs) == 1 and topology.is_called_once(node)
    }
    inputs = [feeds[tensor.name] for tensor in net.inputs]
    shown = keras.Model(net.inputs, tensors).predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
    return {name: np.asarray(value) for name, value in shown.items()}


def _operator_values(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> list[tuple[Operator, NDArray[np.float32]]]:
    float_made = [one for one in graph.operators if len(one.outputs) == 1 and graph.dtype(one.outputs[0]) == "FLOAT32"]
    tap = Tap(graph.to_bytes(), tuple(one.outputs[0] for one in float_made))
    samples = list(tap.each(feeds))
    return [(one, np.concatenate([sample[one.outputs[0]] for sample in samples])) for one in float_made]


def _same(wanted: NDArray[Any] | None, made: NDArray[np.float32]) -> bool:
    if wanted is None or wanted.size != made.size:
        return False
    gap = np.abs(wanted.reshape(-1) - made.reshape(-1)).max()
    return bool(gap <= _NEAR * max(float(np.abs(wanted).max()), 1e-6))
