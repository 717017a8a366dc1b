"""ONNX to OpenVINO, as the one file that the runtime takes.

Neighbours: `runtime.openvino` says what the file is, `quantize.openvino` makes one smaller.
"""

import io
import re
import tempfile
from collections.abc import Collection
from html import unescape
from pathlib import Path
from typing import Any

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.openvino import OpenVinoEngine, import_openvino, pack_ir, unpack_ir
from edgeloop.toolchain.source.onnx import import_onnx, parse_onnx

_LAYER = re.compile(r'(<layer id="[0-9]+" name=")([^"]*)(")')
_COUNTED = re.compile(r"[A-Za-z]+_[0-9]+")


def to_openvino(onnx: bytes) -> bytes:
    """A float or quantized ONNX model as an .openvino file; weights keep their type, tensors their names.

    onnx: a file in one piece; the same one gives the same bytes. Raises Corrupt or InvalidInput if it is none,
    Refused with the operators' names if OpenVINO does not know them, or if the result lacks a tensor or does not run.
    """
    made = write_network(read_onnx(onnx))
    try:
        OpenVinoEngine(made).close()
    except InvalidInput as error:
        raise Refused(f"OpenVINO cannot run what it made of this model: {error}") from error
    return made


def read_onnx(data: bytes) -> Any:
    """An ONNX file as an openvino.Model with constants folded. Raises as `to_openvino` does."""
    graph = _graph(data)
    openvino = import_openvino()
    failures = (RuntimeError, openvino.frontend.OpConversionFailure, openvino.frontend.GeneralFailure)
    try:
        network = openvino.convert_model(io.BytesIO(data))
    except failures as error:
        raise Refused(f"OpenVINO cannot convert this model: {_reason(error)}") from error
    lost = _tensor_names(graph) - {name for port in (*network.inputs, *network.outputs) for name in port.get_names()}
    if lost:
        raise Refused(f"OpenVINO lost the tensors {', '.join(sorted(lost))} of this model")
    _name_by_place(network, {name for node in graph.node for name in (node.name, *node.input, *node.output)})
    return network


def read_network(data: bytes) -> Any:
    """An .openvino file as an openvino.Model. Raises InvalidInput if it is none."""
    xml, weights = unpack_ir(data)
    openvino = import_openvino()
    try:
        return openvino.Core().read_model(model=xml, weights=weights)
    except RuntimeError as error:
        raise InvalidInput(f"OpenVINO cannot read this model: {_reason(error)}") from error


def write_network(network: Any, *, half: bool = False) -> bytes:
    """An openvino.Model as an .openvino file. half: float constants as float16. Names its unnamed nodes."""
    openvino = import_openvino()
    _name_by_place(network)
    known = {str(node.get_friendly_name()) for node in network.get_ordered_ops()}
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        openvino.save_model(network, graph, compress_to_fp16=half)
        return pack_ir(_without_counters(graph.read_bytes(), known), graph.with_suffix(".bin").read_bytes())


def onnx_layers(data: bytes) -> dict[str, set[str]]:
    """The tensors that each node of an ONNX file makes, by the node's name: OpenVINO keeps now one, now the other."""
    return {node.name: set(node.output) for node in _graph(data).node if node.name}


def _name_by_place(network: Any, given: Collection[str] | None = None) -> None:
    """OpenVINO names nodes by a counter of the process; so that a model is the same each time, by their place.

    given: names that the source gave, which stay; without them, all names but those that no one ever set.
    """
    network.set_friendly_name("model")
    for place, node in enumerate(network.get_ordered_ops()):
        name = str(node.get_friendly_name())
        if name == node.get_name() or (given is not None and name not in given and _COUNTED.fullmatch(name)):
            node.set_friendly_name(f"{node.get_type_name()}@{place}")


def _without_counters(xml: bytes, known: set[str]) -> bytes:
    """The same graph where nodes that were made only while it was written are named by their order."""
    made: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        name = unescape(match[2])
        if name in known or not _COUNTED.fullmatch(name):
            return match[0]
        return match[1] + made.setdefault(name, f"@{len(made)}") + match[3]

    return _LAYER.sub(renamed, xml.decode()).encode()


def _graph(data: bytes) -> Any:
    """The ONNX graph. OpenVINO makes an empty model of bytes that are no ONNX, so it is not the one to ask."""
    onnx = import_onnx()
    graph = parse_onnx(data, "the model").graph
    if any(onnx.external_data_helper.uses_external_data(one) for one in graph.initializer):
        raise InvalidInput("the model keeps weights in files beside it; open it from its path, which takes them in")
    if not graph.output:
        raise InvalidInput("this is no ONNX model: it has no outputs")
    wide = {one.name for one in graph.initializer if one.data_type in (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and wide & set(node.input):
            # It reads such a file and answers wrongly, by far more than 16 bits would explain.
            raise Refused(f"OpenVINO has no 16-bit activations ({node.name or node.output[0]}); quantize to int8")
    return graph


def _tensor_names(graph: Any) -> set[str]:
    constants = {one.name for one in graph.initializer}
    return {one.name for one in (*graph.input, *graph.output)} - constants


def _reason(error: Exception) -> str:
    """The line that names operators, else the last one that says something."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    naming = [line for line in lines if "operations:" in line]
    return naming[0] if naming else lines[-1] if lines else type(error).__name__
