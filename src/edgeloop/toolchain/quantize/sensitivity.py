"""Which layers bear few bits and which do not: measured one by one, then mixed until the answers agree well enough.

Neighbours: `litert` quantizes, `quantize` exports, splits the data and compares.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.convert.strip import strip_model
from edgeloop.toolchain.data.dataset import Prepared, sha256_of
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.quantize.activations import Ranges, calibrated_ranges
from edgeloop.toolchain.quantize.flatbuffer import FOUR_BIT_KINDS, WEIGHTED, Operator, open_float
from edgeloop.toolchain.quantize.litert import STATIC, quantize_litert
from edgeloop.toolchain.quantize.quantize import Tensors, compare, float_source, require_plain, split_tensors
from edgeloop.toolchain.quantize.recipe import FOUR_BITS, LayerError, QuantizeRecipe, QuantizeReport
from edgeloop.toolchain.quantize.samples import require_calibratable
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import LOGITS, Format, Model

_MOST_SAMPLES = 128


class MixedRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to mix precisions. quantize: what layers get unless they do too much harm; 4-bit layers are raised to 8
    bits, others to float. min_agreement: share of samples that must keep the float model's answer."""

    quantize: QuantizeRecipe = QuantizeRecipe(precision=Precision.INT4)
    min_agreement: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.99


def sensitivity(
    model: Model, recipe: QuantizeRecipe, data: Prepared | Tensors, *, progress: Progress = silent
) -> tuple[LayerError, ...]:
    """The error that each layer with weights causes when it alone is quantized as the recipe says, the worst first.

    model: float, of Keras or LiteRT. The error is the mean squared one of the scores on up to 128 samples that the
    ranges were calibrated with. Raises as `quantize` does.
    """
    require_plain(recipe)
    calibration, _ = split_tensors(model, data, recipe.calibration_samples)
    return _measured(float_source(model, Format.LITERT, data).data, recipe, calibration, progress)


def mixed(
    model: Model, recipe: MixedRecipe, data: Prepared | Tensors, *, progress: Progress = silent
) -> tuple[Model, QuantizeReport]:
    """The model with as few layers at more bits as it takes to agree with the float model, the worst raised first.

    model: float, of Keras or LiteRT. The count is found by halving, since more raised layers hardly ever agree less.
    Raises Refused if even all raised layers do not reach the bound.
    """
    few = recipe.quantize
    if few.precision not in (*FOUR_BITS, Precision.INT8):
        raise InvalidInput(f"{few.precision} layers are not mixed; choose int8, or one of {', '.join(FOUR_BITS)}")
    require_plain(few)
    calibration, judged = split_tensors(model, data, few.calibration_samples)
    source = float_source(model, Format.LITERT, data)
    errors = _measured(source.data, few, calibration, within(progress, 0.0, 0.6))
    # Others have 8 bits already where the rest has 4.
    can_rise = [one.name for one in errors if few.precision not in FOUR_BITS or one.operator in FOUR_BIT_KINDS]
    tried: dict[int, tuple[Model, QuantizeReport]] = {}

    def attempt(count: int) -> bool:
        raised = tuple(can_rise[:count])
        settings = {"keep_int8": raised} if few.precision in FOUR_BITS else {"keep_float": raised}
        chosen = msgspec.structs.replace(few, **settings)
        data_bytes = quantize_litert(source.data, chosen, calibration)
        name = f"{Path(model.name).stem}.mixed.tflite"
        made = wrap_runnable(data_bytes, Format.LITERT, name=name)
        report = compare(model, made, judged, chosen)
        lean = strip_model(made).after("mixed", recipe, before=source, data_sha256=sha256_of(data))
        tried[count] = lean, msgspec.structs.replace(report, size_after_bytes=lean.size_bytes)
        progress(0.6 + 0.4 * len(tried) / (len(can_rise).bit_length() + 3), f"{count} layers raised")
        return report.agreement is not None and report.agreement >= recipe.min_agreement

    count = _fewest(attempt, len(can_rise))
    if count is None:
        reached = tried[len(can_rise)][1].agreement
        raise Refused(
            f"with all {len(can_rise)} layers raised the model agrees on {reached} of the samples, "
            f"the bound is {recipe.min_agreement:g}; lower it, or choose a precision with more bits"
        )
    made, report = tried[count]
    progress(1.0, "mixed")
    return made, msgspec.structs.replace(report, sensitivity=errors)


def _fewest(attempt: Callable[[int], bool], most: int) -> int | None:
    """The smallest count up to `most` that succeeds, if those above it do; None if `most` does not."""
    if attempt(0):
        return 0
    if not attempt(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle):
            high = middle
        else:
            low = middle
    return high


def _measured(
    source: bytes, recipe: QuantizeRecipe, calibration: Mapping[str, NDArray[Any]], progress: Progress
) -> tuple[LayerError, ...]:
    graph = open_float(source)
    require_calibratable(calibration)
    weighted = [one for one in graph.operators if one.kind in WEIGHTED]
    ranges: Ranges = {}
    if recipe.precision in STATIC:
        ranges = calibrated_ranges(graph, recipe, calibration, bits=STATIC[recipe.precision][1])
    some = {name: array[:_MOST_SAMPLES] for name, array in calibration.items()}
    expected = _scores(graph.to_bytes(), some)
    errors = []
    for index, one in enumerate(weighted):
        others = tuple(other.scope for other in graph.operators if other is not one)
        alone = msgspec.structs.replace(recipe, keep_float=others, correct_bias=False)
        made = _scores(quantize_litert(source, alone, calibration, ranges=ranges), some)
        errors.append(_layer_error(one, made, expected))
        progress((index + 1) / len(weighted), f"{one.name}: {errors[-1].error:.2g}")
    return tuple(sorted(errors, key=lambda error: -error.error))


def _layer_error(operator: Operator, made: NDArray[np.float32], expected: NDArray[np.float32]) -> LayerError:
    error = float(((made.astype(np.float64) - expected) ** 2).mean())
    return LayerError(name=operator.scope, operator=operator.kind, error=error)


def _scores(data: bytes, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    made = wrap_runnable(data, Format.LITERT, name="model.tflite").run(feeds)
    return made[LOGITS] if LOGITS in made else next(iter(made.values()))
