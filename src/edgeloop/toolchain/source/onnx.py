"""ONNX files as Models: weights that lie beside the file are taken in, free axes are fixed where a person says how."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model

Shapes = Mapping[str, tuple[int, ...]]
"""Full shapes by input name, with the batch axis."""


def load_onnx(path: Path, *, shapes: Shapes | None = None) -> Model:
    """An .onnx file. shapes: for inputs with free axes. Raises NotFound, InvalidInput, Corrupt, or Unavailable."""
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    onnx = import_onnx()
    data = path.read_bytes()
    proto = parse_onnx(data, path.name)
    if any(onnx.external_data_helper.uses_external_data(one) for one in proto.graph.initializer):
        try:
            onnx.load_external_data_for_model(proto, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise Corrupt(f"{path.name} keeps weights in files beside it, which cannot be read: {error}") from error
        data = proto.SerializeToString()
    return wrap_runnable(fix_shapes(data, shapes, path.name) if shapes else data, Format.ONNX, name=path.name)


def fix_shapes(data: bytes, shapes: Shapes, name: str) -> bytes:
    """The same graph for inputs of exactly these shapes. Raises InvalidInput if an input is unknown or does not
    take such a shape."""
    onnx = import_onnx()
    proto = parse_onnx(data, name)
    weights = {one.name for one in proto.graph.initializer}
    inputs = {one.name: one for one in proto.graph.input if one.name not in weights}
    fixed: dict[str, int] = {}
    for key, shape in shapes.items():
        if key not in inputs:
            raise InvalidInput(f"{name} has no input {key!r} to give a shape; it has {', '.join(inputs)}")
        _fix(inputs[key], shape, fixed, name)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in fixed:
                axis.dim_value = fixed[axis.dim_param]
    del proto.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidInput(f"{name} does not work out with the shapes {dict(shapes)}: {error}") from error
    return bytes(inferred.SerializeToString(deterministic=True))


def parse_onnx(data: bytes, name: str) -> Any:
    """The ModelProto. Raises Corrupt."""
    try:
        return import_onnx().load_from_string(data)
    except protobuf_error() as error:
        raise Corrupt(f"{name} cannot be read as ONNX: {error}") from error


def import_onnx() -> Any:
    """The onnx module. Raises Unavailable if it is not installed."""
    try:
        import onnx
        import onnx.external_data_helper
        import onnx.shape_inference
    except ImportError as error:
        raise Unavailable(f"this needs onnx ({error}); install it with: pip install 'edgeloop[toolchain]'") from error
    return onnx


def protobuf_error() -> type[Exception]:
    """What protobuf raises on bytes that are not such a message; it ships no types, so it is asked for by name."""
    kind: type[Exception] = import_module("google.protobuf.message").DecodeError
    return kind


def onnx_weights(model: Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every initializer by name."""
    onnx = import_onnx()
    for one in parse_onnx(model.data, model.name).graph.initializer:
        yield one.name, onnx.numpy_helper.to_array(one)


def _fix(value: Any, shape: tuple[int, ...], fixed: dict[str, int], name: str) -> None:
    axes = value.type.tensor_type.shape.dim
    if len(axes) != len(shape):
        raise InvalidInput(f"input {value.name!r} of {name} has {len(axes)} axes, the shape {shape} has {len(shape)}")
    for axis, size in zip(axes, shape, strict=True):
        if axis.HasField("dim_value") and axis.dim_value > 0 and axis.dim_value != size:
            raise InvalidInput(f"an axis of input {value.name!r} of {name} is fixed to {axis.dim_value}, not {size}")
        if axis.dim_param and fixed.setdefault(axis.dim_param, size) != size:
            raise InvalidInput(
                f"axis {axis.dim_param!r} of {name} is to be {fixed[axis.dim_param]} and {size}; give one size"
            )
        axis.dim_value = size
