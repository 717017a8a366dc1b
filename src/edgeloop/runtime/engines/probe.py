"""The tiny models that show whether an engine runs at all: x (1, 2) float32 to twice x."""

from importlib import resources

from edgeloop.contracts.manifest import EngineName

_FILES = {
    EngineName.LITERT: "double.tflite",
    EngineName.ONNXRUNTIME: "double.onnx",
    EngineName.OPENVINO: "double.openvino",
}


def probe_model(name: EngineName) -> bytes:
    """The model for an engine."""
    return resources.files("edgeloop.runtime").joinpath("probes", _FILES[name]).read_bytes()
