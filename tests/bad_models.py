"""Models that no engine survives, or that never answer: what a device must not be taken down by.

    crashing()   LiteRT ends the process by SIGSEGV when it loads it
    endless()    ONNX Runtime loads it, and never comes back from its first run
    vast()       ONNX Runtime loads it, and needs more memory for its first run than any machine has
    dark()       ONNX Runtime answers with it, until a black picture ends the process by SIGFPE
    waiting()    ONNX Runtime answers with it, until a black picture has it compute for ever
    failing()    ONNX Runtime answers with it, but for black pictures
    slow()       ONNX Runtime answers with it, a hundred times later than with the sound one

As parts of bundles they are otherwise sound: `with_model`.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from builders import LABELS, SIDE_PX, onnx_model, quadrant_weights
from small_litert import flattened

_PLACE, _BIT = 338, 6
"""A bit of `small_litert.flattened`, found by flipping bits: with it ai-edge-litert 2.3 crashed on 20 loads of 20."""


def crashing() -> bytes:
    """A .tflite file with one bit changed."""
    data = bytearray(flattened())
    data[_PLACE] ^= 1 << _BIT
    return bytes(data)


def endless() -> bytes:
    """ONNX: "image" (1, 8, 8, 1) float32 to "logits" (1, K), in a loop of 2**62 rounds."""
    kept = helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1, len(LABELS)])
    body = helper.make_graph(
        [helper.make_node("Identity", ["goes"], ["goes_on"]), helper.make_node("Add", ["kept", "one"], ["more"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            kept,
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, len(LABELS)]),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    return _onnx(
        [helper.make_node("Loop", ["rounds", "true", "sums"], ["logits"], body=body)],
        {"rounds": np.array(2**62, np.int64), "true": np.array(True)},
    )


def vast() -> bytes:
    """ONNX: the same inputs and outputs, by way of 2**48 numbers."""
    return _onnx(
        [
            helper.make_node("Expand", ["sums", "size"], ["many"]),
            helper.make_node("ReduceMax", ["many"], ["logits"], axes=[0], keepdims=1),
        ],
        {"size": np.array([2**46, len(LABELS)], np.int64)},
    )


def dark() -> bytes:
    """The classifier of `builders`, which a black picture crashes: SIGFPE, in ONNX Runtime 1.31.

    The sum of all pixels, as int64, minus 2**63, is divided by -1: what overflows is a trap of x86.
    """
    return _classifier(
        [
            helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Add", ["whole", "least"], ["far"]),
            helper.make_node("Div", ["far", "minus_one"], ["turned"]),
            helper.make_node("Cast", ["turned"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["real", "zero"], ["nothing"]),
        ],
        {
            "least": np.array(-(2**63), np.int64),
            "minus_one": np.array(-1, np.int64),
            "zero": np.array(0, np.float32),
        },
    )


def waiting() -> bytes:
    """The classifier of `builders`, which a black picture sends into a loop of 2**62 rounds."""
    kept = helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1, len(LABELS)])
    body = helper.make_graph(
        [helper.make_node("Identity", ["goes"], ["goes_on"]), helper.make_node("Mul", ["kept", "zero"], ["more"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            kept,
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, len(LABELS)]),
        ],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return _classifier(
        [
            helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["lit"], to=TensorProto.BOOL),
            helper.make_node("Not", ["lit"], ["dark"]),
            helper.make_node("Cast", ["dark"], ["is_dark"], to=TensorProto.INT64),
            helper.make_node("Mul", ["is_dark", "many"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "true", "plain"], ["last"], body=body),
            helper.make_node("Mul", ["last", "none"], ["nothing"]),
        ],
        {"many": np.array(2**62, np.int64), "true": np.array(True), "none": np.array(0, np.float32)},
    )


def failing() -> bytes:
    """The classifier of `builders`, which ONNX Runtime cannot answer a black picture with: it divides by zero."""
    return _classifier(
        [
            helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Div", ["one", "whole"], ["share"]),
            helper.make_node("Cast", ["share"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["real", "zero"], ["nothing"]),
        ],
        {"one": np.array(1, np.int64), "zero": np.array(0, np.float32)},
    )


def slow(*, rounds: int = 8_000) -> bytes:
    """The classifier of `builders`, with so many rounds of a loop that change nothing."""
    kept = helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1, len(LABELS)])
    body = helper.make_graph(
        [helper.make_node("Identity", ["goes"], ["goes_on"]), helper.make_node("Mul", ["kept", "zero"], ["more"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            kept,
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, len(LABELS)]),
        ],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return _classifier(
        [helper.make_node("Loop", ["rounds", "true", "plain"], ["nothing"], body=body)],
        {"rounds": np.array(rounds, np.int64), "true": np.array(True)},
    )


def _classifier(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """The classifier of `builders`, with "nothing", which these nodes make of "image" and "plain", its logits, added to
    them."""
    made = onnx.load_from_string(onnx_model(quadrant_weights()))
    gemm = next(node for node in made.graph.node if node.output[0] == "logits")
    gemm.output[0] = "plain"
    made.graph.node.extend([*nodes, helper.make_node("Add", ["plain", "nothing"], ["logits"])])
    made.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return bytes(made.SerializeToString(deterministic=True))


def _onnx(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """These nodes from "sums" (1, K), a product of the image and ones, to "logits"."""
    constants = constants | {
        "flat": np.array([1, SIDE_PX * SIDE_PX], np.int64),
        "ones": np.ones((SIDE_PX * SIDE_PX, len(LABELS)), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "ones"], ["sums"]),
            *nodes,
        ],
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, SIDE_PX, SIDE_PX, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(LABELS)])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString(deterministic=True))
