"""Several inputs in one run of the engine, for models that can be run so.

Each input is prepared into its own row of the engine's buffer and decided from its own row of the outputs, by the
same `input` and `output` modules as one at a time. A run always is of `size` rows: of a part, the rest computes what
lay there before, and is thrown away.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Setting, TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor, quantize_tensor
from edgeloop.runtime.input.front import make_front
from edgeloop.runtime.input.port import Geometry, Source
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.output.port import predicted


class BatchPredictor:
    """One variant of a bundle, loaded for `size` inputs a run. Not thread-safe.

    Raises InvalidInput if the model cannot be run on several inputs.
    """

    def __init__(self, bundle: Bundle, variant: Variant, *, setting: Setting, size: int) -> None:
        manifest = bundle.manifest
        self.size = size
        self._manifest = manifest
        self._head = make_head(bundle)
        self._engine = load_engine(variant.engine, bundle.read(variant.file), setting=setting, batch=size)
        try:
            self._input = _row_spec(self._engine.inputs, variant.tensors[manifest.input.name], size)
            self._outputs = [
                _row_reader(self._engine.outputs, variant.tensors[name], size) for name in self._head.wants
            ]
            self._front = make_front(manifest, self._input)
            self._head.check(tuple(spec.shape for _, spec in self._outputs))
        except Exception:
            self._engine.close()
            raise
        self._rows = [self._engine.buffers[0][row : row + 1] for row in range(size)]
        self._fixed: dict[str, Any] = {
            "bundle": str(manifest.ref),
            "engine": variant.engine,
            "precision": variant.precision,
        }

    def predict(self, sources: Sequence[Source]) -> list[Prediction | EdgeloopError]:
        """At most `size` answers in one run; an input that cannot be used has its error in its place.

        latency_ms of each is the run's: that is how long it took. Raises Corrupt if the model fails.
        """
        started_ns = time.perf_counter_ns()
        prepared = [self._prepare(row, source) for row, source in enumerate(sources)]
        made = self._run()
        decided = [
            one if isinstance(one, EdgeloopError) else self._decide(row, one, made) for row, one in enumerate(prepared)
        ]
        latency_ms = (time.perf_counter_ns() - started_ns) / 1e6
        return [
            one if isinstance(one, EdgeloopError) else msgspec.structs.replace(one, latency_ms=latency_ms)
            for one in decided
        ]

    def basis(self, sources: Sequence[Source]) -> list[NDArray[np.float32]]:
        """(K,) of each input, what the task decides by. See Predictor.basis."""
        for row, source in enumerate(sources):
            self._front.write(source, self._rows[row])
        made = self._run()
        return [self._head.basis(_row(made, row), self._given(row)) for row in range(len(sources))]

    def run_tensors(self, tensors: Sequence[NDArray[np.float32]]) -> list[dict[str, NDArray[np.float32]]]:
        """Outputs of at most `size` preprocessed inputs of manifest.input.shape. See Predictor.run_tensor."""
        wanted = self._manifest.input.shape
        for row, tensor in enumerate(tensors):
            if tensor.shape != wanted or tensor.dtype != np.float32:
                raise InvalidInput(
                    f"{self._manifest.ref} takes float32 {wanted}, got {tensor.dtype.name} {tensor.shape}"
                )
            np.copyto(self._rows[row], quantize_tensor(tensor.reshape(self._rows[row].shape), self._input))
        made = self._run()
        return [
            {name: np.array(values) for name, values in zip(self._head.wants, _row(made, row), strict=True)}
            for row in range(len(tensors))
        ]

    def close(self) -> None:
        """Give up the engine's memory."""
        self._engine.close()

    def _prepare(self, row: int, source: Source) -> Geometry | EdgeloopError | None:
        try:
            return self._front.write(source, self._rows[row])
        except EdgeloopError as error:
            return error

    def _run(self) -> list[NDArray[np.float32]]:
        made = self._engine.invoke()
        return [dequantize_tensor(made[index], spec) for index, spec in self._outputs]

    def _decide(
        self, row: int, geometry: Geometry | None, made: list[NDArray[np.float32]]
    ) -> Prediction | EdgeloopError:
        try:
            answer = self._head.answer(_row(made, row), geometry, self._given(row))
        except EdgeloopError as error:
            return error
        return predicted(answer, task=self._manifest.task, latency_ms=0.0, **self._fixed)

    def _given(self, row: int) -> NDArray[np.float32] | None:
        return dequantize_tensor(self._rows[row], self._input) if self._head.wants_input else None


def _row(made: list[NDArray[np.float32]], row: int) -> tuple[NDArray[np.float32], ...]:
    return tuple(values[row : row + 1] for values in made)


def _row_spec(specs: tuple[TensorSpec, ...], name: str, size: int) -> TensorSpec:
    """The tensor of this name, as one of its rows is. Raises InvalidInput if its first axis is not the batch's."""
    spec = specs[[one.name for one in specs].index(name)]
    if not spec.shape or spec.shape[0] != size:
        raise InvalidInput(f"tensor {name!r} is {spec.shape} in a run of {size}: this model cannot be batched")
    return msgspec.structs.replace(spec, shape=(1, *spec.shape[1:]))


def _row_reader(specs: tuple[TensorSpec, ...], name: str, size: int) -> tuple[int, TensorSpec]:
    return [one.name for one in specs].index(name), _row_spec(specs, name, size)
