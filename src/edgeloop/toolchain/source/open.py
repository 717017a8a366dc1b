"""A model file by what it is: its suffix says who reads it."""

from dataclasses import replace
from pathlib import Path

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.source.engine import SUFFIXES, load_runnable
from edgeloop.toolchain.source.keras import KERAS_SUFFIXES, load_keras
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.save import steps_of


def open_model(path: Path) -> Model:
    """A trained model of any format that edgeloop reads. Raises NotFound, InvalidInput, Corrupt or Unavailable."""
    model = _read(path)
    return replace(model, steps=steps_of(path, model.sha256))


def _read(path: Path) -> Model:
    if path.suffix in KERAS_SUFFIXES:
        return load_keras(path)
    if path.suffix in SUFFIXES:
        return load_runnable(path)
    known = ", ".join((*KERAS_SUFFIXES, *SUFFIXES))
    raise InvalidInput(f"{path.name} has the format {path.suffix or 'nothing'!r}; known: {known}")
