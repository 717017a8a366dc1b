"""LiteRT to a C array for a microcontroller, run under TensorFlow Lite Micro's own interpreter.

The header is plain text and the same for the same model. The arena, the memory that tensors live in while the model
runs, is what the interpreter says it took, and is tried out at that size.
"""

import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.runtime.child import command_of
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor
from edgeloop.toolchain.convert import mcu_trial
from edgeloop.toolchain.convert.litert import graph_order, litert_operators
from edgeloop.toolchain.source.engine import stored
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run

_FIRST_ARENA_BYTES, _LARGEST_ARENA_BYTES = 1 << 20, 1 << 28
_ALIGNMENT = 16
_BYTES_A_LINE = 12
_TIMEOUT_S = 300

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
        name=name,
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
    """What the interpreter took, and starts with."""
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in model.inputs}
    size = _FIRST_ARENA_BYTES + 10 * model.size_bytes
    while True:
        said, answers = try_in_arena(model, zeros, size)
        if answers is not None:
            break
        if not _NO_MEMORY.search(said) or size >= _LARGEST_ARENA_BYTES:
            raise _refusal(model, said)
        size *= 4
    found = _TOTAL.search(said)
    assert found is not None, said
    least = -(-int(found[1]) // _ALIGNMENT) * _ALIGNMENT
    for extra in (0, 64, 256, 1024, 4096):
        if try_in_arena(model, zeros, least + extra)[1] is not None:
            return least + extra
    raise Refused(f"{model.name} does not start in the {least:,} bytes of arena that it said it used, nor in 4 KB more")


def _refusal(model: Model, said: str) -> Refused:
    found = _OPERATOR.search(said)
    operator = next(one for one in found.groups() if one) if found else ""
    what = f"it does not run the operator {operator} of this model" if operator else "it cannot run this model"
    reason = next((line for line in said.splitlines() if line.strip()), "nothing")
    return Refused(
        f"{model.name} cannot go onto a microcontroller: {what} (TensorFlow Lite Micro says: {reason.strip()}). "
        "Quantize it to int8 with integer activations, or replace that operator"
    )


def try_in_arena(model: Model, feeds: Feeds, arena_bytes: int) -> tuple[str, dict[str, NDArray[Any]] | None]:
    """What the interpreter said, and its outputs (N, ...) by name; None if it failed or fell."""
    inputs, outputs = graph_order(model.data, model.inputs, model.outputs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(model.data)
        given: dict[str, Any] = {f"{place}": feeds[key][:, np.newaxis] for place, key in enumerate(inputs)}
        np.savez(folder / "feeds.npz", **given, outputs=np.array(len(outputs)))
        paths = [str(folder / "model.tflite"), str(arena_bytes), str(folder / "feeds.npz"), str(folder / "made.npz")]
        done = subprocess.run(  # noqa: S603 - our own module on our own files
            [*command_of(mcu_trial.__name__), *paths], capture_output=True, timeout=_TIMEOUT_S, check=False
        )
        said = done.stderr.decode(errors="replace")
        if done.returncode == mcu_trial.NOT_INSTALLED:
            raise Unavailable(
                f"microcontroller models are tried out under tflite-micro ({said.strip()}); install it with: "
                "pip install 'edgeloop[toolchain]'"
            )
        if done.returncode != 0:
            return said, None
        with np.load(folder / "made.npz") as made:
            return said, {key: made[f"{place}"][:, 0] for place, key in enumerate(outputs)}


def _runner(model: Model, arena_bytes: int) -> Run:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        given = {spec.name: stored(feeds[spec.name], spec) for spec in model.inputs}
        said, answers = try_in_arena(model, given, arena_bytes)
        if answers is None:
            raise _refusal(model, said)
        return {spec.name: dequantize_tensor(answers[spec.name], spec) for spec in model.outputs}

    return run
