"""What a Keras network costs: multiply-adds and parameters, layer by layer, for one sample.

Counted is what an engine computes after folding: a multiply-add for each use of a weight of a convolution, a dense or
a recurrent layer. Bias, batch normalization (it folds into its neighbour), activations, pooling and additions count 0,
as the field counts. Neighbours: `graph` uses `weight_uses` to say what a cut would save; `structured` and the search
report `count`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from edgeloop.contracts.errors import InvalidInput

_RANKS = ("1D", "2D", "3D")


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: multiply-adds for one sample over all its calls, and its parameters."""

    name: str
    kind: str
    macs: int
    parameters: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A network. uncounted: layers that hold matrices whose arithmetic is not known here, so `macs` leaves them out."""

    macs: int
    parameters: int
    layers: tuple[LayerCost, ...] = ()
    uncounted: tuple[str, ...] = ()


def count(model: Any) -> Cost:
    """The cost of a functional keras.Model, or of a Sequential one. Raises InvalidInput if its axes are free."""
    layers: dict[str, LayerCost] = {}
    uncounted: dict[str, None] = {}
    for node in nodes_of(model):
        layer = node.operation
        if hasattr(layer, "layers"):
            inner = count(layer)
            found, unknown = inner.macs, [f"{layer.name}/{name}" for name in inner.uncounted]
        else:
            uses = weight_uses(node)
            sizes = {weight.name: int(np.prod(weight.shape)) for weight in _weights(layer)}
            found = sum(sizes[name] * times for name, times in uses.items())
            unknown = [layer.name] if is_uncounted(layer, uses) else []
        uncounted.update(dict.fromkeys(unknown))
        before = layers[layer.name].macs if layer.name in layers else 0
        parameters = sum(int(np.prod(weight.shape)) for weight in _weights(layer))
        layers[layer.name] = LayerCost(
            name=layer.name, kind=type(layer).__name__, macs=before + found, parameters=parameters
        )
    return Cost(
        macs=sum(layer.macs for layer in layers.values()),
        parameters=int(model.count_params()),
        layers=tuple(layers.values()),
        uncounted=tuple(uncounted),
    )


def nodes_of(model: Any) -> Iterator[Any]:
    """The calls of layers in a functional or Sequential keras.Model, each after those that it depends on.

    Raises InvalidInput for a subclassed model: what it computes stands in its code only.
    """
    graph = getattr(model, "_functional", None) or model
    by_depth = getattr(graph, "_nodes_by_depth", None)
    if by_depth is None:
        raise InvalidInput(
            f"{model.name!r} is a {type(model).__name__}, not a functional or Sequential Keras model: its graph cannot "
            "be read; rebuild it with keras.Input and keras.Model(inputs, outputs)"
        )
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def weight_uses(node: Any) -> dict[str, int]:
    """How often one call uses each element of a weight for one sample, by the weight's name; 0 is left out."""
    found = _USES.get(type(node.operation).__name__)
    return {} if found is None or not type(node.operation).__module__.startswith("keras.") else found(node)


def is_uncounted(layer: Any, uses: dict[str, int]) -> bool:
    """Whether a layer has a matrix that `uses` does not explain."""
    if type(layer).__name__ == "Embedding":
        return False
    return any(len(weight.shape) >= 2 and weight.name not in uses for weight in _weights(layer)) and not uses


def _weights(layer: Any) -> list[Any]:
    """The weights of a layer; a bare operation (x + y) has none."""
    return list(getattr(layer, "weights", []))


def _spatial(tensor: Any, layer: Any) -> int:
    """Positions of a tensor (N, ..., C), or (N, C, ...) where the layer says so."""
    first = getattr(layer, "data_format", None) == "channels_first"
    axes = tensor.shape[2:] if first else tensor.shape[1:-1]
    if any(size is None for size in axes):
        raise InvalidInput(
            f"layer {layer.name!r} works on {tuple(tensor.shape)}, whose axes are free: its cost is not fixed; "
            "fix the input's shape (keras.Input with a full shape)"
        )
    return int(np.prod(axes, dtype=np.int64))


def _conv(node: Any) -> dict[str, int]:
    return {"kernel": _spatial(node.outputs[0], node.operation)}


def _transposed(node: Any) -> dict[str, int]:
    return {"kernel": _spatial(node.input_tensors[0], node.operation)}


def _separable(node: Any) -> dict[str, int]:
    positions = _spatial(node.outputs[0], node.operation)
    return {"depthwise_kernel": positions, "pointwise_kernel": positions}


def _recurrent(node: Any) -> dict[str, int]:
    steps = _spatial(node.input_tensors[0], node.operation)
    return {"kernel": steps, "recurrent_kernel": steps}


_USES: dict[str, Callable[[Any], dict[str, int]]] = {
    "Dense": _conv,
    **{f"Conv{rank}": _conv for rank in _RANKS},
    **{f"DepthwiseConv{rank}": _conv for rank in _RANKS},
    **{f"Conv{rank}Transpose": _transposed for rank in _RANKS},
    **{f"SeparableConv{rank}": _separable for rank in _RANKS},
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _recurrent),
}
