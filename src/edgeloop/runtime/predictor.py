"""A bundle that answers: its input written into the engine's buffer, one run, a decision.

Neighbours: `engines` loads the variant, `input` is the way in, `output` the way out; `load` chooses variant and
setting; `replay` uses a Predictor to prove a bundle, `device` to work with it, `toolchain.check` to measure it: what
was verified is what runs.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import Manifest, Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Engine, Setting, TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor, quantize_tensor
from edgeloop.runtime.engines.settings import DEFAULT
from edgeloop.runtime.input.front import make_front
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.outcome import Race
from edgeloop.runtime.output.classification import ClassificationHead
from edgeloop.runtime.output.few import Decision
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.output.port import Answer, Reals, predicted

if TYPE_CHECKING:
    # A first answer does not wait for what it may not need.
    from edgeloop.runtime.cache import ResultCache
    from edgeloop.runtime.output.embedding import EmbeddingHead
    from edgeloop.runtime.output.smooth import Smoother


class Predictor:
    """One variant of a bundle, loaded. Not thread-safe: one predictor a thread.

    setting: how its engine runs it. cache: answers that may stand for inputs that need not be computed. race: what
    chose variant and setting, None where nothing was raced.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        *,
        setting: Setting = DEFAULT,
        cache: "ResultCache | None" = None,
    ) -> None:
        self.manifest = bundle.manifest
        self.variant = variant
        self.setting = setting
        self.cache = cache
        self.race: Race | None = None
        self.head = make_head(bundle)
        self._engine = load_engine(variant.engine, bundle.read(variant.file), setting=setting)
        try:
            self._input = self._only_input()
            self._front = make_front(self.manifest, self._input)
            self._wanted = _readers(self._engine, self.manifest, variant, self.head.wants)
            self.head.check(tuple(self._engine.outputs[index].shape for index, _ in self._wanted))
        except Exception:
            self._engine.close()
            raise
        self._buffer = self._engine.buffers[0]
        self._decide = self._short_way()
        self._made: tuple[NDArray[Any], ...] = ()
        self._bundle = str(self.manifest.ref)
        self._engine_name: str = variant.engine
        self._precision: str = variant.precision
        self._task = self.manifest.task

    def predict(self, source: Source) -> Prediction:
        """Answer for one input.

        source: see `runtime.input.port.Source`. Raises InvalidInput, NotFound or Corrupt if the input cannot be used
        or the model answers NaN.
        """
        started_ns = time.perf_counter_ns()
        if self.cache is not None:
            return self._cached(source, self.cache, None, started_ns)
        if self._decide is None:
            return self._prediction(self._answer(source), started_ns)
        label, score, margin, top, energy, energy_z, novelty = self._decide(source)
        return Prediction(
            label=label,
            score=score,
            margin=margin,
            top=top,
            energy=energy,
            energy_z=energy_z,
            novelty=novelty,
            latency_ms=(time.perf_counter_ns() - started_ns) / 1e6,
            bundle=self._bundle,
            engine=self._engine_name,
            precision=self._precision,
        )

    def predict_next(
        self, source: Source, *, cache: "ResultCache | None" = None, smoother: "Smoother | None" = None
    ) -> Prediction:
        """Answer for the next input of a stream, by the stream's own cache and smoother.

        cache: answers that may be taken again, None to compute; the predictor's own is not asked. smoother: see
        `output.smooth`, None to leave the answer as it is. Raises as `predict` does.
        """
        started_ns = time.perf_counter_ns()
        if cache is not None:
            return self._cached(source, cache, smoother, started_ns)
        answer = self._answer(source)
        if smoother is not None:
            answer = smoother.add(answer, self.last_basis() if smoother.wants_basis else None)
        return self._prediction(answer, started_ns)

    def predict_many(self, sources: Iterable[Source]) -> Iterator[Prediction]:
        """Answer for each input in turn."""
        return (self.predict(source) for source in sources)

    def stream(
        self,
        source: str | os.PathLike[str] | Iterable[Source],
        *,
        follow: bool = False,
        rate_hz: float = 0.0,
        cache: bool = True,
        smooth: bool = True,
        stop: threading.Event | None = None,
    ) -> Iterator[Prediction]:
        """Answer for what a camera, a folder, a file, a URL or an iterator of arrays hands over, one after another.

        follow: wait for what is added to a folder or file. rate_hz: at most so many a second, 0 for all. cache: a
        scene that does not change is not computed again, within the bound that the manifest states. smooth: over time,
        if the manifest says how. stop: ends the stream. An input that cannot be used is counted and logged, and the
        stream goes on; see `streaming.Stream`, which has the counters, for more.
        """
        from edgeloop.runtime.streaming import Stream

        return Stream(self, source, follow=follow, rate_hz=rate_hz, cache=cache, smooth=smooth).predictions(stop)

    def enrol(self, label: str, *sources: Source) -> None:
        """Remember examples of a label, for an embedding. Raises InvalidInput if the bundle is for another task."""
        head = self._embedding()
        for source in sources:
            head.enrol(label, self.basis(source))
        if self.cache is not None:
            self.cache.clear()

    def save_enrolled(self, path: str | os.PathLike[str]) -> None:
        """Write what was enrolled here to a file, for `load(..., enrolled=path)`."""
        self._embedding().save(path)

    def load_enrolled(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save_enrolled` wrote. Raises NotFound, Corrupt, or InvalidInput if it is of another model."""
        self._embedding().load(path)
        if self.cache is not None:
            self.cache.clear()

    def tensor(self, source: Source) -> NDArray[np.float32]:
        """The preprocessed input by the plain path, step by step: float32 of manifest.input.shape."""
        return self._front.tensor(source)

    def basis(self, source: Source) -> NDArray[np.float32]:
        """(K,) what the task decides by, float32; of a classifier its probabilities. See `manifest.Golden`."""
        self._front.write(source, self._buffer)
        self._made = self._engine.invoke()
        return self.last_basis()

    def last_basis(self) -> NDArray[np.float32]:
        """The same of the input that was computed last, without computing it again."""
        return self.head.basis(self._reals(self._made), self._given())

    def run_tensor(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The model alone: a preprocessed float32 input of manifest.input.shape to the outputs that the manifest
        names, as real values.

        Raises InvalidInput on another shape or dtype.
        """
        if tensor.shape != self.manifest.input.shape or tensor.dtype != np.float32:
            raise InvalidInput(
                f"{self.manifest.ref} takes float32 {self.manifest.input.shape}, got {tensor.dtype} {tensor.shape}"
            )
        np.copyto(self._buffer, quantize_tensor(tensor.reshape(self._buffer.shape), self._input))
        made = self._reals(self._engine.invoke())
        return {name: np.array(values) for name, values in zip(self.head.wants, made, strict=True)}

    def engine_call(self) -> Callable[[], object]:
        """The engine's bare call on what its buffer holds, for those who measure what surrounds it."""
        return self._engine.invoke

    def close(self) -> None:
        """Give up the engine's memory."""
        self._engine.close()

    def _cached(self, source: Source, cache: "ResultCache", smoother: "Smoother | None", started_ns: int) -> Prediction:
        held = cache.find(source)
        kept = held.kept
        if kept is None:
            from edgeloop.runtime.cache import Kept

            answer = self._answer(held.source)
            kept = Kept(answer, self.last_basis() if smoother is not None and smoother.wants_basis else None)
            cache.keep(held, kept)
        answer = kept.answer if smoother is None else smoother.add(kept.answer, kept.basis)
        return self._prediction(answer, started_ns, cached=kept is held.kept)

    def _answer(self, source: Source) -> Answer:
        if self._decide is not None:
            label, score, margin, top, energy, energy_z, novelty = self._decide(source)
            return Answer(
                label=label, score=score, margin=margin, top=top, energy=energy, energy_z=energy_z, novelty=novelty
            )
        geometry = self._front.write(source, self._buffer)
        self._made = self._engine.invoke()
        return self.head.answer(self._reals(self._made), geometry, self._given())

    def _reals(self, made: tuple[NDArray[Any], ...]) -> Reals:
        return tuple(
            [made[index] if spec is None else dequantize_tensor(made[index], spec) for index, spec in self._wanted]
        )

    def _given(self) -> NDArray[np.float32] | None:
        return dequantize_tensor(self._buffer, self._input) if self.head.wants_input else None

    def _prediction(self, answer: Answer, started_ns: int, *, cached: bool = False) -> Prediction:
        return predicted(
            answer,
            cached=cached,
            latency_ms=(time.perf_counter_ns() - started_ns) / 1e6,
            bundle=self._bundle,
            engine=self._engine_name,
            precision=self._precision,
            task=self._task,
        )

    def _embedding(self) -> "EmbeddingHead":
        from edgeloop.runtime.output.embedding import EmbeddingHead

        if not isinstance(self.head, EmbeddingHead):
            raise InvalidInput(f"{self.manifest.ref} is for {self.manifest.task}; only an embedding can be enrolled")
        return self.head

    def _short_way(self) -> Callable[[Source], Decision] | None:
        """For a classifier of few labels: from the source to the decision, with nothing looked up on the way."""
        if not isinstance(self.head, ClassificationHead):
            return None
        places = [index for index, _ in self._wanted]
        few = self.head.decide_few(tuple(self._engine.outputs[place] for place in places))
        if few is None:
            return None
        first, second = places[0], places[1] if len(places) > 1 else None
        write, buffer, invoke = self._front.write, self._buffer, self._engine.invoke

        def decide(source: Source) -> Decision:
            write(source, buffer)
            made = self._made = invoke()
            return few(made[first], None if second is None else made[second])

        return decide

    def _only_input(self) -> TensorSpec:
        name = _name_in_file(self.manifest, self.variant, self.manifest.input.name)
        specs = self._engine.inputs
        if [spec.name for spec in specs] != [name]:
            raise Corrupt(
                f"the model has the inputs {', '.join(spec.name for spec in specs)}; expected {name!r} alone, as "
                f"{self.manifest.ref} says"
            )
        return specs[0]


def _readers(
    engine: Engine, manifest: Manifest, variant: Variant, wanted: tuple[str, ...]
) -> list[tuple[int, TensorSpec | None]]:
    """For each tensor that the head wants: its place among the engine's outputs, and how to make it real if needed."""
    names = [spec.name for spec in engine.outputs]
    found: list[tuple[int, TensorSpec | None]] = []
    for logical in wanted:
        name = _name_in_file(manifest, variant, logical)
        if name not in names:
            raise Corrupt(f"the model has no output {name!r}; it has {', '.join(names)}")
        spec = engine.outputs[names.index(name)]
        is_real = spec.scale == 0.0 and spec.dtype == "float32"
        found.append((names.index(name), None if is_real else spec))
    return found


def _name_in_file(manifest: Manifest, variant: Variant, logical: str) -> str:
    if logical not in variant.tensors:
        raise Corrupt(f"{manifest.ref}: variant {variant.file[:12]} does not say which tensor {logical!r} is")
    return variant.tensors[logical]
