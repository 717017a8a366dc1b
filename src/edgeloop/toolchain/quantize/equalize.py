"""Cross-layer equalisation: channels of one layer brought to like ranges, the next layer taking the factors back.

With f(s x) = s f(x) for s > 0, as ReLU has it:  W2 f(W1 x + b1) = (W2 S) f(S^-1 W1 x + S^-1 b1). S is chosen such that
both layers' ranges meet in each channel: s = sqrt(r1 r2) / r2. One scale a tensor then wastes no steps on channels
that are smaller than others. Source: Nagel et al. 2019 (arXiv 1906.04721), sec. 4.1, eq. 9 to 11.
Neighbours: `quantize` calls it where the recipe says so; `topology` says what follows what.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.quantize.topology import Topology, activation_name, functional
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Model

_WEIGHTED = (
    "Dense",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
)
_PASSING = (
    "ReLU",
    "LeakyReLU",
    "Activation",
    "Identity",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "MaxPooling1D",
    "MaxPooling2D",
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "Flatten",
)
"""Layers that let a positive factor of a channel through, where their own settings do."""

_MOST_ROUNDS = 30
_NEAR_ENOUGH = 1e-3


class EqualizeRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """There is nothing to choose: until the largest factor of a round is nearer to 1 than this."""

    near_enough: float = _NEAR_ENOUGH


def equalize(model: Model) -> Model:
    """A Keras model with the same answers to float precision, its channels' ranges equalised, BatchNorm folded."""
    return wrap_keras(equalize_net(model.native), name=model.name)


def equalize_net(net: Any) -> Any:
    """The same for a keras.Model; `net` stays as it is."""
    made = fold_batchnorm(net)
    pairs = _pairs(made)
    for _ in range(_MOST_ROUNDS):
        # Layers stand in several pairs, so balancing one tips the next: to and fro until it settles.
        if max((_balance(pair) for pair in pairs), default=0.0) < _NEAR_ENOUGH:
            break
    return made


def fold_batchnorm(net: Any) -> Any:
    """A new keras.Model with each BatchNormalization inside the convolution or dense layer before it, where one is.

    Same answers to 1e-5 of their size. Folds where that layer has no activation, is called once and feeds nothing
    else. Source: Jacob et al. 2018 (arXiv 1712.05877), sec. 3.2, eq. 14.
    """
    keras = import_keras()
    source = functional(net)
    hosts = _hosts(source)
    gone = {norm.name for norm in hosts.values()}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in hosts:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    made = keras.models.clone_model(source, clone_function=clone, call_function=call)
    for layer in made.layers:
        if not layer.weights:
            # A cloned input without a name of its own gets another one.
            continue
        before = source.get_layer(layer.name)
        if layer.name in hosts:
            _set_folded(layer, before, hosts[layer.name])
        else:
            layer.set_weights(before.get_weights())
    return made


def output_ranges(layer: Any) -> NDArray[np.float64]:
    """The largest |weight| that makes each output channel: (channels,)."""
    return _by_output(layer)


@dataclass(frozen=True)
class _Pair:
    """Two layers with only such between them that let factors through. repeats: inputs of the second a channel."""

    first: Any
    second: Any
    repeats: int


def _hosts(net: Any) -> dict[str, Any]:
    """By name, the layers that a BatchNormalization is folded into, each with it."""
    topology = Topology(net)
    hosts = {}
    for node in topology.nodes:
        layer, user = node.operation, topology.only_user(node)
        if user is None or type(user.operation).__name__ != "BatchNormalization":
            continue
        norm = user.operation
        last = len(node.outputs[0].shape) - 1
        foldable = type(layer).__name__ in _WEIGHTED and activation_name(layer) == "linear"
        alone = topology.is_called_once(node) and topology.is_called_once(user)
        if foldable and alone and norm.axis in (-1, last):
            hosts[layer.name] = norm
    return hosts


def _set_folded(layer: Any, before: Any, norm: Any) -> None:
    scale = np.ones(1) if norm.gamma is None else np.asarray(norm.gamma, np.float64)
    shift = np.zeros(1) if norm.beta is None else np.asarray(norm.beta, np.float64)
    mean, variance = np.asarray(norm.moving_mean, np.float64), np.asarray(norm.moving_variance, np.float64)
    factor = np.broadcast_to(scale / np.sqrt(variance + norm.epsilon), mean.shape)
    bias = np.asarray(before.bias, np.float64) if before.use_bias else np.zeros_like(mean)
    weights = before.get_weights()
    kernels = weights[:-1] if before.use_bias else weights
    layer.set_weights([*kernels, np.zeros(mean.shape, np.float32)])
    _scale_outputs(layer, factor)
    layer.bias.assign(((bias - mean) * factor + shift).astype(np.float32))


def _pairs(net: Any) -> list[_Pair]:
    topology = Topology(net)
    found = []
    for node in topology.nodes:
        layer = node.operation
        if type(layer).__name__ not in _WEIGHTED or not _passes(layer) or not topology.is_called_once(node):
            continue
        follower = _follower(topology, node)
        if follower is not None:
            channels = len(_by_output(layer))
            inputs = len(_by_input(follower))
            if inputs % channels == 0:
                found.append(_Pair(layer, follower, inputs // channels))
    return found


def _follower(topology: Topology, node: Any) -> Any | None:
    """The next layer with weights, if nothing between holds factors up."""
    user = topology.only_user(node)
    while user is not None and topology.is_called_once(user):
        if type(user.operation).__name__ in _WEIGHTED:
            return user.operation
        if not _passes(user.operation):
            return None
        user = topology.only_user(user)
    return None


def _passes(layer: Any) -> bool:
    """Whether f(s x) = s f(x) for s > 0, by channel."""
    kind = type(layer).__name__
    if kind in _WEIGHTED or kind == "Activation":
        return activation_name(layer) in ("linear", "relu", "leaky_relu")
    if kind == "ReLU":
        # A ceiling, as ReLU6 has it, does not scale along.
        return layer.max_value is None and not layer.threshold
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return kind in _PASSING and channels_last


def _balance(pair: _Pair) -> float:
    """Bring both ranges of each channel together; how far the worst was off, as |log| of its factor."""
    first = _by_output(pair.first)
    second = _by_input(pair.second).reshape(pair.repeats, len(first)).max(axis=0)
    alive = (first > 0) & (second > 0)
    factor = np.ones_like(first)
    factor[alive] = np.sqrt(first[alive] * second[alive]) / second[alive]
    _scale_outputs(pair.first, 1 / factor)
    if pair.first.use_bias:
        pair.first.bias.assign(np.asarray(pair.first.bias, np.float64) / factor)
    _scale_inputs(pair.second, np.tile(factor, pair.repeats))
    return float(np.abs(np.log(factor)).max())


def _by_output(layer: Any) -> NDArray[np.float64]:
    kernel, shape, axis = _output_kernel(layer)
    values = np.abs(np.asarray(kernel, np.float64).reshape(shape))
    return np.asarray(values.max(axis=tuple(one for one in range(values.ndim) if one != axis)))


def _by_input(layer: Any) -> NDArray[np.float64]:
    kernel, axis = _input_kernel(layer)
    values = np.abs(np.asarray(kernel, np.float64))
    return np.asarray(values.max(axis=tuple(one for one in range(values.ndim) if one != axis)))


def _scale_outputs(layer: Any, factor: NDArray[np.float64]) -> None:
    kernel, shape, axis = _output_kernel(layer)
    _multiply(kernel, shape, axis, factor)


def _scale_inputs(layer: Any, factor: NDArray[np.float64]) -> None:
    kernel, axis = _input_kernel(layer)
    _multiply(kernel, tuple(kernel.shape), axis, factor)


def _multiply(kernel: Any, shape: tuple[int, ...], axis: int, factor: NDArray[np.float64]) -> None:
    along = [1] * len(shape)
    along[axis] = len(factor)
    values = np.asarray(kernel, np.float64).reshape(shape) * factor.reshape(along)
    kernel.assign(values.reshape(kernel.shape).astype(np.float32))


def _output_kernel(layer: Any) -> tuple[Any, tuple[int, ...], int]:
    """The weight that makes a layer's outputs, the shape to see it in, and the axis of its output channels."""
    readers: dict[str, Callable[[Any], tuple[Any, tuple[int, ...], int]]] = {
        "Conv2DTranspose": lambda one: (one.kernel, tuple(one.kernel.shape), 2),
        "DepthwiseConv1D": lambda one: (one.kernel, _merged(one.kernel.shape), 1),
        "DepthwiseConv2D": lambda one: (one.kernel, _merged(one.kernel.shape), 2),
        "SeparableConv1D": lambda one: (one.pointwise_kernel, tuple(one.pointwise_kernel.shape), 2),
        "SeparableConv2D": lambda one: (one.pointwise_kernel, tuple(one.pointwise_kernel.shape), 3),
    }
    kind = type(layer).__name__
    if kind in readers:
        return readers[kind](layer)
    return layer.kernel, tuple(layer.kernel.shape), len(layer.kernel.shape) - 1


def _merged(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A depthwise kernel's shape (..., channels, multiplier) with output channels as one axis."""
    return (*shape[:-2], shape[-2] * shape[-1])


def _input_kernel(layer: Any) -> tuple[Any, int]:
    """The weight that reads a layer's inputs, and the axis of its input channels."""
    kind = type(layer).__name__
    if kind.startswith("Separable"):
        return layer.depthwise_kernel, len(layer.depthwise_kernel.shape) - 2
    if kind == "Conv2DTranspose":
        return layer.kernel, 3
    return layer.kernel, len(layer.kernel.shape) - 2
