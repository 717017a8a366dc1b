"""Make a bundle's models again from its lineage: the same source, the same data, the same steps.

Says for each variant whether the bytes are the same, and where they are not, what is known of why: other library
versions, and how far the answers lie apart on the bundle's golden samples.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop.bundle.archive import Bundle, digest, open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import RecipeStep, Variant
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.output.scores import probabilities
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.check import classifier
from edgeloop.toolchain.compress.compress import student_data
from edgeloop.toolchain.compress.crew import LocalCrew
from edgeloop.toolchain.compress.lessons import labelled_by, prepare_setting
from edgeloop.toolchain.compress.plan import Plan
from edgeloop.toolchain.compress.records import Search
from edgeloop.toolchain.compress.workbench import Task
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Dataset, Prepared, prepare
from edgeloop.toolchain.data.digits import BUNDLED
from edgeloop.toolchain.data.open import calibration_samples
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.prune.unstructured import SparsifyRecipe, sparsify
from edgeloop.toolchain.quantize.aware import QuantizeAwareRecipe, quantize_aware
from edgeloop.toolchain.quantize.equalize import EqualizeRecipe, equalize
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed
from edgeloop.toolchain.source.engine import FORMATS, wrap_runnable
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.source.save import SUFFIX
from edgeloop.toolchain.teacher import student_input
from edgeloop.toolchain.transfer import TransferRecipe, transfer

_STEPS: dict[str, tuple[type[msgspec.Struct], Callable[[Model, Any, Prepared], Model]]] = {
    "transfer": (TransferRecipe, lambda model, recipe, data: transfer(model, recipe, data)[0]),
    "distil": (DistilRecipe, lambda model, recipe, data: distil(model, recipe, data)[0]),
    "prune": (PruneRecipe, lambda model, recipe, data: prune(model, recipe, data)[0]),
    "sparsify": (SparsifyRecipe, lambda model, recipe, data: sparsify(model, recipe, data)[0]),
    "equalize": (EqualizeRecipe, lambda model, _recipe, _data: equalize(model)),
    "mixed": (MixedRecipe, lambda model, recipe, data: mixed(model, recipe, data)[0]),
    "convert": (ConvertRecipe, lambda model, recipe, data: convert(model, recipe, data=data)[0]),
}
_BEGINNINGS = ("train", "compress")


class RepeatedVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One variant, made again. max_abs_error: of probabilities on the golden samples, None for the same bytes."""

    engine: str
    precision: str
    same_bytes: bool
    size_bytes: int
    size_was_bytes: int
    max_abs_error: float | None


class RepeatReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. libraries: those whose version is another now, as "name was → is"."""

    bundle: str
    variants: tuple[RepeatedVariant, ...]
    libraries: tuple[str, ...]
    seconds: float

    @property
    def same_bytes(self) -> bool:
        """Whether every variant came out the same, byte for byte."""
        return all(variant.same_bytes for variant in self.variants)


@dataclass(frozen=True)
class Sources:
    """Where model and data lie now, if not where the lineage says: of steps on different data, all of them.
    trust_pickle: see open_model."""

    model: Path | None = None
    data: str | tuple[str, ...] = ()
    trust_pickle: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """Of data."""
        return (self.data,) if isinstance(self.data, str) else self.data


def repeat(
    path: Path, *, sources: Sources | None = None, out: Path | None = None, progress: Progress = silent
) -> RepeatReport:
    """Do a bundle's steps again. out: a folder for the models that are made.

    Raises NotFound if source or data are not where they were, InvalidInput if they are others, Refused if the lineage
    does not say enough.
    """
    started = time.monotonic()
    bundle = open_bundle(path)
    bundle.verify()
    work = _Repeater(bundle, sources or Sources())
    repeated = []
    for index, variant in enumerate(bundle.manifest.variants):
        share = 1 / len(bundle.manifest.variants)
        told = within(progress, index * share, (index + 1) * share)
        told(0.0, f"making {variant.engine} {variant.precision} again")
        made = work.make(variant, told)
        repeated.append(_beside(bundle, variant, made))
        if out is not None:
            write_durable(out / f"{variant.engine}-{variant.precision}{SUFFIX[made.format]}", made.data)
    return RepeatReport(
        bundle=str(bundle.manifest.ref),
        variants=tuple(repeated),
        libraries=_changed_libraries(bundle.manifest.lineage.libraries),
        seconds=round(time.monotonic() - started, 1),
    )


class _Repeater:
    """Holds what variants share: the source and the data, opened once."""

    def __init__(self, bundle: Bundle, sources: Sources) -> None:
        manifest = bundle.manifest
        self._lineage = manifest.lineage
        self._ref = str(manifest.ref)
        self._sources = sources
        self._sha256, name = self._beginning(manifest.variants)
        self._source = self._open_source(name)

    def make(self, variant: Variant, progress: Progress) -> Model:
        """The variant, from the source on."""
        model = self._source
        for step in self._steps(variant):
            if step.kind == "compress":
                return self._trial(step, variant, progress)
            model = self._do(step, model, variant)
        return model

    def _steps(self, variant: Variant) -> tuple[RecipeStep, ...]:
        """From the source that lies in a file: a trained model, or what a search was given."""
        steps = (*self._lineage.steps, *variant.steps)
        starts = [index for index, step in enumerate(steps) if step.kind in _BEGINNINGS]
        if not starts:
            return steps
        return steps[starts[-1] :] if steps[starts[-1]].kind == "compress" else steps[starts[-1] + 1 :]

    def _beginning(self, variants: tuple[Variant, ...]) -> tuple[str, str]:
        """SHA-256 and name of the file that all variants' steps begin from."""
        steps = next((found[0] for found in map(self._steps, variants) if found), None)
        if steps is None or not steps.model_sha256:
            raise Refused(f"{self._ref} does not say in its lineage how it was made from a file; it cannot be repeated")
        return steps.model_sha256, steps.model

    def _do(self, step: RecipeStep, model: Model, variant: Variant) -> Model:
        data = self._data(model, step)
        if step.kind == "quantize":
            recipe = msgspec.convert(step.recipe, QuantizeRecipe)
            return quantize(model, recipe, data, to=FORMATS[variant.engine])[0]
        if step.kind == "quantize_aware":
            both = msgspec.convert(step.recipe, QuantizeAwareRecipe)
            return quantize_aware(model, both, data, to=FORMATS[variant.engine])[0]
        if step.kind not in _STEPS:
            known = ", ".join((*_STEPS, "quantize", "quantize_aware", *_BEGINNINGS))
            raise Refused(f"{self._ref} was made by a step {step.kind!r}; known: {known}")
        kind, do = _STEPS[step.kind]
        return do(model, msgspec.convert(step.recipe, kind), data)

    def _trial(self, step: RecipeStep, variant: Variant, progress: Progress) -> Model:
        """A trial of a search, in a worker process as the search had it: its plan and seed decide the bytes."""
        plan = msgspec.convert(step.recipe["plan"], Plan)
        search = msgspec.convert(step.recipe["search"], Search)
        dataset = self._dataset(student_input(self._source), step)
        data = student_data(self._source, dataset, value_range=search.input_range)
        data = data if dataset.is_labelled else labelled_by(self._source, data)
        setting = prepare_setting(
            self._source,
            data,
            seed=search.recipe.seed,
            trust_pickle=self._sources.trust_pickle,
            progress=within(progress, 0.0, 0.5),
        )
        with LocalCrew(setting, size=1) as crew:
            ((_, tried),) = crew.run([Task(plan)], deadline=math.inf)
        if tried.variant is None:
            raise Refused(f"the trial of {self._ref} gave no model this time: {tried.outcome.failure}")
        return wrap_runnable(tried.variant, FORMATS[variant.engine], name="trial")

    def _open_source(self, name: str) -> Model:
        told = self._lineage.recipe.get("model")
        places = [self._sources.model] if self._sources.model else [Path(str(told))] if told else []
        places += [place.with_name(Path(name).name) for place in places if Path(name).name]
        for place in dict.fromkeys(places):
            # A bundle names the path: what lies there is opened only if it is the very file.
            if place.is_file() and digest(place.read_bytes()) != self._sha256:
                continue
            if place.exists():
                model = open_model(place, trust_pickle=self._sources.trust_pickle)
                if model.sha256 == self._sha256:
                    return model
        looked = ", ".join(str(place) for place in dict.fromkeys(places)) or "nowhere"
        raise NotFound(
            f"the source of {self._ref} ({name}, SHA-256 {self._sha256[:12]}...) is not there; looked at {looked}. "
            "Say where it lies with --model"
        )

    def _data(self, model: Model, step: RecipeStep) -> Prepared:
        taken = model.only_input()
        return prepare(self._dataset(taken, step), taken, value_range=self._input_range())

    def _dataset(self, taken: TensorSpec, step: RecipeStep) -> Dataset:
        """The samples that the step took; of a step that does not say, those that the bundle was made with."""
        recipe = self._lineage.recipe
        told = str(recipe.get("data", ""))
        places = self._sources.places or ((told,) if told else ())
        if not places:
            raise Refused(f"{self._ref} does not say which data it was made with; give it with --data")
        source, seed = str(recipe.get("source", BUNDLED)), int(recipe.get("seed", 0))
        known = (step.data_sha256,) if step.data_sha256 else tuple(self._lineage.data_sha256.values())
        found: dict[str, str] = {}
        for where in places:
            # Small sets stay whole, as they were when they calibrated.
            try:
                dataset = calibration_samples(where, taken, source=source, seed=seed).dataset
            except (InvalidInput, NotFound) as error:
                if len(places) == 1:
                    raise
                found[where] = str(error)
                continue
            if dataset.sha256 in known:
                return dataset
            found[where] = f"{dataset.sha256[:12]}..."
        raise InvalidInput(
            f"the step {step.kind!r} of {self._ref} took data with SHA-256 "
            f"{', '.join(f'{sha256[:12]}...' for sha256 in known)}; what there is holds other data "
            f"({', '.join(f'{where}: {what}' for where, what in found.items())}). Give all data that its "
            "steps took: --data once for each"
        )

    def _input_range(self) -> tuple[float, float]:
        low, high = (float(end) for end in str(self._lineage.recipe.get("input_range", "0..1")).split(".."))
        return low, high


def _beside(bundle: Bundle, variant: Variant, made: Model) -> RepeatedVariant:
    same = made.sha256 == variant.file
    return RepeatedVariant(
        engine=variant.engine,
        precision=variant.precision,
        same_bytes=same,
        size_bytes=made.size_bytes,
        size_was_bytes=variant.size_bytes,
        max_abs_error=None if same else _distance(bundle, variant, made),
    )


def _distance(bundle: Bundle, variant: Variant, made: Model) -> float:
    """Of the remade model's probabilities from the bundled variant's own, on the golden samples."""
    predictor = Predictor(bundle, variant)
    try:
        inputs = from_npy(bundle.read(bundle.manifest.golden.inputs), what="golden inputs")
        tensors = np.concatenate([predictor.tensor(sample) for sample in inputs])
        was = np.stack([predictor.basis(sample) for sample in inputs])
    finally:
        predictor.close()
    activation = classifier(bundle.manifest).activation
    return float(np.abs(was - probabilities(made.scores(tensors), activation)).max())


def _changed_libraries(was: dict[str, str]) -> tuple[str, ...]:
    changed = []
    for name, version in sorted(was.items()):
        try:
            now = metadata.version(name)
        except metadata.PackageNotFoundError:
            now = "not installed"
        if now != version:
            changed.append(f"{name} {version} → {now}")
    return tuple(changed)
