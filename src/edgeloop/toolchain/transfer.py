"""Transfer learning: what a network has learnt of images, with a new end for other classes.

First the backbone is frozen and only the new end learns, on features that are computed once; then the last layers
are fine-tuned, gently. Source: Yosinski et al. 2014 (arXiv 1411.1792). Neighbours: `fitting` has the loop.
"""

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import Part, Prepared, prepare, sha256_of
from edgeloop.toolchain.fitting import FineTune, accuracy, fine_tune, scores_of
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.source.keras import plain_keras, wrap_keras
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Format, Model

_MAP_AXES = 4
_LEAST_SPREAD = 1e-2


class Kept(StrEnum):
    """The stage whose weights are in the result."""

    HEAD = "head"
    TUNED = "tuned"


class TransferRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to transfer. cut_at: the backbone's layer whose output is kept, None for the last one that still has
    places.

    head_*: the first stage, on cached features of unvaried samples. unfreeze: share of the backbone's layers with
    weights, counted from the end and one at least, that the second stage trains; 0 for no second stage. images_seen,
    learning_rate, batch_size, augment: of the second stage.
    """

    cut_at: str | None = None
    head_images_seen: int = 30_000
    head_learning_rate: float = 3e-3
    unfreeze: float = 0.3
    images_seen: int = 4_000
    learning_rate: float = 1e-4
    batch_size: int = 32
    augment: bool = True
    seed: int = 0


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. head_accuracy, tuned_accuracy: of each stage on validation data, tuned None where there was
    no second stage; kept: the better of them; holdout_accuracy: of what was kept.

    features: the width of the layer called so; tuned_layers: how many layers the second stage trained.
    """

    cut_at: str
    features: int
    head_accuracy: float
    tuned_accuracy: float | None
    kept: Kept
    holdout_accuracy: float
    tuned_layers: int
    parameters: int
    fitted_on: int


def transfer(
    backbone: Model, recipe: TransferRecipe, data: Prepared, *, progress: Progress = silent
) -> tuple[Model, TransferReport]:
    """A classifier of the data's labels from a Keras backbone, which is left as it is.

    data: prepared for the backbone's input, in the range that it was trained with. The second stage keeps BatchNorm
    as in inference; if it ends worse on validation data, the first stage's weights are kept and the report says so.
    Raises InvalidInput if the backbone takes no image or the data has no labels, Refused if it holds a custom layer.
    """
    _require_images(backbone, data)
    keras = import_keras()
    original = plain_keras(backbone)
    _require_known_layers(original, backbone.name)
    # A loaded layer may have been called before, for other tensors than the network's; a copy's was called for these.
    source = keras.models.clone_model(original)
    source.set_weights(original.get_weights())
    seed_everything(keras, recipe.seed)
    place = _cut(source, recipe.cut_at, backbone.name)
    body = keras.models.clone_model(keras.Model(source.input, place.output))
    body.set_weights(keras.Model(source.input, place.output).get_weights())
    progress(0.0, f"features of {len(data.dataset.fit):,} samples at layer {place.name}")
    net = _headed(keras, body, len(data.dataset.label_names))
    _train_head(keras, net, recipe, data, within(progress, 0.1, 0.4))
    head_accuracy = accuracy(net, data, data.dataset.validation)
    tuned_accuracy, tuned_layers, kept = None, 0, Kept.HEAD
    if recipe.unfreeze > 0:
        before = net.get_weights()
        tuned_layers = _tune(net, body, recipe, data, within(progress, 0.4, 0.95))
        tuned_accuracy = accuracy(net, data, data.dataset.validation)
        kept = Kept.TUNED if tuned_accuracy >= head_accuracy else Kept.HEAD
        if kept is Kept.HEAD:
            net.set_weights(before)
    made = wrap_keras(net, name="transfer.keras").after(
        "transfer", recipe, before=backbone, data_sha256=sha256_of(data)
    )
    return made, TransferReport(
        cut_at=place.name,
        features=int(net.get_layer(FEATURES).output.shape[-1]),
        head_accuracy=head_accuracy,
        tuned_accuracy=tuned_accuracy,
        kept=kept,
        holdout_accuracy=accuracy(net, data, data.dataset.holdout),
        tuned_layers=tuned_layers,
        parameters=net.count_params(),
        fitted_on=len(data.dataset.fit),
    )


def _require_images(backbone: Model, data: Prepared) -> None:
    if backbone.format is not Format.KERAS:
        raise InvalidInput(
            f"{backbone.name} is a {backbone.format} model; transfer learning trains Keras backbones (.keras or .h5). "
            "Any model can teach instead: see 'edgeloop distil'"
        )
    taken = backbone.only_input()
    if len(taken.shape) != _MAP_AXES or data.spec.modality is not Modality.IMAGE:
        raise InvalidInput(
            f"{backbone.name} takes {taken.shape} and {data.dataset.name} holds {data.dataset.modality} data; "
            "transfer learning needs images and a backbone that takes (1, height, width, channels)"
        )
    if not data.dataset.is_labelled:
        raise InvalidInput(
            f"{data.dataset.name} has no labels; a classifier needs a folder with one sub-folder a class"
        )


def _leaves(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models inside it."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _require_known_layers(net: Any, name: str) -> None:
    for layer in _leaves(net):
        if type(layer).__module__.partition(".")[0] != "keras":
            raise Refused(
                f"{name} holds the custom layer {layer.name!r} of type {type(layer).__name__}, which cannot be taken "
                "apart safely; rebuild the backbone of Keras' own layers"
            )


def _cut(net: Any, wanted: str | None, name: str) -> Any:
    """The layer that is kept last: the one asked for, or the last on the way to the output that still has places."""
    if wanted is not None:
        known = [layer.name for layer in net.layers]
        if wanted not in known:
            raise InvalidInput(f"{name} has no layer {wanted!r}; its last ones are {', '.join(known[-8:])}")
        found = net.get_layer(wanted)
    else:
        found = next((layer for layer in _way_back(net) if _has_places(layer)), None)
    if found is None or not _has_places(found) or type(found).__name__ == "InputLayer":
        raise InvalidInput(
            f"{name} has no layer with an image-like output (height, width, channels) where it could be cut"
            f"{f'; {wanted!r} has none' if wanted else ''}; name one with --cut-at (cut_at in Python)"
        )
    return found


def _has_places(layer: Any) -> bool:
    shape: tuple[int, ...] = layer.output.shape if not isinstance(layer.output, list) else ()
    return len(shape) == _MAP_AXES and shape[1] * shape[2] > 1


def _way_back(net: Any) -> Iterator[Any]:
    """The layers from the output towards the input, along each one's first input."""
    by_output = {id(layer.output): layer for layer in net.layers if not isinstance(layer.output, list)}
    tensor = net.outputs[0]
    while id(tensor) in by_output:
        layer = by_output[id(tensor)]
        yield layer
        tensor = layer.input[0] if isinstance(layer.input, list) else layer.input
        if tensor is layer.output:
            return


def _headed(keras: Any, body: Any, classes: int) -> Any:
    taken = {layer.name for layer in body.layers} & {FEATURES, LOGITS}
    if taken:
        raise InvalidInput(
            f"the backbone has a layer called {', '.join(sorted(taken))} before the cut, a name that the new end "
            "needs; cut before it with --cut-at (cut_at in Python), or rename it"
        )
    pooled = keras.layers.GlobalAveragePooling2D(name=FEATURES)(body.output)
    return keras.Model(body.input, keras.layers.Dense(classes, name=LOGITS)(pooled), name="transfer")


def _train_head(keras: Any, net: Any, recipe: TransferRecipe, data: Prepared, progress: Progress) -> None:
    """Fit the last layer on features that are computed once."""
    eyes = keras.Model(net.input, net.get_layer(FEATURES).output)
    dataset, width = data.dataset, int(eyes.output.shape[-1])
    seen = scores_of(eyes, data, dataset.fit.inputs)
    if not np.isfinite(seen).all() or not seen.std():
        raise Refused(
            f"the backbone's features of the training data are from {seen.min():g} to {seen.max():g}; its weights are "
            "damaged, or its input range is another one"
        )
    none = Part(seen[:0], dataset.fit.labels[:0])
    # Backbones differ in the scale of their features; one learning rate suits all once that is taken out.
    middle, spread = seen.mean(axis=0), seen.std(axis=0) + _LEAST_SPREAD * seen.std()
    features = replace(
        dataset,
        fit=Part((seen - middle) / spread, dataset.fit.labels),
        validation=none,
        holdout=none,
        field=none,
        modality=Modality.TENSOR,
    )
    sample = keras.Input((width,), name=FEATURES)
    head = keras.Model(sample, keras.layers.Dense(len(dataset.label_names), name=LOGITS)(sample))
    step = FineTune(
        images_seen=recipe.head_images_seen,
        learning_rate=recipe.head_learning_rate,
        seed=recipe.seed,
        augment=False,
    )
    fine_tune(head, prepare(features, TensorSpec(FEATURES, (1, width), "float32")), step, progress=progress)
    weights, bias = head.get_layer(LOGITS).get_weights()
    scaled = weights / spread[:, np.newaxis]
    net.get_layer(LOGITS).set_weights([scaled, bias - middle @ scaled])


def _tune(net: Any, body: Any, recipe: TransferRecipe, data: Prepared, progress: Progress) -> int:
    """Fine-tune the last layers and the end; how many layers of the backbone that were."""
    weighted = [layer for layer in _leaves(body) if layer.weights]
    tunable = [layer for layer in weighted if type(layer).__name__ != "BatchNormalization"]
    last = tunable[-max(1, round(recipe.unfreeze * len(tunable))) :]
    for layer in weighted:
        layer.trainable = layer in last
    step = FineTune(
        images_seen=recipe.images_seen,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        augment=recipe.augment,
    )
    fine_tune(net, data, step, progress=progress)
    for layer in weighted:
        # The next step, pruning say, is to be free to train all of them.
        layer.trainable = True
    return len(last)
