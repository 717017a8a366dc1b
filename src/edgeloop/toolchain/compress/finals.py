"""The best trials, measured for good: on held-out data that no choice has seen, each in a process of its own.

Those that meet the bounds become bundles; the others say by how much they miss. Neighbours: `draft` proves a
variant, `profiles` says what fits a device and how long it would take there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.manifest import Precision, RecipeStep
from edgeloop.toolchain.arithmetic.count import multiply_adds
from edgeloop.toolchain.build import BuildFolder
from edgeloop.toolchain.compress.front import Candidate, misses, undominated, with_front
from edgeloop.toolchain.compress.plan import BodyKind, Finish, Outcome
from edgeloop.toolchain.compress.propose import violations
from edgeloop.toolchain.compress.records import Records, Search
from edgeloop.toolchain.compress.report import Baseline, CompressReport
from edgeloop.toolchain.compress.workbench import FORMATS, open_bytes
from edgeloop.toolchain.data.dataset import Prepared, prepare
from edgeloop.toolchain.draft import Recipe, add_variant, begin_draft
from edgeloop.toolchain.fitting import scores_of
from edgeloop.toolchain.package import Bounds, pack
from edgeloop.toolchain.profiles.open import THIS
from edgeloop.toolchain.profiles.target import Estimate, TargetProfile, estimate_latency, fits
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Model

_MOST = 12


@dataclass(frozen=True)
class Naming:
    """What bundles are called, and the facts of origin that stand in their lineage."""

    name: str
    version: str
    recipe: Recipe


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

    def report(
        self, outcomes: Sequence[Outcome], *, spent_s: Callable[[], float], progress: Progress
    ) -> CompressReport:
        """Measure the chosen, pack those that may be packed."""
        accuracy = self._source_accuracy()
        chosen = finalists(outcomes, self._search.recipe.bounds)
        candidates: list[Candidate] = []
        failures = [f"{o.plan.title}: {o.failure}" for o in outcomes if o.failure]
        for place, number in enumerate(chosen):
            progress(place / len(chosen), f"measuring trial {number}, {place + 1} of {len(chosen)}")
            try:
                candidates.append(self._candidate(number, outcomes[number], accuracy))
            except EdgeloopError as error:
                failures.append(f"{outcomes[number].plan.title}, when it was measured: {error}")
        bounded = [self._packed(candidate) for candidate in candidates]
        return CompressReport(
            model=self._search.model,
            profile=self._search.recipe.profile,
            bounds=self._search.recipe.bounds,
            seed=self._search.recipe.seed,
            trials=len(outcomes),
            spent_s=round(spent_s(), 1),
            baseline=self._baseline(accuracy, candidates),
            candidates=with_front(bounded),
            failures=tuple(dict.fromkeys(failures)),
        )

    def _source_accuracy(self) -> float:
        holdout = self._data.dataset.holdout
        answers = scores_of(self._source, self._data, holdout.inputs).argmax(axis=1)
        return float((answers == holdout.labels).mean())

    def _baseline(self, accuracy: float, candidates: Sequence[Candidate]) -> Baseline:
        as_it_is = [
            candidate
            for candidate in candidates
            if candidate.plan.body.kind is BodyKind.SOURCE and candidate.plan.finish.precision is Precision.FLOAT32
        ]
        return Baseline(
            format=self._source.format,
            size_bytes=self._source.size_bytes,
            accuracy=accuracy,
            samples=len(self._data.dataset.holdout),
            latency_p50_ms=as_it_is[0].measured.latency_p50_ms if as_it_is else None,
            multiply_adds=as_it_is[0].multiply_adds if as_it_is else None,
        )

    def _candidate(self, number: int, outcome: Outcome, source_accuracy: float) -> Candidate:
        plan = outcome.plan
        step = RecipeStep(kind="compress", recipe=msgspec.to_builtins({"plan": plan, "search": self._search}))
        body = replace(self._body(outcome), steps=(*self._source.steps, step))
        # A body may look at fewer pixels, and calls its input by its own name.
        data = prepare(self._data.dataset, body.only_input(), value_range=self._data.spec.value_range)
        folder = BuildFolder(self._folder(number))
        draft = begin_draft(body, data, folder, recipe=self._naming.recipe)
        form = FORMATS[plan.finish.engine]
        variant = wrap_runnable(self._records.read(outcome.variant), form, name=f"trial {number}")
        draft = add_variant(draft, variant, plan.finish.precision)
        measured = draft.build.variants[-1].measured
        assert measured is not None
        macs = multiply_adds(variant)
        there = self._latency(measured.latency_p50_ms, macs, plan.finish)
        candidate = Candidate(
            number=number,
            plan=plan,
            title=plan.title,
            size_bytes=variant.size_bytes,
            lost_points=round(100 * (source_accuracy - measured.accuracy), 4),
            multiply_adds=macs,
            measured=measured,
            target_latency_ms=there.latency_ms,
            latency_is="measured" if self._is_here else "estimated",
            method=there.method,
            misfits=fits(
                self._target,
                size_bytes=variant.size_bytes,
                precision=plan.finish.precision,
                engine=plan.finish.engine,
                peak_memory_bytes=measured.peak_memory_bytes,
            ),
        )
        return msgspec.structs.replace(candidate, misses=misses(candidate, self._search.recipe.bounds))

    @property
    def _is_here(self) -> bool:
        return self._search.recipe.profile == THIS

    def _latency(self, here_ms: float, macs: int | None, finish: Finish) -> Estimate:
        if self._is_here:
            return Estimate(latency_ms=here_ms, method="median of 300 predictions in a process of its own, one thread")
        return estimate_latency(self._target, macs, finish.precision, engine=finish.engine)

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


def finalists(outcomes: Sequence[Outcome], bounds: Bounds) -> list[int]:
    """Numbers of the trials that are worth measuring: the source as it is, those that no other beats, near ones first.

    Near: within the bounds, then by how far beyond them.
    """
    made = [number for number, outcome in enumerate(outcomes) if not outcome.failure]
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
