"""Distil: teach a small network what a model answers, whatever that model is.

The teacher is asked once, in batches, for samples and their variations, and its answers are kept, so that a slow one
costs no more than a fast one from then on. Scores teach through a temperature; a teacher that gives only labels
teaches those; one with features may first draw the student's features near. Neighbours: `teacher` asks and says what
the answers are, `nets` are the students, `fitting` fits.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.augment import vary_samples
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.data.dataset import UNLABELLED, Part, Prepared, sha256_of
from edgeloop.toolchain.data.open import require_labels_match
from edgeloop.toolchain.fitting import FineTune, accuracy, fine_tune, scores_of
from edgeloop.toolchain.nets.build import build_net
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.prune.macs import count
from edgeloop.toolchain.recipe import require_in_range
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import FEATURES, Model
from edgeloop.toolchain.teacher import Asked, Gives, Questions, ask

_ASKING = 0.3
_HINTING = 0.5


class DistilRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to distil. student, width, depth: a network of `nets`; images_seen, batch_size, learning_rate: of its fit.

    temperature: divides the logits of both, so that small scores teach, too; 1 where the teacher gives only labels.
    teacher_weight: share of the teacher's loss beside that of the labels, where there are labels. augment: also ask
    and show variations of the samples; most_asked: questions to the teacher in all. hints: samples shown in a first
    stage that fits the student's features, through a projection, to the teacher's; 0 for none.
    """

    student: NetName = NetName.SLIM
    width: float = 1.0
    depth: int | None = None
    images_seen: Annotated[int, msgspec.Meta(ge=1)] = 40_000
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 64
    learning_rate: float = 2e-3
    temperature: Annotated[float, msgspec.Meta(gt=0.0)] = 4.0
    teacher_weight: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.9
    augment: bool = True
    most_asked: Annotated[int, msgspec.Meta(ge=1)] = 40_000
    hints: Annotated[int, msgspec.Meta(ge=0)] = 0
    seed: int = 0


class DistilReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the student learnt. teacher_gives: what its answers were taken for. asked: questions it was asked to teach.

    agreement: share of validation samples that both give the same label. accuracy_*: on validation data, None without
    labels. temperature: as it was used. size_bytes_teacher: of its file, 0 for a function. hint_loss: None without.
    """

    teacher_gives: Gives
    asked: int
    classes: int
    temperature: float
    parameters: int
    macs: int
    size_bytes_teacher: int
    size_bytes_student: int
    agreement: float
    accuracy_teacher: float | None
    accuracy_student: float | None
    loss: float
    hint_loss: float | None


@dataclass(frozen=True)
class _Lesson:
    """What is shown, in the fit part of `data`, with the teacher's answers for it in that order."""

    data: Prepared
    answers: Asked


def distil(
    teacher: Model, recipe: DistilRecipe, data: Prepared, *, progress: Progress = silent
) -> tuple[Model, DistilReport]:
    """A fresh student, fitted to the teacher's answers and to the labels that there are.

    teacher: any Model that scores or names classes; it is only asked. data: as the student takes it; the teacher gets
    the same numbers in its own shape (see teacher.Questions). Raises InvalidInput if student, teacher and data do not
    fit, Refused if the teacher answers NaN. Source: Hinton et al. 2015 (arXiv 1503.02531); hints, Romero et al. 2015,
    FitNets (arXiv 1412.6550), sec. 2.2.
    """
    require_in_range(recipe)
    if recipe.student is NetName.AUTOENCODER:
        raise InvalidInput("an autoencoder learns from its input alone; choose a student that scores classes")
    questions = Questions(teacher, data, with_features=recipe.hints > 0)
    lesson = _prepare_lesson(questions, recipe, data, within(progress, 0.0, _ASKING))
    classes = lesson.answers.logits.shape[1]
    require_labels_match(data.dataset, classes)
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    net = build_net(recipe.student, tuple(data.spec.shape[1:]), classes, width=recipe.width, depth=recipe.depth)
    start = _HINTING if recipe.hints else _ASKING
    hint_loss = _hint(keras, net, lesson, recipe, within(progress, _ASKING, start)) if recipe.hints else None
    temperature = 1.0 if lesson.answers.gives is Gives.LABELS else recipe.temperature
    loss = _fit(net, lesson, recipe, temperature, within(progress, start, 1.0))
    made = wrap_keras(net, name="student").after("distil", recipe, before=teacher, data_sha256=sha256_of(data))
    judged = data.dataset.validation
    by_teacher = ask(questions, judged.inputs, like=lesson.answers).logits.argmax(axis=1)
    is_labelled = bool((judged.labels != UNLABELLED).any())
    cost = count(net)
    return made, DistilReport(
        teacher_gives=lesson.answers.gives,
        asked=len(lesson.answers.logits),
        classes=classes,
        temperature=temperature,
        parameters=cost.parameters,
        macs=cost.macs,
        size_bytes_teacher=teacher.size_bytes,
        size_bytes_student=made.size_bytes,
        agreement=float((scores_of(net, data, judged.inputs).argmax(axis=1) == by_teacher).mean()),
        accuracy_teacher=_share_right(by_teacher, judged) if is_labelled else None,
        accuracy_student=accuracy(net, data, judged) if is_labelled else None,
        loss=loss,
        hint_loss=hint_loss,
    )


def _prepare_lesson(questions: Questions, recipe: DistilRecipe, data: Prepared, progress: Progress) -> _Lesson:
    """Ask about what will be shown: the fit part, epoch after epoch, from the second on varied."""
    fit = data.dataset.fit
    rng = np.random.default_rng(recipe.seed)
    wanted = min(recipe.images_seen, recipe.most_asked)
    epochs: list[Part] = []
    while wanted > 0 and (recipe.augment or not epochs):
        chosen = rng.permutation(len(fit))[:wanted]
        inputs = fit.inputs[chosen]
        varied = vary_samples(inputs, data.dataset.modality, rng) if epochs else inputs
        epochs.append(Part(varied, fit.labels[chosen]))
        wanted -= len(chosen)
    shown = Part(np.concatenate([one.inputs for one in epochs]), np.concatenate([one.labels for one in epochs]))
    answers = ask(questions, shown.inputs, progress=progress)
    return _Lesson(replace(data, dataset=replace(data.dataset, fit=shown)), answers)


def _fit(net: Any, lesson: _Lesson, recipe: DistilRecipe, temperature: float, progress: Progress) -> float:
    how = FineTune(
        images_seen=recipe.images_seen,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        augment=False,
        temperature=temperature,
        teacher_weight=recipe.teacher_weight,
    )
    return fine_tune(net, lesson.data, how, teacher_scores=lesson.answers.logits, progress=progress)


def _hint(keras: Any, net: Any, lesson: _Lesson, recipe: DistilRecipe, progress: Progress) -> float:
    """Fit the student up to its features, and a projection that is then forgotten, to the teacher's features."""
    wanted = lesson.answers.features
    if not any(layer.name == FEATURES for layer in net.layers):
        raise InvalidInput(f"the student {recipe.student} has no layer {FEATURES!r} to give hints to; set hints to 0")
    assert wanted is not None  # Questions with features gives them or raises
    # Teachers differ in scale; a unit deviation makes one learning rate fit all.
    target = (wanted - wanted.mean(axis=0)) / (wanted.std() + 1e-6)
    features = keras.layers.Flatten(name="hint_flat")(net.get_layer(FEATURES).output)
    guided = keras.Model(net.input, keras.layers.Dense(target.shape[1], name="hint")(features))
    guided.compile(optimizer=keras.optimizers.Adam(recipe.learning_rate), loss="mse", jit_compile=False)
    rng = np.random.default_rng(recipe.seed)
    left, loss = recipe.hints, float("nan")
    while left > 0:
        chosen = rng.permutation(len(target))[:left]
        tensors = lesson.data.tensors(lesson.data.dataset.fit.inputs[chosen])
        history = guided.fit(tensors, target[chosen], batch_size=recipe.batch_size, epochs=1, verbose=0, shuffle=False)
        left -= len(chosen)
        loss = float(history.history["loss"][0])
        progress(1 - left / recipe.hints, f"hints: {recipe.hints - left:,} of {recipe.hints:,} shown, loss {loss:.3f}")
    return loss


def _share_right(labels: NDArray[np.int64], part: Part) -> float:
    known = part.labels != UNLABELLED
    return float((labels[known] == part.labels[known]).mean())
