"""Models that an engine runs as they are (.onnx, .tflite, .openvino), asked through the runtime that devices use."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Engine, TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor, quantize_tensor
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run

ENGINES = {
    Format.LITERT: EngineName.LITERT,
    Format.ONNX: EngineName.ONNXRUNTIME,
    Format.OPENVINO: EngineName.OPENVINO,
}
"""The engine that runs each format."""

FORMATS = {engine: form for form, engine in ENGINES.items()}
"""The format that each engine runs."""

SUFFIXES = {".tflite": Format.LITERT, ".onnx": Format.ONNX, ".openvino": Format.OPENVINO}


def load_runnable(path: Path) -> Model:
    """A file of one of SUFFIXES. Raises NotFound, or InvalidInput if its engine cannot load it."""
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"{path.name} ends in {path.suffix!r}; engines run {', '.join(SUFFIXES)}")
    return wrap_runnable(path.read_bytes(), SUFFIXES[path.suffix], name=path.name)


def wrap_runnable(data: bytes, form: Format, *, name: str) -> Model:
    """Model bytes that an engine runs. Raises InvalidInput if it cannot load them, Unavailable if it is missing."""
    engine = load_engine(ENGINES[form], data)
    return Model(
        name=name,
        format=form,
        native=data,
        inputs=engine.inputs,
        outputs=engine.outputs,
        run=_runner(engine),
        data=data,
    )


def _runner(engine: Engine) -> Run:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Sample by sample, as a device would; real numbers in and out, whatever the file computes with."""
        count = len(next(iter(feeds.values())))
        made: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in engine.outputs}
        for index in range(count):
            one = {spec.name: stored(feeds[spec.name][index : index + 1], spec) for spec in engine.inputs}
            answers = engine.run(one)
            for spec in engine.outputs:
                made[spec.name].append(dequantize_tensor(answers[spec.name], spec))
        return {name: np.concatenate(parts) for name, parts in made.items()}

    return run


def stored(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Real numbers as the file's input tensor holds them."""
    if spec.scale == 0.0 or array.dtype == spec.dtype:
        return np.ascontiguousarray(array, dtype=spec.dtype)
    return quantize_tensor(np.asarray(array, np.float32), spec)
