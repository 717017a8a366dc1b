"""Take channels out of a Keras network: smaller layers, the weights that remain, the same graph.

The result computes what the network would compute if the channels taken out were zero wherever they are read.
Neighbours: `graph` says what must leave with a channel, `structured` decides which leave.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.prune.graph import ChannelGraph
from edgeloop.toolchain.prune.macs import Cost, nodes_of
from edgeloop.toolchain.prune.trace import require_known


def flattened(model: Any) -> Any:
    """An uncompiled copy of a functional keras.Model with the layers of the models inside it as its own.

    Raises InvalidInput if two of its layers then bear one name, or one is refused (see `trace.require_known`).
    """
    keras = import_keras()
    for node in nodes_of(model):
        if hasattr(node.operation, "weights") and not hasattr(node.operation, "layers"):
            require_known(node.operation)
    if not any(hasattr(layer, "layers") for layer in model.layers):
        return _copied(keras, model, lambda layer: layer.get_config())
    copied = keras.models.clone_model(model, recursive=True)
    copied.set_weights(model.get_weights())
    inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in copied.inputs]
    outputs = copied._run_through_graph(inputs, call_fn=_inline)
    try:
        flat = keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=model.name)
    except ValueError as error:
        raise InvalidInput(
            f"{model.name!r} holds models whose layers cannot be put into one: {str(error).splitlines()[0]} Give each "
            "layer a name of its own and save the model again"
        ) from error
    # Cloned once more: the layers above were called in two graphs.
    return flattened(flat)


def cut(model: Any, graph: ChannelGraph, kept: NDArray[np.bool_]) -> Any:
    """A copy of `model`, which `graph` was traced from, that has the channels where kept (graph.size,) is true.

    Raises InvalidInput if a channel is taken that must stay, or a layer is left with none.
    """
    keras = import_keras()
    if not kept[graph.kept_whole].all():
        gone = int((~kept[graph.kept_whole]).sum())
        raise InvalidInput(f"{gone} channels are to be taken out that inputs, outputs or blocked layers hold")
    widths = {name: int(kept[channels].sum()) for name, channels in graph.made.items()}
    empty = [name for name, width in widths.items() if width == 0]
    if empty:
        raise InvalidInput(f"layers {', '.join(empty)} would be left without a channel; each keeps at least one")
    shapes = {name: int(kept[channels].sum()) for name, channels in graph.reshapes.items()}

    def config(layer: Any) -> dict[str, Any]:
        found: dict[str, Any] = layer.get_config()
        if layer.name in widths:
            found["units" if "units" in found else "filters"] = widths[layer.name]
        if layer.name in shapes and found.get("target_shape", (-1,))[-1] != -1:
            found["target_shape"] = (*found["target_shape"][:-1], shapes[layer.name])
        return found

    slices = {(one.layer, one.name): {axis: kept[ids] for axis, ids in one.axes.items()} for one in graph.weights}
    return _copied(keras, model, config, slices)


def cost_of(graph: ChannelGraph, kept: NDArray[np.bool_]) -> Cost:
    """What `cut` would give, without doing it: multiply-adds and parameters."""
    macs = parameters = 0
    for one in graph.weights:
        sizes = list(one.shape)
        for axis, channels in one.axes.items():
            sizes[axis] = int(kept[channels].sum())
        size = int(np.prod(sizes))
        parameters += size
        macs += size * one.uses
    return Cost(macs=macs, parameters=parameters)


def _inline(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an operation; of a model inside, call its layers. A stated `training` holds for them, too."""
    if not hasattr(operation, "layers"):
        return operation(*args, **kwargs)
    training = kwargs.get("training")
    inner = getattr(operation, "_functional", None) or operation

    def call(layer: Any, *given: Any, **named: Any) -> Any:
        if training is not None and getattr(layer, "_call_has_training_arg", hasattr(layer, "layers")):
            named["training"] = training
        return _inline(layer, *given, **named)

    return inner._run_through_graph(args[0], call_fn=call)


def _copied(keras: Any, model: Any, config: Any, slices: dict[tuple[str, str], dict[int, Any]] | None = None) -> Any:
    """The same graph of new layers, made of config(layer), with the old weights or those slices of them."""
    twins: dict[str, tuple[Any, Any]] = {}

    def clone(layer: Any) -> Any:
        if not hasattr(layer, "weights"):
            return layer
        made = type(layer).from_config(config(layer))
        twins[layer.name] = (layer, made)
        return made

    copied = keras.models.clone_model(model, clone_function=clone)
    for name, (old, new) in twins.items():
        for before, after in zip(old.weights, new.weights, strict=True):
            values = before.numpy()
            for axis, mask in ((slices or {}).get((name, before.name)) or {}).items():
                values = np.compress(mask, values, axis=axis)
            after.assign(values)
    # A model that was compiled would be saved with its optimizer; a fresh one over the same layers is not.
    return keras.Model(copied.input, copied.output, name=model.name)
