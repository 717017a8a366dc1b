"""Keras models as Models: .keras archives and legacy .h5 files, loaded as data."""

import re
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Feeds, Format, Model, Run
from edgeloop.toolchain.unpacking import require_unpackable

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")

_BATCH = 256
_UNKNOWN = re.compile(r"Could not locate (?:class|function) '([\w>]+)'|Unknown \w+(?: \w+)?: '([\w>]+)'")


def load_keras(path: Path) -> Model:
    """A .keras or .h5 model. Raises NotFound, InvalidInput on another format, Refused where its parts are too
    large or need code, or Corrupt."""
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    if path.suffix not in KERAS_SUFFIXES:
        raise InvalidInput(f"{path.name} has the format {path.suffix or 'nothing'!r}; expected .keras or .h5")
    keras = import_keras()
    try:
        if path.suffix == ".keras":
            _require_sound_archive(path)
        # safe_mode refuses pickled lambdas: a model file is data.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        _refuse_own_code(str(error), path.name, error)
        raise Corrupt(f"{path} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from error
    return wrap_keras(model, name=path.name, data=path.read_bytes())


def wrap_keras(model: Any, *, name: str, data: bytes | None = None) -> Model:
    """A keras.Model as a Model.

    One output is called "logits" whatever its layer is; a layer called "features" becomes an output of that name
    beside it. data: the file's bytes, saved anew where None. Raises InvalidInput if an axis but the first is free.
    """
    keras = import_keras()
    stored = keras_bytes(model) if data is None else data
    # A Sequential that was never called has no `output`, and never a structured one.
    structure = None if isinstance(model, keras.Sequential) else model.output
    outputs = _named_outputs(model, structure)
    inputs = tuple(_spec(tensor.name, tensor, name) for tensor in model.inputs)
    # A name of its own: one by Keras' counters would stand in exported files, which are to be the same each time.
    named = keras.Model(model.inputs[0] if len(model.inputs) == 1 else model.inputs, outputs, name="model")
    # An exporter needs a model that was called once.
    zeros = [np.zeros(spec.shape, spec.dtype) for spec in inputs]
    named(zeros[0] if len(zeros) == 1 else zeros)
    return Model(
        name=name,
        format=Format.KERAS,
        native=named,
        inputs=inputs,
        outputs=tuple(_spec(key, tensor, name) for key, tensor in outputs.items()),
        run=_runner(named, [spec.name for spec in inputs]),
        data=stored,
    )


def keras_bytes(model: Any) -> bytes:
    """The model as a .keras file's bytes."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Keras hands its variables to NumPy in a way that NumPy 2 warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def plain_keras(model: Model) -> Any:
    """The keras.Model inside with only its scores as output: what training and surgery work on."""
    keras = import_keras()
    outputs = model.native.output
    return keras.Model(
        model.native.input, outputs[LOGITS] if isinstance(outputs, dict) and LOGITS in outputs else outputs
    )


def _require_sound_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        require_unpackable(archive, path.name)
        # Keras reads only the parts that it needs; damage in the others must not pass either.
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"its part {damaged} is damaged")


def _refuse_own_code(message: str, name: str, error: Exception) -> None:
    """Raise Refused if the model needs Python code that its file does not, or must not, bring along."""
    if "`Lambda` layer" in message:
        raise Refused(
            f"{name} has a Lambda layer, which is Python code in the file; write it with keras.ops or Keras' own layers"
        ) from error
    found = _UNKNOWN.search(message)
    if found:
        raise Refused(
            f"{name} uses {found[1] or found[2]!r}, which is no class of Keras; build it of Keras' own layers, or open "
            "it where its class is and hand it over as wrap_keras(model)"
        ) from error


def _named_outputs(model: Any, structure: Any) -> dict[str, Any]:
    outputs: dict[str, Any]
    if isinstance(structure, dict):
        outputs = dict(structure)
    elif len(model.outputs) == 1:
        outputs = {LOGITS: model.outputs[0]}
    else:
        outputs = dict(zip(model.output_names, model.outputs, strict=True))
    if FEATURES not in outputs and any(layer.name == FEATURES for layer in model.layers):
        outputs[FEATURES] = model.get_layer(FEATURES).output
    return outputs


def _spec(key: str, tensor: Any, name: str) -> TensorSpec:
    shape = (1, *tensor.shape[1:])
    if any(size is None for size in shape):
        raise InvalidInput(
            f"tensor {key!r} of {name} has free axes {tuple(tensor.shape)}; fix all but the batch axis "
            "(keras.Input with a full shape) and save it again"
        )
    return TensorSpec(key, tuple(int(size) for size in shape), str(tensor.dtype))


def _runner(model: Any, names: list[str]) -> Run:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        given = [np.asarray(feeds[name]) for name in names]
        made = model.predict(given[0] if len(given) == 1 else given, batch_size=_BATCH, verbose=0)
        return {key: np.asarray(value) for key, value in made.items()}

    return run
