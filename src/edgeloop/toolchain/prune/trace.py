"""Read a Keras network into its channels: what each kind of layer does with them.

Convolutions and dense layers make channels; what works channel by channel passes them on; an addition ties those of
its operands together; a concatenation lines them up; flattening repeats each. What a layer touches that this module
does not know stays whole, and the layer is named. A layer with a state or with code of its own is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.prune.graph import ChannelGraph, Channels, Tracer
from edgeloop.toolchain.prune.macs import nodes_of


def trace_channels(model: Any, *, may_shrink: Sequence[Any] = ()) -> ChannelGraph:
    """The channels of a functional keras.Model without models inside (see `surgery.flattened`).

    may_shrink: outputs that need not keep their width. Raises InvalidInput for a layer with state or code of its own.
    """
    nodes, tracer = list(nodes_of(model)), Tracer()
    for tensor in model.inputs:
        tracer.block(tracer.fresh_for(tensor), None)
    for node in nodes:
        _visit(tracer, node)
    free = {id(tensor) for tensor in may_shrink}
    for tensor in model.outputs:
        if id(tensor) not in free:
            tracer.block(tracer.channels[id(tensor)], None)
    return tracer.finish()


def require_known(layer: Any) -> None:
    """Raise InvalidInput for a layer that no surgery is done on."""
    kind = type(layer).__name__
    why = ""
    if not type(layer).__module__.startswith("keras."):
        why = "is code of its own, which cannot be read"
    elif kind == "Lambda":
        why = "holds a function, which cannot be read"
    elif hasattr(layer, "cell") or kind in _STATEFUL:
        why = "keeps a state from step to step"
    if why:
        raise InvalidInput(
            f"layer {layer.name!r} ({kind}) {why}; pruning takes convolutional and dense networks of Keras's own "
            "layers. Quantize or distil this model instead"
        )


def _visit(tracer: Tracer, node: Any) -> None:
    """Give the node's outputs their channels."""
    layer = node.operation
    is_layer = hasattr(layer, "weights")
    if is_layer:
        require_known(layer)
    rule = (_LAYERS if is_layer else _OPERATIONS).get(type(layer).__name__, _unknown)
    if getattr(layer, "data_format", None) == "channels_first":
        rule = _unknown
    rule(tracer, node)


def _unknown(tracer: Tracer, node: Any) -> None:
    """Whatever goes in stays whole, and so does what comes out."""
    layer = node.operation
    reason = f"layer {layer.name!r} ({type(layer).__name__}) is not known to work channel by channel"
    for tensor in node.input_tensors:
        tracer.block(tracer.of(tensor), reason)
    for tensor in node.outputs:
        tracer.block(tracer.fresh_for(tensor), reason)
    if hasattr(layer, "weights"):
        tracer.weigh(node, {})


def _pass_on(tracer: Tracer, node: Any) -> None:
    """Channel by channel: the output has the input's channels."""
    if len(node.input_tensors) != 1 or len(node.outputs) != 1 or len(node.outputs[0].shape) < 2:
        _unknown(tracer, node)
        return
    tracer.channels[id(node.outputs[0])] = tracer.of(node.input_tensors[0])
    if getattr(node.operation, "weights", ()):
        tracer.weigh(node, {})


def _rescaling(tracer: Tracer, node: Any) -> None:
    layer = node.operation
    is_scalar = np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    (_pass_on if is_scalar else _unknown)(tracer, node)


def _activation(tracer: Tracer, node: Any) -> None:
    _pass_on(tracer, node)
    _check_activation(tracer, node)


def _check_activation(tracer: Tracer, node: Any) -> None:
    """A softmax, or a function that nobody knows, needs all its channels."""
    name = getattr(node.operation.activation, "__name__", type(node.operation.activation).__name__)
    if name not in _ELEMENTWISE:
        reason = f"layer {node.operation.name!r} applies {name!r}, which works across channels"
        tracer.block(tracer.of(node.outputs[0]), reason)


def _softmax(tracer: Tracer, node: Any) -> None:
    _pass_on(tracer, node)
    tracer.block(tracer.of(node.outputs[0]), f"layer {node.operation.name!r} (Softmax) works across channels")


def _normalization(tracer: Tracer, node: Any) -> None:
    """Batch normalization, PReLU: weights by channel on their last axis."""
    layer, rank = node.operation, len(node.outputs[0].shape)
    if getattr(layer, "axis", -1) not in (-1, rank - 1) or getattr(layer, "shared_axes", None) not in (
        None,
        *_spatial_axes(rank),
    ):
        _unknown(tracer, node)
        return
    channels = tracer.of(node.input_tensors[0])
    tracer.channels[id(node.outputs[0])] = channels
    before = node.input_tensors[0]._keras_history.operation.name
    if type(layer).__name__ == "BatchNormalization" and before in tracer.made:
        tracer.folds[before] = layer.name
    tracer.weigh(node, {weight.name: {len(weight.shape) - 1: channels} for weight in layer.weights})


def _spatial_axes(rank: int) -> Iterable[list[int]]:
    """The ways to share a PReLU over all its positions, or none of them."""
    return [], list(range(1, rank - 1))


def _mixing(kernel: str, axis_in: int, axis_out: int) -> Callable[[Tracer, Any], None]:
    """A layer whose every output channel reads every input channel."""

    def rule(tracer: Tracer, node: Any) -> None:
        layer = node.operation
        if getattr(layer, "groups", 1) != 1 or getattr(layer, "quantization_mode", None) or _is_adapted(layer):
            _unknown(tracer, node)
            return
        before = _read(tracer, node)
        after = _make(tracer, node)
        tracer.weigh(node, {kernel: {axis_in: before, axis_out: after}, "bias": {0: after}}, (kernel, axis_out))
        _check_activation(tracer, node)

    return rule


def _is_adapted(layer: Any) -> bool:
    return bool(getattr(layer, "lora_enabled", False))


def _read(tracer: Tracer, node: Any) -> Channels:
    tensor = node.input_tensors[0]
    channels = tracer.of(tensor)
    tracer.reads.append((tensor, channels))
    return channels


def _make(tracer: Tracer, node: Any) -> Channels:
    """The channels that a layer makes: the same ones at each call of it."""
    layer, tensor = node.operation, node.outputs[0]
    if layer.name not in tracer.made:
        tracer.made[layer.name] = tracer.fresh(int(tensor.shape[-1]))
    tracer.channels[id(tensor)] = tracer.made[layer.name]
    return tracer.made[layer.name]


def _depthwise(tracer: Tracer, node: Any) -> None:
    """Channel c of the input makes channels c * m .. c * m + m - 1, which leave with it."""
    before = tracer.of(node.input_tensors[0])
    after = np.repeat(before, node.operation.depth_multiplier)
    tracer.channels[id(node.outputs[0])] = after
    tracer.weigh(node, {"kernel": {len(node.operation.kernel.shape) - 2: before}, "bias": {0: after}})
    _check_activation(tracer, node)


def _separable(tracer: Tracer, node: Any) -> None:
    layer = node.operation
    before, after = _read(tracer, node), _make(tracer, node)
    rank = len(layer.depthwise_kernel.shape)
    between = np.repeat(before, layer.depth_multiplier)
    tracer.weigh(
        node,
        {
            "depthwise_kernel": {rank - 2: before},
            "pointwise_kernel": {rank - 2: between, rank - 1: after},
            "bias": {0: after},
        },
        ("pointwise_kernel", rank - 1),
    )
    _check_activation(tracer, node)


def _merge(tracer: Tracer, node: Any) -> None:
    """Elementwise on several tensors: their channels are the same ones, position by position."""
    given = [tracer.of(tensor) for tensor in node.input_tensors]
    width = max(len(channels) for channels in given)
    others = [one for one in node.arguments._flat_arguments if not hasattr(one, "_keras_history") and one is not None]
    if any(np.ndim(one) for one in others) or len(node.outputs[0].shape) < 2:
        _unknown(tracer, node)
        return
    whole = [channels for channels in given if len(channels) == width]
    for channels in whole[1:]:
        tracer.tie(whole[0], channels)
    tracer.channels[id(node.outputs[0])] = whole[0]
    for channels in given:
        if len(channels) != width:
            tracer.block(channels, f"layer {node.operation.name!r} spreads it over {width} channels")


def _concatenate(tracer: Tracer, node: Any) -> None:
    rank = len(node.outputs[0].shape)
    given = [tracer.of(tensor) for tensor in node.input_tensors]
    if node.operation.axis in (-1, rank - 1):
        tracer.channels[id(node.outputs[0])] = np.concatenate(given)
        return
    for channels in given[1:]:
        tracer.tie(given[0], channels)
    tracer.channels[id(node.outputs[0])] = given[0]


def _reshape(tracer: Tracer, node: Any) -> None:
    """Follow each element; the last axis keeps its channels if they do not differ from position to position."""
    before, after = node.input_tensors[0], node.outputs[0]
    everywhere = np.broadcast_to(tracer.of(before), before.shape[1:])
    rows = everywhere.reshape(-1, after.shape[-1])
    if not (rows == rows[0]).all():
        _unknown(tracer, node)
        return
    tracer.channels[id(after)] = rows[0].copy()
    tracer.reshapes[node.operation.name] = rows[0].copy()


_STATEFUL = frozenset({"RNN", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "TimeDistributed", "StackedRNNCells"})


def _names(words: str) -> list[str]:
    return words.split()


_ELEMENTWISE = frozenset(
    _names(
        "linear relu relu6 leaky_relu elu selu celu gelu sigmoid hard_sigmoid log_sigmoid tanh hard_tanh "
        "tanh_shrink silu swish hard_silu hard_swish softplus softsign exponential mish squareplus soft_shrink "
        "hard_shrink threshold"
    )
)

_RANKS = ("1D", "2D", "3D")
_POOLINGS = tuple(f"{way}{what}Pooling" for way in ("", "Global", "Adaptive") for what in ("Max", "Average"))
_BY_POSITION = tuple(
    f"{name}{rank}"
    for name in ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout", *_POOLINGS)
    for rank in _RANKS
)
_BY_ELEMENT = _names(
    "ReLU LeakyReLU ELU Identity Dropout GaussianNoise GaussianDropout AlphaDropout ActivityRegularization RepeatVector"
)
_OPERATIONS_BY_ELEMENT = _names(
    "Relu Relu6 LeakyRelu Elu Selu Celu Gelu Sigmoid HardSigmoid LogSigmoid Tanh HardTanh TanhShrink Silu HardSilu "
    "Softplus Softsign Absolute Negative Exp Square Sqrt"
)

_Rule = Callable[[Tracer, Any], None]

_LAYERS: dict[str, _Rule] = {
    **dict.fromkeys(_BY_POSITION, _pass_on),
    **dict.fromkeys(_BY_ELEMENT, _pass_on),
    "Rescaling": _rescaling,
    "Activation": _activation,
    "Softmax": _softmax,
    "BatchNormalization": _normalization,
    "PReLU": _normalization,
    "Dense": _mixing("kernel", 0, 1),
    **{f"Conv{rank}": _mixing("kernel", axes - 2, axes - 1) for axes, rank in enumerate(_RANKS, start=3)},
    **{f"Conv{rank}Transpose": _mixing("kernel", axes - 1, axes - 2) for axes, rank in enumerate(_RANKS, start=3)},
    **{f"DepthwiseConv{rank}": _depthwise for rank in _RANKS},
    **{f"SeparableConv{rank}": _separable for rank in _RANKS},
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merge),
    "Concatenate": _concatenate,
    "Flatten": _reshape,
    "Reshape": _reshape,
}

_OPERATIONS: dict[str, _Rule] = {
    **dict.fromkeys(_OPERATIONS_BY_ELEMENT, _pass_on),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Maximum", "Minimum"), _merge),
    "Concatenate": _concatenate,
}
"""Calls that are no layers, as x + y makes them."""
