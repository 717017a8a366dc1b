"""A model at any step of the toolchain: what it is, what it takes and gives, and how to ask it.

Every step is a function from a `Model` and a typed recipe to a `Model` and a report. Neighbours: the other modules
here make Models of files, one a framework; `open` chooses among them by what a file is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import RecipeStep
from edgeloop.runtime.engines.port import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
"""Arrays by input name, each with the same number N >= 1 of samples on its first axis."""

Run = Callable[[Feeds], dict[str, NDArray[Any]]]


class Format(StrEnum):
    """Whose model it is; what its `native` holds stands behind each."""

    KERAS = "keras"  # a keras.Model whose outputs are named by a dict
    SAVED_MODEL = "savedmodel"  # a folder, as pathlib.Path
    TORCH = "torch"  # a torch.export.ExportedProgram
    SKLEARN = "sklearn"  # a fitted scikit-learn estimator or pipeline
    ONNX = "onnx"  # the file's bytes
    LITERT = "litert"  # the file's bytes
    OPENVINO = "openvino"  # the bytes of an archive of the .xml and the .bin, see runtime.openvino
    MCU = "mcu"  # LiteRT bytes that are known to run on a microcontroller's interpreter
    FUNCTION = "function"  # a Python callable


@dataclass(frozen=True)
class Model:
    """One model. inputs, outputs: with batch axis 1, as the runtime would see them. run: takes any batch size.

    data: the bytes of the file that it is stored in (of a SavedModel, an archive of its folder; of a function,
    none). steps: what made it from the source, oldest first; empty for a model that a person brought.
    """

    name: str
    format: Format
    native: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Run
    data: bytes
    steps: tuple[RecipeStep, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of `data`."""
        return digest(self.data)

    @property
    def size_bytes(self) -> int:
        """Of the file that it is stored in."""
        return len(self.data)

    def only_input(self) -> TensorSpec:
        """Its one input. Raises InvalidInput if it has several."""
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise InvalidInput(
                f"{self.name} has {len(self.inputs)} inputs ({names}); this step takes models with one. "
                "'edgeloop convert', and 'edgeloop check' without --data, take any number"
            )
        return self.inputs[0]

    def only_output(self) -> TensorSpec:
        """Its one output, or the one called "logits" where there are several. Raises InvalidInput if neither."""
        for spec in self.outputs:
            if spec.name == LOGITS:
                return spec
        if len(self.outputs) != 1:
            names = ", ".join(spec.name for spec in self.outputs)
            raise InvalidInput(
                f"{self.name} has {len(self.outputs)} outputs ({names}) and none is called {LOGITS!r}; "
                f"this step takes models with one output, or names the one that scores classes {LOGITS!r}"
            )
        return self.outputs[0]

    def scores(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """The one output (N, ...) for the one input (N, ...), as float32."""
        made = self.run({self.only_input().name: tensor})
        return np.asarray(made[self.only_output().name], dtype=np.float32)

    def after(self, kind: str, recipe: msgspec.Struct, before: "Model", *, data_sha256: str = "") -> "Model":
        """This model with its history: that of `before`, then one more step. data_sha256: of what the step took."""
        step = RecipeStep(
            kind=kind,
            recipe=msgspec.to_builtins(recipe),
            model=before.name,
            model_sha256=before.sha256,
            data_sha256=data_sha256,
        )
        return replace(self, steps=(*before.steps, step))


LOGITS = "logits"
"""The output that scores classes, where a model has several."""

FEATURES = "features"
"""The output that novelty is measured in, where a model offers one."""
