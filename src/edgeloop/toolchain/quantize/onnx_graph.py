"""An ONNX graph made ready to be quantized, and what stands in one: names, weights, whether it is quantized.

Neighbours: `onnx` quantizes, `onnx_ranges` looks at activations, `onnx_weights` stores weights alone in integers.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.onnx import foreign_errors, import_onnxruntime
from edgeloop.toolchain.source.onnx import import_onnx, parse_onnx

WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""The operators whose weights are worth most of a file, and which input the weights are."""

_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits"}
)
_LAYER_ENDS = frozenset(
    {"Add", "Relu", "Clip", "Sigmoid", "Tanh", "Softmax", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Gelu"}
)
_CHANNELS_SINCE = 13  # in which DequantizeLinear got one scale a channel
_INTEGERS = ("INT8", "UINT8", "INT4", "UINT4")


def read_graph(data: bytes) -> Any:
    """An onnx.ModelProto that needs no other file. Raises Corrupt, InvalidInput or Unavailable."""
    onnx = import_onnx()
    model = parse_onnx(data, "the model")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InvalidInput(f"this is no ONNX model: {str(error).splitlines()[0]}") from error
    outside = [one.name for one in model.graph.initializer if onnx.external_data_helper.uses_external_data(one)]
    if outside:
        raise InvalidInput(
            f"the weights {', '.join(outside[:3])} lie in another file; save the model as one: "
            "onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    return model


def prepare(model: Any) -> Any:
    """The same model with shapes written down, constants folded and batch normalisation merged, each node named.

    Raises Refused if ONNX Runtime cannot do it.
    """
    onnxruntime = import_onnxruntime()
    onnx = import_onnx()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _constants_only(model)
    model = raised(model, _CHANNELS_SINCE)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "ready.onnx"
        onnx.save(model, source)
        try:
            quant_pre_process(source, target, skip_symbolic_shape=True)  # it needs one more package, for free axes
        except (*foreign_errors(onnxruntime), onnx.shape_inference.InferenceError) as error:
            raise Refused(f"ONNX Runtime cannot prepare this model: {error}") from error
        ready = onnx.load(target)
    for node in ready.graph.node:
        # The quantizer excludes nodes by name.
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    return ready


def raised(model: Any, version: int) -> Any:
    """The same model in this version of ONNX's operators, or in its own if that is later. Raises Refused."""
    onnx = import_onnx()
    own = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=version)
    if own >= version:
        return model
    try:
        return onnx.version_converter.convert_version(model, version)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise Refused(
            f"this model is of ONNX version {own} and cannot be raised to {version}, which quantizing needs: {error}; "
            "export it again in a later version"
        ) from error


def require_float(model: Any) -> None:
    """Raise Refused if the model is quantized or has no float32 weights, InvalidInput if any are NaN or infinite."""
    found = sorted({node.op_type for node in model.graph.node if is_quantized(node)})
    if found:
        raise Refused(f"this model is quantized already (it has {', '.join(found)}); quantize its float original")
    weights = float_weights(model)
    if not weights:
        raise Refused("this model has no float32 weights; there is nothing to quantize")
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise InvalidInput(f"the weights {name!r} hold NaN or infinity; train the model again")


def is_quantized(node: Any) -> bool:
    """Whether a node computes with integers that stand for real values, or makes or reads them."""
    return node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")


def float_weights(model: Any) -> dict[str, NDArray[np.float32]]:
    """The float32 constants by name."""
    onnx = import_onnx()
    kind = onnx.TensorProto.FLOAT
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == kind}


def integer_bytes(model: Any) -> int:
    """How many bytes of the graph's constants are integers of 4 or 8 bits that a node dequantizes or computes with."""
    onnx = import_onnx()
    read = {name for node in model.graph.node if is_quantized(node) for name in node.input}
    kinds = {getattr(onnx.TensorProto, kind) for kind in _INTEGERS}
    return sum(one.ByteSize() for one in model.graph.initializer if one.name in read and one.data_type in kinds)


def kept_nodes(keep: Iterable[str], model: Any, ready: Any) -> list[str]:
    """The names in `ready` of the nodes that `keep` names in `model`, by their own name or that of an output.

    A bias or an activation stands for the layer that it ends.
    Raises InvalidInput on a name that the model has not, Refused if a node was merged into others in `ready`.
    """
    found: list[str] = []
    for name in keep:
        meant = [node for node in model.graph.node if name == node.name or name in node.output]
        if not meant:
            some = ", ".join(node.name or node.output[0] for node in model.graph.node[:8])
            raise InvalidInput(f"the model has no layer or tensor {name!r} to keep in float; it has {some}, ...")
        names = {node.name for node in meant if node.name} | {out for node in meant for out in node.output}
        here = [node for node in ready.graph.node if node.name in names or names & set(node.output)]
        if not here:
            raise Refused(f"{name!r} is merged into other layers before quantizing; name one of those to keep in float")
        found += [node.name for node in _whole_layer(here, ready)]
    return found


def _whole_layer(nodes: list[Any], ready: Any) -> list[Any]:
    """A layer may be a product, the sum with its bias and an activation, and go by the name of the last one."""
    made_by = {name: node for node in ready.graph.node for name in node.output}
    found = list(nodes)
    for node in found:  # grows while it is walked
        made = [made_by[name] for name in node.input if name in made_by]
        # A sum of two activations joins layers; it ends none.
        if node.op_type in _LAYER_ENDS and len(made) == 1:
            found += made
    return [node for node in found if node in nodes or node.op_type in WEIGHTED]


def _constants_only(model: Any) -> None:
    """Weights that are listed as inputs too, as old exporters did, count as changeable and are then not quantized."""
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
