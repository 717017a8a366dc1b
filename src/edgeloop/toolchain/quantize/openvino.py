"""Float OpenVINO (or ONNX) to fewer bits, through NNCF.

int8                integers throughout
int8_weights        every weight, one scale a channel
int4_weights        weights of matrix products, one scale a channel; NNCF keeps convolutions at 8 bits, so a model
                    with some is refused unless they are kept in float
float16             constants in half, computed in float32

Ranges are NNCF's own: percentile is the mean over samples of each one's percentile, MSE is its histogram estimator.
Neighbours: `recipe` says what, `convert.openvino` reads and writes the files.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused, Unavailable
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.openvino import OpenVinoEngine, import_openvino, without_openvino_telemetry
from edgeloop.toolchain.convert.openvino import onnx_layers, read_network, read_onnx, write_network
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity, QuantizeRecipe, Symmetry
from edgeloop.toolchain.quantize.samples import require_calibratable, require_taken

_WEIGHTS_ONLY = (Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS)
_ABLE = (Precision.INT8, *_WEIGHTS_ONLY, Precision.FLOAT16)
_CALIBRATIONS = (Calibration.MIN_MAX, Calibration.PERCENTILE, Calibration.MSE)
_INTEGERS = {8: ("i8", "u8"), 4: ("i4", "u4")}
_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
_LAYER_ENDS = ("Add", "Relu", "Clamp", "Sigmoid", "Tanh", "SoftMax", "PRelu", "Elu", "HSwish", "HSigmoid", "Gelu")
_IS_ZIP = b"PK"


def quantize_openvino(data: bytes, recipe: QuantizeRecipe, calibration: Mapping[str, NDArray[Any]]) -> bytes:
    """The model in the recipe's precision, as an .openvino file; inputs and outputs stay float, by name.

    data: a float .openvino or .onnx file. calibration: (N, ...) by input name, read for int8 only. recipe.equalize is
    not read: it is done before, on the Keras model. Raises InvalidInput on a bad model, calibration or name, Refused
    on what NNCF cannot do, on a model that is quantized already, and where nothing would be gained.
    """
    _require_able(recipe)
    network = read_network(data) if data.startswith(_IS_ZIP) else read_onnx(data)
    before = write_network(network)
    _require_float(network)
    keep = _kept_nodes(recipe, network, {} if data.startswith(_IS_ZIP) else onnx_layers(data))
    if recipe.precision is Precision.FLOAT16:
        made = write_network(network, half=True)
    elif recipe.precision is Precision.INT8:
        made = write_network(_quantized(network, recipe, keep, _feeds(before, calibration, recipe)))
    else:
        made = write_network(_compressed(network, recipe, keep))
    _require_gain(before, made, recipe, keep)
    return made


def _require_able(recipe: QuantizeRecipe) -> None:
    if recipe.precision not in _ABLE:
        raise Refused(f"OpenVINO does not do {recipe.precision} here; it does {', '.join(_ABLE)}")
    if recipe.precision is Precision.INT8 and recipe.calibration not in _CALIBRATIONS:
        raise Refused(f"NNCF does not calibrate by {recipe.calibration}; it does {', '.join(_CALIBRATIONS)}")
    if recipe.precision in _WEIGHTS_ONLY and recipe.granularity is Granularity.TENSOR:
        raise Refused("NNCF compresses weights with one scale a channel, not one a tensor; ask for that")
    if recipe.precision is not Precision.INT8 and recipe.correct_bias:
        raise Refused(f"NNCF corrects biases for int8 only, not for {recipe.precision}; leave it off")
    if recipe.precision is Precision.FLOAT16 and recipe.keep_float:
        raise Refused("OpenVINO stores all constants in float16 or none; leave out the layers to keep in float")


def _quantized(network: Any, recipe: QuantizeRecipe, keep: list[str], feeds: list[dict[str, NDArray[Any]]]) -> Any:
    nncf = _import_nncf()
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    per_channel = recipe.granularity is Granularity.CHANNEL
    advanced = AdvancedQuantizationParameters(
        # The first layer's weights use 7 of their 8 bits: x86 without VNNI adds products of 8 bits in 16.
        overflow_fix=OverflowFix.FIRST_LAYER if recipe.weights is Symmetry.SYMMETRIC else OverflowFix.DISABLE,
        disable_bias_correction=not recipe.correct_bias,
        activations_quantization_params=QuantizationParameters(
            mode=QuantizationScheme(recipe.activations.value), per_channel=False
        ),
        weights_quantization_params=QuantizationParameters(
            mode=QuantizationScheme(recipe.weights.value), per_channel=per_channel
        ),
        activations_range_estimator_params=_range_estimator(recipe),
    )
    with _translated(recipe):
        return nncf.quantize(
            network,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=keep),
            advanced_parameters=advanced,
        )


def _range_estimator(recipe: QuantizeRecipe) -> Any:
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if recipe.calibration is Calibration.MSE:
        return RangeEstimatorParametersSet.HISTOGRAM
    if recipe.calibration is Calibration.MIN_MAX:
        return RangeEstimatorParametersSet.MINMAX
    statistic = StatisticsCollectorParameters(
        statistics_type=StatisticsType.QUANTILE,
        aggregator_type=AggregatorType.MEAN,
        quantile_outlier_prob=1 - recipe.percentile / 100,
    )
    return RangeEstimatorParameters(min=statistic, max=statistic)


def _compressed(network: Any, recipe: QuantizeRecipe, keep: list[str]) -> Any:
    nncf = _import_nncf()
    bits, symmetric = _bits(recipe), recipe.weights is Symmetry.SYMMETRIC
    mode = f"int{bits}_{'sym' if symmetric else 'asym'}"
    # For 8 bits it takes no other values than its own.
    options = {"ratio": 1.0, "group_size": -1, "all_layers": True} if bits == 4 else {}
    with _translated(recipe):
        return nncf.compress_weights(
            network, mode=nncf.CompressWeightsMode(mode), ignored_scope=nncf.IgnoredScope(names=keep), **options
        )


def _feeds(data: bytes, calibration: Mapping[str, NDArray[Any]], recipe: QuantizeRecipe) -> list[dict[str, Any]]:
    """The calibration samples, one by one, as the model takes them. Raises InvalidInput if they do not fit."""
    require_calibratable(calibration)
    engine = OpenVinoEngine(data)
    specs = {spec.name: spec for spec in engine.inputs}
    engine.close()
    require_taken(calibration, specs)
    count = min(recipe.calibration_samples, len(next(iter(calibration.values()))))
    return [
        {name: np.ascontiguousarray(calibration[name][at : at + 1], spec.dtype) for name, spec in specs.items()}
        for at in range(count)
    ]


def _kept_nodes(recipe: QuantizeRecipe, network: Any, source: Mapping[str, set[str]]) -> list[str]:
    """The nodes that keep_float names, by their own name, that of a tensor that they make, or that in the source.

    A bias or an activation stands for the layer that it ends.
    """
    found = []
    nodes = [node for node in network.get_ordered_ops() if node.get_type_name() not in ("Constant", "Result")]
    for name in recipe.keep_float:
        meant = {name} | source.get(name, set())
        here = [node for node in nodes if meant & {node.get_friendly_name(), *_tensors(node)}]
        if not here and meant & {name for pair in source.items() for name in (pair[0], *pair[1])}:
            raise Refused(f"{name!r} is merged into other layers before quantizing; name one of those to keep in float")
        if not here:
            some = ", ".join(node.get_friendly_name() for node in nodes[:8])
            raise InvalidInput(f"the model has no layer or tensor {name!r} to keep in float; it has {some}, ...")
        found += [node.get_friendly_name() for node in _whole_layer(here)]
    return sorted(set(found))


def _tensors(node: Any) -> set[str]:
    return {str(name) for port in node.outputs() for name in port.get_names()}


def _whole_layer(nodes: list[Any]) -> list[Any]:
    """A layer may be a product, the sum with its bias and an activation, and go by the name of the last one."""
    found = list(nodes)
    for node in found:  # grows while it is walked
        made = [port.get_node() for port in node.input_values() if port.get_node().get_type_name() != "Constant"]
        # A sum of two activations joins layers; it ends none.
        if node.get_type_name() in _LAYER_ENDS and len(made) == 1:
            found += made
    named = {node.get_friendly_name() for node in nodes}
    return [node for node in found if node.get_friendly_name() in named or node.get_type_name() in _WEIGHTED]


def _require_float(network: Any) -> None:
    """Raise Refused if the model is quantized or has no float weights, InvalidInput if any are NaN or infinite."""
    weights = 0
    for node in network.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "FakeQuantize" or (kind == "Constant" and _feeds_a_scale(node)):
            raise Refused(
                f"this model is quantized already (at {node.get_friendly_name()}); quantize its float original"
            )
        if kind == "Constant" and node.get_element_type().get_type_name() in ("f32", "f64"):
            weights += 1
            if not np.isfinite(node.data).all():
                raise InvalidInput(
                    f"the weights {node.get_friendly_name()!r} hold NaN or infinity; train the model again"
                )
    if not weights:
        raise Refused("this model has no float weights; there is nothing to quantize")


def _feeds_a_scale(node: Any) -> bool:
    """Whether a constant of 4 or 8 bits is made float again: the form that compressed weights have."""
    small = node.get_element_type().get_type_name() in (*_INTEGERS[8], *_INTEGERS[4])
    users = [port.get_node().get_type_name() for port in node.output(0).get_target_inputs()]
    return small and "Convert" in users


def _require_gain(before: bytes, after: bytes, recipe: QuantizeRecipe, keep: list[str]) -> None:
    """Raise Refused unless the result runs, has the same tensors, holds what was asked for, and is smaller."""
    if recipe.precision is not Precision.FLOAT16:
        _require_integers(read_network(after), recipe, keep)
    if len(after) >= len(before):
        raise Refused(
            f"as {recipe.precision} this model would take {len(after)} bytes instead of {len(before)}: it is too small "
            "to gain by it"
        )
    try:
        old, new = OpenVinoEngine(before), OpenVinoEngine(after)
    except InvalidInput as error:
        raise Refused(f"OpenVINO does not run this model as {recipe.precision}: {error}") from error
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        raise Refused(f"quantizing changed the model's tensors from {old.inputs + old.outputs} to {new.outputs}")
    old.close()
    new.close()


def _require_integers(network: Any, recipe: QuantizeRecipe, keep: list[str]) -> None:
    """All weights that became integers have the bits that were asked for, and there are some."""
    stored: dict[int, list[str]] = {8: [], 4: []}
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Constant" and _feeds_a_scale(node):
            bits = 4 if node.get_element_type().get_type_name() in _INTEGERS[4] else 8
            if not node.get_friendly_name().endswith("zero_point"):
                stored[bits].append(node.get_friendly_name())
    bits = _bits(recipe)
    other = stored[12 - bits]
    if other:
        raise Refused(
            f"NNCF would store {', '.join(other[:3])} in {12 - bits} bits, not {bits}: it compresses only matrix "
            f"products that far; keep those layers in float (now kept: {', '.join(keep) or 'none'})"
        )
    if not stored[bits]:
        raise Refused(
            f"nothing of this model could be made {recipe.precision}: NNCF quantizes convolutions and matrix products "
            "with constant weights"
        )


def _bits(recipe: QuantizeRecipe) -> int:
    return 4 if recipe.precision is Precision.INT4_WEIGHTS else 8


@contextlib.contextmanager
def _translated(recipe: QuantizeRecipe) -> Iterator[None]:
    """NNCF at work: its progress bars are kept from the screen, its errors become ours."""
    kinds: Any = import_module("nncf.errors")
    mine = (kinds.ValidationError, kinds.InternalError, kinds.UnsupportedModelError, kinds.ParameterNotSupportedError)
    quiet = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            yield
    except (*mine, kinds.InvalidGroupSizeError, RuntimeError, ValueError) as error:
        raise Refused(f"NNCF cannot make this model {recipe.precision}: {error}") from error


def _import_nncf() -> Any:
    import_openvino()
    try:
        with without_openvino_telemetry(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    except ImportError as error:
        raise Unavailable(
            f"quantizing for OpenVINO needs nncf ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf
