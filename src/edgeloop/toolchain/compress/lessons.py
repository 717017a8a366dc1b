"""What all trials share, made once: lessons with the source's answers to them, and what trials are judged by.

Data is shaped for students, channels last; the source gets the same numbers in its own shape (see `teacher`).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.augment import vary_samples
from edgeloop.toolchain.compress.workbench import Setting
from edgeloop.toolchain.data.dataset import Part, Prepared
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.teacher import Asked, Questions, ask

_MOST_LESSONS = 120_000
_MOST_BYTES = 512 * 2**20
_MOST_COPIES = 8
_FEW_ASKED = 256
_SOME_JUDGED, _ENOUGH_JUDGED = 500, 5_000
_MOST_JUDGED_OF_FIT = 0.06


def prepare_setting(
    model: Model, data: Prepared, *, seed: int, trust_pickle: bool = False, progress: Progress
) -> Setting:
    """Ask the source once for everything that trials want to know of it.

    Lessons: the fit part, then copies of it, each sample varied. Judged by: labelled samples of the validation and
    field parts (there are no devices here whose data the field would be), and where these are some but not enough of
    the fit part, which then does not teach them: a tenth of a point does not show on 2,000. Raises Refused if the
    source answers NaN.
    """
    dataset = data.dataset
    questions = Questions(model, data, with_features=False)
    apart = labelled_part(_joined(dataset.validation, dataset.field), dataset.name)
    few = min(max(0, _ENOUGH_JUDGED - len(apart)), int(_MOST_JUDGED_OF_FIT * len(dataset.fit)))
    taught = dataset.fit.take(len(dataset.fit) - (few if len(apart) >= _SOME_JUDGED else 0))
    lessons = _lessons(taught, dataset.modality, seed)
    asked = ask(questions, lessons.inputs, progress=progress)
    judged = _joined(apart, _rest(dataset.fit, len(taught)).labelled())
    answers = _best(ask(questions, judged.inputs, like=asked))
    return Setting(
        model_name=model.name,
        model_data=model.data,
        trust_pickle=trust_pickle,
        dataset=dataset,
        input_range=data.spec.value_range,
        lessons=lessons,
        originals=len(taught),
        teacher_scores=asked.logits,
        judged=judged,
        unseen=len(apart),
        judged_labels_by_source=answers,
        source_accuracy=float((answers == judged.labels)[: len(apart)].mean()),
    )


def labelled_by(model: Model, data: Prepared) -> Prepared:
    """Data without labels, with the source's answers as labels: accuracy is then agreement with the source.

    Classes are called by their index. Raises InvalidInput if the model does not score two or more classes.
    """
    questions = Questions(model, data, with_features=False)
    known = ask(questions, data.dataset.fit.inputs[:_FEW_ASKED])
    dataset = data.dataset

    def named(part: Part) -> Part:
        if len(part) == 0:
            return part
        return Part(part.inputs, _best(ask(questions, part.inputs, like=known)))

    labelled = replace(
        dataset,
        label_names=tuple(str(index) for index in range(known.logits.shape[1])),
        fit=named(dataset.fit),
        validation=named(dataset.validation),
        holdout=named(dataset.holdout),
        field=named(dataset.field),
    )
    return replace(data, dataset=labelled)


def source_accuracy(model: Model, data: Prepared) -> float:
    """On the labelled samples of the held-out part."""
    part = labelled_part(data.dataset.holdout, data.dataset.name)
    answers = _best(ask(Questions(model, data, with_features=False), part.inputs))
    return float((answers == part.labels).mean())


def labelled_part(part: Part, name: str) -> Part:
    """The samples that have a label. Raises InvalidInput if none has."""
    labelled = part.labelled()
    if len(labelled) == 0:
        raise InvalidInput(f"{name} has no labelled samples to judge by; give more, or data without any labels")
    return labelled


def class_count(model: Model, data: Prepared) -> int:
    """How many classes the source tells apart, by its answers. Raises InvalidInput if it is no classifier."""
    asked = ask(Questions(model, data, with_features=False), data.dataset.fit.inputs[:_FEW_ASKED])
    return int(asked.logits.shape[1])


def _best(asked: Asked) -> NDArray[np.int64]:
    return np.asarray(asked.logits.argmax(axis=1), np.int64)


def _joined(first: Part, second: Part) -> Part:
    return Part(np.concatenate([first.inputs, second.inputs]), np.concatenate([first.labels, second.labels]))


def _rest(part: Part, start: int) -> Part:
    return Part(part.inputs[start:], part.labels[start:])


def _lessons(fit: Part, modality: Modality, seed: int) -> Part:
    bytes_each = max(1, fit.inputs[:1].nbytes)
    most = min(_MOST_LESSONS, _MOST_BYTES // bytes_each)
    copies = max(1, min(_MOST_COPIES, most // max(1, len(fit))))
    rng = np.random.default_rng(seed)
    varied = [vary_samples(fit.inputs, modality, rng) for _ in range(copies - 1)]
    return Part(np.concatenate([fit.inputs, *varied]), np.tile(fit.labels, copies))
