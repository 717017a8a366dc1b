"""What a .tflite file declares, for both interfaces of LiteRT."""

from typing import Any

import msgspec
import numpy as np

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import require_batch
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quiet import said, without_native_chatter

_KIND = b"TFL3"
FAILURES = (ValueError, RuntimeError)
"""What LiteRT raises."""


class Declared(msgspec.Struct, frozen=True):
    """inputs, outputs: by the names of the default signature where there is one; *_indices: their tensors' numbers.

    is_settled: every tensor has its shape and its place in memory before the model runs. Where it is False, outputs'
    shapes may be wrong, and memory may move while the model runs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_indices: tuple[int, ...]
    output_indices: tuple[int, ...]
    is_settled: bool


def import_litert() -> Any:
    """LiteRT's interpreter module. Raises Unavailable if it is not installed."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise Unavailable(
            f"LiteRT is not installed here ({error}); install it with: pip install ai-edge-litert"
        ) from error
    return interpreter


def declare_litert(model: bytes, *, batch: int = 1) -> Declared:
    """Read a model's tensors, with `batch` as the inputs' leading axis where it is over 1; 0.5 ms.

    Raises Unavailable if LiteRT is not installed, InvalidInput if this is no model or cannot take that batch.
    """
    litert = import_litert()
    if model[4:8] != _KIND:
        raise InvalidInput(f"this is no LiteRT model: bytes 4 to 8 are {model[4:8]!r}, expected {_KIND!r}")
    try:
        with without_native_chatter():
            # Without delegates every tensor is the interpreter's own, and nothing is repacked: it is quick, and says
            # which tensors get no memory before the model runs.
            plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            scout = litert.Interpreter(model_content=model, experimental_op_resolver_type=plain)
    except FAILURES as error:
        raise InvalidInput(f"LiteRT cannot load this model: {said(error)}") from error
    try:
        declared = _declared(scout, batch)
    except InvalidInput:
        raise
    except FAILURES as error:  # a name that is not UTF-8 is a ValueError, too
        raise InvalidInput(f"LiteRT cannot read this model's tensors: {said(error)}; convert it again") from error
    if declared.is_settled:
        require_batch(declared.outputs, batch)
    return declared


def resize_inputs(interpreter: Any, indices: tuple[int, ...], batch: int) -> None:
    """Make `batch` the leading axis of these inputs. Raises InvalidInput if one has no axes."""
    shapes = {detail["index"]: detail["shape"] for detail in interpreter.get_input_details()}
    for index in indices:
        if len(shapes[index]) == 0:
            raise InvalidInput(f"this model cannot take {batch} at a time: its input {index} is a single number")
        interpreter.resize_tensor_input(index, [batch, *shapes[index][1:]], strict=False)


def has_memory(interpreter: Any, index: int) -> bool:
    """Whether a tensor lies somewhere already."""
    try:
        interpreter.tensor(index)()
    except ValueError:
        return False
    return True


def _declared(scout: Any, batch: int) -> Declared:
    inputs, outputs = _names(scout)
    is_settled = _allocate(scout, inputs, batch)
    details = {d["index"]: d for d in (*scout.get_input_details(), *scout.get_output_details())}
    return Declared(
        inputs=tuple(_spec(name, details[index]) for name, index in inputs.items()),
        outputs=tuple(_spec(name, details[index]) for name, index in outputs.items()),
        input_indices=tuple(inputs.values()),
        output_indices=tuple(outputs.values()),
        is_settled=is_settled,
    )


def _allocate(scout: Any, inputs: dict[str, int], batch: int) -> bool:
    """Lay the model out. Whether each tensor has its place then."""
    try:
        if batch > 1:
            resize_inputs(scout, tuple(inputs.values()), batch)
        scout.allocate_tensors()
    except InvalidInput:
        raise
    except FAILURES as error:
        if batch > 1:
            raise InvalidInput(
                f"this model cannot take {batch} at a time: {said(error)}; convert it with a free first axis"
            ) from error
        # An operator that only a delegate knows (Edge TPU's): what runs the model finds out.
        return False
    return all(has_memory(scout, detail["index"]) for detail in scout.get_tensor_details())


def _names(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tensor index by name, from the one signature; else from the tensors' own names."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        inputs = {name: int(detail["index"]) for name, detail in runner.get_input_details().items()}
        outputs = {name: int(detail["index"]) for name, detail in runner.get_output_details().items()}
        return inputs, outputs
    return (
        {str(detail["name"]): int(detail["index"]) for detail in interpreter.get_input_details()},
        {str(detail["name"]): int(detail["index"]) for detail in interpreter.get_output_details()},
    )


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = tuple(int(size) for size in detail["shape"])
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiub":
        raise InvalidInput(f"tensor {name!r} holds {dtype.name}; edgeloop runs numbers and booleans")
    return TensorSpec(name, shape, dtype.name, float(scale), int(zero_point))
