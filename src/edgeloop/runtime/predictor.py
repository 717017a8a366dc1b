"""A bundle that answers: preprocess, run, postprocess.

Neighbours: `engines` loads the variant; `replay` uses a Predictor to prove a bundle, `device` to work with it,
`toolchain.check` to measure it: what was verified is what runs.
"""

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.manifest import EngineName, Manifest, Modality, Precision, Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.engines.find import installed_engines, load_engine
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.images import as_image
from edgeloop.runtime.input.preprocess import preprocess
from edgeloop.runtime.output.novelty import NoveltyScale
from edgeloop.runtime.output.scores import energy, margin, probabilities, top_scores

Source = bytes | str | os.PathLike[str] | NDArray[Any]
"""An image as encoded bytes, a path, or pixels; or, for tensor bundles, a float array."""


class Predictor:
    """One variant of a bundle, loaded. Not thread-safe: one predictor a thread."""

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int = 1) -> None:
        self.manifest = bundle.manifest
        self.variant = variant
        self._engine = load_engine(variant.engine, bundle.read(variant.file), threads=threads)
        self._names = variant.tensors
        self._input = _by_name(self._engine.inputs, self._tensor(self.manifest.input.name), "input")
        self._scores = _by_name(self._engine.outputs, self._tensor(self.manifest.output.scores), "output")
        _check_width(self._scores, self.manifest)
        self._scale = NoveltyScale(bundle) if self.manifest.reference else None
        self._features = None
        if self.manifest.output.features is not None:
            self._features = _by_name(self._engine.outputs, self._tensor(self.manifest.output.features), "output")
            if self._scale is not None and self._features.shape != (1, self._scale.width):
                raise Corrupt(
                    f"{self.manifest.ref}: its drift reference is for {self._scale.width} features, the model gives "
                    f"{self._features.shape}"
                )
        self._ref = str(self.manifest.ref)

    def predict(self, source: Source) -> Prediction:
        """Answer for one input.

        source: an image (see Source) or, for tensor bundles, a float array without batch axis. Raises
        InvalidInput or Corrupt if the input cannot be used or the model answers NaN.
        """
        started_ns = time.perf_counter_ns()
        scores, features = self.run(self.tensor(source))
        probability = probabilities(scores[0], self.manifest.output.activation)
        best = int(probability.argmax())
        raw = None if self.manifest.output.activation == "none" else float(energy(scores[0]))
        novelty = energy_z = None
        if self._scale is not None and features is not None and raw is not None:
            novelty = self._scale.novelty(features, best)
            energy_z = self._scale.energy_z(raw, best)
        score = float(probability[best])
        return Prediction(
            label=self.manifest.labels[best] if score >= self.manifest.output.threshold else None,
            score=score,
            margin=margin(probability),
            top=top_scores(probability, self.manifest.labels, top_k=self.manifest.output.top_k),
            latency_ms=(time.perf_counter_ns() - started_ns) / 1e6,
            bundle=self._ref,
            engine=self.variant.engine,
            precision=self.variant.precision,
            energy=raw,
            energy_z=energy_z,
            novelty=novelty,
        )

    def predict_many(self, sources: Iterable[Source]) -> Iterator[Prediction]:
        """Answer for each input in turn."""
        return (self.predict(source) for source in sources)

    def tensor(self, source: Source) -> NDArray[np.float32]:
        """The preprocessed input: float32 of manifest.input.shape."""
        manifest = self.manifest
        if manifest.input.modality is Modality.IMAGE:
            return preprocess(as_image(source), manifest.preprocess, manifest.input)
        if not isinstance(source, np.ndarray):
            raise InvalidInput(
                f"{manifest.ref} takes arrays of {manifest.input.shape[1:]}, got {type(source).__name__}"
            )
        return preprocess(source, manifest.preprocess, manifest.input)

    def run(self, tensor: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The engine on a preprocessed tensor: raw scores (1, labels) and features (1, D) or None, in float32."""
        outputs = self._engine.run({self._input.name: quantize_tensor(tensor, self._input)})
        scores = dequantize_tensor(outputs[self._scores.name], self._scores)
        if self._features is None:
            return scores, None
        return scores, dequantize_tensor(outputs[self._features.name], self._features)

    def close(self) -> None:
        """Give up the engine's memory."""
        self._engine.close()

    def _tensor(self, logical: str) -> str:
        if logical not in self._names:
            raise Corrupt(
                f"{self.manifest.ref}: variant {self.variant.file[:12]} does not say which tensor {logical!r} is"
            )
        return self._names[logical]


def load(path: str | os.PathLike[str], *, engine: str | None = None, threads: int = 1) -> Predictor:
    """Open a bundle and load the variant that fits this machine best.

    engine: "litert", "onnxruntime" or "openvino" to insist on one. Raises NotFound, Corrupt, InvalidInput, or
    Unavailable if no engine here runs any variant.
    """
    if engine is not None and engine not in set(EngineName):
        raise InvalidInput(f"there is no engine {engine!r}; known: {', '.join(EngineName)}")
    bundle = open_bundle(path)
    wanted = (EngineName(engine),) if engine else tuple(installed_engines())
    return load_best(bundle, engines=wanted, threads=threads)


def load_best(bundle: Bundle, *, engines: Iterable[EngineName], threads: int = 1) -> Predictor:
    """Load the first candidate that loads. Raises Unavailable with every reason if none does."""
    engines = tuple(engines)
    reasons = []
    for variant in candidates(bundle.manifest, engines):
        try:
            return Predictor(bundle, variant, threads=threads)
        except EdgeloopError as error:
            reasons.append(f"{variant.engine} {variant.precision}: {error}")
    offered = ", ".join(f"{v.engine} {v.precision}" for v in bundle.manifest.variants)
    raise Unavailable(
        f"no variant of {bundle.manifest.ref} runs here (it offers {offered}; allowed here: "
        f"{', '.join(engines) or 'no engine'}). {' '.join(reasons) or 'Install one of those engines.'}"
    )


def candidates(manifest: Manifest, engines: Iterable[EngineName]) -> list[Variant]:
    """The variants that these engines could run, the most promising first.

    Latency was measured elsewhere, so differences below a factor of two say little; among variants that near to
    the fastest the smaller one comes first, since it is cheaper to fetch and to hold.
    """
    allowed = set(engines)
    able = [variant for variant in manifest.variants if variant.engine in allowed]
    fastest_ms = min((v.measured.latency_p50_ms for v in able if v.measured), default=0.0)

    def rank(variant: Variant) -> tuple[int, float]:
        if variant.measured is None:
            return 2, variant.size_bytes
        latency_ms = variant.measured.latency_p50_ms
        return (1, latency_ms) if latency_ms > 2 * fastest_ms else (0, variant.size_bytes)

    return sorted(able, key=rank)


def float_first(manifest: Manifest, engines: Iterable[EngineName]) -> list[Variant]:
    """The same candidates, the most exact first: for a tier that has the power."""
    return sorted(candidates(manifest, engines), key=lambda v: v.precision is not Precision.FLOAT32)


def quantize_tensor(values: NDArray[np.float32], spec: TensorSpec) -> NDArray[Any]:
    """Real values to what the tensor stores: round(x / scale) + zero_point, clipped; unchanged if not quantized.

    Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 1, inverted.
    """
    dtype = np.dtype(spec.dtype)
    if spec.scale == 0.0:
        return values.astype(dtype, copy=False)
    bounds = np.iinfo(dtype)
    steps = np.rint(values / np.float32(spec.scale)) + spec.zero_point
    return np.asarray(np.clip(steps, bounds.min, bounds.max), dtype=dtype)


def dequantize_tensor(stored: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """What the tensor stores as real values: (stored - zero_point) * scale. Source: as above, eq. 1."""
    if spec.scale == 0.0:
        return stored.astype(np.float32, copy=False)
    return (stored.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)


def _by_name(specs: tuple[TensorSpec, ...], name: str, role: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise Corrupt(f"the model has no {role} {name!r}; it has {', '.join(spec.name for spec in specs)}")


def _check_width(scores: TensorSpec, manifest: Manifest) -> None:
    if scores.shape != (1, len(manifest.labels)):
        raise InvalidInput(
            f"{manifest.ref} has {len(manifest.labels)} labels, but its score tensor {scores.name!r} is {scores.shape}"
        )
