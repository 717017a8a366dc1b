"""A model to a file, with its history beside it, so that the next step knows what the last ones did.

model.int8.tflite                the model, in its own format
model.int8.tflite.lineage.json   the steps that made it, the source it came from, the report of the last step
"""

from pathlib import Path

import msgspec

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import SCHEMA, from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import RecipeStep
from edgeloop.contracts.names import Sha256
from edgeloop.toolchain.source.model import Format, Model

SUFFIX = {
    Format.KERAS: ".keras",
    Format.TORCH: ".pt2",
    Format.SKLEARN: ".skops",
    Format.ONNX: ".onnx",
    Format.LITERT: ".tflite",
    Format.OPENVINO: ".openvino",
    Format.MCU: ".h",
}
"""How a file of each format is called."""

LINEAGE_SUFFIX = ".lineage.json"


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a model that edgeloop made. sha256: of the model file that this speaks of."""

    sha256: Sha256
    steps: tuple[RecipeStep, ...]
    report: dict[str, object]
    schema: int = SCHEMA


def save_model(model: Model, path: Path, *, report: msgspec.Struct) -> None:
    """Write the model and its history. Raises InvalidInput if the suffix is not the format's."""
    expected = SUFFIX[model.format]
    if path.suffix != expected:
        raise InvalidInput(f"--out {path} is to hold a {model.format} model; its name must end in {expected}")
    history = History(sha256=model.sha256, steps=model.steps, report=msgspec.to_builtins(report))
    write_durable(path, model.data)
    write_durable(_beside(path), to_pretty_json(history))


def steps_of(path: Path, sha256: str) -> tuple[RecipeStep, ...]:
    """The steps that made the file at `path`: none where no history lies beside it, or it is another file's."""
    beside = _beside(path)
    if not beside.is_file():
        return ()
    history = from_json(beside.read_bytes(), History, what=str(beside))
    return history.steps if history.sha256 == sha256 else ()


def _beside(path: Path) -> Path:
    return path.with_name(path.name + LINEAGE_SUFFIX)
