from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import UNLABELLED, Part, Prepared, prepare, split
from edgeloop.toolchain.fitting import FineTune, accuracy, class_loss, fine_tune, gives_probabilities, scores_of

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CLASSES = 3


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Points of four numbers around three centres: a dense layer learns them in a moment."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, size=600)
    centres = np.eye(CLASSES, 4) * 3
    points = (centres[labels] + rng.normal(size=(600, 4))).astype(np.float32)
    names = ("a", "b", "c")
    data = split("points", points, labels, label_names=names, sha256="0" * 64, seed=0, modality=Modality.TENSOR)
    return prepare(data, TensorSpec("point", (1, 4), "float32"))


def _net(*, softmax: bool = False, outputs: int = CLASSES) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(1)
    point = keras.Input((4,), name="point")
    hidden = keras.layers.Dense(8, activation="relu")(point)
    return keras.Model(point, keras.layers.Dense(outputs, activation="softmax" if softmax else None)(hidden))


def _log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    wide = scores.astype(np.float64)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def _without_labels(prepared: Prepared) -> Prepared:
    fit = prepared.dataset.fit
    blank = Part(fit.inputs, np.full(len(fit), UNLABELLED, np.int64))
    return replace(prepared, dataset=replace(prepared.dataset, fit=blank))


# ---- the loss


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_loss_is_that_of_the_papers(weight: float) -> None:
    rng = np.random.default_rng(0)
    scores, teacher = (rng.normal(size=(6, 5)).astype(np.float32) for _ in range(2))
    labels = np.array([0, 1, 2, 3, 4, UNLABELLED], np.float32)
    recipe = FineTune(teacher_weight=weight, temperature=3.0, label_smoothing=0.1)
    made = class_loss(import_keras(), recipe, gives_probabilities=False)(
        np.concatenate([labels[:, np.newaxis], teacher], axis=1), scores
    )
    logs = _log_softmax(scores)
    hard = [0.0 if k < 0 else -(0.9 * log[int(k)] + 0.1 * log.mean()) for k, log in zip(labels, logs, strict=True)]
    wanted, got = _log_softmax(teacher / 3), _log_softmax(scores / 3)
    soft = 9 * (np.exp(wanted) * (wanted - got)).sum(axis=1)
    # Sums of five float32 terms.
    assert np.abs(np.asarray(made) - ((1 - weight) * np.array(hard) + weight * soft)).max() < 1e-5


def test_probabilities_and_logits_have_the_same_loss() -> None:
    keras = import_keras()
    scores = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    target = np.array([[0], [1], [2], [0]], np.float32)
    raw = class_loss(keras, FineTune(), gives_probabilities=False)(target, scores)
    soft = class_loss(keras, FineTune(), gives_probabilities=True)(
        target, np.exp(_log_softmax(scores)).astype(np.float32)
    )
    assert np.abs(np.asarray(raw) - np.asarray(soft)).max() < 1e-5


# ---- fitting


@pytest.mark.parametrize("softmax", [False, True])
def test_fitting_learns_through_logits_and_through_a_softmax(prepared: Prepared, softmax: bool) -> None:
    net = _net(softmax=softmax)
    fine_tune(net, prepared, FineTune(images_seen=3_000, learning_rate=2e-2))
    assert gives_probabilities(net) is softmax
    # Centres are 4.2 standard deviations apart, so the best there is lies near 96 %.
    assert accuracy(net, prepared, prepared.dataset.holdout) > 0.9


def test_same_seed_fits_the_same_weights(prepared: Prepared) -> None:
    nets = [_net(), _net()]
    losses = [fine_tune(net, prepared, FineTune(images_seen=500)) for net in nets]
    first, again = (net.get_weights() for net in nets)
    assert losses[0] == losses[1]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_net_stays_uncompiled_so_that_it_saves_without_the_optimizer(prepared: Prepared) -> None:
    net = _net()
    fine_tune(net, prepared, FineTune(images_seen=100))
    assert not net.compiled


def test_only_as_many_samples_are_shown_as_were_asked_for(prepared: Prepared) -> None:
    told: list[tuple[float, str]] = []
    fine_tune(_net(), prepared, FineTune(images_seen=300), progress=lambda *line: told.append(line))
    assert told[-1][0] == 1.0
    assert told[-1][1].startswith("300 of 300")


def test_teacher_that_sees_what_the_net_sees_teaches_without_labels(prepared: Prepared) -> None:
    teacher = _net()
    fine_tune(teacher, prepared, FineTune(images_seen=3_000, learning_rate=2e-2))
    student = _net()
    fine_tune(
        student,
        _without_labels(prepared),
        FineTune(images_seen=3_000, learning_rate=2e-2, teacher_weight=1.0),
        teacher_scores=lambda tensors: np.asarray(teacher.predict(tensors, verbose=0)),
    )
    assert accuracy(student, prepared, prepared.dataset.holdout) > 0.9


def test_scores_made_beforehand_stay_with_their_samples(prepared: Prepared) -> None:
    right = np.eye(CLASSES, dtype=np.float32)[prepared.dataset.fit.labels] * 10
    student = _net()
    recipe = FineTune(images_seen=3_000, learning_rate=2e-2, teacher_weight=1.0, augment=False)
    fine_tune(student, _without_labels(prepared), recipe, teacher_scores=right)
    assert accuracy(student, prepared, prepared.dataset.holdout) > 0.9


def test_net_with_its_inputs_shape_learns_to_reproduce_it(prepared: Prepared) -> None:
    net = _net(outputs=4)
    before = scores_of(net, prepared, prepared.dataset.holdout.inputs)
    fine_tune(net, _without_labels(prepared), FineTune(images_seen=8_000, learning_rate=1e-2))
    after = scores_of(net, prepared, prepared.dataset.holdout.inputs)
    inputs = prepared.dataset.holdout.inputs
    assert ((after - inputs) ** 2).mean() < 0.5 * ((before - inputs) ** 2).mean()


# ---- what does not fit


def test_labels_beyond_the_nets_classes_are_refused(prepared: Prepared) -> None:
    with pytest.raises(InvalidInput, match="labels up to 2, the net scores 2 classes"):
        fine_tune(_net(outputs=2), prepared, FineTune(images_seen=10))


def test_unlabelled_samples_without_a_teacher_are_refused(prepared: Prepared) -> None:
    with pytest.raises(InvalidInput, match="have no label; without a teacher each needs one"):
        fine_tune(_net(), _without_labels(prepared), FineTune(images_seen=10))


def test_weight_without_a_teacher_is_refused(prepared: Prepared) -> None:
    with pytest.raises(InvalidInput, match=r"teacher_weight is 0\.5, and a teacher is missing"):
        fine_tune(_net(), prepared, FineTune(images_seen=10, teacher_weight=0.5))


def test_fixed_teacher_scores_for_varied_samples_are_refused(prepared: Prepared) -> None:
    scores = np.zeros((len(prepared.dataset.fit), CLASSES), np.float32)
    with pytest.raises(InvalidInput, match="with augment off, or the teacher itself"):
        fine_tune(_net(), prepared, FineTune(images_seen=10, teacher_weight=0.5), teacher_scores=scores)


def test_nan_in_the_data_is_refused(prepared: Prepared) -> None:
    broken = prepared.dataset.fit.inputs.copy()
    broken[3, 1] = np.nan
    data = replace(prepared.dataset, fit=Part(broken, prepared.dataset.fit.labels))
    with pytest.raises(InvalidInput, match=r"1 of \d+ samples of points hold NaN"):
        fine_tune(_net(), replace(prepared, dataset=data), FineTune(images_seen=len(broken)))


def test_loss_that_turns_nan_is_refused_with_the_epoch(prepared: Prepared) -> None:
    net = _net()
    net.set_weights([np.full_like(weight, np.nan) for weight in net.get_weights()])
    with pytest.raises(Refused, match="the loss turned nan in epoch 1"):
        fine_tune(net, prepared, FineTune(images_seen=100))


def test_accuracy_of_unlabelled_data_is_refused(prepared: Prepared) -> None:
    with pytest.raises(InvalidInput, match="no sample of points has a label"):
        accuracy(_net(), prepared, _without_labels(prepared).dataset.fit)
