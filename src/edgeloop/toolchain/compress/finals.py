"""The best trials, measured for good: on held-out data that no choice has seen, each in a process of its own.

Those that meet the bounds become bundles; the others say by how much they miss. Neighbours: `draft` proves a
variant, `profiles` says what fits a device and how long it would take there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.manifest import Measured, Precision, RecipeStep
from edgeloop.toolchain.arithmetic.count import precision_of
from edgeloop.toolchain.bench import Subject
from edgeloop.toolchain.build import BuildFolder
from edgeloop.toolchain.compress.front import Candidate, misses, undominated, with_front
from edgeloop.toolchain.compress.lessons import source_accuracy
from edgeloop.toolchain.compress.plan import BodyKind, Outcome, Plan
from edgeloop.toolchain.compress.propose import violations
from edgeloop.toolchain.compress.records import Records, Search
from edgeloop.toolchain.compress.report import Baseline, CompressReport
from edgeloop.toolchain.compress.sitting import Clock
from edgeloop.toolchain.compress.workbench import open_bytes
from edgeloop.toolchain.data.dataset import Prepared, prepare
from edgeloop.toolchain.draft import Recipe, add_variant, begin_draft
from edgeloop.toolchain.package import Bounds, pack
from edgeloop.toolchain.profiles.open import THIS
from edgeloop.toolchain.profiles.target import TargetProfile
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.source.engine import FORMATS, wrap_runnable
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.teacher import arranged
from edgeloop.toolchain.weigh import Checked, measure_all, on_device

_MOST = 12
_TIMED_SAMPLES = 64


@dataclass(frozen=True)
class Naming:
    """What bundles are called, and the facts of origin that stand in their lineage."""

    name: str
    version: str
    recipe: Recipe


@dataclass(frozen=True)
class _Proven:
    """A trial that was proven and judged; still to be timed. subject: its variant with real inputs."""

    number: int
    plan: Plan
    measured: Measured
    subject: Subject


class Finals:
    """Measures and packs. Everything lands in the search's folder."""

    def __init__(
        self, source: Model, data: Prepared, search: Search, target: TargetProfile, *, out: Path, naming: Naming
    ) -> None:
        self._source = source
        self._data = data
        self._search = search
        self._target = target
        self._out = out
        self._records = Records(out)
        self._naming = naming

    def report(self, outcomes: Mapping[int, Outcome], *, clock: Clock, progress: Progress) -> CompressReport:
        """Measure the chosen, pack those that may be packed. Raises Unavailable if the disk is full."""
        search_s = clock.spent_s
        until_s = search_s + clock.final_s
        accuracy = source_accuracy(self._source, self._data)
        chosen = finalists(outcomes, self._search.recipe.bounds)
        failures = [f"{o.plan.title}: {o.failure}" for o in outcomes.values() if o.failure]
        proven: list[_Proven] = []
        for place, number in enumerate(chosen):
            if proven and clock.spent_s >= until_s:
                failures.append(f"{len(chosen) - place} of the best trials were not proven: the budget was spent")
                break
            progress(0.8 * place / len(chosen), f"proving trial {number}, {place + 1} of {len(chosen)}")
            try:
                proven.append(self._proven(number, outcomes[number]))
            except Unavailable:
                raise
            except EdgeloopError as error:
                failures.append(f"{outcomes[number].plan.title}, when it was proven: {error}")
        progress(0.8, "timing the source and all candidates by turns")
        whole, *timed = measure_all([self._source_subject(), *(one.subject for one in proven)])
        candidates = [self._candidate(one, found, accuracy) for one, found in zip(proven, timed, strict=True)]
        return CompressReport(
            model=self._search.model,
            profile=self._search.recipe.profile,
            bounds=self._search.recipe.bounds,
            seed=self._search.recipe.seed,
            trials=len(outcomes),
            spent_s=round(clock.spent_s, 1),
            search_s=search_s,
            baseline=Baseline(
                format=self._source.format,
                size_bytes=self._source.size_bytes,
                accuracy=accuracy,
                samples=len(self._data.dataset.holdout),
                latency_p50_ms=whole.latency_p50_ms,
                multiply_adds=whole.multiply_adds,
                peak_memory_bytes=whole.peak_memory_bytes,
            ),
            candidates=with_front([self._packed(candidate) for candidate in candidates]),
            failures=tuple(dict.fromkeys(failures)),
        )

    def _source_subject(self) -> Subject:
        """The source with real inputs in its own shape."""
        taken = self._source.only_input()
        tensors = self._data.tensors(self._data.dataset.holdout.take(_TIMED_SAMPLES).inputs)
        return Subject(self._source, {taken.name: arranged(tensors, tuple(taken.shape))})

    def _subject(self, model: Model, data: Prepared) -> Subject:
        samples = data.dataset.holdout.take(_TIMED_SAMPLES).inputs
        return Subject(model, {model.only_input().name: data.tensors(samples)})

    def _proven(self, number: int, outcome: Outcome) -> "_Proven":
        """The trial's model as a draft: golden samples replayed, judged on held-out data."""
        plan = outcome.plan
        step = RecipeStep(
            kind="compress",
            recipe=msgspec.to_builtins({"plan": plan, "search": self._search}),
            model=self._source.name,
            model_sha256=self._source.sha256,
            data_sha256=self._search.data_sha256,
        )
        body = replace(self._body(outcome), steps=(*self._source.steps, step))
        # A body may look at fewer pixels, and calls its input by its own name.
        data = prepare(self._data.dataset, body.only_input(), value_range=self._data.spec.value_range)
        draft = begin_draft(body, data, BuildFolder(self._folder(number)), recipe=self._naming.recipe)
        made = self._records.read(outcome.variant)
        variant = wrap_runnable(made, FORMATS[plan.finish.engine], name=f"trial {number}")
        measured = add_variant(draft, variant, _precision(plan, variant)).build.variants[-1].measured
        assert measured is not None
        return _Proven(number, plan, measured, self._subject(variant, data))

    def _candidate(self, proven: "_Proven", found: Checked, source_accuracy: float) -> Candidate:
        found = msgspec.structs.replace(
            found, precision=found.precision or _precision(proven.plan, proven.subject.model)
        )
        there = on_device(found, proven.subject.model, self._target)
        here = there.profile == THIS
        latency = there.latency
        candidate = Candidate(
            number=proven.number,
            plan=proven.plan,
            title=proven.plan.title,
            size_bytes=found.size_bytes,
            lost_points=round(100 * (source_accuracy - proven.measured.share_right), 4),
            multiply_adds=found.multiply_adds,
            measured=_timed(proven.measured, found),
            memory_bytes=there.arena_bytes or found.peak_memory_bytes or proven.measured.peak_memory_bytes,
            target_latency_ms=latency.latency_ms,
            latency_is="measured" if here else "estimated",
            method="by turns with all candidates in one clean process, one thread" if here else latency.method,
            misfits=there.misfits,
        )
        return msgspec.structs.replace(candidate, misses=misses(candidate, self._search.recipe.bounds))

    def _body(self, outcome: Outcome) -> Model:
        if outcome.plan.body.kind is BodyKind.SOURCE:
            return self._source
        return open_bytes("body.keras", self._records.read(outcome.body))

    def _packed(self, candidate: Candidate) -> Candidate:
        """The candidate with its bundle, if it misses nothing."""
        if candidate.misses:
            return candidate
        name, version = self._naming.name, self._naming.version
        path = self._out / "bundles" / f"{candidate.number:04d}" / f"{name}-{version}.edgeloop"
        pack(self._folder(candidate.number), name=name, version=version, out=path, bounds=Bounds())
        return msgspec.structs.replace(candidate, bundle=str(path))

    def _folder(self, number: int) -> Path:
        return self._out / "candidates" / f"{number:04d}"


def _precision(plan: Plan, variant: Model) -> Precision:
    """What the plan asked for; of mixed layers what they turned out to be, which may be one precision throughout."""
    return (precision_of(variant) or Precision.MIXED) if plan.finish.mixed_agreement else plan.finish.precision


def _timed(measured: Measured, found: Checked) -> Measured:
    """What was measured, with the latency that was taken by turns: all candidates met the same noise."""
    p50, p99 = found.latency_p50_ms, found.latency_p99_ms
    if p50 is None or p99 is None:
        return measured
    return msgspec.structs.replace(measured, latency_p50_ms=p50, latency_p99_ms=p99)


def finalists(outcomes: Mapping[int, Outcome], bounds: Bounds) -> list[int]:
    """Numbers of the trials that are worth measuring: the source as it is, those that no other beats, near ones first.

    Near: within the bounds, then by how far beyond them.
    """
    made = [number for number, outcome in outcomes.items() if not outcome.failure]
    plain = [
        number
        for number in made
        if outcomes[number].plan.body.kind is BodyKind.SOURCE
        and outcomes[number].plan.finish.precision is Precision.FLOAT32
    ][:1]
    points = [(float(outcomes[n].size_bytes), float(outcomes[n].bit_operations), outcomes[n].lost_points) for n in made]
    unbeaten = [made[index] for index in undominated(points)]
    near = sorted(unbeaten, key=lambda number: (_beyond(outcomes[number], bounds), outcomes[number].size_bytes))
    return list(dict.fromkeys([*plain, *near]))[:_MOST]


def _beyond(outcome: Outcome, bounds: Bounds) -> float:
    return sum(max(0.0, beyond) for beyond in violations(outcome, bounds))
