"""PyTorch's exported programs to ONNX and to LiteRT, tensors named as in the program."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.convert.litert import rename_litert
from edgeloop.toolchain.convert.onnx import input_names, output_names, rename_onnx
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.torch import flat_call, import_torch

_OPERATOR = re.compile(
    r"target=torch\.ops\.([\w.]+)|(?:No ONNX function found for <OpOverload\(op=')([\w.]+)|Lowering not found: ([\w.]+)"
)


def torch_to_onnx(model: Model) -> bytes:
    """ONNX bytes, the batch fixed to 1. Raises Refused if an operator has no twin in ONNX."""
    torch = import_torch()
    _require_onnxscript()
    with _quietly(), _named(model, "ONNX"):
        made = torch.onnx.export(_fixed(model), (), f=None, dynamo=True, verbose=False)
    data = made.model_proto.SerializeToString()
    given, got = input_names(data), output_names(data)
    return rename_onnx(
        data,
        dict(zip([*given, *got], [spec.name for spec in (*model.inputs, *model.outputs)], strict=True)),
    )


def torch_to_litert(model: Model) -> bytes:
    """LiteRT bytes, the batch fixed to 1. Raises Refused if an operator has no twin in LiteRT."""
    try:
        with _quietly():
            import litert_torch
    except ImportError as error:
        raise Unavailable(
            f"PyTorch to LiteRT needs litert-torch ({error}); install it with: pip install 'edgeloop[torch]'"
        ) from error
    with _quietly(), _named(model, "LiteRT"):
        data = bytes(litert_torch.convert(flat_call(model.native), _examples(model)).model_content())
    names = {f"args_{index}": spec.name for index, spec in enumerate(model.inputs)}
    names |= {f"output_{index}": spec.name for index, spec in enumerate(model.outputs)}
    return rename_litert(data, names)


def _fixed(model: Model) -> Any:
    """The program for one sample, from tensors in order to a tuple of them."""
    torch = import_torch()
    return torch.export.export(flat_call(model.native), _examples(model))


def _examples(model: Model) -> tuple[Any, ...]:
    torch = import_torch()
    return tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in model.inputs)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters report each step, torch its missing extras; what counts is checked on the result."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    quiet = io.StringIO()
    with (
        warnings.catch_warnings(),
        without_native_chatter(),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _named(model: Model, target: str) -> Iterator[None]:
    """Foreign errors as Refused, with the operator that they are about."""
    try:
        yield
    # Both exporters raise RuntimeError and what JAX derives from TypeError and ValueError.
    except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
        found = _OPERATOR.search(str(error))
        operator = next((one for one in found.groups() if one), "") if found else ""
        what = f"it has no twin of the operator {operator!r}" if operator else str(error).strip().splitlines()[0]
        raise Refused(
            f"{model.name} cannot become {target}: {what}; write that part of the module with other operators, or "
            f"convert to {'litert' if target == 'ONNX' else 'onnx'}"
        ) from error


def _require_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401 - torch.onnx asks for it only half-way
    except ImportError as error:
        raise Unavailable(
            f"PyTorch to ONNX needs onnxscript ({error}); install it with: pip install 'edgeloop[torch]'"
        ) from error
