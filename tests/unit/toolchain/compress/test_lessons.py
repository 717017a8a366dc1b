"""What trials share: lessons with the source's answers, judged by labelled samples only, in the source's own shape."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.compress.compress import student_data
from edgeloop.toolchain.compress.lessons import class_count, labelled_by, prepare_setting, source_accuracy
from edgeloop.toolchain.data.dataset import UNLABELLED, Dataset, Part, Prepared
from edgeloop.toolchain.progress import silent
from edgeloop.toolchain.source.function import wrap_function
from edgeloop.toolchain.source.model import Model

CLASSES = 3
Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _first_columns(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.reshape(len(x), -1)[:, :CLASSES]


def _model(answer: Answer = _first_columns, shape: tuple[int, ...] = (1, 5)) -> Model:
    return wrap_function(
        answer,
        [TensorSpec("x", shape, "float32")],
        [TensorSpec("scores", (1, CLASSES), "float32")],
        name="source",
    )


def _dataset(*, unlabelled_share: float = 0.0, named: bool = True, validation: int = 80) -> Dataset:
    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        inputs = rng.normal(size=(count, 5)).astype(np.float32)
        labels = inputs[:, :CLASSES].argmax(axis=1).astype(np.int64)
        labels[rng.random(count) < unlabelled_share] = UNLABELLED
        return Part(inputs, labels if named else np.full(count, UNLABELLED))

    names = ("a", "b", "c") if named else ()
    return Dataset("rows", names, part(400), part(validation), part(120), part(0), "f" * 64, modality=Modality.TENSOR)


def _prepared(dataset: Dataset, model: Model) -> Prepared:
    return student_data(model, dataset)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_samples_without_a_label_neither_help_nor_harm_the_source(share: float) -> None:
    model = _model()
    data = _prepared(_dataset(unlabelled_share=share), model)
    setting = prepare_setting(model, data, seed=0, progress=silent)
    assert (setting.source_accuracy, source_accuracy(model, data)) == (1.0, 1.0)
    assert UNLABELLED not in setting.judged.labels


def test_a_source_that_errs_on_half_is_told_so() -> None:
    def errs(x: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = _first_columns(x).copy()
        scores[::2] = -scores[::2]
        return scores

    model = _model(errs)
    # The largest and the smallest of three numbers are never the same one.
    assert source_accuracy(model, _prepared(_dataset(), model)) == pytest.approx(0.5)


def test_lessons_are_the_fit_part_and_varied_copies_with_the_sources_answers() -> None:
    model, dataset = _model(), _dataset()
    setting = prepare_setting(model, _prepared(dataset, model), seed=0, progress=silent)
    own = setting.originals
    assert len(setting.lessons) == 8 * own
    assert (setting.lessons.inputs[:own] == dataset.fit.inputs[:own]).all()
    assert (setting.lessons.labels.reshape(8, own) == dataset.fit.labels[:own]).all()
    np.testing.assert_array_equal(setting.teacher_scores, _first_columns(setting.lessons.inputs))


def test_a_few_hundred_that_judge_are_joined_by_some_that_do_not_teach() -> None:
    dataset = _dataset(validation=600)
    setting = prepare_setting(_model(), _prepared(dataset, _model()), seed=0, progress=silent)
    few = len(dataset.fit) - setting.originals
    assert 0 < few < 0.1 * len(dataset.fit)
    assert len(setting.judged) == len(dataset.validation) + len(dataset.field) + few
    taught = {row.tobytes() for row in setting.lessons.inputs[: setting.originals]}
    assert not taught & {row.tobytes() for row in setting.judged.inputs}


def test_how_right_the_source_is_shows_on_what_it_cannot_have_learnt_by_heart() -> None:
    dataset = _dataset(validation=600)
    known = {row.tobytes() for row in dataset.fit.inputs}

    def by_heart(x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Right on the fit part, wrong elsewhere."""
        right = _first_columns(x)
        return np.where([[row.tobytes() in known] for row in x], right, -right).astype(np.float32)

    model = _model(by_heart)
    assert prepare_setting(model, _prepared(dataset, model), seed=0, progress=silent).source_accuracy == 0.0


def test_probabilities_become_logits_and_labels_stay_the_same() -> None:
    def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
        shifted = np.exp(_first_columns(x))
        return shifted / shifted.sum(axis=1, keepdims=True)

    model = _model(softmax)
    setting = prepare_setting(model, _prepared(_dataset(), model), seed=0, progress=silent)
    np.testing.assert_allclose(np.exp(setting.teacher_scores).sum(axis=1), 1.0, atol=1e-5)
    assert setting.source_accuracy == 1.0


def test_data_without_labels_is_judged_by_agreement() -> None:
    model = _model()
    labelled = labelled_by(model, _prepared(_dataset(named=False), model))
    assert labelled.dataset.label_names == ("0", "1", "2")
    expected = labelled.dataset.holdout.inputs[:, :CLASSES].argmax(axis=1)
    assert (labelled.dataset.holdout.labels == expected).all()
    assert source_accuracy(model, labelled) == 1.0


def test_a_source_that_answers_nan_is_refused() -> None:
    model = _model(lambda x: np.full((len(x), CLASSES), np.nan, np.float32))
    with pytest.raises(Refused, match="NaN"):
        prepare_setting(model, _prepared(_dataset(), model), seed=0, progress=silent)


def test_data_with_no_label_in_the_judging_part_is_refused() -> None:
    model = _model()
    data = _prepared(_dataset(unlabelled_share=1.1), model)
    with pytest.raises(InvalidInput, match="no labelled samples to judge by"):
        source_accuracy(model, data)


def test_classes_are_counted_from_answers() -> None:
    model = _model()
    assert class_count(model, _prepared(_dataset(), model)) == CLASSES
