"""ONNX to ONNX: slimmed, with its inputs and outputs named, and nothing in it that ONNX does not define."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.source.onnx import import_onnx, parse_onnx

_OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operators that ONNX Runtime has: the standard's, classic machine learning's, its own."""


def onnx_operators(data: bytes) -> dict[str, int]:
    """How often each operator stands in the file, in nested graphs too."""
    graph = parse_onnx(data, "the model").graph
    return dict(sorted(Counter(node.op_type for node in _nodes(graph)).items()))


def require_standard(data: bytes, name: str) -> None:
    """Raise Refused if the file holds operators that ONNX does not define."""
    onnx = import_onnx()
    proto = parse_onnx(data, name)
    functions = {(one.domain, one.name) for one in proto.functions}
    for node in _nodes(proto.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = (node.domain, node.op_type) in functions or domain == "com.microsoft"
        if not known and (domain not in _OWN_DOMAINS or not onnx.defs.has(node.op_type, domain)):
            raise Refused(
                f"{name} cannot become ONNX: ONNX has no operator {node.op_type!r}; replace the layer that uses it, "
                "or convert to litert"
            )


def slim_onnx(data: bytes, name: str) -> bytes:
    """The same graph with constants folded, and what computes nothing left out."""
    try:
        import onnxslim
    except ImportError as error:
        raise Unavailable(
            f"slimming needs onnxslim ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    quiet = io.StringIO()
    with (
        warnings.catch_warnings(),
        without_native_chatter(),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("ignore")
        slimmed = onnxslim.slim(parse_onnx(data, name))
    return bytes(slimmed.SerializeToString(deterministic=True))


def rename_onnx(data: bytes, names: Mapping[str, str]) -> bytes:
    """The same graph with some of its tensors called otherwise. names: from old to new, one to one.

    An inner tensor that already has a wanted name makes room for it.
    """
    proto = parse_onnx(data, "the model")
    wanted = {old: new for old, new in names.items() if old != new}
    taken = {name for node in _nodes(proto.graph) for name in (*node.input, *node.output)}
    taken |= {one.name for one in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)}
    for new in list(wanted.values()):
        if new in taken and new not in wanted:
            wanted[new] = _free(f"{new}_inner", taken)
    _rename(proto.graph, wanted)
    return bytes(proto.SerializeToString(deterministic=True))


def output_names(data: bytes) -> list[str]:
    """What the graph gives, in order."""
    return [one.name for one in parse_onnx(data, "the model").graph.output]


def input_names(data: bytes) -> list[str]:
    """What the graph takes, in order, without its weights."""
    graph = parse_onnx(data, "the model").graph
    weights = {one.name for one in graph.initializer}
    return [one.name for one in graph.input if one.name not in weights]


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        one.name = names.get(one.name, one.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _inner_graphs(node):
            _rename(inner, names)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from _nodes(inner)


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
