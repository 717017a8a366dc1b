"""A draft of a bundle: what all variants of one model share, and each variant proven before it is added.

Golden samples, drift reference, tolerances and lineage are made here; `build` keeps them, `check` does the proving,
`package` makes a bundle of the draft.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import DriftReference, EngineName, Golden, Lineage, Precision, Tolerance, Variant
from edgeloop.contracts.output import Activation, Classification
from edgeloop.runtime.output.novelty import feature_distance
from edgeloop.runtime.output.scores import energy, probabilities
from edgeloop.toolchain.build import Build, BuildFolder
from edgeloop.toolchain.check import measure
from edgeloop.toolchain.data.dataset import Part, Prepared
from edgeloop.toolchain.source.engine import ENGINES
from edgeloop.toolchain.source.model import FEATURES, Model

GOLDEN_SAMPLES = 32
FEWEST_GOLDEN_SAMPLES = 16

_EXACT = Tolerance(max_abs_error=1e-3, mean_abs_error=1e-4, min_agreement=1.0)
_HALF = Tolerance(max_abs_error=0.05, mean_abs_error=0.005, min_agreement=0.95)
_EIGHT = Tolerance(max_abs_error=0.35, mean_abs_error=0.02, min_agreement=0.9)
_FOUR = Tolerance(max_abs_error=0.6, mean_abs_error=0.06, min_agreement=0.8)

TOLERANCE = {
    # Runtimes differ in the order of float sums; damaged weights differ by far more.
    Precision.FLOAT32: _EXACT,
    # Weights round at 2^-11 of their size; that moves a single unsure sample by hundredths.
    Precision.FLOAT16: _HALF,
    # Activations of 16 bits add nothing that shows; weights of 8 move an unsure sample, and the mean hardly.
    Precision.INT16: Tolerance(max_abs_error=0.25, mean_abs_error=0.01, min_agreement=0.9),
    Precision.INT8_WEIGHTS: Tolerance(max_abs_error=0.25, mean_abs_error=0.01, min_agreement=0.9),
    # Conforming int8 runtimes differ on single unsure samples; their mean hardly moves.
    Precision.INT8: _EIGHT,
    Precision.INT8_DYNAMIC: _EIGHT,
    # Weights of 15 steps: unsure samples flip. What a damaged file does, chance agreement, lies far below.
    Precision.INT4: _FOUR,
    Precision.INT4_DYNAMIC: _FOUR,
    Precision.INT4_WEIGHTS: _FOUR,
    # Down to 4 bits in the layers that bear it, chosen so that the whole stays near 8.
    Precision.MIXED: _EIGHT,
}
"""How far a variant may lie from the float model on golden samples. Its accuracy is judged apart, on held-out data
against the bounds that a person gives; this only tells a sound variant from a broken one, on any machine."""

Recipe = dict[str, str | int | float | bool]

_LIBRARIES = (
    *("keras", "tensorflow-cpu", "torch", "scikit-learn", "numpy", "onnx", "onnxruntime", "openvino", "nncf"),
    *("ai-edge-quantizer", "ai-edge-litert", "litert-torch", "tf2onnx", "skl2onnx", "onnxslim"),
    *("opencv-python-headless", "soxr"),
)


@dataclass(frozen=True)
class Draft:
    """A build folder at work. judged: held-out samples with labels; expected: the source's scores for them,
    (N, labels), asked for once and not once a variant."""

    source: Model
    folder: BuildFolder
    build: Build
    judged: Part
    expected: NDArray[np.float32]


def begin_draft(
    source: Model, data: Prepared, folder: BuildFolder, *, recipe: Recipe, parent: str | None = None
) -> Draft:
    """Write what all variants share: input, golden samples, drift reference, lineage.

    Raises InvalidInput if model and data do not fit, Refused if the model answers NaN; nothing is written then.
    """
    judged = data.dataset.holdout.labelled()
    scores, _ = _answers(source, data, judged)
    _require_fit(source, data, scores)
    folder.require_same(source.sha256)
    activation = _activation(scores)
    build = Build(
        source_sha256=source.sha256,
        accuracy_float=float((scores.argmax(axis=1) == judged.labels).mean()),
        size_float_bytes=source.size_bytes,
        labels=data.dataset.label_names,
        input=data.spec,
        preprocess=data.steps,
        output=Classification(
            scores=source.only_output().name,
            activation=activation,
            features=FEATURES if _has_features(source) else None,
        ),
        golden=_golden(source, data, folder, activation),
        reference=_reference(source, data, folder, activation),
        lineage=Lineage(
            recipe=recipe,
            data_sha256={data.dataset.name: data.dataset.sha256},
            libraries=library_versions(),
            parent=parent,
            steps=source.steps,
        ),
    )
    return Draft(source, folder, folder.begin(build), judged, scores)


def add_variant(draft: Draft, candidate: Model, precision: Precision) -> Draft:
    """Add one variant, measured against the source. Raises Refused if it does not hold to the tolerance, or lost
    a tensor."""
    build = draft.build
    names = {spec.name for spec in (*candidate.inputs, *candidate.outputs)}
    wanted = [build.input.name, build.output.scores, *([build.output.features] if build.output.features else [])]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise Refused(f"{candidate.name} lost the tensor {missing[0]!r}; it has {', '.join(sorted(names))}")
    variant = Variant(
        file=draft.folder.put(candidate.data),
        engine=engine_of(candidate),
        precision=precision,
        size_bytes=candidate.size_bytes,
        tensors={name: name for name in wanted},
        steps=candidate.steps[len(draft.source.steps) :],
    )
    measured = measure(draft.folder.draft_bundle(build, variant), variant, draft.judged, draft.expected)
    return replace(draft, build=draft.folder.add(build, measured))


def engine_of(candidate: Model) -> EngineName:
    """The engine that runs it on devices. Raises InvalidInput if none does."""
    if candidate.format not in ENGINES:
        raise InvalidInput(
            f"{candidate.name} is a {candidate.format} model, which no engine runs; a bundle holds "
            f"{', '.join(ENGINES)} ('edgeloop convert')"
        )
    return ENGINES[candidate.format]


def _answers(source: Model, data: Prepared, part: Part) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Scores (N, labels) and features (N, D) or None, from the source itself."""
    made = source.run({source.only_input().name: data.tensors(part.inputs)})
    scores = np.asarray(made[source.only_output().name], np.float32)
    return scores, np.asarray(made[FEATURES], np.float32) if _has_features(source) else None


def _has_features(source: Model) -> bool:
    return any(spec.name == FEATURES for spec in source.outputs)


def _require_fit(source: Model, data: Prepared, scores: NDArray[np.float32]) -> None:
    dataset = data.dataset
    if not dataset.is_labelled or len(scores) == 0:
        raise InvalidInput(f"{dataset.name} has no labelled samples to judge by; a bundle needs data with labels")
    if scores.ndim != 2 or scores.shape[1] != len(dataset.label_names):
        raise InvalidInput(
            f"the model has {scores.shape[-1]} outputs, {dataset.name} {len(dataset.label_names)} labels"
        )
    if not np.isfinite(scores).all():
        raise Refused("the float model answers NaN or infinity on held-out data; train it again")
    if len(dataset.validation) < FEWEST_GOLDEN_SAMPLES:
        raise InvalidInput(
            f"{dataset.name} leaves {len(dataset.validation)} samples for validation; golden samples are at least "
            f"{FEWEST_GOLDEN_SAMPLES} of them: give more data"
        )


def _activation(scores: NDArray[np.float32]) -> Activation:
    """None where every held-out answer is a distribution already; else softmax is the runtime's part.

    Raw scores of many samples that are all positive and all sum to 1 do not come about by chance; the slack is for
    sources that are themselves quantized.
    """
    are_probabilities = bool((scores >= 0).all() and np.abs(scores.sum(axis=1) - 1).max() < 0.05)
    return Activation.NONE if are_probabilities else Activation.SOFTMAX


def library_versions() -> dict[str, str]:
    """Of the libraries that what the toolchain makes depends on, those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _golden(source: Model, data: Prepared, folder: BuildFolder, activation: Activation) -> Golden:
    """Samples that neither training nor judging uses, as even over the classes as they come."""
    part = data.dataset.validation
    order = np.argsort(_rank_within_class(part.labels), kind="stable")[:GOLDEN_SAMPLES]
    chosen = Part(part.inputs[np.sort(order)], part.labels[np.sort(order)])
    scores, _ = _answers(source, data, chosen)
    return Golden(
        inputs=folder.put(to_npy(chosen.inputs)),
        outputs=folder.put(to_npy(probabilities(scores, activation))),
        count=len(chosen),
        tolerance=TOLERANCE,
    )


def _rank_within_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    ranks = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        ranks[where] = np.arange(len(where))
    return ranks


def _reference(source: Model, data: Prepared, folder: BuildFolder, activation: Activation) -> DriftReference | None:
    """Class means from training data; spread of distance and energy from validation data, which was not fitted."""
    fit = data.dataset.fit.labelled()
    classes = range(len(data.dataset.label_names))
    if not _has_features(source) or activation is Activation.NONE or set(classes) - set(fit.labels.tolist()):
        return None
    _, fitted = _answers(source, data, fit)
    scores, features = _answers(source, data, data.dataset.validation)
    assert fitted is not None
    assert features is not None
    means = np.stack([fitted[fit.labels == label].mean(axis=0) for label in classes]).astype(np.float32)
    std = (fitted.std(axis=0) + 1e-3).astype(np.float32)
    predicted = scores.argmax(axis=1)
    distance, energies = feature_distance(features, predicted, means, std), energy(scores)
    return DriftReference(
        class_means=folder.put(to_npy(means)),
        feature_std=folder.put(to_npy(std)),
        distance_mean=_by_class(np.mean, distance, predicted, classes),
        distance_std=_by_class(np.std, distance, predicted, classes),
        energy_mean=_by_class(np.mean, energies, predicted, classes),
        energy_std=_by_class(np.std, energies, predicted, classes),
    )


def _by_class(
    statistic: Callable[[NDArray[Any]], Any], values: NDArray[Any], predicted: NDArray[Any], classes: range
) -> tuple[float, ...]:
    """A statistic by predicted class; the overall one where a class has too few samples to speak for itself."""
    found = []
    for label in classes:
        mine = values[predicted == label]
        found.append(float(statistic(mine if len(mine) >= 5 else values)))
    return tuple(found)
