"""LiteRT files as they are built: what operators they hold, and the names of what goes in and out."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused
from edgeloop.runtime.engines.port import TensorSpec

_FLEX = "Flex"


def litert_operators(data: bytes) -> dict[str, int]:
    """How often each operator stands in the file; TensorFlow's own and custom ones by their name."""
    schema = _schema()
    model = _read(data)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    counted: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            counted[_text(code.customCode) if code.customCode else names[builtin]] += 1
    return dict(sorted(counted.items()))


def require_builtin(data: bytes, name: str) -> None:
    """Raise Refused if the file holds operators that LiteRT itself does not have."""
    model = _read(data)
    custom = sorted(_text(code.customCode) for code in model.operatorCodes if code.customCode)
    if custom:
        operator = custom[0].removeprefix(_FLEX)
        raise Refused(
            f"{name} cannot become LiteRT: it has no operator {operator!r}; replace the layer that uses it by one of "
            "LiteRT's operators, or convert to onnx or openvino"
        )


def rename_litert(data: bytes, names: Mapping[str, str]) -> bytes:
    """The same file with the tensors of its one signature called otherwise. names: from old to new.

    Raises InvalidInput if it has not one signature, or an old name is unknown.
    """
    model = _read(data)
    if len(model.signatureDefs or ()) != 1:
        raise InvalidInput(f"the LiteRT model has {len(model.signatureDefs or ())} signatures; expected one")
    signature = model.signatureDefs[0]
    maps = (*(signature.inputs or ()), *(signature.outputs or ()))
    unknown = set(names) - {_text(one.name) for one in maps}
    if unknown:
        raise InvalidInput(f"the LiteRT model has no tensor {sorted(unknown)[0]!r} to rename")
    for one in maps:
        one.name = names.get(_text(one.name), _text(one.name))
    builder = _schema().flatbuffers.Builder(len(data) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def graph_order(
    data: bytes, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs in the order that the graph itself counts them, not the signature."""
    model = _read(data)
    graph = model.subgraphs[0]
    if len(model.signatureDefs or ()) != 1:
        return [spec.name for spec in inputs], [spec.name for spec in outputs]
    signature = model.signatureDefs[0]
    given = {one.tensorIndex: _text(one.name) for one in signature.inputs}
    got = {one.tensorIndex: _text(one.name) for one in signature.outputs}
    return [given[index] for index in graph.inputs], [got[index] for index in graph.outputs]


def litert_arrays(data: bytes) -> list[tuple[str, Any]]:
    """Every constant float32 tensor by name."""
    schema, model = _schema(), _read(data)
    found = []
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            content = model.buffers[tensor.buffer].data
            if tensor.type == schema.TensorType.FLOAT32 and content is not None and len(content):
                found.append((_text(tensor.name), np.frombuffer(bytes(content), np.float32)))
    return found


def _read(data: bytes) -> Any:
    schema = _schema()
    if data[4:8] != b"TFL3":
        raise Corrupt(f"this is no LiteRT model: bytes 4 to 8 are {data[4:8]!r}, expected b'TFL3'")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def _text(name: bytes | str | None) -> str:
    return name.decode() if isinstance(name, bytes) else str(name or "")
