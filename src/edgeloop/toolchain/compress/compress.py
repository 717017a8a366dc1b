"""Search for the best models under a person's bounds: the step `compress`, from a model to a front of bundles.

Neighbours: `sitting` spends the budget, `finals` measures and packs, `page` draws.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.arithmetic.count import precision_of
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.compress.crew import Crew, LocalCrew
from edgeloop.toolchain.compress.finals import Finals, Naming
from edgeloop.toolchain.compress.lessons import class_count, labelled_by, prepare_setting
from edgeloop.toolchain.compress.page import page
from edgeloop.toolchain.compress.plan import Body, CompressRecipe
from edgeloop.toolchain.compress.ray import RayCrew
from edgeloop.toolchain.compress.records import Records, Search
from edgeloop.toolchain.compress.report import CompressReport
from edgeloop.toolchain.compress.sitting import Clock, SearchRun
from edgeloop.toolchain.compress.space import BITS, Space, Weight, finishes
from edgeloop.toolchain.compress.workbench import Setting, data_for, student_net
from edgeloop.toolchain.data.dataset import Dataset, Prepared, prepare
from edgeloop.toolchain.data.open import require_labels_match
from edgeloop.toolchain.draft import Recipe
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.profiles.open import open_profile
from edgeloop.toolchain.profiles.target import TargetProfile
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.teacher import student_input

FRONT, PAGE = "front.json", "front.html"

_IMAGES_A_SECOND = 50
_FEWEST_IMAGES, _MOST_IMAGES = 2_000, 60_000
_LONGEST = 64
_SEARCH_SHARE = 0.85

_RUNS_AS_IT_IS = {
    Format.KERAS: (EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    Format.SAVED_MODEL: (EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    Format.TORCH: (EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    Format.ONNX: (EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    Format.SKLEARN: (EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    Format.LITERT: (EngineName.LITERT,),
    Format.OPENVINO: (EngineName.OPENVINO,),
}
"""Engines that a source can be brought to without a student."""


@dataclass(frozen=True)
class Origin:
    """Where model and data lie, as a person named them, and what the bundles are to be called."""

    model: str
    data: str
    data_seed: int
    name: str
    version: str
    trust_pickle: bool = False


def compress(
    model: Model,
    recipe: CompressRecipe,
    data: Prepared,
    *,
    out: Path,
    origin: Origin,
    crew_size: int | str = 1,
    progress: Progress = silent,
) -> CompressReport:
    """Search within the budget, then measure the best and write a bundle for each that meets the bounds.

    data: shaped for students, see `student_data`; without labels it is judged by agreement with the source. out: the
    search's folder; one that was begun is gone on with. crew_size: worker processes here, or the address of a Ray
    cluster. Raises InvalidInput if model, data and recipe do not go together, or `out` holds another search; Refused
    if the profile runs nothing that was asked for, or nothing can be small enough; Unavailable if the disk is full.
    """
    recipe.require_sound()
    target = open_profile(recipe.profile)
    classes = class_count(model, data)
    judged = data if data.dataset.is_labelled else labelled_by(model, data)
    require_labels_match(judged.dataset, classes)
    records = Records(out)
    search = records.begin(_search(model, recipe, judged, origin))
    space = _space(model, search.recipe, target, judged, classes)
    clock = Clock(recipe.budget_s, _spent_before_s(records, out), time.monotonic())
    _require_room(space, recipe)
    run = SearchRun(records, search, space, clock, within(progress, 0.1, _SEARCH_SHARE))
    if not run.is_over():
        setting = prepare_setting(
            model, judged, seed=recipe.seed, trust_pickle=origin.trust_pickle, progress=within(progress, 0.0, 0.1)
        )
        with _crew(setting, crew_size) as crew:
            run.run(crew)
    facts: Recipe = {"model": origin.model, "data": origin.data, "seed": origin.data_seed}
    naming = Naming(origin.name, origin.version, {**facts, "input_range": "{}..{}".format(*data.spec.value_range)})
    finals = Finals(model, judged, search, target, out=out, naming=naming)
    before = read_report(out) if (out / FRONT).is_file() else None
    report = finals.report(run.numbered, clock=clock, progress=within(progress, _SEARCH_SHARE, 1.0))
    write_durable(out / FRONT, to_pretty_json(report))
    write_durable(out / PAGE, page(report).encode())
    if before is not None:
        _remove_disowned(before, report)
    return report


def _remove_disowned(before: CompressReport, report: CompressReport) -> None:
    """Bundles that an earlier measurement let pass and this one does not: the clock may have said otherwise."""
    missing = {candidate.number for candidate in report.candidates if not candidate.bundle}
    for candidate in before.candidates:
        if candidate.bundle and candidate.number in missing:
            Path(candidate.bundle).unlink(missing_ok=True)


def compare(out: Path) -> CompressReport:
    """All candidates of a finished search; its picture, front.html, is written anew. Raises NotFound."""
    report = read_report(out)
    write_durable(out / PAGE, page(report).encode())
    return report


def student_data(model: Model, dataset: Dataset, *, value_range: tuple[float, float] = (0.0, 1.0)) -> Prepared:
    """A dataset as students of `model` take it: channels last, and images as images where the model takes them flat."""
    return prepare(dataset, student_input(model, dataset), value_range=value_range)


def read_report(out: Path) -> CompressReport:
    """The report of a search that came to its end. Raises NotFound."""
    path = out / FRONT
    if not path.is_file():
        raise NotFound(f"there is no finished search in {out}; run 'edgeloop compress ... --out {out}' to its end")
    return from_json(path.read_bytes(), CompressReport, what=str(path))


def _search(model: Model, recipe: CompressRecipe, data: Prepared, origin: Origin) -> Search:
    images = recipe.images_seen or (round(recipe.budget_s * _IMAGES_A_SECOND) if recipe.budget_s else _MOST_IMAGES)
    if not recipe.images_seen:
        images = min(_MOST_IMAGES, max(_FEWEST_IMAGES, images))
    settled = msgspec.structs.replace(recipe, images_seen=images)
    return Search(
        recipe=settled,
        model=Path(origin.model).name,
        model_sha256=model.sha256,
        data=origin.data,
        data_sha256=data.dataset.sha256,
        data_seed=origin.data_seed,
        input_range=data.spec.value_range,
    )


def _space(model: Model, recipe: CompressRecipe, target: TargetProfile, data: Prepared, classes: int) -> Space:
    unknown = [precision for precision in recipe.precisions if precision not in BITS]
    if unknown:
        raise InvalidInput(f"the search does not try {', '.join(unknown)}; it tries {', '.join(BITS)}")
    runs = [
        (engine, precision)
        for engine in recipe.engines
        for precision in recipe.precisions
        if engine in target.engines and precision in target.precisions
    ]
    if not runs:
        raise Refused(
            f"{target.name} runs {', '.join(target.engines)} at {', '.join(target.precisions)}; nothing of what was "
            f"asked for ({', '.join(recipe.engines)} at {', '.join(recipe.precisions)}) is among it: "
            "choose --engines and --precisions"
        )
    # A source that takes images flat has no preprocessing that a device could do; it only teaches.
    fed = len(model.only_input().shape) == len(data.spec.shape)
    plain = _RUNS_AS_IT_IS.get(model.format, ())
    # A file that is quantized already cannot be quantized again; it only teaches.
    is_float = model.format not in (Format.LITERT, Format.ONNX, Format.OPENVINO) or precision_of(model) in (
        Precision.FLOAT32,
        None,
    )

    @cache
    def weight_of(body: Body) -> Weight:
        taken = data_for(body, model, data.dataset, value_range=data.spec.value_range)
        return _weight(student_net(body, taken.spec.shape[1:], classes))

    return Space(
        as_it_is=tuple(f for f in finishes(recipe, tuple(runs)) if f.engine in plain and is_float and fed),
        finishes=finishes(recipe, tuple(runs)),
        can_prune=model.format is Format.KERAS,
        can_resize=len(data.spec.shape) == 4,
        nets=_students_for(data.spec.shape[1:]),
        source_weight=_weight(model.native) if model.format is Format.KERAS else Weight(0, 0, 0),
        weight_of=weight_of,
        images_seen=recipe.images_seen,
        longest=_LONGEST * recipe.images_seen,
        seed=recipe.seed,
        device_bytes=min(filter(None, (target.storage_bytes, target.memory_bytes))),
        can_mix=Precision.MIXED in target.precisions,
    )


def _require_room(space: Space, recipe: CompressRecipe) -> None:
    """Raise Refused if nothing that can be made is small enough."""
    most = space.most_bytes(recipe.bounds)
    if space.as_it_is or space.can_prune or most is None:
        return
    least = space.least_bytes()
    if least > most:
        raise Refused(
            f"nothing fits into {most:,} bytes (of --max-size or the device): the smallest network that the "
            f"search can make has {least:,} as {space.first_finish.precision}; raise --max-size, or choose another "
            "device or precisions with fewer bits"
        )


def _weight(net: Any) -> Weight:
    """Of a keras.Model; batch normalization is folded into the layer before it."""
    layers = [layer for layer in net.layers if layer.weights and type(layer).__name__ != "BatchNormalization"]
    # A layer may put out several tensors.
    channels = sum(int(one.shape[-1]) for layer in layers for one in import_keras().tree.flatten(layer.output))
    return Weight(sum(int(layer.count_params()) for layer in layers), len(layers), channels)


def _students_for(shape: tuple[int, ...]) -> tuple[NetName, ...]:
    """Kinds of students that take inputs (H, W, C), (T, C) or (D,)."""
    kinds = {3: (NetName.PLAIN, NetName.SLIM), 2: (NetName.SERIES,), 1: (NetName.DENSE,)}
    if len(shape) not in kinds:
        raise InvalidInput(
            f"there is no student for inputs of shape {shape}; the search takes images (H, W, C), series (T, C) and "
            "rows (D,)"
        )
    return kinds[len(shape)]


def _spent_before_s(records: Records, out: Path) -> float:
    """Of the budget, for trials, by earlier sittings. What measuring took is not counted: the same command measures
    the best again."""
    ends = [trial.spent_s for trial in records.trials()]
    if (out / FRONT).is_file():
        ends.append(read_report(out).search_s)
    return max(ends, default=0.0)


@contextmanager
def _crew(setting: Setting, size: int | str) -> Iterator[Crew]:
    crew: Crew = RayCrew(setting, address=size) if isinstance(size, str) else LocalCrew(setting, size=size)
    try:
        yield crew
    finally:
        crew.close()
