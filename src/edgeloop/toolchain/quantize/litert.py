"""Float LiteRT to integers, through ai-edge-quantizer, with calibration ranges of our own.

The library alone always takes a moving average of the ranges; here each range is what the recipe's calibration picks.
What LiteRT has no form for is refused by name. Source of its schemes: LiteRT's 8-bit quantization specification.
Neighbours: `activations` finds the ranges, `bias` corrects what rounding shifts, `flatbuffer` reads the graph.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused, Unavailable
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.convert.uint8 import is_uint8, uint8_to_int8
from edgeloop.toolchain.quantize.activations import Ranges, calibrated_ranges
from edgeloop.toolchain.quantize.bias import correct_bias
from edgeloop.toolchain.quantize.flatbuffer import WEIGHTED, Graph, Operator, open_float
from edgeloop.toolchain.quantize.recipe import FOUR_BITS, Granularity, QuantizeRecipe, Symmetry
from edgeloop.toolchain.quantize.samples import require_calibratable

STATIC = {Precision.INT8: (8, 8), Precision.INT16: (8, 16), Precision.INT4: (4, 8)}
"""Bits of weights and of activations where both are integers."""

WEIGHTS_ONLY = {Precision.INT8_WEIGHTS: 8, Precision.INT4_WEIGHTS: 4}
DYNAMIC = {Precision.INT8_DYNAMIC: 8, Precision.INT4_DYNAMIC: 4}

_PLUMBING = ("QUANTIZE", "DEQUANTIZE")


def quantize_litert(
    data: bytes, recipe: QuantizeRecipe, calibration: Mapping[str, NDArray[Any]], *, ranges: Ranges | None = None
) -> bytes:
    """A quantized .tflite of a float one; integer in and out where its precision is static.

    calibration: real inputs (N, ...) by name, N >= 16, preprocessed; unused where precision is not static. ranges:
    of activations by tensor name, learned elsewhere; they go before calibrated ones. Raises InvalidInput for a scheme
    that LiteRT has none of, or inputs that cannot calibrate; Refused for a model that cannot be quantized.

    A file of the old unsigned scheme is taken for int8, and only for that: it keeps its ranges (`convert.uint8`).
    """
    require_scheme(recipe)
    if recipe.precision is Precision.INT8 and is_uint8(data):
        _require_kept_ranges(recipe)
        return _loadable(uint8_to_int8(data))
    graph = open_float(data)
    kept = kept_operators(graph, recipe.keep_float)
    wider = kept_operators(graph, recipe.keep_int8)
    feeds = {name: array[: recipe.calibration_samples] for name, array in calibration.items()}
    if recipe.precision in STATIC or recipe.correct_bias:
        require_calibratable(feeds)
    if recipe.correct_bias:
        correct_bias(graph, recipe, feeds, keep=kept, wide=wider)
    found = dict(ranges or {})
    if recipe.precision in STATIC and not {graph.name(index) for index in graph.activations()} <= set(found):
        found = calibrated_ranges(graph, recipe, feeds, bits=STATIC[recipe.precision][1]) | found
    made = Graph(_run_library(graph, _library_recipe(graph, recipe, kept, wider), found))
    made.point_signatures_like(graph)
    _require_done(made, recipe, kept)
    return _loadable(made.to_bytes())


def quantize_int8(model: bytes, calibration: NDArray[np.float32], input_name: str) -> bytes:
    """An int8 model of a float one, integer in and out. Raises as `quantize_litert` does."""
    return quantize_litert(model, QuantizeRecipe(), {input_name: calibration})


def require_scheme(recipe: QuantizeRecipe) -> None:
    """Raise InvalidInput if LiteRT has no such scheme, saying which to choose instead."""
    if recipe.precision is Precision.FLOAT16:
        if recipe.correct_bias or recipe.keep_int8:
            raise InvalidInput("float16 rounds weights too little to correct for; leave out correct_bias and keep_int8")
        return
    if recipe.precision not in (*STATIC, *DYNAMIC, *WEIGHTS_ONLY):
        known = ", ".join((*STATIC, *DYNAMIC, *WEIGHTS_ONLY, Precision.FLOAT16))
        raise InvalidInput(f"LiteRT is not quantized to {recipe.precision} in one step; known: {known}")
    if recipe.weights is Symmetry.ASYMMETRIC:
        raise InvalidInput(
            f"LiteRT's kernels take symmetric weights only, the recipe asks for {recipe.weights}; "
            "choose symmetric weights, or ONNX Runtime, which takes either"
        )
    if recipe.precision in DYNAMIC and recipe.granularity is Granularity.TENSOR:
        raise InvalidInput(
            "LiteRT's dynamic convolutions read a scale for each channel, whether there is one or not (measured: NaN); "
            "choose granularity channel"
        )
    if recipe.precision is Precision.INT16 and recipe.activations is Symmetry.ASYMMETRIC:
        raise InvalidInput(
            "LiteRT's 16-bit activations are symmetric, the recipe asks for asymmetric; choose symmetric activations"
        )
    if recipe.keep_int8 and recipe.precision not in FOUR_BITS:
        raise InvalidInput(f"keep_int8 raises layers of a 4-bit model to 8 bits; precision is {recipe.precision}")


def _require_kept_ranges(recipe: QuantizeRecipe) -> None:
    """Raise InvalidInput if a recipe asks for what a file that is quantized already has no more room for."""
    plain = QuantizeRecipe(calibration_samples=recipe.calibration_samples, seed=recipe.seed)
    asked = [name for name in recipe.__struct_fields__ if getattr(recipe, name) != getattr(plain, name)]
    if asked:
        raise InvalidInput(
            f"the file is quantized already, to uint8, and becomes int8 with the ranges that it has; leave out "
            f"{', '.join(asked)}, or quantize the float model that it was made from"
        )


def kept_operators(graph: Graph, names: tuple[str, ...]) -> tuple[Operator, ...]:
    """The operators that a recipe's layer names mean. Raises InvalidInput for a name that is none's.

    A name is that of an output tensor in full, else the first of its fused names, else a path part of any of them,
    else such a part without the count that exporters add ("conv" of "conv_1").
    """
    kept: dict[int, Operator] = {}
    for name in names:
        exact = [one for one in graph.operators if name in (one.scope, *(graph.name(t) for t in one.outputs if t >= 0))]
        first = [one for one in graph.operators if one.name == name]
        called = [one for one in graph.operators if one.is_called(name)]
        counted = [one for one in graph.operators if one.is_called(name, counted=True)]
        found = exact or first or called or counted
        if not found:
            known = ", ".join(one.name for one in graph.operators)
            raise InvalidInput(f"no layer is called {name!r}; the model has: {known}")
        kept |= {one.index: one for one in found}
    return tuple(kept.values())


def eight_bit_operators(data: bytes) -> tuple[str, ...]:
    """Layers of a 4-bit model whose weights have 8 bits, by kind and name: LiteRT has 4-bit kernels for some only."""
    graph = Graph(data)
    weighted = [one for one in graph.operators if one.kind in WEIGHTED]
    return tuple(f"{one.kind} {one.name}" for one in weighted if _weight_dtype(graph, one) == "INT8")


def _weight_dtype(graph: Graph, operator: Operator) -> str:
    tensor = operator.inputs[1]
    for other in graph.operators:
        # Weights that are only stored small pass through a DEQUANTIZE first.
        if other.kind == "DEQUANTIZE" and tensor in other.outputs:
            return graph.dtype(other.inputs[0])
    return graph.dtype(tensor)


def _library_recipe(
    graph: Graph, recipe: QuantizeRecipe, kept: tuple[Operator, ...], wider: tuple[Operator, ...]
) -> list[tuple[str, Any, str]]:
    """Scope pattern, settings and algorithm, in order: for each operator the last one that it takes counts."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    every = ".*"
    uniform, none = AlgorithmName.MIN_MAX_UNIFORM_QUANT, AlgorithmName.NO_QUANTIZE
    if recipe.precision is Precision.FLOAT16:
        rules = [(every, _settings(recipe, 16), AlgorithmName.FLOAT_CASTING)]
    else:
        bits = _weight_bits(recipe.precision)
        rules = [(every, _settings(recipe, 8), uniform)]
        if bits == 4:
            # The library keys rules by pattern: the same one twice would drop the first.
            rules.append(("^", _settings(recipe, 4), uniform))
            rules += [(_exactly(one), _settings(recipe, 8), uniform) for one in wider]
    if any(made in graph.outputs for one in kept for made in one.outputs):
        # Quantized as an output and float where it is read, one tensor cannot be.
        rules.append((f"^{re.escape(';'.join(graph.name(index) for index in graph.outputs))};$", None, none))
    return rules + [(_exactly(one), None, none) for one in kept]


def _exactly(operator: Operator) -> str:
    return f"^{re.escape(operator.scope)};$"


def _weight_bits(precision: Precision) -> int:
    return STATIC[precision][0] if precision in STATIC else {**DYNAMIC, **WEIGHTS_ONLY}[precision]


def _settings(recipe: QuantizeRecipe, bits: int) -> Any:
    """How an operator is quantized, in the library's types; bits: of its weights."""
    from ai_edge_quantizer import qtyping

    per_channel = recipe.granularity is Granularity.CHANNEL and recipe.precision is not Precision.FLOAT16
    weights = qtyping.TensorQuantizationConfig(
        num_bits=bits,
        symmetric=True,
        granularity=qtyping.QuantGranularity.CHANNELWISE if per_channel else qtyping.QuantGranularity.TENSORWISE,
        dtype=qtyping.TensorDataType.FLOAT if recipe.precision is Precision.FLOAT16 else qtyping.TensorDataType.INT,
    )
    if recipe.precision in STATIC:
        activations = qtyping.TensorQuantizationConfig(
            num_bits=STATIC[recipe.precision][1], symmetric=recipe.activations is Symmetry.SYMMETRIC
        )
        return qtyping.OpQuantizationConfig(
            activation_tensor_config=activations,
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.INTEGER,
        )
    dynamic = recipe.precision in DYNAMIC
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.INTEGER if dynamic else qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=not dynamic,
    )


def _run_library(graph: Graph, rules: list[tuple[str, Any, str]], ranges: Ranges) -> bytes:
    try:
        from ai_edge_quantizer import qtyping, quantizer
    except ImportError as error:
        raise Unavailable(
            f"quantization needs ai-edge-quantizer ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    axes = {graph.name(index): graph.axes(index) for index in graph.activations()}
    given = {
        name: {
            "min": np.full((1,) * axes[name], low, np.float32),
            "max": np.full((1,) * axes[name], high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }
    quiet = io.StringIO()
    try:
        # It prints progress and sizes; ours are the report's.
        with (
            warnings.catch_warnings(),
            without_native_chatter(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            work = quantizer.Quantizer(bytearray(graph.to_bytes()))
            for pattern, settings, algorithm in rules:
                work.update_quantization_recipe(
                    pattern, qtyping.TFLOperationName.ALL_SUPPORTED, settings, algorithm_key=algorithm
                )
            return bytes(work.quantize(given or None, enable_progress_report=False).quantized_model)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise Refused(f"ai-edge-quantizer cannot quantize this model: {error}") from error


def _loadable(made: bytes) -> bytes:
    """The same. Raises Refused if LiteRT cannot load what the library made."""
    try:
        load_engine(EngineName.LITERT, made).close()
    except InvalidInput as error:
        raise Refused(f"ai-edge-quantizer made a model that does not load, choose another scheme: {error}") from error
    return made


def _require_done(made: Graph, recipe: QuantizeRecipe, kept: tuple[Operator, ...]) -> None:
    """Raise Refused if operators stayed in float that were not to: the library leaves out what it does not know."""
    allowed = {one.scope for one in kept}
    if recipe.precision in STATIC:
        left = [
            one
            for one in made.operators
            if one.kind not in _PLUMBING and any(made.dtype(t) == "FLOAT32" for t in one.outputs if t >= 0)
        ]
    else:
        left = [one for one in made.operators if one.kind in WEIGHTED and _weight_dtype(made, one) == "FLOAT32"]
    missed = [one for one in left if one.scope not in allowed]
    if missed:
        found = ", ".join(f"{one.kind} {one.name!r}" for one in missed[:5])
        names = " ".join(f"--keep-float {one.name}" for one in missed[:5])
        raise Refused(
            f"LiteRT has no {recipe.precision} form of {len(missed)} operators: {found}. "
            f"Leave them in float on purpose ({names}), or choose another precision"
        )
