"""Quantization-aware training: fine-tune a network that rounds as the device will, so that it learns to bear it.

Weights are rounded on the way in and activations on the way out; on the way back rounding counts as identity
(straight-through: Bengio et al. 2013, arXiv 1308.3432). The ranges of activations are moving averages over training
batches. Source: Jacob et al. 2018 (arXiv 1712.05877), sec. 3; BatchNorm is folded before, and so frozen, as in
Krishnamoorthi 2018 (arXiv 1806.08342), sec. 3.2. Neighbours: `fitting` is the training loop, `quantize` takes the
ranges, `formulas` says what rounding is.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared, sha256_of
from edgeloop.toolchain.fitting import FineTune, fine_tune
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.quantize.equalize import equalize_net, fold_batchnorm
from edgeloop.toolchain.quantize.formulas import MOMENTUM, SMALLEST_RANGE, integer_range
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe, QuantizeReport, Symmetry
from edgeloop.toolchain.quantize.topology import Topology, activation_name
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model

Teacher = NDArray[np.float32] | Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A teacher's logits for the fit part, in its order, or the teacher itself."""

_BITS = {
    Precision.INT8: (8, 8),
    Precision.INT16: (8, 16),
    Precision.INT4: (4, 8),
    Precision.INT8_DYNAMIC: (8, None),
    Precision.INT4_DYNAMIC: (4, None),
    Precision.INT8_WEIGHTS: (8, None),
    Precision.INT4_WEIGHTS: (4, None),
}
"""Bits of weights, and of activations where calibration fixes them."""

_KERNELS = {
    "Dense": ("kernel",),
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "DepthwiseConv2D": ("kernel",),
    "SeparableConv2D": ("depthwise_kernel", "pointwise_kernel"),
}
_FOUR_BIT = ("Dense", "Conv1D", "Conv2D", "SeparableConv2D")
# Pooling and reshaping keep their input's scale: nothing is rounded anew.
_ROUNDED = (*_KERNELS, "ReLU", "Activation", "Add", "Subtract", "Multiply", "Concatenate", "GlobalAveragePooling2D")
_FUSED = ("ReLU", "Activation")


class AwareRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to fine-tune with rounding. The rest is as in FineTune.

    augment: where the teacher is an array of scores it is off in any case, since those are for the samples as they
    are. teacher_weight: used where there is a teacher.
    """

    images_seen: Annotated[int, msgspec.Meta(ge=1)] = 20_000
    batch_size: int = 64
    learning_rate: float = 3e-4
    seed: int = 0
    augment: bool = True
    temperature: float = 4.0
    teacher_weight: float = 0.5


class QuantizeAwareRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Training with the rounding of `quantize`, then that."""

    aware: AwareRecipe = AwareRecipe()
    quantize: QuantizeRecipe = QuantizeRecipe()


def train_aware(
    model: Model,
    aware: AwareRecipe,
    recipe: QuantizeRecipe,
    data: Prepared,
    *,
    teacher_scores: Teacher | None = None,
    progress: Progress = silent,
) -> tuple[Model, dict[str, tuple[float, float]]]:
    """A float Keras model whose weights bear the recipe's rounding, and the ranges that its activations learned.

    The ranges are by layer name, for `quantize(..., ranges=)`; none where the precision fixes none. BatchNorm is
    folded, and channels are equalised first where the recipe says so: leave that out when quantizing then. Raises
    InvalidInput for a model that is not of Keras or a precision without integers, and as fine_tune does.
    """
    if model.format is not Format.KERAS:
        raise InvalidInput(f"{model.name} is a {model.format} model; quantization-aware training takes Keras models")
    if recipe.precision not in _BITS:
        raise InvalidInput(f"{recipe.precision} has nothing to learn to bear; known: {', '.join(_BITS)}")
    net = equalize_net(model.native) if recipe.equalize else fold_batchnorm(model.native)
    rounding, watchers = rounding_net(net, recipe)
    loss = FineTune(
        images_seen=aware.images_seen,
        batch_size=aware.batch_size,
        learning_rate=aware.learning_rate,
        seed=aware.seed,
        augment=aware.augment and not isinstance(teacher_scores, np.ndarray),
        temperature=aware.temperature,
        teacher_weight=0.0 if teacher_scores is None else aware.teacher_weight,
    )
    fine_tune(rounding, data, loss, teacher_scores=teacher_scores, progress=progress)
    for layer in (one for one in net.layers if one.weights):
        made = rounding.get_layer(layer.name)
        layer.set_weights((made.inner if hasattr(made, "inner") else made).get_weights())
    ranges = {name: watcher.ends() for name, watcher in watchers.items()}
    return wrap_keras(net, name=model.name).after(
        "train_aware", aware, before=model, data_sha256=sha256_of(data)
    ), ranges


def quantize_aware(
    model: Model, recipe: QuantizeAwareRecipe, data: Prepared, *, to: Format | None = None, progress: Progress = silent
) -> tuple[Model, QuantizeReport]:
    """A Keras model fine-tuned with rounding, then quantized with the ranges that it learned: one step.

    to: as quantize takes it; engines other than LiteRT calibrate ranges of their own. The report
    holds the quantized model against the fine-tuned one, and its size against what came. Raises as train_aware and
    quantize do.
    """
    taught, learned = train_aware(model, recipe.aware, recipe.quantize, data, progress=within(progress, 0.0, 0.7))
    # Training equalised it already.
    rest = msgspec.structs.replace(recipe.quantize, equalize=False)
    ranges = learned if to in (None, Format.LITERT) else None
    made, report = quantize(taught, rest, data, to=to, ranges=ranges, progress=within(progress, 0.7, 1.0))
    made = made.after("quantize_aware", recipe, before=model, data_sha256=sha256_of(data))
    return made, msgspec.structs.replace(report, size_before_bytes=model.size_bytes)


def rounding_net(net: Any, recipe: QuantizeRecipe) -> tuple[Any, dict[str, Any]]:
    """A clone of a keras.Model without BatchNorm that rounds, and its layers that watch activations.

    These are by the name of the layer that they watch.
    """
    keras = import_keras()
    weights_layer, activations_layer = _weights_layer(), _activations_layer()
    weight_bits, activation_bits = _BITS[recipe.precision]
    rounded = set() if activation_bits is None else _rounded_layers(net, recipe)
    watchers: dict[str, Any] = {}

    def clone(layer: Any) -> Any:
        made = type(layer).from_config(layer.get_config())
        kind = type(layer).__name__
        if kind not in _KERNELS or layer.name in recipe.keep_float:
            return made
        few = weight_bits == 4 and kind in _FOUR_BIT and layer.name not in recipe.keep_int8
        per_channel = recipe.granularity is Granularity.CHANNEL
        return weights_layer(made, 4 if few else 8, per_channel, name=layer.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        made = layer(*args, **kwargs)
        if layer.name not in rounded:
            return made
        if layer.name not in watchers:
            named = f"{layer.name}_rounded"
            watchers[layer.name] = activations_layer(activation_bits, recipe.activations, name=named)
        return watchers[layer.name](made)

    made = keras.models.clone_model(net, clone_function=clone, call_function=call)
    for layer in (one for one in net.layers if one.weights):
        twin = made.get_layer(layer.name)
        (twin.inner if hasattr(twin, "inner") else twin).set_weights(layer.get_weights())
    return made, watchers


def _rounded_layers(net: Any, recipe: QuantizeRecipe) -> set[str]:
    """Layers whose results a device stores as integers: not those that an activation right behind is fused into."""
    topology = Topology(net)
    found = set()
    for node in topology.nodes:
        layer = node.operation
        # A softmax has a range of its own on every engine: 0 to 1.
        is_rounded = type(layer).__name__ in _ROUNDED and activation_name(layer) != "softmax"
        if is_rounded and layer.name not in recipe.keep_float and not _is_fused(topology, node):
            found.add(layer.name)
    return found


def _is_fused(topology: Topology, node: Any) -> bool:
    user = topology.only_user(node)
    if user is None or type(node.operation).__name__ in _FUSED:
        return False
    return type(user.operation).__name__ in _FUSED and activation_name(node.operation) in (None, "linear")


@functools.cache
def _weights_layer() -> Any:
    """The class of layers that round weights. Made when Keras is there: its Layer is the base."""
    import_keras()
    import keras
    from keras import ops

    class RoundedWeights(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """A layer whose kernels are rounded, symmetrically, each time that it is called."""

        def __init__(self, inner: Any, bits: int, per_channel: bool, **settings: Any) -> None:
            super().__init__(**settings)
            self.inner = inner
            self._highest = integer_range(bits, Symmetry.SYMMETRIC)[1]
            self._per_channel = per_channel

        def build(self, input_shape: Any) -> None:
            """Build the layer inside."""
            self.inner.build(input_shape)
            self.built = True

        def compute_output_shape(self, input_shape: Any) -> Any:
            """As the layer inside."""
            return self.inner.compute_output_shape(input_shape)

        def call(self, inputs: Any) -> Any:
            """Call the layer inside with its kernels as a device would hold them."""
            kind = type(self.inner).__name__
            kernels = {name: getattr(self.inner, name) for name in _KERNELS[kind]}
            mapping = [(kernel, self._rounded(kernel, kind, name)) for name, kernel in kernels.items()]
            with keras.StatelessScope(state_mapping=mapping):
                return self.inner.call(inputs)

        def _rounded(self, kernel: Any, kind: str, name: str) -> Any:
            value = ops.convert_to_tensor(kernel)
            axes = _other_axes(len(value.shape), kind, name) if self._per_channel else None
            largest = ops.max(ops.abs(value), axis=axes, keepdims=True)
            scale = ops.stop_gradient(ops.maximum(largest, SMALLEST_RANGE) / self._highest)
            return value + ops.stop_gradient(ops.round(value / scale) * scale - value)

    return RoundedWeights


@functools.cache
def _activations_layer() -> Any:
    """The class of layers that round what passes through them. Made when Keras is there, as above."""
    import_keras()
    import keras
    from keras import ops

    class RoundedActivations(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        """Rounds to integers over a range that follows what passes, as a moving average, while training."""

        def __init__(self, bits: int, symmetry: Symmetry, **settings: Any) -> None:
            super().__init__(**settings)
            self._symmetry = symmetry
            self._lowest, self._highest = integer_range(bits, symmetry)

        def build(self, input_shape: Any) -> None:
            """The range, and whether anything was seen yet."""
            self.low = self.add_weight(name="low", shape=(), initializer="zeros", trainable=False)
            self.high = self.add_weight(name="high", shape=(), initializer="zeros", trainable=False)
            self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)
            self.built = True

        def compute_output_shape(self, input_shape: Any) -> Any:
            """As what comes in."""
            return input_shape

        def call(self, inputs: Any, training: bool = False) -> Any:
            """Follow, clip, round."""
            if training:
                keep = ops.where(self.seen > 0, MOMENTUM, 0.0)
                self.low.assign(keep * self.low + (1 - keep) * ops.stop_gradient(ops.min(inputs)))
                self.high.assign(keep * self.high + (1 - keep) * ops.stop_gradient(ops.max(inputs)))
                self.seen.assign(ops.ones(()))
            low, high, scale = self._grid()
            clipped = ops.clip(inputs, low, high)
            return clipped + ops.stop_gradient(ops.round(clipped / scale) * scale - clipped)

        def ends(self) -> tuple[float, float]:
            """The range that was learned."""
            return float(np.asarray(self.low)), float(np.asarray(self.high))

        def _grid(self) -> tuple[Any, Any, Any]:
            """Lowest and highest value that an integer stands for, and the step between them."""
            below, above = ops.minimum(self.low, 0.0), ops.maximum(self.high, 0.0)
            if self._symmetry is Symmetry.SYMMETRIC:
                bound = ops.maximum(ops.maximum(-below, above), SMALLEST_RANGE)
                return -bound, bound, bound / self._highest
            scale = ops.maximum(above - below, SMALLEST_RANGE) / (self._highest - self._lowest)
            zero = ops.round(self._lowest - below / scale)
            return (self._lowest - zero) * scale, (self._highest - zero) * scale, scale

    return RoundedActivations


def _other_axes(axes: int, kind: str, name: str) -> tuple[int, ...]:
    """The axes that a channel's scale spans: all but that of output channels, which a depthwise kernel has two of."""
    depthwise = kind == "DepthwiseConv2D" or name == "depthwise_kernel"
    return tuple(range(axes - (2 if depthwise else 1)))
