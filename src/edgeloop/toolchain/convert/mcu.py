"""LiteRT to a C array for a microcontroller, run under TensorFlow Lite Micro's own interpreter.

The header is plain text and the same for the same model. The arena, the memory that tensors live in while the model
runs, is what the interpreter says it took, and is tried out at that size.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.runtime.engine import TensorSpec
from edgeloop.runtime.predictor import dequantize_tensor
from edgeloop.toolchain.convert.litert import graph_order, litert_operators
from edgeloop.toolchain.source.engine import stored
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run

_FIRST_ARENA_BYTES, _LARGEST_ARENA_BYTES = 1 << 20, 1 << 28
_ALIGNMENT = 16
_BYTES_A_LINE = 12

_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")
_NO_MEMORY = re.compile(r"Failed to (resize buffer|allocate)")
_OPERATOR = re.compile(
    r"Didn't find op for builtin opcode '(\w+)'|Node (\w+) \(number|Failed to get registration from op code (\w+)"
)


def to_mcu(model: Model, *, name: str) -> tuple[Model, int]:
    """A LiteRT model as a C header, and the bytes of arena that it needs on this 64-bit machine; a 32-bit
    controller needs somewhat less, since a third of it is bookkeeping with pointers.

    Raises Refused, naming the operator, if the interpreter for microcontrollers cannot run it; Unavailable if the
    package tflite-micro is missing.
    """
    arena_bytes = _arena(model)
    header = c_header(model, arena_bytes)
    made = replace(
        model,
        format=Format.MCU,
        native=model.data,
        data=header.encode(),
        run=_runner(model, arena_bytes),
        name="model.h",
    )
    return made, arena_bytes


def c_header(model: Model, arena_bytes: int) -> str:
    """The file as C and C++ take it: an aligned array, its length, and the arena to provide."""
    lines = [
        f"// {model.size_bytes:,} bytes of LiteRT, sha256 {model.sha256}.",
        *(f"// input  {_in_words(spec)}" for spec in model.inputs),
        *(f"// output {_in_words(spec)}" for spec in model.outputs),
        f"// operators: {', '.join(litert_operators(model.data))}",
        "#pragma once",
        "#ifndef __cplusplus",
        "#include <stdalign.h>",
        "#endif",
        f"#define MODEL_ARENA_BYTES {arena_bytes}  // measured on a 64-bit machine",
        f"#define MODEL_BYTES {model.size_bytes}",
        f"alignas({_ALIGNMENT}) static const unsigned char model[MODEL_BYTES] = {{",
    ]
    rows = (model.data[start : start + _BYTES_A_LINE] for start in range(0, model.size_bytes, _BYTES_A_LINE))
    return "\n".join((*lines, *("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows), "};", ""))


def _in_words(spec: TensorSpec) -> str:
    shape = "x".join(str(size) for size in spec.shape)
    real = f", real = (stored - {spec.zero_point}) * {spec.scale!r}" if spec.scale else ""
    return f"{spec.name}: {spec.dtype} {shape}{real}"


def _arena(model: Model) -> int:
    """What the interpreter took, tried out: the first size from there on that it starts with."""
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in model.inputs}
    size = _FIRST_ARENA_BYTES + 10 * model.size_bytes
    while True:
        with _native_stderr() as said:
            try:
                interpreter = _interpreter(model.data, size)
                _order(model)(interpreter, feeds)
                interpreter.print_allocations()
                break
            except (RuntimeError, ValueError) as error:
                failure = error
        if not _NO_MEMORY.search(said()) or size >= _LARGEST_ARENA_BYTES:
            raise _refusal(model, said(), failure) from failure
        size *= 4
    found = _TOTAL.search(said())
    assert found is not None, said()
    return _smallest_that_starts(model, -(-int(found[1]) // _ALIGNMENT) * _ALIGNMENT)


def _smallest_that_starts(model: Model, size: int) -> int:
    for extra in range(0, 4096, _ALIGNMENT):
        with _native_stderr():
            try:
                _interpreter(model.data, size + extra)
            except RuntimeError:
                continue
        return size + extra
    raise Refused(f"{model.name} does not start in the {size:,} bytes of arena that it reported; this is a bug of ours")


def _refusal(model: Model, said: str, error: Exception) -> Refused:
    found = _OPERATOR.search(said)
    operator = next(one for one in found.groups() if one) if found else ""
    reason = said.strip().splitlines()[0] if said.strip() else str(error)
    what = f"it does not run the operator {operator} of this model" if operator else "it cannot run this model"
    return Refused(
        f"{model.name} cannot go onto a microcontroller: {what} (TensorFlow Lite Micro says: {reason}). Quantize it to "
        "int8 with integer activations, or replace that operator"
    )


def _interpreter(data: bytes, arena_bytes: int) -> Any:
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise Unavailable(
            f"microcontroller models are tried out under tflite-micro ({error}); install it with: "
            "pip install 'edgeloop[toolchain]'"
        ) from error
    return runtime.Interpreter.from_bytes(data, arena_size=arena_bytes)


def _runner(model: Model, arena_bytes: int) -> Run:
    data, order = model.data, _order(model)

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        made: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in model.outputs}
        with _native_stderr():
            interpreter = _interpreter(data, arena_bytes)
            for index in range(len(next(iter(feeds.values())))):
                one = {spec.name: stored(feeds[spec.name][index : index + 1], spec) for spec in model.inputs}
                answers = order(interpreter, one)
                for spec in model.outputs:
                    made[spec.name].append(dequantize_tensor(answers[spec.name], spec))
        return {name: np.concatenate(parts) for name, parts in made.items()}

    return run


def _order(model: Model) -> Callable[[Any, Feeds], dict[str, NDArray[Any]]]:
    """Ask by name: the interpreter counts tensors in the graph's order, the signature may name them in another."""
    inputs, outputs = graph_order(model.data, model.inputs, model.outputs)

    def ask(interpreter: Any, feeds: Feeds) -> dict[str, NDArray[Any]]:
        for index, name in enumerate(inputs):
            interpreter.set_input(feeds[name], index)
        interpreter.invoke()
        return {name: np.asarray(interpreter.get_output(index)) for index, name in enumerate(outputs)}

    return ask


@contextmanager
def _native_stderr() -> Iterator[Callable[[], str]]:
    """What native code says on standard error meanwhile, as text, instead of on the screen: its reasons are there."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        heard: list[str] = []

        def said() -> str:
            if heard:
                return heard[0]
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            heard.append(said())
