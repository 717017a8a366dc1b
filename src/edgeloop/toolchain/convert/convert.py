"""`convert`: a model to another format, and the proof that it still answers the same.

The route is looked up, never guessed: a table of direct ways, and for OpenVINO and microcontrollers the one format
that leads there. Neighbours: the other modules here make bytes, one a framework; `prove` compares.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.convert.litert import litert_arrays, litert_operators, require_builtin
from edgeloop.toolchain.convert.mcu import to_mcu
from edgeloop.toolchain.convert.onnx import onnx_operators, require_standard, slim_onnx
from edgeloop.toolchain.convert.openvino import to_openvino
from edgeloop.toolchain.convert.prove import OutputParity, proof_feeds, prove
from edgeloop.toolchain.convert.savedmodel import savedmodel_to_litert, savedmodel_to_onnx
from edgeloop.toolchain.convert.sklearn import sklearn_to_onnx
from edgeloop.toolchain.convert.torch import torch_to_litert, torch_to_onnx
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.source.onnx import fix_shapes, onnx_weights
from edgeloop.toolchain.source.savedmodel import savedmodel_weights
from edgeloop.toolchain.source.sklearn import sklearn_weights
from edgeloop.toolchain.source.torch import torch_weights
from edgeloop.toolchain.targets import Target


class ConvertRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to convert. shapes: of an ONNX model's free axes, by input, with the batch axis. simplify: fold constants
    of ONNX. input_range: what random proof inputs span where no data is given; seed: theirs."""

    to: Target
    shapes: dict[str, tuple[int, ...]] = {}
    simplify: bool = True
    input_range: tuple[float, float] = (0.0, 1.0)
    seed: int = 0


class ConvertReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. samples, real: how many inputs it was proven on, and whether they are data or random numbers.
    operators: how often each stands in it (for OpenVINO, in the ONNX that it was made of). arena_bytes: what a
    microcontroller must keep free, else None."""

    source_format: Format
    to: Target
    parity: tuple[OutputParity, ...]
    samples: int
    real: bool
    size_before_bytes: int
    size_after_bytes: int
    operators: dict[str, int]
    arena_bytes: int | None = None


_DIRECT: dict[tuple[Format, Target], Callable[[Model], bytes]] = {
    (Format.KERAS, Target.LITERT): lambda model: export_keras(model, Format.LITERT),
    (Format.KERAS, Target.ONNX): lambda model: export_keras(model, Format.ONNX),
    (Format.SAVED_MODEL, Target.LITERT): savedmodel_to_litert,
    (Format.SAVED_MODEL, Target.ONNX): savedmodel_to_onnx,
    (Format.TORCH, Target.LITERT): torch_to_litert,
    (Format.TORCH, Target.ONNX): torch_to_onnx,
    (Format.SKLEARN, Target.ONNX): sklearn_to_onnx,
    (Format.ONNX, Target.ONNX): lambda model: model.data,
    (Format.LITERT, Target.LITERT): lambda model: model.data,
}
_BY_WAY_OF = {Target.OPENVINO: Target.ONNX, Target.MCU: Target.LITERT}

_WHY_NOT = {
    (Format.ONNX, Target.LITERT): "no converter from ONNX to LiteRT is kept well enough to rely on; convert the model "
    "that the ONNX was made of, run the ONNX as it is, or convert it to openvino",
    (Format.SKLEARN, Target.LITERT): "LiteRT has no operators for scikit-learn's estimators; convert to onnx, or teach "
    "a Keras student with 'edgeloop distil'",
    (Format.LITERT, Target.ONNX): "LiteRT is an end of the line; convert the model that it was made of",
    (Format.FUNCTION, Target.ONNX): "a Python function has no graph; teach a student with 'edgeloop distil'",
}

_FORMATS = {Target.LITERT: Format.LITERT, Target.ONNX: Format.ONNX, Target.OPENVINO: Format.OPENVINO}


def convert(
    model: Model, recipe: ConvertRecipe, *, data: Prepared | None = None, progress: Progress = silent
) -> tuple[Model, ConvertReport]:
    """The model in another format, proven against the source in the runtime that devices use.

    data: real inputs for the proof; without, it is proven on seeded random inputs in recipe.input_range. Raises
    Refused, naming the operator, if a part has no twin in the target, if a weight is NaN, or if the answers differ;
    InvalidInput if there is no way from this format to that.
    """
    first = _BY_WAY_OF.get(recipe.to, recipe.to)
    _require_way(model, recipe, first)
    _require_finite(model)
    source = _shaped(model, recipe)
    progress(0.05, f"converting to {first}")
    between = _convert_directly(source, first, recipe)
    made, arena_bytes = between, None
    if recipe.to is Target.OPENVINO:
        progress(0.4, "converting to openvino")
        made = wrap_runnable(to_openvino(between.data), Format.OPENVINO, name=_name(model, "openvino"))
    elif recipe.to is Target.MCU:
        progress(0.4, "running under the interpreter for microcontrollers")
        made, arena_bytes = to_mcu(between, name=_name(model, "h"))
    progress(0.6, "proving")
    feeds, real = proof_feeds(source, data, value_range=recipe.input_range, seed=recipe.seed)
    report = ConvertReport(
        source_format=model.format,
        to=recipe.to,
        parity=prove(source, made, feeds),
        samples=len(next(iter(feeds.values()))),
        real=real,
        size_before_bytes=model.size_bytes,
        size_after_bytes=made.size_bytes,
        operators=litert_operators(between.data) if first is Target.LITERT else onnx_operators(between.data),
        arena_bytes=arena_bytes,
    )
    progress(1.0, "proven")
    return made.after("convert", recipe, before=model), report


def _require_way(model: Model, recipe: ConvertRecipe, first: Target) -> None:
    if (model.format, first) not in _DIRECT or (model.format is Format.LITERT and recipe.to is Target.LITERT):
        known = sorted({str(to) for form, to in _DIRECT if form is model.format and (form, to) != _SAME})
        because = _WHY_NOT.get((model.format, first), f"{model.format} goes to {', '.join(known) or 'nothing'}")
        raise InvalidInput(f"{model.name} is a {model.format} model and is not converted to {recipe.to}: {because}")
    low, high = recipe.input_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InvalidInput(f"the input range is {low:g} to {high:g}; its ends must be finite and the first the smaller")


_SAME = (Format.LITERT, Target.LITERT)


def _shaped(model: Model, recipe: ConvertRecipe) -> Model:
    known = {spec.name: tuple(spec.shape) for spec in model.inputs}
    if model.format is Format.ONNX and recipe.shapes:
        return wrap_runnable(fix_shapes(model.data, recipe.shapes, model.name), Format.ONNX, name=model.name)
    for name, shape in recipe.shapes.items():
        if known.get(name) != tuple(shape):
            raise InvalidInput(f"input {name!r} of {model.name} cannot take the shape {shape}; its inputs are {known}")
    return model


def _convert_directly(source: Model, to: Target, recipe: ConvertRecipe) -> Model:
    data = _DIRECT[source.format, to](source)
    name = _name(source, {Target.LITERT: "tflite", Target.ONNX: "onnx"}[to])
    if to is Target.LITERT:
        require_builtin(data, source.name)
    else:
        require_standard(data, source.name)
        data = slim_onnx(data, source.name) if recipe.simplify else data
    return wrap_runnable(data, _FORMATS[to], name=name)


def _name(model: Model, suffix: str) -> str:
    return f"{Path(model.name).stem}.{suffix}"


def _require_finite(model: Model) -> None:
    for name, weight in _weights(model):
        if weight.dtype.kind == "f" and not np.isfinite(weight).all():
            raise Refused(f"weight {name!r} of {model.name} holds NaN or infinity; train it again")


def _weights(model: Model) -> "list[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]":
    if model.format is Format.KERAS:
        return [(one.path, np.asarray(one)) for one in model.native.weights]
    if model.format is Format.LITERT:
        return litert_arrays(model.data)
    readers = {
        Format.TORCH: torch_weights,
        Format.SKLEARN: sklearn_weights,
        Format.ONNX: onnx_weights,
        Format.SAVED_MODEL: savedmodel_weights,
    }
    return list(readers[model.format](model)) if model.format in readers else []
