"""Which engines there are, and which run here."""

from importlib import metadata, resources

import numpy as np

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.litert import LiteRtEngine
from edgeloop.runtime.engines.onnx import OnnxEngine
from edgeloop.runtime.engines.openvino import OpenVinoEngine
from edgeloop.runtime.engines.port import Engine

PACKAGES = {
    EngineName.LITERT: "ai-edge-litert",
    EngineName.ONNXRUNTIME: "onnxruntime",
    EngineName.OPENVINO: "openvino",
}
"""The package that each engine comes in."""

_PROBES = {
    EngineName.LITERT: "double.tflite",
    EngineName.ONNXRUNTIME: "double.onnx",
    EngineName.OPENVINO: "double.openvino",
}


def load_engine(name: EngineName, model: bytes, *, threads: int = 1) -> Engine:
    """Load model bytes on the named engine.

    Raises Unavailable if the engine is not installed, InvalidInput if the bytes are not a model for it.
    """
    if name is EngineName.LITERT:
        return LiteRtEngine(model, threads=threads)
    if name is EngineName.OPENVINO:
        return OpenVinoEngine(model, threads=threads)
    return OnnxEngine(model, threads=threads)


def installed_engines() -> dict[EngineName, str]:
    """The engines whose package is installed, with its version; none of them is loaded."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def probe_engine(name: EngineName) -> str | None:
    """Run a tiny model on an engine. None when it answers right, else what went wrong."""
    try:
        model = resources.files("edgeloop.runtime").joinpath("probes", _PROBES[name]).read_bytes()
        engine = load_engine(name, model)
        feed = np.array([[1.0, 2.0]], dtype=np.float32)
        (answer,) = engine.run({engine.inputs[0].name: feed}).values()
        engine.close()
    except EdgeloopError as error:
        return str(error)
    if answer.tolist() != [[2.0, 4.0]]:
        return f"computes wrong: twice [1, 2] came out as {answer.tolist()}; reinstall {PACKAGES[name]}"
    return None
