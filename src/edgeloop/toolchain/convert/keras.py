"""Keras to float LiteRT and ONNX, through Keras' own exporters."""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.model import Format, Model

_FORMS = {Format.LITERT: ("litert", "tflite"), Format.ONNX: ("onnx", "onnx")}
"""What Keras calls each format, and the file's ending."""

_OPERATOR = re.compile(r"'tf\.(\w+)' op is neither|Custom ops: (\w+)|No OpKernel was registered to support Op '(\w+)'")


def export_keras(model: Model, form: Format) -> bytes:
    """A Keras model as float LiteRT or ONNX bytes, its tensors named as in the source; LiteRT for one sample at a
    time, which leaves no arithmetic on shapes in the graph.

    Raises InvalidInput on another source or target, Refused if a layer keeps state or an operator has no twin.
    """
    if model.format is not Format.KERAS or form not in _FORMS:
        raise InvalidInput(
            f"{model.name} is a {model.format} model, wanted as {form}; this takes keras to litert or onnx"
        )
    _require_stateless(model)
    called, suffix = _FORMS[form]
    options = {"input_signature": _one_sample(model)} if form is Format.LITERT else {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quietly():
        # Exporters warn about their own insides; what counts is checked on the result.
        warnings.simplefilter("ignore")
        path = Path(folder) / f"model.{suffix}"
        if form is Format.ONNX:
            count_names_anew()
        try:
            model.native.export(str(path), format=called, verbose=False, **options)
        except converter_error() as error:
            raise Refused(
                f"{model.name} cannot become {form}: it has no operator {operator_in(error)!r}; replace the layer "
                "that uses it, or convert to onnx"
            ) from error
        return path.read_bytes()


def operator_in(error: Exception) -> str:
    """The operator that TensorFlow's converter complains about, or its first line where it names none."""
    found = _OPERATOR.search(str(error))
    return next(one for one in found.groups() if one) if found else str(error).strip().splitlines()[0]


def _require_stateless(model: Model) -> None:
    for layer in _layers(model.native):
        if getattr(layer, "stateful", False):
            raise Refused(
                f"layer {layer.name!r} of {model.name} keeps state from one call to the next, which no engine here "
                "does; build it with stateful=False, and give it the whole window at once"
            )


def _layers(layer: Any) -> Iterator[Any]:
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _layers(inner)


def _one_sample(model: Model) -> list[Any]:
    keras = import_keras()
    specs = [keras.InputSpec(dtype=spec.dtype, shape=spec.shape, name=spec.name) for spec in model.inputs]
    # One argument: the tensor, or the list of them.
    return specs if len(specs) == 1 else [specs]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporters in silence: tf2onnx logs unknown operators as errors, and here they are refused by name."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    quiet = io.StringIO()
    try:
        with without_native_chatter(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            yield
    finally:
        logger.setLevel(level)


def count_names_anew() -> None:
    """tf2onnx numbers its names through the life of a process; the same model is to give the same file each time."""
    # Importing the converter takes a name, too.
    from tf2onnx import tfonnx, utils  # noqa: F401

    utils.INTERNAL_NAME = 1


def converter_error() -> type[Exception]:
    """What TensorFlow Lite's converter raises."""
    from tensorflow.lite.python.convert_phase import ConverterError

    kind: type[Exception] = ConverterError
    return kind
