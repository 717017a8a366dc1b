"""A model file by what it is: its suffix says who reads it."""

from dataclasses import replace
from pathlib import Path

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.source.engine import SUFFIXES, load_runnable
from edgeloop.toolchain.source.keras import KERAS_SUFFIXES, load_keras
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.onnx import Shapes, load_onnx
from edgeloop.toolchain.source.save import steps_of
from edgeloop.toolchain.source.savedmodel import load_savedmodel
from edgeloop.toolchain.source.sklearn import SKLEARN_PICKLES, SKOPS_SUFFIX, load_sklearn
from edgeloop.toolchain.source.torch import PICKLED_SUFFIXES, TORCH_SUFFIXES, load_torch


def open_model(path: Path, *, shapes: Shapes | None = None, trust_pickle: bool = False) -> Model:
    """A trained model of any format that edgeloop reads.

    shapes: for the inputs of an ONNX model with free axes; other formats fix theirs when they are saved.
    trust_pickle: load a pickled estimator, which runs whatever code it holds. Raises NotFound, InvalidInput, Refused,
    Corrupt or Unavailable.
    """
    model = _read(path, shapes, trust_pickle=trust_pickle)
    for name, shape in (shapes or {}).items():
        known = {spec.name: tuple(spec.shape) for spec in model.inputs}
        if known.get(name) != shape:
            raise InvalidInput(
                f"input {name!r} of {path.name} cannot be given the shape {shape}; its inputs are {known}, and only "
                "an ONNX model's free axes are fixed here"
            )
    return replace(model, steps=steps_of(path, model.sha256))


def _read(path: Path, shapes: Shapes | None, *, trust_pickle: bool) -> Model:
    if path.is_dir():
        return load_savedmodel(path)
    if path.suffix in KERAS_SUFFIXES:
        return load_keras(path)
    if path.suffix == ".onnx":
        return load_onnx(path, shapes=shapes)
    if path.suffix in SUFFIXES:
        return load_runnable(path)
    if path.suffix in (*TORCH_SUFFIXES, *PICKLED_SUFFIXES):
        return load_torch(path)
    if path.suffix in (SKOPS_SUFFIX, *SKLEARN_PICKLES):
        return load_sklearn(path, trust_pickle=trust_pickle)
    known = ", ".join((*KERAS_SUFFIXES, *SUFFIXES, *TORCH_SUFFIXES, SKOPS_SUFFIX, *SKLEARN_PICKLES))
    raise InvalidInput(
        f"{path.name} has the format {path.suffix or 'nothing'!r}; known: {known}, and SavedModel folders"
    )
