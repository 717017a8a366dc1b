"""LiteRT's interpreter behind the engine port.

Where a model's tensors stay in place (nearly always), buffers and answers are the interpreter's own memory. Where they
do not, inputs are copied in and outputs out, since a view of memory that moves is a view of somebody else's.
"""

import ctypes
import sys
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.runtime.engines.feeds import BoundEngine, require_batch
from edgeloop.runtime.engines.litert_file import (
    FAILURES,
    Declared,
    declare_litert,
    has_memory,
    import_litert,
    resize_inputs,
)
from edgeloop.runtime.engines.memory import address_of, aligned_array, view_memory
from edgeloop.runtime.engines.port import CPU, Setting, TensorSpec
from edgeloop.runtime.engines.quiet import said, without_native_chatter
from edgeloop.runtime.engines.settings import DEFAULT

DELEGATES = {
    "edgetpu": {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}.get(sys.platform, "libedgetpu.so.1"),
    "vx": "libvx_delegate.so",
    "teflon": "libteflon.so",
}
"""Delegates' libraries by accelerator: Coral's Edge TPU, NXP's and VeriSilicon's NPU, and Mesa's for open drivers."""

_CREATE = "tflite_plugin_create_delegate"
_DESTROY = "tflite_plugin_destroy_delegate"


class LiteRtEngine(BoundEngine):
    """A .tflite model on LiteRT's interpreter. Tensor names are those of the default signature where there is one.

    setting.accelerator: a name in DELEGATES, or the path of another delegate's library.
    """

    _failures = FAILURES

    def __init__(self, model: bytes, *, setting: Setting = DEFAULT, batch: int = 1) -> None:
        declared = declare_litert(model, batch=batch)
        interpreter = _interpreter(model, declared, setting, batch)
        tensors = (*declared.input_indices, *declared.output_indices)
        self.inputs = declared.inputs
        self.outputs = declared.outputs
        if declared.is_settled and all(has_memory(interpreter, index) for index in tensors):
            # interpreter.tensor() gives views too, but the interpreter refuses to run while one of them lives, since
            # it may move its memory then. A settled model's does not move: the planner lays it out anew only after a
            # resize, or behind a tensor that had no place.
            self.buffers = _views(interpreter, declared.inputs, declared.input_indices)
            self._answers = _views(interpreter, declared.outputs, declared.output_indices)
            self._execute = interpreter.invoke
        else:
            self.buffers = tuple(aligned_array(spec) for spec in declared.inputs)
            self.outputs = _learn_outputs(interpreter, declared)
            require_batch(self.outputs, batch)
            self._answers = tuple(aligned_array(spec) for spec in self.outputs)
            self._execute = partial(_execute_by_copy, interpreter, declared, self.buffers, self._answers)


def load_delegate(accelerator: str) -> Any:
    """A delegate by its name in DELEGATES or its library's path.

    Its library runs in this process: `trial.try_setting` first finds out whether that is survived.
    Raises NotFound if there is no such library, Unavailable if it cannot be used, as when its hardware is not there.
    """
    library = DELEGATES.get(accelerator, accelerator)
    try:
        loaded = ctypes.PyDLL(library)
    except OSError as error:
        kind = NotFound if library in str(error) and "no such file" in str(error).lower() else Unavailable
        raise kind(f"the delegate {accelerator!r} cannot be loaded: {error}") from error
    # LiteRT itself finds out too late, in a destructor that cannot raise.
    if not hasattr(loaded, _CREATE) or not hasattr(loaded, _DESTROY):
        raise Unavailable(f"{library} is no LiteRT delegate: it lacks {_CREATE} or {_DESTROY}")
    try:
        with without_native_chatter():
            return import_litert().load_delegate(library)
    except ValueError as error:
        raise Unavailable(
            f"the delegate {accelerator!r} cannot start: {said(error)}; is its hardware there?"
        ) from error


def _interpreter(model: bytes, declared: Declared, setting: Setting, batch: int) -> Any:
    litert = import_litert()
    settings: dict[str, Any] = {"num_threads": setting.threads}
    if setting.accelerator != CPU:
        # Without LiteRT's own CPU delegate, so that whatever is delegated is delegated to this one.
        settings["experimental_op_resolver_type"] = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        settings["experimental_delegates"] = [load_delegate(setting.accelerator)]
    try:
        with without_native_chatter():
            interpreter = litert.Interpreter(model_content=model, **settings)
            if batch > 1:
                resize_inputs(interpreter, declared.input_indices, batch)
            interpreter.allocate_tensors()
    except FAILURES as error:
        raise InvalidInput(f"LiteRT cannot load this model: {said(error)}") from error
    if setting.accelerator != CPU and not _is_delegated(interpreter):
        raise Unavailable(
            f"{setting.accelerator!r} takes no part of this model, which would run on the CPU after all; compile the "
            "model for it, or use the accelerator 'cpu'"
        )
    return interpreter


def _is_delegated(interpreter: Any) -> bool:
    return any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())


def _views(interpreter: Any, specs: tuple[TensorSpec, ...], indices: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
    return tuple(
        view_memory(address_of(interpreter.tensor(index)()), spec, owner=interpreter)
        for spec, index in zip(specs, indices, strict=True)
    )


def _learn_outputs(interpreter: Any, declared: Declared) -> tuple[TensorSpec, ...]:
    """The outputs as they are after one run on zeros."""
    try:
        for index, spec in zip(declared.input_indices, declared.inputs, strict=True):
            interpreter.set_tensor(index, aligned_array(spec))
        interpreter.invoke()
        shapes = [interpreter.tensor(index)().shape for index in declared.output_indices]
    except FAILURES as error:
        raise InvalidInput(
            f"the outputs' shapes cannot be known before the model runs, and on zeros it fails: {said(error)}; "
            "fix the shapes when converting"
        ) from error
    return tuple(
        msgspec.structs.replace(spec, shape=shape) for spec, shape in zip(declared.outputs, shapes, strict=True)
    )


def _execute_by_copy(
    interpreter: Any, declared: Declared, buffers: tuple[NDArray[Any], ...], answers: tuple[NDArray[Any], ...]
) -> None:
    for index, buffer in zip(declared.input_indices, buffers, strict=True):
        interpreter.set_tensor(index, buffer)
    interpreter.invoke()
    for index, spec, answer in zip(declared.output_indices, declared.outputs, answers, strict=True):
        made = interpreter.tensor(index)()
        if made.shape != answer.shape:
            raise Corrupt(
                f"output {spec.name!r} was {answer.shape} when the model was loaded and is {made.shape} now; edgeloop "
                "runs models whose outputs keep their shape: give it a fixed one when converting"
            )
        np.copyto(answer, made)
