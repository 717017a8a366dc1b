"""Bring a network nearer to data: the one training loop that training, pruning, distilling and others share.

Neighbours: `augment` varies what is shown, `data.dataset` brings it to the network's input, `nets` are what is fitted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.augment import vary_samples
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import UNLABELLED, Part, Prepared
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.source.model import LOGITS, Model

Teacher = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Model inputs (N, ...) to logits (N, classes)."""

_ROUND_BYTES = 64 * 1024 * 1024
_SMALLEST_PROBABILITY = 1e-7
_BATCH = 256


class FineTune(msgspec.Struct, frozen=True, kw_only=True):
    """How to fit. images_seen: samples shown in all; learning_rate: of Adam, falling to 0 along half a cosine.

    augment: show each sample a little different every time. temperature, teacher_weight: of the distillation loss,
    which has the share teacher_weight beside the labels' loss. label_smoothing: share of a label that is spread
    over all classes.
    """

    images_seen: int = 40_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    augment: bool = True
    temperature: float = 4.0
    teacher_weight: float = 0.0
    label_smoothing: float = 0.0


def fine_tune(
    net: Any,
    prepared: Prepared,
    recipe: FineTune,
    *,
    teacher_scores: NDArray[np.float32] | Teacher | None = None,
    progress: Progress = silent,
) -> float:
    """Fit a functional keras.Model in place on the fit part, from the weights that it has; its last mean loss.

    A net whose output has its input's shape learns to reproduce its input (mean squared error); any other scores
    classes, as logits or through a softmax of its own (cross-entropy). Samples without a label learn from the
    teacher alone. `net` stays uncompiled, so it saves without the optimizer's state. teacher_scores: the teacher's
    logits (N, classes) for the fit part in its order, which needs augment off; or the teacher itself, which sees
    what the net sees. Raises InvalidInput if recipe, data and net do not fit, Refused if the loss turns NaN.
    Source: Adam, Kingma and Ba 2015 (arXiv 1412.6980); cosine, Loshchilov and Hutter 2017 (arXiv 1608.03983);
    distillation, Hinton et al. 2015 (arXiv 1503.02531), sec. 2, with its factor of temperature squared; smoothing,
    Szegedy et al. 2016 (arXiv 1512.00567), sec. 7.
    """
    fitted = _scores_only(net)
    reproduces = is_autoencoder(fitted)
    _check(fitted, prepared, recipe, teacher_scores, reproduces=reproduces)
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    steps = -(-recipe.images_seen // recipe.batch_size)
    fitted.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)),
        loss="mse" if reproduces else class_loss(keras, recipe, gives_probabilities=gives_probabilities(fitted)),
        jit_compile=False,
    )
    shown, loss = 0, float("nan")
    for indices in _rounds(len(prepared.dataset.fit), _round_size(prepared), recipe.images_seen, rng):
        inputs, targets = _lesson(prepared, indices, recipe, teacher_scores, rng)
        history = fitted.fit(
            inputs, inputs if reproduces else targets, batch_size=recipe.batch_size, epochs=1, verbose=0, shuffle=False
        )
        shown += len(indices)
        loss = float(history.history["loss"][0])
        _require_finite_loss(loss, shown, recipe, len(prepared.dataset.fit))
        progress(shown / recipe.images_seen, f"{shown:,} of {recipe.images_seen:,} samples shown, loss {loss:.3f}")
    return loss


def accuracy(model: Any, prepared: Prepared, part: Part) -> float:
    """Share of the labelled samples of `part` that a Model or keras.Model gives the right label.

    Raises InvalidInput if no sample has a label, or the model does not score two or more classes.
    """
    known = part.labels != UNLABELLED
    if not known.any():
        raise InvalidInput(
            f"no sample of {prepared.dataset.name} has a label; accuracy needs labelled data "
            "(a folder with one sub-folder a class)"
        )
    scores = scores_of(model, prepared, part.inputs[known])
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InvalidInput(f"the model's output is {scores.shape}; accuracy needs scores (N, classes) of 2 or more")
    return float((scores.argmax(axis=1) == part.labels[known]).mean())


def scores_of(model: Any, prepared: Prepared, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """What a Model or keras.Model answers for samples as they lie in a Part: its one output (N, ...) float32."""
    size = _round_size(prepared)
    # A model that has answered before answers at once; a fresh one over its layers is traced anew.
    net = None if isinstance(model, Model) else _scores_only(model) if isinstance(model.output, dict) else model
    made = []
    for start in range(0, len(inputs), size):
        tensors = prepared.tensors(inputs[start : start + size])
        if net is None:
            made.append(model.scores(tensors))
        else:
            made.append(np.asarray(net.predict(tensors, batch_size=_BATCH, verbose=0), np.float32))
    return np.concatenate(made)


def gives_probabilities(net: Any) -> bool:
    """Whether the layer that makes a keras.Model's one output is a softmax or applies one."""
    output = _scores_only(net).outputs[0]
    producer = next(layer for layer in reversed(net.layers) if layer.output is output)
    return producer.get_config().get("activation") == "softmax" or type(producer).__name__ == "Softmax"


def is_autoencoder(net: Any) -> bool:
    """Whether a keras.Model's one output has the shape of its one input."""
    return tuple(net.inputs[0].shape[1:]) == tuple(net.outputs[0].shape[1:])


def class_loss(keras: Any, recipe: FineTune, *, gives_probabilities: bool) -> Callable[[Any, Any], Any]:
    """Loss by sample for targets (N, 1 + T): the class index or UNLABELLED, then T teacher logits, or none."""
    ops = keras.ops

    def loss(target: Any, made: Any) -> Any:
        logits = ops.log(ops.maximum(made, _SMALLEST_PROBABILITY)) if gives_probabilities else made
        labels = ops.cast(target[:, 0], "int32")
        logs = ops.log_softmax(logits)
        right = ops.sum(ops.one_hot(labels, logits.shape[-1]) * logs, axis=-1)
        even = ops.mean(logs, axis=-1) * ops.cast(labels >= 0, logs.dtype)
        hard = -(1 - recipe.label_smoothing) * right - recipe.label_smoothing * even
        if not recipe.teacher_weight:
            return hard
        wanted = target[:, 1:] / recipe.temperature
        gap = ops.log_softmax(wanted) - ops.log_softmax(logits / recipe.temperature)
        soft = recipe.temperature**2 * ops.sum(ops.softmax(wanted) * gap, axis=-1)
        return (1 - recipe.teacher_weight) * hard + recipe.teacher_weight * soft

    return loss


def _scores_only(net: Any) -> Any:
    """A fresh model over the same layers with its scores as the one output."""
    outputs = net.output
    if isinstance(outputs, dict):
        outputs = outputs[LOGITS] if LOGITS in outputs else next(iter(outputs.values()))
    return import_keras().Model(net.input, outputs)


def _check(
    net: Any, prepared: Prepared, recipe: FineTune, teacher: NDArray[np.float32] | Teacher | None, *, reproduces: bool
) -> None:
    dataset = prepared.dataset
    if recipe.images_seen < 1 or recipe.batch_size < 1 or recipe.learning_rate <= 0:
        raise InvalidInput(
            f"images_seen {recipe.images_seen}, batch_size {recipe.batch_size} and learning_rate "
            f"{recipe.learning_rate:g} must all be above 0"
        )
    if not 0 <= recipe.teacher_weight <= 1 or recipe.temperature <= 0 or not 0 <= recipe.label_smoothing < 1:
        raise InvalidInput(
            f"teacher_weight {recipe.teacher_weight:g} must lie in 0..1, temperature {recipe.temperature:g} above 0, "
            f"label_smoothing {recipe.label_smoothing:g} in 0..1"
        )
    if bool(recipe.teacher_weight) != (teacher is not None):
        raise InvalidInput(
            f"teacher_weight is {recipe.teacher_weight:g}, and a teacher is {_given(teacher)}; give both"
        )
    classes = net.outputs[0].shape[-1]
    if isinstance(teacher, np.ndarray) and (recipe.augment or teacher.shape != (len(dataset.fit), classes)):
        raise InvalidInput(
            f"teacher_scores are {teacher.shape} with augment {recipe.augment}; expected "
            f"({len(dataset.fit)}, {classes}) with augment off, or the teacher itself as a function"
        )
    if reproduces:
        return
    labels = dataset.fit.labels
    if labels.max(initial=UNLABELLED) >= classes:
        raise InvalidInput(f"{dataset.name} has labels up to {labels.max()}, the net scores {classes} classes")
    if teacher is None and (labels == UNLABELLED).any():
        raise InvalidInput(
            f"{int((labels == UNLABELLED).sum())} of {len(labels)} training samples of {dataset.name} have no label; "
            "without a teacher each needs one"
        )


def _given(teacher: object) -> str:
    return "missing" if teacher is None else "given"


def _round_size(prepared: Prepared) -> int:
    """Samples that are brought to the net's input at once: all of a small dataset, as many as memory bears of a
    large one."""
    return max(1, _ROUND_BYTES // (4 * int(np.prod(prepared.spec.shape))))


def _rounds(count: int, most: int, images_seen: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Indices of samples, `images_seen` in all: one shuffled epoch after the other, at most `most` at once."""
    left = images_seen
    while left:
        epoch = rng.permutation(count)[:left]
        left -= len(epoch)
        for start in range(0, len(epoch), most):
            yield epoch[start : start + most]


def _lesson(
    prepared: Prepared,
    indices: NDArray[np.int64],
    recipe: FineTune,
    teacher: NDArray[np.float32] | Teacher | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tensors (n, ...) and targets (n, 1 + T) of one round; see class_loss."""
    part = prepared.dataset.fit
    inputs = part.inputs[indices]
    tensors = prepared.tensors(vary_samples(inputs, prepared.dataset.modality, rng) if recipe.augment else inputs)
    labels = part.labels[indices].astype(np.float32)[:, np.newaxis]
    if teacher is None:
        return tensors, labels
    scores = teacher[indices] if isinstance(teacher, np.ndarray) else teacher(tensors)
    return tensors, np.concatenate([labels, np.asarray(scores, np.float32)], axis=1)


def _require_finite_loss(loss: float, shown: int, recipe: FineTune, per_epoch: int) -> None:
    if not np.isfinite(loss):
        raise Refused(
            f"the loss turned {loss} in epoch {-(-shown // per_epoch)}, after {shown:,} of {recipe.images_seen:,} "
            f"samples; lower the learning rate (now {recipe.learning_rate:g}) or scale the data"
        )
