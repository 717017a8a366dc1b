"""ONNX Runtime behind the engine port."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import check_feeds
from edgeloop.runtime.engines.port import Tensors, TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxEngine:
    """An .onnx model on ONNX Runtime's CPU provider. A free leading axis is taken as batch 1."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        self._session = _session(model, threads)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once; see Engine.run."""
        if self._session is None:
            raise InvalidInput("this engine was closed; load the model again")
        check_feeds(feeds, self.inputs)
        try:
            arrays = self._session.run(self._output_names, dict(feeds))
        except foreign_errors(import_onnxruntime()) as error:
            raise Corrupt(f"the model failed while it ran: {error}") from error
        return {name: np.asarray(array) for name, array in zip(self._output_names, arrays, strict=True)}

    def close(self) -> None:
        """Give up memory."""
        self._session = None


def import_onnxruntime() -> Any:
    """The package, with its telemetry off. Raises Unavailable if it is not installed."""
    # Else its Linux builds (1.31, Privacy.md) report to Microsoft and leave a device's id in the home folder. The
    # library reads this once, when it is loaded; what a person has set already stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable(
            f"ONNX Runtime is not installed here ({error}); install it with: pip install 'edgeloop[onnx]'"
        ) from error
    return onnxruntime


def _session(model: bytes, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A spinning pool burns the core that the rest of the device needs, at one reading every few milliseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else activations of a model whose weights alone are integers become int8 too: 0.6 % off, without being asked.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except foreign_errors(onnxruntime) as error:
        raise InvalidInput(f"ONNX Runtime cannot load this model: {error}") from error


def foreign_errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime may raise: its own exceptions share no base class below Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("InvalidProtobuf", "Fail", "InvalidGraph", "NoSuchFile", "NotImplemented", "InvalidArgument")
    own: tuple[type[Exception], ...] = tuple(getattr(state, name) for name in names)
    return (RuntimeError, ValueError, *own)


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise InvalidInput(f"tensor {node.name!r} has type {node.type}; edgeloop runs {', '.join(_DTYPES)}")
    sizes = list(node.shape)
    if sizes and not isinstance(sizes[0], int):
        sizes[0] = 1
    if not all(isinstance(size, int) for size in sizes):
        raise InvalidInput(f"tensor {node.name!r} has free axes {node.shape}; fix all but the first when converting")
    return TensorSpec(node.name, tuple(sizes), _DTYPES[node.type])
