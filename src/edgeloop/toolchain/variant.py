"""One variant of a model: converted, at a precision, each step proven against what it was made of.

Neighbours: `convert` and `quantize` are the steps; `draft` gathers variants for a bundle.
"""

from dataclasses import dataclass

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.convert.convert import ConvertRecipe, ConvertReport, convert
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe, QuantizeReport
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.targets import Target

_FLOAT = {
    Target.LITERT: Target.LITERT,
    Target.ONNX: Target.ONNX,
    Target.OPENVINO: Target.ONNX,  # OpenVINO's own quantizer starts from there
    Target.MCU: Target.LITERT,
}
"""The float format that a target's integers are made from."""

_FORMAT = {Target.ONNX: Format.ONNX, Target.OPENVINO: Format.OPENVINO}


@dataclass(frozen=True)
class Made:
    """A variant and what its steps reported; None where a step was not needed."""

    model: Model
    converted: ConvertReport | None = None
    quantized: QuantizeReport | None = None


def make_variant(
    model: Model,
    recipe: ConvertRecipe,
    precision: Precision,
    data: Prepared | None,
    *,
    progress: Progress = silent,
) -> Made:
    """Convert, quantize where the precision asks for it, and for a microcontroller convert the integers again.

    data: proves, and calibrates. Raises InvalidInput if a precision below float32 comes without data; else as
    `convert` and `quantize` do.
    """
    if precision is Precision.FLOAT32:
        made, report = convert(model, recipe, data=data, progress=progress)
        return Made(made, report)
    if data is None:
        raise InvalidInput(
            f"{precision} is calibrated and judged on real samples; give them with --calibrate DATA, or stay at float32"
        )
    float_model, report_float = _as_float(model, recipe, data, within(progress, 0.0, 0.4))
    integers, quantized = quantize(
        float_model,
        QuantizeRecipe(precision=precision),
        data,
        to=_FORMAT.get(recipe.to, Format.LITERT),
        progress=within(progress, 0.4, 0.8),
    )
    if recipe.to is not Target.MCU:
        return Made(integers, report_float, quantized)
    made, report = convert(integers, recipe, data=data, progress=within(progress, 0.8, 1.0))
    return Made(made, report, quantized)


def _as_float(
    model: Model, recipe: ConvertRecipe, data: Prepared, progress: Progress
) -> tuple[Model, ConvertReport | None]:
    target = _FLOAT[recipe.to]
    if model.format.value == target.value and not recipe.shapes:
        return model, None
    step = ConvertRecipe(to=target, shapes=recipe.shapes, simplify=recipe.simplify)
    return convert(model, step, data=data, progress=progress)
