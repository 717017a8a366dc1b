"""ONNX Runtime behind the engine port.

Inputs and outputs are bound once to arrays of ours, which it computes from and into without a copy.
"""

import os
from functools import partial
from typing import Any

import msgspec
import numpy as np

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import BoundEngine, require_batch
from edgeloop.runtime.engines.memory import address_of, aligned_array
from edgeloop.runtime.engines.port import CPU, Setting, TensorSpec
from edgeloop.runtime.engines.settings import DEFAULT

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
_TIED = "Attempt to replace the existing tensor"
"""What ONNX Runtime says where it is to widen a weight that two nodes share."""
_CPU_PROVIDER = "CPUExecutionProvider"
_NO_ACCELERATORS = {_CPU_PROVIDER, "AzureExecutionProvider"}  # the second sends inputs to a server
_FREE = -1


class OnnxEngine(BoundEngine):
    """An .onnx model on ONNX Runtime. A free leading axis is taken as `batch`.

    setting.accelerator: CPU, or a provider's name as in `list_providers`. Outputs whose axes the file leaves free have
    the shape that one run on zeros gives them.
    """

    def __init__(self, model: bytes, *, setting: Setting = DEFAULT, batch: int = 1) -> None:
        session = _session(model, setting)
        self.inputs = tuple(_fixed(_spec(node), batch) for node in session.get_inputs())
        outputs = tuple(_spec(node) for node in session.get_outputs())
        self.buffers = tuple(aligned_array(spec) for spec in self.inputs)
        if any(_FREE in spec.shape for spec in outputs):
            outputs = _learn_outputs(session, self.inputs, outputs)
        require_batch(outputs, batch)
        self.outputs = outputs
        self._answers = tuple(aligned_array(spec) for spec in outputs)
        binding = session.io_binding()
        for spec, array in zip(self.inputs, self.buffers, strict=True):
            binding.bind_input(spec.name, "cpu", 0, array.dtype.type, spec.shape, address_of(array))
        for spec, array in zip(outputs, self._answers, strict=True):
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, spec.shape, address_of(array))
        self._execute = partial(session.run_with_iobinding, binding)
        self._failures = foreign_errors(import_onnxruntime())


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


def list_providers() -> dict[str, str]:
    """The providers other than the CPU that this build of ONNX Runtime has, each with the build's version.

    Whether one works here, only running a model on it tells.
    """
    onnxruntime = import_onnxruntime()
    names = [name for name in onnxruntime.get_available_providers() if name not in _NO_ACCELERATORS]
    return {name: f"ONNX Runtime {onnxruntime.__version__}" for name in names}


def foreign_errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime may raise: its own exceptions share no base class below Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("InvalidProtobuf", "Fail", "InvalidGraph", "NoSuchFile", "NotImplemented", "InvalidArgument")
    accelerators = tuple(name for name in ("EPFail", "RuntimeException") if hasattr(state, name))
    own: tuple[type[Exception], ...] = tuple(getattr(state, name) for name in (*names, *accelerators))
    return (RuntimeError, ValueError, *own)


def _session(model: bytes, setting: Setting) -> Any:
    onnxruntime = import_onnxruntime()
    if setting.accelerator != CPU:
        _require_provider(onnxruntime, setting.accelerator)
    try:
        session = _opened(onnxruntime, model, setting)
    except foreign_errors(onnxruntime) as error:
        if setting.accelerator != CPU:
            raise Unavailable(f"ONNX Runtime cannot run this model on {setting.accelerator}: {error}") from error
        raise InvalidInput(f"ONNX Runtime cannot load this model: {error}") from error
    if setting.accelerator != CPU:
        _require_use(session, setting.accelerator)
    return session


def _opened(onnxruntime: Any, model: bytes, setting: Setting) -> Any:
    providers = [_CPU_PROVIDER] if setting.accelerator == CPU else [setting.accelerator, _CPU_PROVIDER]

    def opened(*, precise: bool) -> Any:
        options = _options(onnxruntime, setting, precise=precise)
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)

    try:
        return opened(precise=True)
    except foreign_errors(onnxruntime) as error:
        if _TIED not in str(error):
            raise
    # As it is, then: golden samples tell whether its answers are right.
    return opened(precise=False)


def _options(onnxruntime: Any, setting: Setting, *, precise: bool) -> Any:
    """precise: where x86 has no VNNI, weights beyond [-64, 63] are widened. Else it adds two products in 16 bits, which
    overflow: wrong answers, sooner. ONNX Runtime 1.31 cannot widen a weight that two nodes share.
    Source: github.com/microsoft/onnxruntime/pull/12088.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A spinning pool burns the core that the rest of the device needs, at one reading every few milliseconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else activations of a model whose weights alone are integers become int8 too: 0.6 % off, without being asked.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if setting.accelerator != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _require_provider(onnxruntime: Any, provider: str) -> None:
    available = [name for name in onnxruntime.get_available_providers() if name not in _NO_ACCELERATORS]
    if provider not in available:
        raise Unavailable(
            f"this build of ONNX Runtime has no {provider!r}, only {available or 'the CPU'}; install the build for it, "
            "such as onnxruntime-gpu"
        )


def _require_use(session: Any, provider: str) -> None:
    """Raise Unavailable if the provider got nothing to do: ONNX Runtime then uses the CPU and says nothing."""
    used = {subgraph.ep_name for subgraph in session.get_provider_graph_assignment_info()}
    if provider not in session.get_providers() or provider not in used:
        raise Unavailable(
            f"{provider} takes no part of this model, which would run on the CPU after all; see that its driver and "
            "libraries are there, or use the accelerator 'cpu'"
        )


def _spec(node: Any) -> TensorSpec:
    """The tensor with _FREE for axes that the file leaves free."""
    if node.type not in _DTYPES:
        raise InvalidInput(f"tensor {node.name!r} has type {node.type}; edgeloop runs {', '.join(_DTYPES)}")
    sizes = tuple(size if isinstance(size, int) and size >= 0 else _FREE for size in node.shape)
    return TensorSpec(node.name, sizes, _DTYPES[node.type])


def _fixed(spec: TensorSpec, batch: int) -> TensorSpec:
    """An input with its free leading axis fixed to `batch`."""
    sizes = list(spec.shape)
    if sizes[:1] == [_FREE]:
        sizes[0] = batch
    elif batch > 1 and sizes[:1] != [batch]:
        raise InvalidInput(
            f"this model cannot take {batch} at a time: its input {spec.name!r} is {spec.shape}; convert it with a "
            "free first axis"
        )
    if _FREE in sizes:
        raise InvalidInput(
            f"tensor {spec.name!r} has free axes ({_FREE}) {spec.shape}; fix all but the first when converting"
        )
    return msgspec.structs.replace(spec, shape=tuple(sizes))


def _learn_outputs(
    session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """The outputs as they are after one run on zeros."""
    try:
        made = session.run([spec.name for spec in outputs], {spec.name: aligned_array(spec) for spec in inputs})
    except foreign_errors(import_onnxruntime()) as error:
        raise InvalidInput(
            f"the outputs have free axes, and on zeros the model fails: {error}; fix them when converting"
        ) from error
    return tuple(
        msgspec.structs.replace(spec, shape=np.shape(array)) for spec, array in zip(outputs, made, strict=True)
    )
