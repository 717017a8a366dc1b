"""How to quantize and what came of it, the same words for every engine.

What an engine cannot do of it, its module refuses by name: no other scheme is used instead. Neighbours: `formulas`
computes the ranges that a calibration asks for, `quantize` is the step, `litert`, `onnx` and `openvino` do it.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision

FEWEST_SAMPLES = 16
"""Fewer inputs than this do not show the range that activations take."""

FOUR_BITS = (Precision.INT4, Precision.INT4_DYNAMIC, Precision.INT4_WEIGHTS)
"""Precisions with 4-bit weights."""


class Symmetry(StrEnum):
    """Where real zero lies on the integer scale."""

    SYMMETRIC = "symmetric"  # at integer 0: one multiplication less for each product
    ASYMMETRIC = "asymmetric"  # where the range puts it: no step is lost on values that never come


class Granularity(StrEnum):
    """How many scales a weight tensor has. Activations always have one."""

    TENSOR = "tensor"  # one
    CHANNEL = "channel"  # one for each output channel


class Calibration(StrEnum):
    """How the range of an activation is chosen from what it was on the calibration samples; see `formulas`."""

    MIN_MAX = "min_max"
    MOVING_AVERAGE = "moving_average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class QuantizeRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to quantize.

    percentile: of |x|, or of each side where activations are asymmetric; used by Calibration.PERCENTILE only.
    keep_float: names of layers or tensors that stay as they are; keep_int8: of those that have 8 bits where the rest
    has 4: mixed precision. calibration_samples: at most so many of those given, the first ones.
    """

    precision: Precision = Precision.INT8
    weights: Symmetry = Symmetry.SYMMETRIC
    activations: Symmetry = Symmetry.ASYMMETRIC
    granularity: Granularity = Granularity.CHANNEL
    calibration: Calibration = Calibration.MIN_MAX
    percentile: Annotated[float, msgspec.Meta(gt=50.0, le=100.0)] = 99.99
    calibration_samples: Annotated[int, msgspec.Meta(ge=FEWEST_SAMPLES)] = 256
    equalize: bool = False
    correct_bias: bool = False
    keep_float: tuple[str, ...] = ()
    keep_int8: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        # A type's bounds are checked when it is decoded; a recipe made in Python is to be held to the same.
        if not 50.0 < self.percentile <= 100.0:
            raise InvalidInput(f"percentile is {self.percentile:g}; it must lie above 50 and not above 100")
        if self.calibration_samples < FEWEST_SAMPLES:
            raise InvalidInput(
                f"calibration_samples is {self.calibration_samples}; it must be {FEWEST_SAMPLES} or more"
            )


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer's quantization alone does to the answers. error: mean squared, of the model's outputs."""

    name: str
    operator: str
    error: float


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came out, against the float model on `samples` validation inputs.

    scheme: in words. agreement: share of samples with the same highest score, None where there is only one score.
    max_abs_error, mean_abs_error: of the scores as the model gives them (logits or probabilities). kept_float: layers
    that were left as they were.
    """

    engine: str
    precision: Precision
    scheme: str
    size_before_bytes: int
    size_after_bytes: int
    samples: int
    agreement: float | None
    max_abs_error: float
    mean_abs_error: float
    kept_float: tuple[str, ...] = ()
    sensitivity: tuple[LayerError, ...] = ()


def in_words(recipe: QuantizeRecipe) -> str:
    """The scheme as a person would say it."""
    weights = f"weights {recipe.weights} per {recipe.granularity}"
    precision = recipe.precision
    if precision in (Precision.FLOAT32, Precision.FLOAT16):
        return f"{precision}, no integers"
    if precision.endswith("_weights"):
        return f"{precision}: {weights}, computed in float"
    if precision.endswith("_dynamic"):
        return f"{precision}: {weights}, activations quantized as they come"
    how = str(recipe.calibration).replace("_", " ")
    extra = [f"{recipe.percentile:g} %"] if recipe.calibration is Calibration.PERCENTILE else []
    extra += ["equalised"] if recipe.equalize else []
    extra += ["bias corrected"] if recipe.correct_bias else []
    tail = f", {', '.join(extra)}" if extra else ""
    return f"{precision}: {weights}, activations {recipe.activations}, calibrated by {how}{tail}"
