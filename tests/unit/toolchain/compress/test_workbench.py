"""Trials themselves, small: a plan decides its model, whoever trained its stages, and learns from what it says."""

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.manifest import Precision
from edgeloop.steps import open_dataset, open_model, student_data
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.compress.crew import LocalCrew
from edgeloop.toolchain.compress.lessons import prepare_setting
from edgeloop.toolchain.compress.plan import Body, BodyKind, Finish, Plan, Taught
from edgeloop.toolchain.compress.workbench import Setting, Task, Tried, Workbench
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.progress import silent
from edgeloop.toolchain.source.keras import keras_bytes


def _setting(folder: Path) -> Setting:
    """A dense net of fresh weights, to learn from, and points around three centres, a third of them without a label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    points = (3 * rng.normal(size=(3, 6))[labels] + rng.normal(size=(600, 6))).astype(np.float32)
    labels[:200] = -1
    np.savez(folder / "points.npz", inputs=points, labels=labels)
    keras = import_keras()
    keras.utils.set_random_seed(0)
    point = keras.Input((6,), name="point")
    net = keras.Model(point, keras.layers.Dense(3)(keras.layers.Dense(32, activation="relu")(point)))
    (folder / "source.keras").write_bytes(keras_bytes(net))
    source = open_model(folder / "source.keras")
    data = student_data(source, open_dataset(str(folder / "points.npz")))
    return prepare_setting(source, data, seed=0, progress=silent)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return _setting(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def crew(setting: Setting) -> Iterator[LocalCrew]:
    """A worker of its own, as in a search: a trial makes Keras forget what its process did before."""
    with LocalCrew(setting, size=1) as crew:
        yield crew


@pytest.fixture(scope="module")
def another_crew(setting: Setting) -> Iterator[LocalCrew]:
    with LocalCrew(setting, size=1) as crew:
        yield crew


def _tried(crew: LocalCrew, *tasks: Task) -> list[Tried]:
    return [tried for _, tried in sorted(crew.run(tasks, deadline=math.inf), key=lambda pair: pair[0])]


def _plan(*stages: int, kind: BodyKind = BodyKind.STUDENT, taught: Taught = Taught.LABELS) -> Plan:
    body = Body(kind=kind, net=NetName.DENSE, width=0.5, depth=2, keep=0.6, taught=taught, stages=stages)
    return Plan(body=body, finish=Finish(precision=Precision.FLOAT32))


@pytest.mark.parametrize(("kind", "taught"), [(BodyKind.STUDENT, Taught.LABELS), (BodyKind.PRUNED, Taught.SOURCE)])
def test_stages_in_a_row_give_what_stages_on_their_own_give(
    crew: LocalCrew, another_crew: LocalCrew, kind: BodyKind, taught: Taught
) -> None:
    both = _plan(256, 384, kind=kind, taught=taught)
    first, in_a_row = _tried(crew, Task(_plan(256, kind=kind, taught=taught)), Task(both))
    (gone_on,) = _tried(another_crew, Task(both, before=first.body))
    assert gone_on.outcome.failure is None
    assert gone_on.variant == in_a_row.variant
    assert gone_on.variant != first.variant


def test_labels_teach_what_a_source_of_fresh_weights_cannot_also_where_some_have_none(crew: LocalCrew) -> None:
    tasks = (Task(_plan(4_000, taught=one)) for one in (Taught.LABELS, Taught.SOURCE))
    by_labels, by_source = (tried.outcome for tried in _tried(crew, *tasks))
    assert by_labels.failure is None
    assert by_labels.accuracy > 0.8
    assert by_labels.accuracy > by_source.accuracy
    assert by_source.agreement > by_labels.agreement


def test_a_plan_without_a_stage_is_an_outcome_with_its_reason(crew: LocalCrew) -> None:
    (tried,) = _tried(crew, Task(_plan()))
    assert tried.outcome.failure is not None
    assert "has no stage" in tried.outcome.failure


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_the_machines_failure_and_not_the_plans(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    def fail(self: Workbench, task: Task) -> Tried:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "body.keras")
        except OSError as error:
            if wrapped:
                raise InvalidInput("the body was not written") from error
            raise

    bench = Workbench(setting)
    monkeypatch.setattr(Workbench, "_try", fail)
    with pytest.raises(Unavailable, match="the search goes on from its records"):
        bench.try_task(Task(_plan(256)))
