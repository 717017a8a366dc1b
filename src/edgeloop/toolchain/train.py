"""Train, and train again: from data and a recipe to a Keras model and a report.

Neighbours: `nets` builds the networks, `fitting` has the loop for all of them; the digits network, which the demo's
figures stand on, keeps the loop that those were made with.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality, RecipeStep
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.augment import vary
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import UNLABELLED, Dataset, Part, Prepared, prepare
from edgeloop.toolchain.fitting import FineTune, fine_tune, is_autoencoder, scores_of
from edgeloop.toolchain.nets.build import build_net
from edgeloop.toolchain.nets.digits import KerasModel
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Model


class TrainRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. data, source: as `open_dataset` takes them; images_seen: samples shown in all, over epochs;
    learning_rate: of Adam; net, width, depth: as `build_net` takes them.

    side_px: images are brought to squares of this side, colour unless `grey`; None for the size that they have.
    label_smoothing, augment: as in FineTune; the digits net is always shown varied images.
    """

    data: str = "digits"
    source: str = "bundled"
    seed: int = 0
    images_seen: int = 40_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    net: NetName = NetName.DIGITS
    width: float = 1.0
    depth: int | None = None
    side_px: int | None = None
    grey: bool = False
    label_smoothing: float = 0.0
    augment: bool = True


class RetrainRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to learn from labelled samples without forgetting.

    new_share: share of each epoch that the new samples, varied, make up.
    """

    data: str = "digits"
    source: str = "bundled"
    seed: int = 0
    images_seen: int = 40_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    new_share: float = 0.35


class TrainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came out, and what went in.

    accuracy: on validation data, None for an autoencoder; loss: on validation data, cross-entropy, or mean squared
    error of an autoencoder.
    """

    accuracy: float | None
    loss: float
    epochs: int
    parameters: int
    fitted_on: int
    new_samples: int = 0


def train(recipe: TrainRecipe, dataset: Dataset, *, progress: Progress = silent) -> tuple[Model, TrainReport]:
    """Train a network from scratch: a Keras model with this as its first step.

    Raises InvalidInput if network, shape and data do not fit, Refused if the loss turns NaN.
    Softmax cross-entropy, or mean squared error for the autoencoder, by Adam, a fresh variation of each image or
    series an epoch. Source: Adam, Kingma and Ba 2015 (arXiv 1412.6980).
    """
    net, report = train_net(recipe, dataset, progress=progress)
    step = RecipeStep(kind="train", recipe=msgspec.to_builtins(recipe))
    return replace(wrap_keras(net, name=recipe.net.value), steps=(step,)), report


def train_net(recipe: TrainRecipe, dataset: Dataset, *, progress: Progress = silent) -> tuple[KerasModel, TrainReport]:
    """As train does, the bare keras.Model."""
    taken = _input_of(recipe, dataset)
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    net = build_net(recipe.net, taken.shape[1:], len(dataset.label_names), width=recipe.width, depth=recipe.depth)
    if recipe.net is NetName.DIGITS and dataset.fit.inputs.shape[1:] == taken.shape[1:3]:
        return _train_digits(recipe, net, dataset, progress)
    prepared = prepare(dataset, taken)
    fine_tune(
        net,
        prepared,
        FineTune(
            images_seen=recipe.images_seen,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            augment=recipe.augment,
            label_smoothing=recipe.label_smoothing,
        ),
        progress=progress,
    )
    return net, _report(recipe, net, prepared)


def wanted_input(recipe: TrainRecipe) -> TensorSpec | None:
    """The input that images are to be brought to when they are read; None where they keep their size."""
    if recipe.side_px is None:
        return None
    return TensorSpec("image", (1, recipe.side_px, recipe.side_px, 1 if recipe.grey else 3), "float32")


def _input_of(recipe: TrainRecipe, dataset: Dataset) -> TensorSpec:
    shape = dataset.fit.inputs.shape[1:]
    if dataset.modality is not Modality.IMAGE:
        return TensorSpec("sample", (1, *shape), "float32")
    sides = shape[:2] if recipe.side_px is None else (recipe.side_px, recipe.side_px)
    return TensorSpec("image", (1, *sides, 1 if recipe.grey or len(shape) == 2 else 3), "float32")


def _report(recipe: TrainRecipe, net: KerasModel, prepared: Prepared) -> TrainReport:
    validation, fitted = prepared.dataset.validation, prepared.dataset.fit
    scores = scores_of(net, prepared, validation.inputs)
    if is_autoencoder(net):
        right, loss = None, float(np.square(scores - prepared.tensors(validation.inputs)).mean())
    else:
        known = validation.labels != UNLABELLED
        loss, right = _judge(scores[known], validation.labels[known])
    return TrainReport(
        accuracy=right,
        loss=loss,
        epochs=max(1, round(recipe.images_seen / len(fitted))),
        parameters=net.count_params(),
        fitted_on=len(fitted),
    )


def _train_digits(
    recipe: TrainRecipe, model: KerasModel, dataset: Dataset, progress: Progress
) -> tuple[KerasModel, TrainReport]:
    epochs = max(1, round(recipe.images_seen / len(dataset.fit)))
    rng = np.random.default_rng(recipe.seed)
    _fit(model, epochs, recipe.batch_size, recipe.learning_rate, lambda: _shown(dataset.fit, rng), progress)
    loss, accuracy = _evaluate(model, dataset.validation)
    return model, TrainReport(
        accuracy=accuracy, loss=loss, epochs=epochs, parameters=model.count_params(), fitted_on=len(dataset.fit)
    )


def retrain(
    recipe: RetrainRecipe, parent: KerasModel, dataset: Dataset, new: Part, *, progress: Progress
) -> tuple[KerasModel, TrainReport]:
    """Fine-tune the parent, in place, on old data and labelled new samples, mixed in a stated share.

    new: images as the model takes them (N, H, W) uint8. Raises InvalidInput if there are none, or of another size.
    """
    if not 0.0 < recipe.new_share < 1.0:
        raise InvalidInput(f"new_share is {recipe.new_share}; it must lie between 0 and 1")
    if len(new) == 0:
        raise InvalidInput("there are no labelled samples to learn from; label some first ('edgeloop sample label')")
    if new.inputs.shape[1:] != dataset.fit.inputs.shape[1:]:
        raise InvalidInput(f"new samples are {new.inputs.shape[1:]}, training images {dataset.fit.inputs.shape[1:]}")
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    new_count = round(len(dataset.fit) * recipe.new_share / (1 - recipe.new_share))
    epochs = max(1, round(recipe.images_seen / (len(dataset.fit) + new_count)))

    def shown() -> Part:
        again = rng.integers(0, len(new), size=new_count)
        repeated = Part(new.inputs[again], new.labels[again])
        old, fresh = _shown(dataset.fit, rng), _shown(repeated, rng)
        return Part(np.concatenate([old.inputs, fresh.inputs]), np.concatenate([old.labels, fresh.labels]))

    _fit(parent, epochs, recipe.batch_size, recipe.learning_rate, shown, progress)
    loss, accuracy = _evaluate(parent, dataset.validation)
    return parent, TrainReport(
        accuracy=accuracy,
        loss=loss,
        epochs=epochs,
        parameters=parent.count_params(),
        fitted_on=len(dataset.fit),
        new_samples=len(new),
    )


def to_tensor(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W) uint8 as the network takes it: (N, H, W, 1) float32 in 0..1."""
    return images[..., np.newaxis].astype(np.float32) / np.float32(255)


def _shown(part: Part, rng: np.random.Generator) -> Part:
    """An epoch's look at a part: every image, varied."""
    return Part(vary(part.inputs, rng), part.labels)


def _fit(
    model: KerasModel, epochs: int, batch_size: int, learning_rate: float, shown: Callable[[], Part], progress: Progress
) -> None:
    keras = import_keras()
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for epoch in range(epochs):
        model.optimizer.learning_rate = learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        part = shown()
        history = model.fit(to_tensor(part.inputs), part.labels, batch_size=batch_size, epochs=1, verbose=0)
        loss = history.history["loss"][0]
        if not np.isfinite(loss):
            raise Refused(
                f"the loss turned {loss} in epoch {epoch + 1}; lower the learning rate (now {learning_rate:g})"
            )
        progress((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}, loss {loss:.3f}")


def _evaluate(model: KerasModel, part: Part) -> tuple[float, float]:
    return _judge(model.predict(to_tensor(part.inputs), verbose=0), part.labels)


def _judge(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Cross-entropy and accuracy of logits (N, classes)."""
    logits = np.asarray(scores, dtype=np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    loss = float((log_sum - logits[np.arange(len(labels)), labels]).mean())
    return loss, float((logits.argmax(axis=1) == labels).mean())
