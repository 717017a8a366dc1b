"""A model file by what it is: its suffix says who reads it."""

from pathlib import Path

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.source.engine import SUFFIXES, load_runnable
from edgeloop.toolchain.source.keras import KERAS_SUFFIXES, load_keras
from edgeloop.toolchain.source.model import Model


def open_model(path: Path) -> Model:
    """A trained model of any format that edgeloop reads. Raises NotFound, InvalidInput, Corrupt or Unavailable."""
    if path.suffix in KERAS_SUFFIXES:
        return load_keras(path)
    if path.suffix in SUFFIXES:
        return load_runnable(path)
    known = ", ".join((*KERAS_SUFFIXES, *SUFFIXES))
    raise InvalidInput(f"{path.name} has the format {path.suffix or 'nothing'!r}; known: {known}")
