"""What all trials share, made once: lessons with the source's answers to them, and what trials are judged by."""

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.augment import vary_samples
from edgeloop.toolchain.compress.workbench import Setting
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared
from edgeloop.toolchain.fitting import scores_of
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.source.model import Model

_MOST_LESSONS = 120_000
_MOST_BYTES = 512 * 2**20
_MOST_COPIES = 8
_ASKED_AT_ONCE = 2_000
_SMALLEST_PROBABILITY = 1e-7


def prepare_setting(model: Model, data: Prepared, *, seed: int, progress: Progress) -> Setting:
    """Ask the source once for everything that trials want to know of it.

    Lessons: the fit part, then copies of it, each sample varied. Judged by: validation and field parts; there are
    no devices here whose data the field would be. Raises Refused if the source answers NaN.
    """
    dataset = data.dataset
    lessons = _lessons(dataset, seed)
    scores = _asked(model, data, lessons.inputs, progress)
    judged = Part(
        np.concatenate([dataset.validation.inputs, dataset.field.inputs]),
        np.concatenate([dataset.validation.labels, dataset.field.labels]),
    )
    answers = scores_of(model, data, judged.inputs).argmax(axis=1)
    return Setting(
        model_name=model.name,
        model_data=model.data,
        dataset=dataset,
        input_range=data.spec.value_range,
        lessons=lessons,
        teacher_scores=as_logits(scores),
        judged=judged,
        judged_labels_by_source=answers,
        source_accuracy=float((answers == judged.labels).mean()),
    )


def labelled_by(model: Model, data: Prepared) -> Prepared:
    """Data without labels, with the source's answers as labels: accuracy is then agreement with the source.

    Classes are called by their index. Raises InvalidInput if the model does not score two or more classes.
    """
    width = class_count(model)

    def named(part: Part) -> Part:
        if len(part) == 0:
            return part
        return Part(part.inputs, scores_of(model, data, part.inputs).argmax(axis=1).astype(np.int64))

    dataset = data.dataset
    labelled = Dataset(
        name=dataset.name,
        label_names=tuple(str(index) for index in range(width)),
        fit=named(dataset.fit),
        validation=named(dataset.validation),
        holdout=named(dataset.holdout),
        field=named(dataset.field),
        sha256=dataset.sha256,
        modality=dataset.modality,
    )
    return Prepared(labelled, data.spec, data.steps)


def class_count(model: Model) -> int:
    """How many classes the model scores. Raises InvalidInput if its output is no row of two scores or more."""
    shape = model.only_output().shape
    if len(shape) != 2 or shape[1] < 2:
        raise InvalidInput(
            f"{model.name} answers {shape}; the search compresses classifiers, whose output is (1, classes). "
            "'edgeloop quantize' and 'edgeloop convert' take any model"
        )
    return int(shape[1])


def as_logits(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (N, classes) as logits: probabilities, rows in 0..1 that sum to 1, by their logarithm."""
    sums = scores.sum(axis=1)
    if scores.min() >= 0.0 and scores.max() <= 1.0 + 1e-5 and np.allclose(sums, 1.0, atol=1e-3):
        return np.log(np.maximum(scores, _SMALLEST_PROBABILITY))
    return scores


def _lessons(dataset: Dataset, seed: int) -> Part:
    fit = dataset.fit
    bytes_each = max(1, fit.inputs[:1].nbytes)
    most = min(_MOST_LESSONS, _MOST_BYTES // bytes_each)
    copies = max(1, min(_MOST_COPIES, most // max(1, len(fit))))
    rng = np.random.default_rng(seed)
    varied = [vary_samples(fit.inputs, dataset.modality, rng) for _ in range(copies - 1)]
    return Part(np.concatenate([fit.inputs, *varied]), np.tile(fit.labels, copies))


def _asked(model: Model, data: Prepared, inputs: NDArray[np.generic], progress: Progress) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(inputs), _ASKED_AT_ONCE):
        parts.append(scores_of(model, data, inputs[start : start + _ASKED_AT_ONCE]))
        progress(min(1.0, (start + _ASKED_AT_ONCE) / len(inputs)), f"asking the source about {len(inputs):,} lessons")
    scores = np.concatenate(parts)
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise Refused(
            f"{model.name} answers NaN or infinity for {bad} of {len(scores):,} training samples; it cannot be a "
            "reference. Look at its weights, and at how inputs are scaled (--input-range)"
        )
    return scores
