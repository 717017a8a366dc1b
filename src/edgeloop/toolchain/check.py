"""Prove a model against another one: sample by sample, and measured in clean processes; and a bundle's variant.

The same runtime as on devices does the work: what was verified is what runs. Neighbours: `outputs` matches and
compares what models give, `weigh` measures them and holds them against a device; `draft` measures variants.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle, write_bundle
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Manifest, Measured, Modality, Variant
from edgeloop.contracts.output import Classification
from edgeloop.runtime.child import command_of
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.footprint import Footprint
from edgeloop.runtime.output.scores import probabilities
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.profile import describe, this_machine
from edgeloop.runtime.replay import replay
from edgeloop.toolchain.bench import Subject
from edgeloop.toolchain.data.dataset import Part, Prepared, prepare
from edgeloop.toolchain.data.open import require_labels_match
from edgeloop.toolchain.outputs import (
    Classified,
    OutputError,
    OutputPair,
    Outputs,
    classify,
    match_outputs,
    output_errors,
    require_finite,
    require_same_inputs,
)
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.profiles.open import THIS
from edgeloop.toolchain.profiles.target import TargetProfile
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Feeds, Format, Model
from edgeloop.toolchain.teacher import arranged, student_input
from edgeloop.toolchain.weigh import Checked, OnDevice, measure_all, on_device, weigh

_FOOTPRINT_TIMEOUT_S = 120
_CHUNK = 64
_TIMED_INPUTS = 32
_RANDOM_SEED = 0


class CheckRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to check.

    samples: at most so many of `part`, the first ones; random ones in random_range where there is no data. profile: a
    device to hold the candidate against; None, or one called "this", is this machine. bounds: what the candidate must
    keep to. measure: whether to time both models and take their peak memory here, in clean processes.
    """

    samples: Annotated[int, msgspec.Meta(ge=1)] = 1000
    part: Literal["holdout", "validation"] = "holdout"
    profile: TargetProfile | None = None
    bounds: Bounds = Bounds()
    measure: bool = True
    random_range: tuple[float, float] = (0.0, 1.0)


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    inputs: what both were given. pairs: which outputs were compared. classified: None for models that give no class
    scores, and for random inputs; without accuracies where no sample has a label. missed: bounds that were missed,
    each with by how much. notes: what was not judged, and why.
    """

    candidate: Checked
    against: Checked
    samples: int
    inputs: str
    pairs: tuple[OutputPair, ...]
    errors: tuple[OutputError, ...]
    classified: Classified | None
    measured_on: str | None
    device: OnDevice | None
    missed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether it keeps its bounds and fits its device."""
        return not self.missed and not (self.device and self.device.misfits)


def check(
    candidate: Model,
    against: Model,
    data: Prepared | None = None,
    recipe: CheckRecipe | None = None,
    *,
    progress: Progress = silent,
) -> CheckReport:
    """Run both on the same samples and compare; measure both; hold the candidate against bounds and a profile.

    data: prepared for the candidate's input. `against` must take the same, but for images, which are prepared for each
    where one looks at fewer pixels, or takes them flat or with channels first. None, or models with several inputs:
    seeded random numbers, so only differences are told. Bounds that are missed stand in the report. Raises InvalidInput
    if shapes or labels do not match, Refused if output names do not or an output holds NaN.
    """
    recipe = recipe or CheckRecipe()
    own = _own_data(candidate, against, data)
    if own is None:
        require_same_inputs(candidate, against)
    pairs = match_outputs(candidate, against)
    scores = _scores_pair(pairs, candidate, data)
    feeds, labels, inputs = _feeds(candidate, data, recipe)
    same = _renamed(feeds, candidate, against) if own is None else _own_feeds(against, own, recipe)
    made = _run(candidate, feeds, within(progress, 0.0, 0.35))
    wanted = _run(against, same, within(progress, 0.35, 0.7))
    classified = None
    if scores is not None and data is not None:
        classified = classify(made[scores.candidate], wanted[scores.against], labels, data.dataset.label_names)
    progress(0.7, "measuring")
    first, second = _weighed((candidate, feeds), (against, same), measure=recipe.measure)
    device = on_device(first, candidate, recipe.profile) if recipe.profile else None
    progress(1.0, "checked")
    return CheckReport(
        candidate=first,
        against=second,
        samples=len(labels),
        inputs=inputs,
        pairs=pairs,
        errors=output_errors(pairs, made, wanted),
        classified=classified,
        measured_on=describe(this_machine()) if recipe.measure else None,
        device=device,
        missed=tuple(_missed(first, classified, device, recipe)),
        notes=(*(_shapes(candidate, against) if own else ()), *_notes(pairs, first, second, recipe)),
    )


def input_of_both(candidate: Model, against: Model) -> TensorSpec:
    """What data from a folder is read for: the larger sides and the more colours of the two, where both take images,
    so that neither is judged on less than it looks at. Raises InvalidInput if one has several inputs."""
    first, second = student_input(against), student_input(candidate)
    if not len(first.shape) == len(second.shape) == 4:
        return first if len(first.shape) == 4 else second
    larger = max(first, second, key=lambda one: one.shape[1] * one.shape[2])
    return TensorSpec(first.name, (*larger.shape[:3], max(first.shape[3], second.shape[3])), first.dtype)


def _own_data(candidate: Model, against: Model, data: Prepared | None) -> Prepared | None:
    """The images as `against` is to be fed them; None where it takes what the candidate takes, or these are none."""
    if data is None or data.spec.modality is not Modality.IMAGE or len(against.inputs) != 1:
        return None
    if tuple(against.only_input().shape) == tuple(candidate.only_input().shape):
        return None
    return prepare(data.dataset, student_input(against, data.dataset), value_range=data.spec.value_range)


def _own_feeds(against: Model, own: Prepared, recipe: CheckRecipe) -> Feeds:
    taken = against.only_input()
    images = getattr(own.dataset, recipe.part).take(recipe.samples).inputs
    return {taken.name: arranged(own.tensors(images), tuple(taken.shape))}


def _scores_pair(pairs: tuple[OutputPair, ...], candidate: Model, data: Prepared | None) -> OutputPair | None:
    """The outputs that score classes, if there are such and real samples to judge them by."""
    if data is None:
        return None
    named = [pair for pair in pairs if pair.against == LOGITS] or [pair for pair in pairs if pair.against != FEATURES]
    if len(named) != 1:
        return None
    (shape,) = (spec.shape for spec in candidate.outputs if spec.name == named[0].candidate)
    if len(shape) != 2 or shape[1] < 2 or tuple(shape) == tuple(candidate.inputs[0].shape):
        return None
    require_labels_match(data.dataset, int(shape[1]))
    return named[0]


def _feeds(model: Model, data: Prepared | None, recipe: CheckRecipe) -> tuple[Feeds, NDArray[np.int64], str]:
    """Inputs by the model's names, the labels beside them, and what the inputs are."""
    if data is None or len(model.inputs) > 1:
        labels = np.full(recipe.samples, -1, np.int64)
        low, high = recipe.random_range
        feeds = random_feeds(model, recipe.samples, recipe.random_range)
        return feeds, labels, f"{recipe.samples} random samples between {low:g} and {high:g}"
    part: Part = getattr(data.dataset, recipe.part).take(recipe.samples)
    if not len(part):
        raise InvalidInput(f"{data.dataset.name} has no {recipe.part} part to check with; give more samples")
    tensors = data.tensors(part.inputs)
    taken = model.inputs[0]
    if tensors.shape[1:] != tuple(taken.shape[1:]):
        raise InvalidInput(
            f"the data is prepared as {tensors.shape[1:]}, input {taken.name!r} of {model.name} takes "
            f"{tuple(taken.shape[1:])}; prepare it for this model"
        )
    return {taken.name: tensors}, part.labels, f"{len(part)} samples of {data.dataset.name}, {recipe.part}"


def random_feeds(model: Model, samples: int, value_range: tuple[float, float] = (0.0, 1.0)) -> Feeds:
    """Seeded random numbers in value_range for every input of real numbers, zeros for every other one."""
    random = np.random.default_rng(_RANDOM_SEED)
    low, high = np.float32(value_range[0]), np.float32(value_range[1])
    feeds: dict[str, NDArray[Any]] = {}
    for spec in model.inputs:
        shape = (samples, *spec.shape[1:])
        is_real = spec.dtype.startswith("float") or spec.scale != 0.0
        drawn = low + (high - low) * random.random(shape, np.float32) if is_real else np.zeros(shape, spec.dtype)
        feeds[spec.name] = drawn
    return feeds


def _renamed(feeds: Feeds, candidate: Model, against: Model) -> Feeds:
    if len(feeds) > 1:
        return feeds
    return {against.inputs[0].name: feeds[candidate.inputs[0].name]}


def _run(model: Model, feeds: Feeds, progress: Progress) -> Outputs:
    count = len(next(iter(feeds.values())))
    parts = []
    for start in range(0, count, _CHUNK):
        progress(start / count, f"running {model.name}")
        parts.append(model.run({name: values[start : start + _CHUNK] for name, values in feeds.items()}))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    require_finite(model, outputs)
    return outputs


def _weighed(*fed: tuple[Model, Feeds], measure: bool) -> tuple[Checked, ...]:
    if not measure:
        return tuple(weigh(model) for model, _ in fed)
    return measure_all(
        [Subject(model, {name: values[:_TIMED_INPUTS] for name, values in feeds.items()}) for model, feeds in fed]
    )


def _missed(found: Checked, classified: Classified | None, device: OnDevice | None, recipe: CheckRecipe) -> list[str]:
    bounds = recipe.bounds
    on_device = device is not None and device.profile != THIS
    latency_ms = device.latency.latency_ms if device and on_device else found.latency_p50_ms
    where = f"estimated on {device.title}" if device and on_device else "here"
    drop_points = classified.drop_points if classified else None
    judged = (
        _miss("accuracy", drop_points, bounds.max_drop_points, "loses {0:.2f} points, allowed {1:.2f}"),
        _miss("size", found.size_bytes, bounds.max_size_bytes, "has {0:,} bytes, allowed {1:,}: {2:,} too many"),
        _miss("latency", latency_ms, bounds.max_latency_p50_ms, f"takes {{0:.3f}} ms {where}, allowed {{1:.3f}} ms"),
        _miss("memory", found.peak_memory_bytes, bounds.max_memory_bytes, "peaks at {0:,} bytes, allowed {1:,}"),
    )
    return [f"{found.name} {one}" for one in judged if one]


def _miss(what: str, value: float | None, bound: float | None, said: str) -> str | None:
    if bound is None:
        return None
    if value is None:
        return f"cannot be judged by its {what}: it is not known"
    return said.format(value, bound, value - bound) if value > bound else None


def _shapes(candidate: Model, against: Model) -> tuple[str]:
    shapes = [" x ".join(map(str, model.only_input().shape[1:])) for model in (candidate, against)]
    return (f"images were prepared for each: {shapes[0]} for {candidate.name}, {shapes[1]} for {against.name}",)


def _notes(pairs: tuple[OutputPair, ...], first: Checked, second: Checked, recipe: CheckRecipe) -> list[str]:
    notes = [
        f"output {pair.candidate!r} was compared with {pair.against!r}: each model has one"
        for pair in pairs
        if pair.candidate != pair.against
    ]
    if recipe.measure:
        notes += [
            f"{one.name} was timed as the float LiteRT file that it becomes"
            for one in (first, second)
            if one.format == Format.KERAS and one.latency_p50_ms is not None
        ]
        notes += [
            f"{one.name} was not timed: no engine runs {one.format} as it is, convert it first"
            for one in (first, second)
            if one.latency_p50_ms is None
        ]
    if recipe.profile is not None and recipe.profile.name != THIS:
        notes.extend(recipe.profile.notes)
        if not recipe.profile.micro and first.peak_memory_bytes is not None:
            notes.append("peak memory was measured on this machine, not on the device")
    return notes


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant beside the float model over real samples. Errors are of probabilities."""

    samples: int
    accuracy: float
    accuracy_float: float
    agreement: float
    max_abs_error: float
    mean_abs_error: float


def parity(predictor: Predictor, part: Part, expected_scores: NDArray[np.float32]) -> Parity:
    """Run every sample through the runtime and compare. expected_scores: (N, labels), the float model's.

    Raises InvalidInput if the bundle is for another task than classification.
    """
    made = np.stack([predictor.basis(image) for image in part.inputs])
    error = np.abs(made - probabilities(expected_scores, classifier(predictor.manifest).activation))
    predicted, expected = made.argmax(axis=1), expected_scores.argmax(axis=1)
    return Parity(
        samples=len(part),
        accuracy=float((predicted == part.labels).mean()),
        accuracy_float=float((expected == part.labels).mean()),
        agreement=float((predicted == expected).mean()),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
    )


def classifier(manifest: Manifest) -> Classification:
    """What the bundle answers. Raises InvalidInput if it is for another task than classification."""
    if not isinstance(manifest.output, Classification):
        raise InvalidInput(
            f"{manifest.ref} is for {manifest.task}; accuracy and probabilities are those of classification: a "
            "finished model of another task is packed from a description ('edgeloop pack NAME.toml')"
        )
    return manifest.output


def measure(bundle: Bundle, variant: Variant, part: Part, expected_scores: NDArray[np.float32]) -> Variant:
    """The variant with its measurements. Raises Refused if its golden samples do not replay within tolerance."""
    predictor = Predictor(bundle, variant)
    try:
        proof = replay(bundle, variant, predictor)
        if proof.failure is not None:
            raise Refused(f"{variant.engine} {variant.precision} does not hold to the float model: {proof.failure}")
        found = parity(predictor, part, expected_scores)
    finally:
        predictor.close()
    foot = footprint(bundle)
    measured = Measured(
        accuracy=found.accuracy,
        agreement=found.agreement,
        max_abs_error=found.max_abs_error,
        mean_abs_error=found.mean_abs_error,
        latency_p50_ms=foot.latency_p50_ms,
        latency_p99_ms=foot.latency_p99_ms,
        peak_memory_bytes=foot.peak_memory_bytes,
        samples=found.samples,
        measured_on=describe(this_machine()),
    )
    return msgspec.structs.replace(variant, measured=measured)


def footprint(bundle: Bundle, *, timeout_s: float = _FOOTPRINT_TIMEOUT_S) -> Footprint:
    """Latency and peak memory of a one-variant bundle in a process of its own, where no toolchain weighs in.

    Raises Refused if it does not run there, or takes longer than timeout_s in all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draft.edgeloop"
        write_bundle(
            path, bundle.manifest, {entry.sha256: bundle.read(entry.sha256) for entry in bundle.manifest.files}
        )
        try:
            done = subprocess.run(  # noqa: S603 - our own module on our own file
                [*command_of("edgeloop.runtime.footprint"), str(path)],
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(
                f"the variant was not measured within {timeout_s:g} s in a clean process: it is too slow for this "
                "machine, or the machine is busy with other work"
            ) from error
    if done.returncode != 0:
        raise Refused(f"the variant does not run in a clean process: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(done.stdout, type=Footprint)
