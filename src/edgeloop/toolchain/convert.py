"""Keras to LiteRT and ONNX, each variant proven against the float model before it counts.

Neighbours: `quantize` makes a float LiteRT model int8, `check` does the proving, `build` keeps the result.
"""

import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import digest
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import (
    Activation,
    DriftReference,
    EngineName,
    Golden,
    Grey,
    InputSpec,
    Interpolation,
    Lineage,
    Modality,
    OutputSpec,
    Precision,
    Resize,
    Scale,
    Step,
    Tolerance,
    Variant,
)
from edgeloop.runtime.engines import load_engine
from edgeloop.runtime.novelty import feature_distance
from edgeloop.runtime.postprocess import energy, probabilities
from edgeloop.runtime.quiet import without_native_chatter
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.build import Build, BuildFolder
from edgeloop.toolchain.check import measure
from edgeloop.toolchain.data.dataset import Dataset, Part
from edgeloop.toolchain.models import KerasModel
from edgeloop.toolchain.quantize.litert import quantize_int8
from edgeloop.toolchain.train import FEATURES, to_tensor

GOLDEN_SAMPLES = 32
CALIBRATION_SAMPLES = 256
LOGITS = "logits"

TOLERANCE = {
    # Runtimes differ in the order of float sums; damaged weights differ by far more.
    Precision.FLOAT32: Tolerance(max_abs_error=1e-3, mean_abs_error=1e-4, min_agreement=1.0),
    # Conforming int8 runtimes differ on single unsure samples; their mean hardly moves.
    Precision.INT8: Tolerance(max_abs_error=0.35, mean_abs_error=0.02, min_agreement=0.9),
}

SUPPORTED = (
    (EngineName.LITERT, Precision.FLOAT32),
    (EngineName.LITERT, Precision.INT8),
    (EngineName.ONNXRUNTIME, Precision.FLOAT32),
)
"""What a Keras model is converted to."""

Recipe = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class FloatModel:
    """A source model, loaded, with its outputs named. outputs: tensor (N, ...) to scores and features."""

    exported: KerasModel
    sha256: str
    size_bytes: int
    input_name: str
    input_shape: tuple[int, ...]
    has_features: bool

    def outputs(self, tensor: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores (N, labels) and features (N, D) or None, from the float model itself."""
        made = self.exported.predict(tensor, verbose=0)
        return np.asarray(made[LOGITS]), np.asarray(made[FEATURES]) if self.has_features else None


def load_float_model(path: Path) -> FloatModel:
    """Load a .keras model as data. Raises NotFound, InvalidInput on another format, or Corrupt."""
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    if path.suffix != ".keras":
        raise InvalidInput(
            f"{path.name} has the format {path.suffix or 'nothing'!r}; this version converts .keras models "
            "(save one with model.save('model.keras'))"
        )
    keras = import_keras()
    try:
        with zipfile.ZipFile(path) as archive:
            # Keras reads only the parts that it needs; damage in the others must not pass either.
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"its part {damaged} is damaged")
        # safe_mode refuses pickled lambdas: a model file is data.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise Corrupt(f"{path} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from error
    return wrap_float_model(model, path.read_bytes())


def wrap_float_model(model: KerasModel, data: bytes) -> FloatModel:
    """Name a model's outputs: its scores, and its layer "features" where it has one. Raises InvalidInput."""
    keras = import_keras()
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InvalidInput(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs; this version takes one of each"
        )
    shape = (1, *model.inputs[0].shape[1:])
    if any(size is None for size in shape):
        raise InvalidInput(f"the model's input has free axes {shape}; fix all but the batch axis and save it again")
    outputs = {LOGITS: model.outputs[0]}
    has_features = any(layer.name == FEATURES for layer in model.layers)
    if has_features:
        outputs[FEATURES] = model.get_layer(FEATURES).output
    exported = keras.Model(model.inputs[0], outputs)
    exported(np.zeros(shape, np.float32))
    return FloatModel(exported, digest(data), len(data), model.inputs[0].name, shape, has_features)


def begin_build(
    source: FloatModel, dataset: Dataset, folder: BuildFolder, *, recipe: Recipe, parent: str | None = None
) -> Build:
    """Write what all variants share: input, golden samples, drift reference, lineage."""
    height_px, width_px = dataset.fit.inputs.shape[1:]
    if source.input_shape != (1, height_px, width_px, 1):
        raise InvalidInput(f"the model takes {source.input_shape}, {dataset.name} has images of {height_px}x{width_px}")
    scores, _ = source.outputs(to_tensor(dataset.holdout.inputs))
    if scores.shape[1] != len(dataset.label_names):
        raise InvalidInput(f"the model has {scores.shape[1]} outputs, {dataset.name} {len(dataset.label_names)} labels")
    if not np.isfinite(scores).all():
        raise Refused("the float model answers NaN or infinity on held-out data; train it again")
    folder.require_same(source.sha256)
    activation = _activation(source)
    libraries = ("keras", "tensorflow-cpu", "ai-edge-quantizer", "ai-edge-litert", "tf2onnx")
    return folder.begin(
        Build(
            source_sha256=source.sha256,
            accuracy_float=float((scores.argmax(axis=1) == dataset.holdout.labels).mean()),
            size_float_bytes=source.size_bytes,
            labels=dataset.label_names,
            input=InputSpec(
                name=source.input_name,
                modality=Modality.IMAGE,
                shape=source.input_shape,
                layout="nhwc",
                value_range=(0.0, 1.0),
            ),
            preprocess=_preprocess(height_px, width_px),
            output=OutputSpec(scores=LOGITS, activation=activation, features=FEATURES if source.has_features else None),
            golden=_golden(source, dataset.validation, folder, activation),
            reference=_reference(source, dataset, folder, activation),
            lineage=Lineage(
                recipe=recipe,
                data_sha256={dataset.name: dataset.sha256},
                libraries={name: metadata.version(name) for name in libraries},
                parent=parent,
            ),
        )
    )


def convert(
    source: FloatModel, dataset: Dataset, folder: BuildFolder, build: Build, *, engine: EngineName, precision: Precision
) -> Build:
    """Add one variant, measured against the float model. Raises Refused if it does not hold to the tolerance."""
    makers: dict[tuple[EngineName, Precision], Callable[[], bytes]] = {
        (EngineName.LITERT, Precision.FLOAT32): lambda: _export(source, "litert"),
        (EngineName.LITERT, Precision.INT8): lambda: quantize_int8(
            _export(source, "litert"), to_tensor(dataset.fit.take(CALIBRATION_SAMPLES).inputs), source.input_name
        ),
        (EngineName.ONNXRUNTIME, Precision.FLOAT32): lambda: _export(source, "onnx"),
    }
    require_supported(engine, precision)
    model = makers[engine, precision]()
    loaded = load_engine(engine, model)
    names = {spec.name for spec in (*loaded.inputs, *loaded.outputs)}
    loaded.close()
    wanted = [source.input_name, LOGITS, *([FEATURES] if source.has_features else [])]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise Refused(f"the exported model lost the tensor {missing[0]!r}; it has {', '.join(sorted(names))}")
    variant = Variant(
        file=folder.put(model),
        engine=engine,
        precision=precision,
        size_bytes=len(model),
        tensors={name: name for name in wanted},
    )
    expected, _ = source.outputs(to_tensor(dataset.holdout.inputs))
    return folder.add(build, measure(folder.draft_bundle(build, variant), variant, dataset.holdout, expected))


def require_supported(engine: EngineName, precision: Precision) -> None:
    """Raise InvalidInput if `convert` does not make this variant."""
    if (engine, precision) not in SUPPORTED:
        known = ", ".join(f"{engine} {precision}" for engine, precision in SUPPORTED)
        raise InvalidInput(f"Keras to {engine} at {precision} is not done by this version; known: {known}")


def _export(source: FloatModel, form: str) -> bytes:
    suffix = {"litert": "tflite", "onnx": "onnx"}[form]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), without_native_chatter():
        # Exporters warn about their own insides; what counts is checked on the result.
        warnings.simplefilter("ignore")
        path = Path(folder) / f"model.{suffix}"
        source.exported.export(str(path), format=form, verbose=False)
        return path.read_bytes()


def _activation(source: FloatModel) -> Activation:
    """Softmax, unless the model's last layer applies it itself: a fact of the graph, not a guess."""
    last = source.exported.layers
    output = source.exported.output[LOGITS]
    producer = next(layer for layer in reversed(last) if layer.output is output)
    config: dict[str, Any] = producer.get_config()
    is_softmax = config.get("activation") == "softmax" or type(producer).__name__ == "Softmax"
    return Activation.NONE if is_softmax else Activation.SOFTMAX


def _preprocess(height_px: int, width_px: int) -> tuple[Step, ...]:
    return (
        Grey(),
        Resize(height_px=height_px, width_px=width_px, interpolation=Interpolation.AREA),
        Scale(factor=1 / 255),
    )


def _golden(source: FloatModel, part: Part, folder: BuildFolder, activation: Activation) -> Golden:
    """Samples that neither training nor judging uses, as even over the classes as they come."""
    order = np.argsort(_rank_within_class(part.labels), kind="stable")[:GOLDEN_SAMPLES]
    images = part.inputs[np.sort(order)]
    scores, _ = source.outputs(to_tensor(images))
    return Golden(
        inputs=folder.put(to_npy(images)),
        outputs=folder.put(to_npy(probabilities(scores, activation))),
        count=len(images),
        tolerance=TOLERANCE,
    )


def _rank_within_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    ranks = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        ranks[where] = np.arange(len(where))
    return ranks


def _reference(
    source: FloatModel, dataset: Dataset, folder: BuildFolder, activation: Activation
) -> DriftReference | None:
    """Class means from training data; spread of distance and energy from validation data, which was not fitted."""
    if not source.has_features or activation is Activation.NONE:
        return None
    _, fitted = source.outputs(to_tensor(dataset.fit.inputs))
    scores, features = source.outputs(to_tensor(dataset.validation.inputs))
    assert fitted is not None
    assert features is not None
    classes = range(len(dataset.label_names))
    means = np.stack([fitted[dataset.fit.labels == label].mean(axis=0) for label in classes]).astype(np.float32)
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
