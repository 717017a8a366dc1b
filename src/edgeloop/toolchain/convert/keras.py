"""Keras to float LiteRT and ONNX, through Keras' own exporters."""

import tempfile
import warnings
from pathlib import Path

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.quiet import without_native_chatter
from edgeloop.toolchain.source.model import Format, Model

_FORMS = {Format.LITERT: ("litert", "tflite"), Format.ONNX: ("onnx", "onnx")}
"""What Keras calls each format, and the file's ending."""


def export_keras(model: Model, form: Format) -> bytes:
    """A Keras model as float LiteRT or ONNX bytes, its tensors named as in the source.

    Raises InvalidInput on another source or target.
    """
    if model.format is not Format.KERAS or form not in _FORMS:
        raise InvalidInput(
            f"{model.name} is a {model.format} model, wanted as {form}; it takes keras to litert or onnx"
        )
    called, suffix = _FORMS[form]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), without_native_chatter():
        # Exporters warn about their own insides; what counts is checked on the result.
        warnings.simplefilter("ignore")
        path = Path(folder) / f"model.{suffix}"
        model.native.export(str(path), format=called, verbose=False)
        return path.read_bytes()
