"""One trial, done: a plan to a trained network, to a variant, to its figures. The seed decides all of it.

Judged on data that neither trained nor calibrated, in the runtime that devices use. Runs in a worker process or a
Ray actor; neighbours: `crew` and `ray` feed it, `plan` says what a plan is.
"""

import atexit
import io
import math
import shutil
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.durable import is_disk_full
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.arithmetic.count import multiply_adds, multiply_adds_by_precision
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.compress.plan import Body, BodyKind, Finish, Outcome, Plan, Taught
from edgeloop.toolchain.compress.space import BITS
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.convert.strip import strip_model
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.fitting import FineTune, fine_tune
from edgeloop.toolchain.nets.build import build_net
from edgeloop.toolchain.prune.measures import By
from edgeloop.toolchain.prune.settle import settle
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.quantize.aware import AwareRecipe, train_aware
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe, Symmetry
from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed
from edgeloop.toolchain.source.engine import FORMATS
from edgeloop.toolchain.source.keras import keras_bytes, plain_keras
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.targets import Target
from edgeloop.toolchain.teacher import student_input

_TARGETS = {
    EngineName.LITERT: Target.LITERT,
    EngineName.ONNXRUNTIME: Target.ONNX,
    EngineName.OPENVINO: Target.OPENVINO,
}
_LEARNING_RATE = 4e-3
_BATCH_SIZE = 128
_UNKNOWN_WORK = 2**62  # counts as the most there is: what cannot be counted wins nothing by it
_TEACHER_WEIGHT = 0.7
_TEMPERATURE = 4.0
_SMALLEST_SIDE_PX = 8
_STAGE_SEEDS = 1_000_003
_BODY = "body.keras"


@dataclass(frozen=True)
class Setting:
    """Everything that trials share. Plain data, so that it travels to other processes and machines.

    model_name, model_data: the source's file. lessons: what bodies train on: samples of the fit part, then varied
    copies of all of them; originals: how many are no copies. teacher_scores: (len(lessons), classes) logits of the
    source for them. judged: what trials are judged by; unseen: how many of these, at its beginning, are not of the fit
    part, which the source may have learnt by heart. judged_labels_by_source: (len(judged),) the source's answers.
    source_accuracy: on the unseen.
    """

    model_name: str
    model_data: bytes
    trust_pickle: bool
    dataset: Dataset
    input_range: tuple[float, float]
    lessons: Part
    originals: int
    teacher_scores: NDArray[np.float32]
    judged: Part
    unseen: int
    judged_labels_by_source: NDArray[np.int64]
    source_accuracy: float


@dataclass(frozen=True)
class Task:
    """A plan, with its body where that was trained already, or as it was a stage before."""

    plan: Plan
    body: bytes | None = None
    before: bytes | None = None


@dataclass(frozen=True)
class Tried:
    """What came of a task. body: the trained network as .keras bytes, None for the source itself."""

    outcome: Outcome
    body: bytes | None = None
    variant: bytes | None = None


class Workbench:
    """Does one task at a time, with one thread."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        try:
            self._source = open_bytes(setting.model_name, setting.model_data, trust_pickle=setting.trust_pickle)
        except Exception as error:
            _require_disk(error)
            raise

    def try_task(self, task: Task) -> Tried:
        """Carry out a plan. What cannot be done is an outcome with its reason, not an error, but for a full disk:
        then Unavailable is raised, and the plan counts as not tried."""
        started = time.monotonic()
        try:
            tried = self._try(task)
        except Exception as error:  # noqa: BLE001 - the outer guard of a worker: one trial must not end the search
            _require_disk(error)
            failure = str(error) if isinstance(error, EdgeloopError) else f"{type(error).__name__}: {error}"
            tried = Tried(Outcome(plan=task.plan, failure=failure))
        seconds = round(time.monotonic() - started, 2)
        return replace(tried, outcome=_took(tried.outcome, seconds))

    def _candidate(self, task: Task) -> tuple[Model, Model, Prepared]:
        """The plan's body, its finished variant, and the data as both take it."""
        plan = task.plan
        # Layers are named by counters that run on; names stand in files, and a plan decides its file's bytes.
        import_keras().utils.clear_session(free_memory=False)
        setting = self._setting
        body = self._body(task)
        # A body calls its input by its own name.
        data = prepare(setting.dataset, body.only_input(), value_range=setting.input_range)
        return body, self._finished(plan, body, data), data

    def _try(self, task: Task) -> Tried:
        plan = task.plan
        body, variant, data = self._candidate(task)
        setting = self._setting
        tensors = data.tensors(setting.judged.inputs)
        answers = variant.scores(tensors).argmax(axis=1)
        by_body = body.scores(tensors).argmax(axis=1)
        accuracy = float((answers == setting.judged.labels).mean())
        # Of an OpenVINO file they cannot be counted, but of the network that it was made of.
        macs = multiply_adds(variant)
        macs = multiply_adds(body) if macs is None else macs
        outcome = Outcome(
            plan=plan,
            lost_points=self._lost(plan.body, answers),
            body_lost_points=self._lost(plan.body, by_body),
            accuracy=accuracy,
            agreement=float((answers == setting.judged_labels_by_source).mean()),
            size_bytes=variant.size_bytes,
            multiply_adds=macs,
            bit_operations=_UNKNOWN_WORK if macs is None else _bit_operations(plan.finish, macs, variant),
        )
        kept = None if plan.body.kind is BodyKind.SOURCE else body.data
        return Tried(outcome, kept, variant.data)

    def _lost(self, body: Body, answers: NDArray[np.int64]) -> float:
        """Points of accuracy against the source: of a student on all that judges, which it never saw; of what has the
        source's own weights on what the source never saw."""
        right = answers == self._setting.judged.labels
        if body.kind is not BodyKind.STUDENT:
            right = right[: self._setting.unseen]
        return round(100 * (self._setting.source_accuracy - float(right.mean())), 4)

    def _body(self, task: Task) -> Model:
        """The network, trained in as many stages as are not done yet."""
        body = task.plan.body
        if body.kind is BodyKind.SOURCE:
            return self._source
        if task.body is not None:
            return open_bytes(_BODY, task.body)
        lessons = self._lessons(body)
        name = "pruned" if body.kind is BodyKind.PRUNED else "student"
        kept, done = task.before, 0 if task.before is None else len(body.stages) - 1
        for stage in range(done, len(body.stages)):
            # Each goes on from a file: what a plan gives is not to depend on who trained its stages when.
            import_keras().utils.clear_session(free_memory=False)
            net = self._begun(body, lessons) if kept is None else plain_keras(open_bytes(_BODY, kept))
            self._train(net, body, stage, lessons)
            kept = keras_bytes(net)
        if kept is None:
            raise InvalidInput(f"the plan {task.plan.title!r} has no stage to train the network in")
        return replace(open_bytes(_BODY, kept), name=name)

    def _lessons(self, body: Body) -> Prepared:
        setting = self._setting
        prepared = data_for(body, self._source, setting.dataset, value_range=setting.input_range)
        return replace(prepared, dataset=replace(prepared.dataset, fit=self._shown(body)))

    def _shown(self, body: Body) -> Part:
        lessons = self._setting.lessons
        return lessons if body.taught is Taught.SOURCE else lessons.take(self._setting.originals).labelled()

    def _begun(self, body: Body, lessons: Prepared) -> Any:
        """The network before its first stage: a fresh student, or what a cut left of the source."""
        if body.kind is BodyKind.PRUNED:
            recipe = PruneRecipe(keep=body.keep, of=body.of, by=By(body.by), images_seen=0, seed=body.seed)
            return plain_keras(prune(self._source, recipe, lessons)[0])
        seed_everything(import_keras(), body.seed)
        return student_net(body, lessons.spec.shape[1:], self._setting.teacher_scores.shape[1])

    def _train(self, net: Any, body: Body, stage: int, lessons: Prepared) -> None:
        """One stage in place."""
        seed = body.seed + _STAGE_SEEDS * stage
        by_source = body.taught is Taught.SOURCE
        recipe = FineTune(
            images_seen=body.stages[stage],
            batch_size=_BATCH_SIZE,
            learning_rate=_LEARNING_RATE,
            seed=seed,
            augment=not by_source,
            temperature=_TEMPERATURE,
            teacher_weight=_TEACHER_WEIGHT if by_source else 0.0,
        )
        fine_tune(net, lessons, recipe, teacher_scores=self._setting.teacher_scores if by_source else None)
        settle(net, lessons, seed=seed)

    def _finished(self, plan: Plan, body: Model, data: Prepared) -> Model:
        return strip_model(self._brought(plan, body, data))

    def _brought(self, plan: Plan, body: Model, data: Prepared) -> Model:
        """The body on the finish's engine, at its precision."""
        finish = plan.finish
        if finish.precision is Precision.FLOAT32:
            if body.format is FORMATS[finish.engine]:
                return body
            return convert(body, ConvertRecipe(to=_TARGETS[finish.engine]), data=data)[0]
        recipe = QuantizeRecipe(
            precision=finish.precision,
            # LiteRT has 16-bit activations with zero in the middle only.
            activations=Symmetry.SYMMETRIC if finish.precision is Precision.INT16 else Symmetry.ASYMMETRIC,
            granularity=finish.granularity,
            calibration=finish.calibration,
            equalize=finish.equalize,
            correct_bias=finish.correct_bias,
            seed=plan.body.seed,
        )
        ranges: Mapping[str, tuple[float, float]] | None = None
        if finish.aware_images:
            by_source = plan.body.taught is Taught.SOURCE
            lessons = replace(data, dataset=replace(data.dataset, fit=self._shown(plan.body)))
            aware = AwareRecipe(images_seen=finish.aware_images, seed=plan.body.seed)
            scores = self._setting.teacher_scores if by_source else None
            body, learned = train_aware(body, aware, recipe, lessons, teacher_scores=scores)
            # The other engines calibrate ranges of their own.
            ranges = learned if finish.engine is EngineName.LITERT else None
        if finish.mixed_agreement:
            return mixed(body, MixedRecipe(quantize=recipe, min_agreement=finish.mixed_agreement), data)[0]
        return quantize(body, recipe, data, to=FORMATS[finish.engine], ranges=ranges)[0]


def _bit_operations(finish: Finish, macs: int, variant: Model) -> int:
    """Multiply-adds times bits of weights and of activations: layer by layer, since some keep more than was asked for;
    of a file that does not tell, as its finish says."""
    found = multiply_adds_by_precision(variant) or {finish.precision: macs}
    return sum(count * math.prod(BITS.get(one, (8, 8))) for one, count in found.items())


def _require_disk(error: BaseException) -> None:
    """Raise Unavailable if a full disk is behind the error: that is the machine's failure and not the plan's."""
    behind: BaseException | None = error
    while behind is not None:
        if is_disk_full(behind):
            raise Unavailable(
                f"a trial found no room on the disk ({behind}). Free some space, then give the same command: the "
                "search goes on from its records"
            ) from error
        behind = behind.__cause__ or behind.__context__


def data_for(body: Body, source: Model, dataset: Dataset, *, value_range: tuple[float, float]) -> Prepared:
    """The dataset as a body is to take it: channels last, and a student may look at fewer pixels than the source."""
    taken = student_input(source, dataset)
    if body.side_share != 1.0:
        height, width = (max(_SMALLEST_SIDE_PX, round(side * body.side_share)) for side in taken.shape[1:3])
        taken = TensorSpec(taken.name, (1, height, width, taken.shape[3]), taken.dtype)
    return prepare(dataset, taken, value_range=value_range)


def student_net(body: Body, shape: tuple[int, ...], classes: int) -> Any:
    """A student's network, untrained, for inputs of `shape` without batch."""
    return build_net(body.net, shape, classes, width=body.width, depth=body.depth, growth=body.growth)


def open_bytes(name: str, data: bytes, *, trust_pickle: bool = False) -> Model:
    """A model from its file's bytes, or from those of a SavedModel's archive."""
    if Path(name).suffix:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            return open_model(path, trust_pickle=trust_pickle)
    # A SavedModel is read from its folder for as long as it is asked.
    kept = Path(tempfile.mkdtemp(prefix="edgeloop-savedmodel-"))
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(kept / name, filter="data")
    return open_model(kept / name)


def _took(outcome: Outcome, seconds: float) -> Outcome:
    return msgspec.structs.replace(outcome, seconds=seconds)
