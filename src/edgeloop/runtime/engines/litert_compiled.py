"""LiteRT's compiled-model interface behind the engine port.

Measured with ai-edge-litert 2.3 on x86-64: as quick as the interpreter (within 3 % on five models). It holds Python's
global lock while it runs, so two such engines on two threads take turns; the interpreter's do not. It is the way to
LiteRT's GPU accelerator.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.feeds import BoundEngine
from edgeloop.runtime.engines.litert_file import FAILURES, Declared, declare_litert
from edgeloop.runtime.engines.memory import aligned_array, size_bytes, view_memory
from edgeloop.runtime.engines.port import CPU, Setting, TensorSpec
from edgeloop.runtime.engines.probe import probe_model
from edgeloop.runtime.engines.quiet import said, without_native_chatter, without_native_farewell
from edgeloop.runtime.engines.settings import DEFAULT

_HOST_MEMORY = 1  # litert_tensor_buffer_types.h: kLiteRtTensorBufferTypeHostMemory


class LiteRtCompiledEngine(BoundEngine):
    """A .tflite model on LiteRT's compiled model. Tensor names are the interpreter's.

    setting.accelerator: CPU, or GPU of `settings`. in_place: False copies inputs in and outputs out, as is done anyway
    where they lie in an accelerator's memory.
    """

    _failures = FAILURES

    def __init__(self, model: bytes, *, setting: Setting = DEFAULT, batch: int = 1, in_place: bool = True) -> None:
        declared = declare_litert(model, batch=batch)
        if not declared.is_settled:
            # It would write an output of 4,420 rows into memory for the one row that the file declares.
            raise InvalidInput(
                "LiteRT's compiled model cannot run this: some tensors get their shape only while it runs; use the "
                "interface 'interpreter', or fix the shapes when converting"
            )
        compiled = _compile(model, declared, setting, batch)
        taken, given = _native_buffers(compiled, declared)
        self.inputs = declared.inputs
        self.outputs = declared.outputs
        self._model = model  # the native side reads constants from these bytes
        run = partial(compiled.run_by_index, 0, _ordered(taken, compiled, 0), _ordered(given, compiled, 1))
        buffers = _views(taken, declared.input_indices, declared.inputs) if in_place else None
        answers = _views(given, declared.output_indices, declared.outputs) if in_place else None
        if buffers is not None and answers is not None:
            self.buffers, self._answers, self._execute = buffers, answers, run
        else:
            self.buffers = tuple(aligned_array(spec) for spec in self.inputs)
            self._answers = tuple(aligned_array(spec) for spec in self.outputs)
            writes = [partial(taken[i].write, b) for i, b in zip(declared.input_indices, self.buffers, strict=True)]
            reads = [(given[i], a) for i, a in zip(declared.output_indices, self._answers, strict=True)]
            self._execute = partial(_execute_by_copy, writes, run, reads)

    def close(self) -> None:
        """See BoundEngine.close."""
        super().close()
        self._model = b""


def _import_compiled() -> Any:
    try:
        from ai_edge_litert import compiled_model
    except ImportError as error:
        raise Unavailable(
            f"LiteRT's compiled model is not installed here ({error}); get it with: pip install 'ai-edge-litert>=2.3'"
        ) from error
    return compiled_model


@cache
def _environment() -> Any:
    """LiteRT's environment, one a process: each would search for accelerators anew, for 0.2 ms.

    It is given a folder without plugins to look for them in. Else it loads the compilers of all NPU vendors that the
    package brings, most of which fail noisily on a machine without that NPU.
    """
    litert = _import_compiled()
    nothing = str(Path(__file__).parent)
    environment = litert.Environment.create(
        options=litert.EnvironmentOptions(compiler_plugin_path=nothing, dispatch_library_path=nothing)
    )
    # The first run in a process makes a second environment behind the scenes, which greets likewise; both take leave.
    first = litert.CompiledModel.from_buffer(
        probe_model(EngineName.LITERT), environment=environment, options=_options(DEFAULT)
    )
    first.run_by_index(0, first.create_input_buffers(0), first.create_output_buffers(0))
    without_native_farewell()
    return environment


def _compile(model: bytes, declared: Declared, setting: Setting, batch: int) -> Any:
    litert = _import_compiled()
    try:
        with without_native_chatter():
            compiled = litert.CompiledModel.from_buffer(model, environment=_environment(), options=_options(setting))
            if batch > 1:
                for index, spec in enumerate(_ordered(_by_index(declared), compiled, 0)):
                    compiled.resize_input_tensor(index, spec.shape, 0, strict=False)
    except FAILURES as error:
        if setting.accelerator != CPU:
            raise Unavailable(f"LiteRT cannot run this model on {setting.accelerator!r}: {said(error)}") from error
        raise InvalidInput(f"LiteRT cannot load this model: {said(error)}") from error
    if setting.accelerator != CPU and not compiled.is_fully_accelerated():
        raise Unavailable(f"parts of this model would run on the CPU, not on {setting.accelerator!r}")
    return compiled


def _options(setting: Setting) -> Any:
    litert = _import_compiled()
    if setting.accelerator == CPU:
        cpu = litert.CpuOptions(num_threads=setting.threads)
        return litert.Options(hardware_accelerators=litert.HardwareAccelerator.CPU, cpu_options=cpu)
    # The GPU alone, so that what it cannot run is an error and not slow. It would compute in 16 bits unless told.
    gpu = litert.GpuOptions(enforce_f32=True)
    return litert.Options(hardware_accelerators=litert.HardwareAccelerator.GPU, gpu_options=gpu)


def _by_index(declared: Declared) -> dict[int, TensorSpec]:
    return dict(zip(declared.input_indices, declared.inputs, strict=True))


def _tensors(compiled: Any, side: int) -> list[int]:
    """The tensors' numbers in the order in which the first signature runs on them. side: 0 in, 1 out."""
    key = compiled.get_signature_by_index(0)["key"]
    names = compiled.get_signature_list()[key]["outputs" if side else "inputs"]
    details = compiled.get_output_tensor_details(key) if side else compiled.get_input_tensor_details(key)
    return [int(details[name]["index"]) for name in names]


def _ordered(by_index: dict[int, Any], compiled: Any, side: int) -> list[Any]:
    return [by_index[index] for index in _tensors(compiled, side)]


def _native_buffers(compiled: Any, declared: Declared) -> tuple[dict[int, Any], dict[int, Any]]:
    """LiteRT's own tensor buffers by tensor."""
    try:
        sides = _tensors(compiled, 0), _tensors(compiled, 1)
        taken, given = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
    except FAILURES as error:
        raise InvalidInput(
            f"LiteRT's compiled model cannot make room for this model's tensors: {said(error)}; convert it again"
        ) from error
    if set(sides[0]) != set(declared.input_indices) or set(sides[1]) != set(declared.output_indices):
        raise InvalidInput("this model has several signatures; use the interface 'interpreter', or keep one of them")
    return dict(zip(sides[0], taken, strict=True)), dict(zip(sides[1], given, strict=True))


def _views(
    buffers: dict[int, Any], indices: tuple[int, ...], specs: tuple[TensorSpec, ...]
) -> tuple[NDArray[Any], ...] | None:
    """The buffers' memory as arrays; None where it is not this process's to read.

    TensorBuffer.create_from_host_memory would take our arrays, but as flat ones, which LiteRT 2.3 then refuses for
    every tensor of more than one axis ("cannot auto-resize").
    """
    views = []
    for index, spec in zip(indices, specs, strict=True):
        address = _host_address(buffers[index].capsule, size_bytes(spec))
        if address is None:
            return None
        views.append(view_memory(address, spec, owner=buffers[index]))
    return tuple(views)


def _host_address(capsule: object, size: int) -> int | None:
    """Where a tensor buffer of this size lies in this process's memory, as LiteRT's C interface says."""
    native = _native()
    if native is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    try:
        buffer = ctypes.c_void_p(pointer(capsule, b"LiteRtTensorBuffer"))
    except ValueError:  # it is a capsule of something else
        return None
    kind, held, address = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_void_p()
    answers = (
        native.LiteRtGetTensorBufferType(buffer, ctypes.byref(kind)),
        native.LiteRtGetTensorBufferPackedSize(buffer, ctypes.byref(held)),
        native.LiteRtGetTensorBufferHostMemory(buffer, ctypes.byref(address)),
    )
    if any(answers) or kind.value != _HOST_MEMORY or held.value != size:
        return None
    return address.value


@cache
def _native() -> ctypes.CDLL | None:
    """LiteRT's library as this process has it already; None where it cannot be reached."""
    folder = Path(_import_compiled().__file__).parent
    already = getattr(os, "RTLD_NOLOAD", None)
    if already is None:
        return None
    for name in ("libLiteRt.so", "libLiteRt.dylib"):
        try:
            return ctypes.CDLL(str(folder / name), mode=already | os.RTLD_NOW)
        except OSError:
            continue
    return None


def _execute_by_copy(
    writes: Sequence[Callable[[], None]], run: Callable[[], None], reads: list[tuple[Any, NDArray[Any]]]
) -> None:
    for write in writes:
        write()
    run()
    for buffer, answer in reads:
        np.copyto(answer, buffer.read(answer.size, answer.dtype).reshape(answer.shape))
