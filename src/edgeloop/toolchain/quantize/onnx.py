"""Float ONNX to fewer bits, through onnxruntime.quantization.

int8, int16, int4   integers between QuantizeLinear and DequantizeLinear, with our ranges; int16 is run in float by
                    ONNX Runtime's CPU kernels, and so are 4-bit weights: smaller or more exact, not faster
int8_dynamic        MatMulInteger and ConvInteger
*_weights           see `onnx_weights`
float16             float32 in and out, every constant in half; the CPU computes it in float32

Weights are int8, activations uint8 when asymmetric and int8 when symmetric. On x86 without VNNI, sums of products of
uint8 and int8 overflow in ONNX Runtime where two nodes share a weight, which `check` on such a machine shows; else see
`runtime.engines.onnx`.
Neighbours: `recipe` says what, `onnx_graph` prepares, `onnx_ranges` calibrates.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.onnx import OnnxEngine, foreign_errors, import_onnxruntime
from edgeloop.toolchain.quantize.onnx_graph import (
    float_weights,
    integer_bytes,
    kept_nodes,
    prepare,
    read_graph,
    require_float,
)
from edgeloop.toolchain.quantize.onnx_ranges import Ranges, calibrated_ranges
from edgeloop.toolchain.quantize.onnx_weights import quantize_weights
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe, Symmetry
from edgeloop.toolchain.quantize.samples import require_calibratable, require_taken
from edgeloop.toolchain.source.onnx import import_onnx, parse_onnx

_ACTIVATION_BITS = {Precision.INT8: 8, Precision.INT4: 8, Precision.INT16: 16}
_WEIGHT_BITS = {Precision.INT8_WEIGHTS: 8, Precision.INT4_WEIGHTS: 4}
_ABLE = (*_ACTIVATION_BITS, *_WEIGHT_BITS, Precision.INT8_DYNAMIC, Precision.FLOAT16)


def quantize_onnx(data: bytes, recipe: QuantizeRecipe, calibration: Mapping[str, NDArray[Any]]) -> bytes:
    """The model in the recipe's precision; its inputs and outputs stay as they are, by name, shape and type.

    data: a float32 .onnx file in one piece. calibration: (N, ...) by input name, read for int8, int16 and int4 only.
    recipe.equalize is not read: it is done before, on the Keras model.
    Raises InvalidInput on a bad model, calibration or name, Refused on what ONNX Runtime cannot do, on a model that
    is quantized already, and where nothing would be gained.
    """
    _require_able(recipe)
    model = read_graph(data)
    require_float(model)
    ready = prepare(read_graph(data))
    keep = kept_nodes(recipe.keep_float, model, ready)
    _require_granularity(recipe, ready, keep)
    if recipe.precision is Precision.FLOAT16:
        made = _halved(ready, keep)
    elif recipe.precision in _WEIGHT_BITS:
        made = quantize_weights(ready, recipe, bits=_WEIGHT_BITS[recipe.precision], keep=keep).SerializeToString()
    elif recipe.precision is Precision.INT8_DYNAMIC:
        made = _dynamic(ready, recipe, keep)
    else:
        bits = _ACTIVATION_BITS[recipe.precision]
        feeds = _feeds(data, calibration, recipe)
        made = _static(ready, recipe, keep, calibrated_ranges(ready, recipe, feeds, bits=bits))
    _require_gain(data, made, recipe)
    return made


def _require_able(recipe: QuantizeRecipe) -> None:
    if recipe.precision not in _ABLE:
        raise Refused(f"ONNX Runtime does not do {recipe.precision}; it does {', '.join(_ABLE)}")
    if recipe.precision is Precision.INT8_DYNAMIC and recipe.activations is Symmetry.SYMMETRIC:
        raise Refused("ONNX Runtime's dynamic quantization is asymmetric for activations; ask for that")
    if recipe.correct_bias:
        raise Refused("ONNX Runtime has no bias correction; use LiteRT or OpenVINO, or leave it off")


def _require_granularity(recipe: QuantizeRecipe, ready: Any, keep: list[str]) -> None:
    """ONNX Runtime quietly does something else in these two cases; here they are refused."""
    if recipe.granularity is Granularity.TENSOR or recipe.precision is Precision.FLOAT16:
        return
    if recipe.precision in _ACTIVATION_BITS and recipe.weights is Symmetry.ASYMMETRIC:
        raise Refused(
            "ONNX Runtime's weights are symmetric where each channel has its scale; ask for symmetric weights, or for "
            "one scale a tensor"
        )
    if recipe.precision is Precision.INT8_DYNAMIC:
        convolutions = [node.name for node in ready.graph.node if node.op_type == "Conv" and node.name not in keep]
        if convolutions:
            raise Refused(
                f"in ONNX Runtime's dynamic quantization a convolution ({', '.join(convolutions[:3])}) has one scale "
                "for all of its weights; ask for that, or keep the convolutions in float"
            )


def _feeds(data: bytes, calibration: Mapping[str, NDArray[Any]], recipe: QuantizeRecipe) -> dict[str, NDArray[Any]]:
    """The calibration samples as the model takes them. Raises InvalidInput if they do not fit."""
    require_calibratable(calibration)
    engine = OnnxEngine(data)
    specs = {spec.name: spec for spec in engine.inputs}
    engine.close()
    require_taken(calibration, specs)
    count = recipe.calibration_samples
    return {name: np.asarray(calibration[name][:count], specs[name].dtype) for name in specs}


def _static(ready: Any, recipe: QuantizeRecipe, keep: list[str], ranges: Ranges) -> bytes:
    import_onnxruntime()
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    kinds = quantization.QuantType
    symmetric = recipe.activations is Symmetry.SYMMETRIC
    wide = recipe.precision is Precision.INT16
    activations = {(False, False): kinds.QUInt8, (False, True): kinds.QInt8, (True, False): kinds.QUInt16}
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    with tempfile.TemporaryDirectory() as folder:
        # ONNX Runtime takes ranges that were measured before from a file, and then measures none.
        measured = Path(folder) / "ranges.json"
        save_tensors_data(TensorsData(quantization.CalibrationMethod.MinMax, data), measured)
        return _written(
            lambda target: quantization.quantize_static(
                ready,
                target,
                calibration_cache_path=measured,
                per_channel=recipe.granularity is Granularity.CHANNEL,
                activation_type=activations.get((wide, symmetric), kinds.QInt16),
                weight_type=kinds.QInt4 if recipe.precision is Precision.INT4 else kinds.QInt8,
                nodes_to_exclude=keep,
                extra_options={
                    "ActivationSymmetric": symmetric,
                    "WeightSymmetric": recipe.weights is Symmetry.SYMMETRIC,
                },
            )
        )


def _dynamic(ready: Any, recipe: QuantizeRecipe, keep: list[str]) -> bytes:
    import_onnxruntime()
    from onnxruntime import quantization

    return _written(
        lambda target: quantization.quantize_dynamic(
            ready,
            target,
            per_channel=recipe.granularity is Granularity.CHANNEL,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=keep,
            extra_options={"WeightSymmetric": recipe.weights is Symmetry.SYMMETRIC},
        )
    )


def _halved(ready: Any, keep: list[str]) -> bytes:
    import_onnxruntime()
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    largest = max(float(np.abs(values).max(initial=0.0)) for values in float_weights(ready).values())
    if largest > float(np.finfo(np.float16).max):
        raise Refused(f"a weight of {largest:g} does not fit into float16 (at most 65504)")
    halved = ONNXModel(convert_float_to_float16(ready, keep_io_types=True, node_block_list=keep))
    halved.topological_sort()  # the converter leaves its casts at the end, where ONNX does not allow them
    return bytes(halved.model.SerializeToString())


def _written(make: Callable[[Path], None]) -> bytes:
    """What `make` writes into the file that it is given. Raises Refused where ONNX Runtime cannot make it."""
    onnx = import_onnx()
    foreign = (*foreign_errors(import_onnxruntime()), KeyError, TypeError, NotImplementedError, AssertionError)
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        target = Path(folder) / "quantized.onnx"
        try:
            make(target)
        except (*foreign, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise Refused(f"ONNX Runtime cannot quantize this model: {error}") from error
        return target.read_bytes()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Its quantizer gives advice through the root logger; what matters of it is checked on the result."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _require_gain(before: bytes, after: bytes, recipe: QuantizeRecipe) -> None:
    """Raise Refused unless the result runs, has the same tensors, holds what was asked for, and is smaller."""
    if recipe.precision is not Precision.FLOAT16 and integer_bytes(parse_onnx(after, "the quantized model")) == 0:
        raise Refused(
            f"nothing of this model could be made {recipe.precision}: ONNX Runtime quantizes convolutions and matrix "
            "products with constant weights"
        )
    if len(after) >= len(before):
        raise Refused(
            f"as {recipe.precision} this model would take {len(after)} bytes instead of {len(before)}: it is too small "
            "to gain by it"
        )
    old = OnnxEngine(before)
    try:
        import_onnx().checker.check_model(after)
        new = OnnxEngine(after)
    except (InvalidInput, import_onnx().checker.ValidationError) as error:
        raise Refused(f"ONNX Runtime does not run this model as {recipe.precision}: {error}") from error
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        raise Refused(
            f"quantizing changed the model's tensors from {old.inputs + old.outputs} to {new.inputs + new.outputs}"
        )
    old.close()
    new.close()
