"""Ask a model to teach: questions in the shape that it takes, answers as logits, and a word on what they were.

Neighbours: `distil` decides what is asked and fits a student to the answers.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import Dataset, Prepared
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Model

_AT_ONCE_BYTES = 32 * 2**20
_MOST_AT_ONCE = 4_096
_SUM_TOLERANCE = 1e-3
_SMALLEST_PROBABILITY = 1e-7
_SURE = 0.95


class Gives(StrEnum):
    """What a teacher's answers are. labels: class indices; probabilities: rows in 0..1 that sum to 1; logits: any
    other scores of two classes or more."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LABELS = "labels"


@dataclass(frozen=True)
class Asked:
    """Answers. logits: (N, classes) float32: as they came, or the logs of probabilities, or those of 95 % for the
    named class and the rest for the others. features: (N, D) float32, or None where they were not asked for."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None
    gives: Gives


class Questions:
    """How a teacher is asked about samples of `data`, which are shaped for another model.

    It gets the same numbers in its own shape: channels first where its input is (1, C, H, W), flat where it is
    (1, H * W * C). Raises InvalidInput if neither brings them to its input, or it has no output that names or scores
    classes, or no features where they are wanted.
    """

    def __init__(self, teacher: Model, data: Prepared, *, with_features: bool) -> None:
        self.teacher = teacher
        self.data = data
        self.input = teacher.only_input()
        self.output = _scoring_output(teacher)
        self.with_features = with_features
        require_same_numbers(tuple(data.spec.shape), self.input, teacher.name)
        if with_features and FEATURES not in {spec.name for spec in teacher.outputs}:
            names = ", ".join(spec.name for spec in teacher.outputs)
            raise InvalidInput(
                f"{teacher.name} has no output {FEATURES!r} to give hints with (it has {names}); set hints to 0, or "
                "name the layer before its scores 'features'"
            )

    def ask(self, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Samples as they lie in a Part to raw answers (n, ...) and features (n, D) or None."""
        tensors = arranged(self.data.tensors(inputs), tuple(self.input.shape))
        made = self.teacher.run({self.input.name: tensors})
        features = made[FEATURES].reshape(len(inputs), -1).astype(np.float32) if self.with_features else None
        return made[self.output.name], features


def ask(questions: Questions, inputs: NDArray[Any], *, like: Asked | None = None, progress: Progress = silent) -> Asked:
    """The teacher's answers for samples as they lie in a Part, asked in batches.

    like: answers that say what these are, too; judged from the answers themselves where None. Raises Refused if one
    is NaN or infinite, InvalidInput if they are neither labels nor scores of two classes or more.
    """
    answers, features = [], []
    # Each question costs a teacher of Keras some 50 ms, however few samples it holds.
    at_once = max(1, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // (4 * int(np.prod(questions.input.shape)))))
    for start in range(0, len(inputs), at_once):
        some, drawn = questions.ask(inputs[start : start + at_once])
        answers.append(some)
        features.append(drawn)
        done = min(start + at_once, len(inputs))
        progress(done / len(inputs), f"the teacher answered {done:,} of {len(inputs):,}")
    raw, name = np.concatenate(answers), questions.teacher.name
    drawn_all = None if features[0] is None else np.concatenate([one for one in features if one is not None])
    for what, values in (("answers", raw), ("features", drawn_all)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
            raise Refused(
                f"the {what} of {name} to {bad} of {len(values)} samples hold NaN or infinity; it cannot teach"
            )
    gives = like.gives if like else _judge(raw, name)
    width = like.logits.shape[1] if like else _classes(raw, gives, questions.data)
    return Asked(_as_logits(raw, gives, width, name), drawn_all, gives)


def require_same_numbers(shape: tuple[int, ...], taken: TensorSpec, name: str) -> None:
    """Raise InvalidInput if samples of this shape, with batch axis 1, cannot be brought to a teacher's input."""
    if tuple(taken.shape) not in (shape, _channels_first(shape), (1, int(np.prod(shape[1:])))):
        raise InvalidInput(
            f"input {taken.name!r} of {name} takes {tuple(taken.shape)}, the data is brought to {shape} for the "
            f"student; expected the same, {_channels_first(shape)} or (1, {int(np.prod(shape[1:]))})"
        )


def arranged(tensors: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Tensors (N, ...) in a teacher's shape (1, ...): as they are, channels first, or flat."""
    if tensors.shape[1:] == shape[1:]:
        return tensors
    if len(shape) == tensors.ndim:
        return np.ascontiguousarray(np.moveaxis(tensors, -1, 1))
    return tensors.reshape(len(tensors), -1)


def student_input(teacher: Model, dataset: Dataset | None = None) -> TensorSpec:
    """What a student takes that learns from `teacher`: its input, with channels last.

    dataset: where it holds images and the teacher takes them flat, the student takes them as images. Raises
    InvalidInput if the teacher has several inputs.
    """
    taken = teacher.only_input()
    shape = tuple(taken.shape)
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        shape = (1, *shape[2:], shape[1])
    elif len(shape) == 2 and dataset is not None and dataset.modality is Modality.IMAGE:
        pixels = dataset.fit.inputs.shape[1:]
        image = (1, *pixels) if len(pixels) == 3 else (1, *pixels, 1)
        shape = image if int(np.prod(image)) == shape[1] else shape
    return TensorSpec(taken.name, shape, "float32")


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[-1], *shape[1:-1])


def _scoring_output(teacher: Model) -> TensorSpec:
    """The one output; of several, that called logits, or the one with a score a class, or the one with labels."""
    outputs = [spec for spec in teacher.outputs if spec.name != FEATURES]
    named = [spec for spec in outputs if spec.name == LOGITS]
    scoring = [spec for spec in outputs if len(spec.shape) == 2 and spec.shape[1] > 1 and _is_float(spec)]
    for choice in (named, outputs, scoring):
        if len(choice) == 1:
            return choice[0]
    names = ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in teacher.outputs)
    raise InvalidInput(
        f"{teacher.name} has the outputs {names}, and which of them scores classes is not clear; name it {LOGITS!r}"
    )


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith("float") or spec.scale != 0.0


def _judge(raw: NDArray[Any], name: str) -> Gives:
    if raw.ndim == 2 and raw.shape[1] >= 2:
        sums = np.abs(raw.sum(axis=1) - 1) <= _SUM_TOLERANCE
        within = (raw >= -_SUM_TOLERANCE) & (raw <= 1 + _SUM_TOLERANCE)
        return Gives.PROBABILITIES if sums.all() and within.all() else Gives.LOGITS
    one_each = raw.reshape(len(raw), -1)
    if one_each.shape[1] == 1 and (one_each == np.round(one_each)).all() and (one_each >= 0).all():
        return Gives.LABELS
    raise InvalidInput(
        f"{name} answers {raw.shape[1:]} a sample, such as {one_each[0].tolist()[:5]}; a teacher gives a score for "
        "each of two or more classes, or a class index"
    )


def _classes(raw: NDArray[Any], gives: Gives, data: Prepared) -> int:
    if gives is not Gives.LABELS:
        return int(raw.shape[1])
    return max(int(raw.max()) + 1, len(data.dataset.label_names), 2)


def _as_logits(raw: NDArray[Any], gives: Gives, width: int, name: str) -> NDArray[np.float32]:
    if gives is Gives.LOGITS:
        return raw.astype(np.float32)
    if gives is Gives.PROBABILITIES:
        return np.log(np.maximum(raw.astype(np.float32), np.float32(_SMALLEST_PROBABILITY)))
    labels = raw.reshape(len(raw)).astype(np.int64)
    if labels.max() >= width:
        raise InvalidInput(f"{name} gave the label {labels.max()}; while teaching it gave {width} classes at most")
    spread = np.full((len(raw), width), (1 - _SURE) / (width - 1), np.float32)
    spread[np.arange(len(raw)), labels] = _SURE
    return np.log(spread)
