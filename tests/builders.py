"""Small, honest bundles for tests, made without any toolchain.

The model is a linear softmax classifier of 8x8 grey images: its four features are the mean brightness of the four
quadrants, and the label is the brightest one. Everything that a bundle ships beside the model (golden outputs,
drift reference) is computed here with NumPy in float64, so it is an independent statement of what the runtime
should answer.

    make_bundle(tmp_path)                                  an archive that is sound and passes its replay
    make_bundle(tmp_path, version="1.1.0", weights=w)      another model of the same name
    make_bundle(tmp_path, damage=Damage.WEIGHTS)           an archive whose hashes hold, but whose model is wrong
    make_parts(...)                                        manifest and files, to change before writing
    as_bundle(parts)                                       the same as an open Bundle, without a disk
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeloop.bundle.archive import SUFFIX, Bundle, digest, entries, write_bundle
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.manifest import (
    DriftReference,
    EngineName,
    Golden,
    InputSpec,
    Lineage,
    Manifest,
    Measured,
    Modality,
    Precision,
    Tolerance,
    Variant,
)
from edgeloop.contracts.output import Activation, Classification
from edgeloop.contracts.preprocess import Scale

LABELS = ("top_left", "top_right", "bottom_left", "bottom_right")
SIDE_PX = 8
GOLDEN_COUNT = 16
_CLEAN_COUNT = 80
_SHARPNESS = 20.0


class Damage(StrEnum):
    """Ways for a bundle to be wrong although every hash in it holds."""

    WEIGHTS = "weights"
    """The model's weights were changed after the golden outputs were computed."""

    NAN = "nan"
    """One weight is NaN, so every answer is."""

    PREPROCESS = "preprocess"
    """The manifest scales pixels by another factor than the model was made for."""


@dataclass(frozen=True)
class Weights:
    """logits = (pixels / 255) @ to_features @ to_logits + bias.

    to_features: (64, D) float32. to_logits: (D, K) float32. bias: (K,) float32.
    """

    to_features: NDArray[np.float32]
    to_logits: NDArray[np.float32]
    bias: NDArray[np.float32]

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, 8, 8) uint8 to (N, D), in float64."""
        pixels = images.reshape(len(images), -1).astype(np.float64) / 255.0
        return pixels @ self.to_features.astype(np.float64)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, 8, 8) uint8 to (N, K), in float64."""
        return self.features(images) @ self.to_logits.astype(np.float64) + self.bias.astype(np.float64)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, 8, 8) uint8 to (N, K), in float64."""
        raised = np.exp(self.logits(images))
        return raised / raised.sum(axis=1, keepdims=True)


def quadrant_weights(*, sharpness: float = _SHARPNESS) -> Weights:
    """The weights that find the brightest quadrant; a larger sharpness makes it surer of itself."""
    return Weights(
        _quadrant_averages(SIDE_PX),
        sharpness * np.eye(len(LABELS), dtype=np.float32),
        np.zeros(len(LABELS), np.float32),
    )


def _quadrant_averages(side: int) -> NDArray[np.float32]:
    """(side * side, 4): flat pixels of a square image, times this, are the mean brightnesses of its quadrants."""
    means = np.zeros((side, side, len(LABELS)), np.float32)
    half = side // 2
    for index in range(len(LABELS)):
        top, left = half * (index // 2), half * (index % 2)
        means[top : top + half, left : left + half, index] = 1.0 / half**2
    return means.reshape(-1, len(LABELS))


def quadrant_images(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """(count, 8, 8) noisy images; number i has its brightest quadrant at label i % 4."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIDE_PX, SIDE_PX), dtype=np.uint8)
    half = SIDE_PX // 2
    for index, image in enumerate(images):
        top, left = half * (index % 4 // 2), half * (index % 2)
        image[top : top + half, left : left + half] += np.uint8(100)
    return images


def quadrant_means(shape: tuple[int, ...]) -> bytes:
    """ONNX that scores an image's quadrants by their mean brightness: "image", square, in this shape to "logits"."""
    side = round(np.sqrt(np.prod(shape)))
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "means"], ["logits"]),
        ],
        "quadrants",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, len(LABELS)))],
        [
            numpy_helper.from_array(np.array([1, side * side], np.int64), "flat"),
            numpy_helper.from_array(_quadrant_averages(side), "means"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def onnx_model(weights: Weights) -> bytes:
    """The classifier as ONNX: "image" (1, 8, 8, 1) float32 to "logits" (1, K) and "features" (1, D)."""
    width, labels = weights.to_logits.shape
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "to_features"], ["features"]),
            helper.make_node("Gemm", ["features", "to_logits", "bias"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, SIDE_PX, SIDE_PX, 1])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, labels]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, width]),
        ],
        [
            numpy_helper.from_array(np.array([1, SIDE_PX * SIDE_PX], np.int64), "flat"),
            numpy_helper.from_array(weights.to_features, "to_features"),
            numpy_helper.from_array(weights.to_logits, "to_logits"),
            numpy_helper.from_array(weights.bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class Parts:
    """A bundle before it is written: its manifest, and its files by SHA-256."""

    manifest: Manifest
    files: dict[str, bytes] = field(repr=False)

    def changed(self, **fields: Any) -> "Parts":
        """The same files under a manifest with these fields replaced."""
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **fields))

    def with_file(self, old: str, data: bytes) -> "Parts":
        """File `old` replaced by other content, wherever the manifest refers to it."""
        files = {sha256: content for sha256, content in self.files.items() if sha256 != old} | {digest(data): data}
        text = to_json(self.manifest).replace(old.encode(), digest(data).encode())
        manifest = msgspec.structs.replace(msgspec.json.decode(text, type=Manifest), files=entries(files.values()))
        return Parts(manifest, files)

    def with_model(self, model: bytes) -> "Parts":
        """The first variant's model replaced."""
        variant = msgspec.structs.replace(self.manifest.variants[0], size_bytes=len(model))
        changed = self.changed(variants=(variant, *self.manifest.variants[1:]))
        return changed.with_file(variant.file, model)


def make_parts(
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    labels: tuple[str, ...] = LABELS,
    weights: Weights | None = None,
    damage: Damage | None = None,
    tolerance: Tolerance | None = None,
) -> Parts:
    """A sound bundle in parts, or one with the stated damage.

    tolerance: of the float32 variant; by default as tight as float32 arithmetic allows with room to spare.
    """
    chosen = weights or quadrant_weights()
    images = quadrant_images(GOLDEN_COUNT)
    model = onnx_model(_damaged(chosen, damage))
    inputs, outputs = to_npy(images), to_npy(chosen.probabilities(images).astype(np.float32))
    reference, reference_files = _reference(chosen)
    files = {digest(data): data for data in (model, inputs, outputs, *reference_files)}
    manifest = Manifest(
        name=name,
        version=version,
        labels=labels,
        input=InputSpec("image", Modality.IMAGE, (1, SIDE_PX, SIDE_PX, 1), "NHWC", (0.0, 1.0)),
        preprocess=(Scale(factor=(2.0 if damage is Damage.PREPROCESS else 1.0) / 255.0),),
        output=Classification(scores="logits", activation=Activation.SOFTMAX, features="features"),
        variants=(_variant(model),),
        golden=Golden(
            digest(inputs),
            digest(outputs),
            GOLDEN_COUNT,
            {Precision.FLOAT32: tolerance or Tolerance(max_abs_error=1e-4, mean_abs_error=1e-5, min_agreement=1.0)},
        ),
        files=entries(files.values()),
        lineage=Lineage(
            recipe={"kind": "quadrants", "sharpness": _SHARPNESS},
            data_sha256={"golden": digest(inputs)},
            libraries={"onnx": "1", "numpy": "2"},
        ),
        reference=reference,
    )
    return Parts(manifest, files)


def make_bundle(
    path: Path,
    *,
    version: str = "1.0.0",
    name: str = "tiny",
    weights: Weights | None = None,
    damage: Damage | None = None,
    tolerance: Tolerance | None = None,
    **manifest_fields: Any,
) -> Path:
    """Write a bundle and return the archive's path.

    path: a folder, for NAME-VERSION.edgeloop in it, or the archive's own path ending in ".edgeloop".
    manifest_fields: fields of Manifest to replace, such as budget=Budget(max_latency_p50_ms=5.0).
    """
    parts = make_parts(name=name, version=version, weights=weights, damage=damage, tolerance=tolerance)
    return pack(parts.changed(**manifest_fields), path)


def pack(parts: Parts, path: Path) -> Path:
    """Write the parts as an archive; path as in `make_bundle`."""
    target = path
    if path.suffix != SUFFIX:
        target = path / f"{parts.manifest.name}-{parts.manifest.version}{SUFFIX}"
    write_bundle(target, parts.manifest, parts.files)
    return target


class MemoryFiles:
    """The port bundle.archive.Files over a dict."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def read(self, sha256: str) -> bytes:
        """The file's bytes."""
        if sha256 not in self._files:
            raise NotFound(f"no file {sha256} in memory")
        return self._files[sha256]


def as_bundle(parts: Parts) -> Bundle:
    """The parts as an open bundle, without a disk and without the checks that opening makes."""
    return Bundle(parts.manifest, MemoryFiles(parts.files), manifest_bytes=to_json(parts.manifest))


def _damaged(weights: Weights, damage: Damage | None) -> Weights:
    if damage is Damage.WEIGHTS:
        return replace(weights, to_logits=np.roll(weights.to_logits, 1, axis=1))
    if damage is Damage.NAN:
        return replace(weights, bias=np.full_like(weights.bias, np.nan))
    return weights


def _variant(model: bytes) -> Variant:
    measured = Measured(
        accuracy=1.0,
        agreement=1.0,
        max_abs_error=0.0,
        mean_abs_error=0.0,
        latency_p50_ms=0.05,
        latency_p99_ms=0.1,
        peak_memory_bytes=1_000_000,
        samples=GOLDEN_COUNT,
        measured_on="tests",
    )
    return Variant(
        file=digest(model),
        engine=EngineName.ONNXRUNTIME,
        precision=Precision.FLOAT32,
        size_bytes=len(model),
        tensors={"image": "image", "logits": "logits", "features": "features"},
        measured=measured,
    )


def _reference(weights: Weights) -> tuple[DriftReference, Iterable[bytes]]:
    images = quadrant_images(_CLEAN_COUNT, seed=1)
    label_of = np.arange(_CLEAN_COUNT) % len(LABELS)
    features, logits = weights.features(images), weights.logits(images)
    kinds = range(len(LABELS))
    means = np.stack([features[label_of == kind].mean(axis=0) for kind in kinds])
    std = (features - means[label_of]).std(axis=0)
    distance = np.sqrt((((features - means[label_of]) / std) ** 2).mean(axis=1))
    energy = -np.log(np.exp(logits).sum(axis=1))
    class_means, feature_std = to_npy(means.astype(np.float32)), to_npy(std.astype(np.float32))
    reference = DriftReference(
        class_means=digest(class_means),
        feature_std=digest(feature_std),
        distance_mean=tuple(float(distance[label_of == kind].mean()) for kind in kinds),
        distance_std=tuple(float(distance[label_of == kind].std()) for kind in kinds),
        energy_mean=tuple(float(energy[label_of == kind].mean()) for kind in kinds),
        energy_std=tuple(float(energy[label_of == kind].std()) for kind in kinds),
    )
    return reference, (class_means, feature_std)
