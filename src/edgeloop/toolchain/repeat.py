"""Make a bundle's models again from its lineage: the same source, the same data, the same steps.

Says for each variant whether the bytes are the same, and where they are not, what is known of why: other library
versions, and how far the answers lie apart on the bundle's golden samples.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import RecipeStep, Variant
from edgeloop.runtime.postprocess import probabilities
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.compress.lessons import labelled_by, prepare_setting
from edgeloop.toolchain.compress.plan import Plan
from edgeloop.toolchain.compress.records import Search
from edgeloop.toolchain.compress.workbench import FORMATS, Workbench
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Prepared, prepare
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.transfer import TransferRecipe, transfer

Step = Callable[[Model, Any, Prepared], tuple[Model, Any]]

_STEPS: dict[str, tuple[type[msgspec.Struct], Step]] = {
    "transfer": (TransferRecipe, transfer),
    "distil": (DistilRecipe, distil),
    "prune": (PruneRecipe, prune),
    "convert": (ConvertRecipe, lambda model, recipe, data: convert(model, recipe, data=data)),
}


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
    """Where model and data lie now, if not where the lineage says. trust_pickle: see open_model."""

    model: Path | None = None
    data: str | None = None
    trust_pickle: bool = False


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
        progress(index / len(bundle.manifest.variants), f"making {variant.engine} {variant.precision} again")
        made = work.make(variant)
        repeated.append(_beside(bundle, variant, made))
        if out is not None:
            write_durable(out / Path(made.name).name, made.data)
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
        first = next(iter((*self._lineage.steps, *(step for v in manifest.variants for step in v.steps))), None)
        if first is None:
            raise Refused(f"{self._ref} says no steps in its lineage; it cannot be made again from it")
        self._source = self._open_source(first, sources)
        self._data = self._open_data(sources)

    def make(self, variant: Variant) -> Model:
        """The variant, from the source on."""
        model = self._source
        for step in (*self._lineage.steps, *variant.steps):
            if step.kind == "compress":
                return self._trial(step)
            model = self._do(step, model, variant)
        return model

    def _do(self, step: RecipeStep, model: Model, variant: Variant) -> Model:
        if step.kind == "quantize":
            recipe = msgspec.convert(step.recipe, QuantizeRecipe)
            made, _ = quantize(model, recipe, self._data, to=FORMATS[variant.engine])
            return made
        if step.kind not in _STEPS:
            raise Refused(
                f"{self._ref} was made by a step {step.kind!r}; known: {', '.join(_STEPS)}, quantize, compress"
            )
        kind, do = _STEPS[step.kind]
        made, _ = do(model, msgspec.convert(step.recipe, kind), self._data)
        return made

    def _trial(self, step: RecipeStep) -> Model:
        """A trial of a search: its plan and seed decide the model, with all that the search's trials share."""
        plan = msgspec.convert(step.recipe["plan"], Plan)
        search = msgspec.convert(step.recipe["search"], Search)
        data = self._data if self._data.dataset.is_labelled else labelled_by(self._source, self._data)
        setting = prepare_setting(self._source, data, seed=search.recipe.seed, progress=silent)
        _, made, _ = Workbench(setting).candidate(plan, None)
        return made

    def _open_source(self, first: RecipeStep, sources: Sources) -> Model:
        told = self._lineage.recipe.get("model")
        places = [sources.model] if sources.model else [Path(str(told))] if told else []
        places += [place.with_name(first.model) for place in places if first.model]
        wanted = first.model_sha256 or str(first.recipe.get("search", {}).get("model_sha256", ""))
        for place in places:
            if place.exists():
                model = open_model(place, trust_pickle=sources.trust_pickle)
                if not wanted or model.sha256 == wanted:
                    return model
        looked = ", ".join(str(place) for place in dict.fromkeys(places)) or "nowhere"
        raise NotFound(
            f"the source of {self._ref} ({first.model or told}, SHA-256 {wanted[:12]}...) is not there; looked at "
            f"{looked}. Say where it lies with --model"
        )

    def _open_data(self, sources: Sources) -> Prepared:
        recipe = self._lineage.recipe
        where = sources.data or str(recipe.get("data", ""))
        if not where:
            raise Refused(f"{self._ref} does not say which data it was made with; give it with --data")
        taken = self._source.only_input()
        dataset = open_dataset(where, taken=taken, seed=int(recipe.get("seed", 0)))
        known = self._lineage.data_sha256
        if dataset.sha256 not in known.values():
            raise InvalidInput(
                f"{where} holds other data (SHA-256 {dataset.sha256[:12]}...) than {self._ref} was made with "
                f"({', '.join(f'{name} {sha256[:12]}...' for name, sha256 in known.items())})"
            )
        low, high = (float(end) for end in str(recipe.get("input_range", "0..1")).split(".."))
        return prepare(dataset, taken, value_range=(low, high))


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
        was = np.concatenate([predictor.run(tensor[np.newaxis])[0] for tensor in tensors])
    finally:
        predictor.close()
    activation = bundle.manifest.output.activation
    return float(np.abs(probabilities(was, activation) - probabilities(made.scores(tensors), activation)).max())


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
