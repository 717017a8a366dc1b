"""Train, and train again: from data and a recipe to a Keras model and a report."""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.augment import vary
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import Dataset, Part
from edgeloop.toolchain.models import KerasModel, digits_net
from edgeloop.toolchain.progress import Progress

FEATURES = "features"
"""The layer whose output novelty is measured in; `digits_net` names it so, and `convert` looks for it."""


class TrainRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. images_seen: training images shown in all, over epochs; learning_rate: of Adam."""

    data: str = "digits"
    source: str = "bundled"
    seed: int = 0
    images_seen: int = 40_000
    batch_size: int = 64
    learning_rate: float = 1e-3


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
    """What came out: accuracy on validation data, and what went in."""

    accuracy: float
    loss: float
    epochs: int
    parameters: int
    fitted_on: int
    new_samples: int = 0


def train(recipe: TrainRecipe, dataset: Dataset, *, progress: Progress) -> tuple[KerasModel, TrainReport]:
    """Train the digits network from scratch: softmax cross-entropy, Adam, a fresh variation of each image an epoch.

    Source: the network, LeCun et al. 1998; Adam, Kingma and Ba 2015 (arXiv 1412.6980).
    """
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    height_px, width_px = dataset.fit.inputs.shape[1:]
    model = digits_net(keras, height_px, width_px, classes=len(dataset.label_names), features=FEATURES)
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
        progress((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}, loss {loss:.3f}")


def _evaluate(model: KerasModel, part: Part) -> tuple[float, float]:
    logits = np.asarray(model.predict(to_tensor(part.inputs), verbose=0), dtype=np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    loss = float((log_sum - logits[np.arange(len(part)), part.labels]).mean())
    return loss, float((logits.argmax(axis=1) == part.labels).mean())
