from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.arithmetic.count import multiply_adds, precision_of
from edgeloop.toolchain.arithmetic.litert import litert_products
from edgeloop.toolchain.arithmetic.onnx import onnx_products
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.profiles.probe import Probe, probe_model
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def _onnx(
    nodes: Sequence[Any],
    taken: Sequence[int | str],
    arrays: dict[str, Any],
    *,
    dtype: int = FLOAT,
    made: int = FLOAT,
    domain: str = "",
) -> bytes:
    """A graph from "x" to "y"."""
    graph = helper.make_graph(
        list(nodes),
        "counted",
        [helper.make_tensor_value_info("x", dtype, taken)],
        [helper.make_tensor_value_info("y", made, None)],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _total(data: bytes) -> int | None:
    products = onnx_products(data)
    return None if products is None else sum(product.multiply_adds for product in products)


def _zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def _mobilenet(width: float) -> bytes:
    """MobileNet v1 at 224 x 224 as ONNX: Howard et al. 2017 (arXiv 1704.04861), table 1."""
    nodes, arrays, at = [], {}, "x"
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]

    def convolve(made: int, taken: int, kernel: int, stride: int, groups: int) -> None:
        nonlocal at
        name, pad = f"w{len(nodes)}", kernel // 2
        arrays[name] = _zeros(made, taken // groups, kernel, kernel)
        nodes.append(
            helper.make_node("Conv", [at, name], [f"t{len(nodes)}"], strides=[stride] * 2, pads=[pad] * 4, group=groups)
        )
        at = f"t{len(nodes) - 1}"

    channels = int(32 * width)
    convolve(channels, 3, 3, 2, 1)
    for wide, stride in blocks:
        convolve(channels, channels, 3, stride, channels)
        convolve(int(wide * width), channels, 1, 1, 1)
        channels = int(wide * width)
    arrays["dense"] = _zeros(channels, 1000)
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["y"]),
    ]
    return _onnx(nodes, [1, 3, 224, 224], arrays)


@pytest.mark.parametrize(("width", "published_millions"), [(1.0, 569), (0.25, 41)])
def test_mobilenet_counts_as_its_paper_says(width: float, published_millions: int) -> None:
    # arXiv 1704.04861, table 6, rounded to millions.
    total = _total(_mobilenet(width))
    assert total is not None
    assert round(total / 1e6) == published_millions


def test_convolution_with_groups_and_stride_counts_each_output_value_once() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    # 8 x 8 at stride 2 is 4 x 4; 6 channels; each value sums over 4 / 2 channels of a 3 x 3 filter.
    assert _total(_onnx([node], [1, 4, 8, 8], {"w": _zeros(6, 2, 3, 3)})) == 4 * 4 * 6 * 2 * 9


def test_transposed_convolution_counts_each_input_value_through_its_filter() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert _total(_onnx([node], [1, 4, 5, 5], {"w": _zeros(4, 3, 2, 2)})) == 5 * 5 * 4 * 3 * 2 * 2


def test_matrix_products_count_rows_columns_and_inner_axis() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["t"]),
        helper.make_node("Gemm", ["t", "b"], ["y"], transA=1),
    ]
    # (7, 5) @ (5, 3), then its transpose (3, 7) @ (7, 2).
    assert _total(_onnx(nodes, [7, 5], {"a": _zeros(5, 3), "b": _zeros(7, 2)})) == 7 * 3 * 5 + 3 * 2 * 7


def test_free_batch_axis_counts_as_one_sample() -> None:
    node = helper.make_node("MatMul", ["x", "a"], ["y"])
    assert _total(_onnx([node], ["batch", 5], {"a": _zeros(5, 3)})) == 15


def test_file_with_a_custom_operator_has_no_count() -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="somebody")
    assert onnx_products(_onnx([node], [1, 4], {}, domain="somebody")) is None


def test_file_with_recurrence_has_no_count() -> None:
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=2)
    assert onnx_products(_onnx([node], [3, 1, 4], {"w": _zeros(1, 6, 4), "r": _zeros(1, 6, 2)})) is None


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no sound ONNX model"):
        onnx_products(b"\xff\xfe not a model")
    with pytest.raises(InvalidInput, match="no LiteRT model"):
        litert_products(b"not a model")


def _quantized(name: str, stored: str) -> Any:
    return helper.make_node("DequantizeLinear", [stored, "scale"], [name])


def test_precision_of_a_quantized_onnx_file_is_read_from_its_products() -> None:
    scale = np.array(0.1, np.float32)
    weights = np.zeros((5, 3), np.int8)
    product = helper.make_node("MatMul", ["a", "b"], ["y"])
    full = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        _quantized("a", "q"),
        _quantized("b", "w"),
        product,
    ]
    zero = np.array(0, np.int8)
    found = onnx_products(_onnx(full, [1, 5], {"scale": scale, "w": weights, "zero": zero}))
    assert found is not None
    assert [(one.activations, one.weights, one.quantizes_as_it_goes) for one in found] == [("int8", "int8", False)]


@pytest.mark.parametrize(
    ("nodes", "arrays", "expected"),
    [
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _zeros(5, 3)}, Precision.FLOAT32),
        (
            [_quantized("b", "w"), helper.make_node("MatMul", ["x", "b"], ["y"])],
            {"w": np.zeros((5, 3), np.int8), "scale": np.array(0.1, np.float32)},
            Precision.INT8_WEIGHTS,
        ),
        (
            [
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
                helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
                helper.make_node("Cast", ["i"], ["y"], to=FLOAT),
            ],
            {"w": np.zeros((5, 3), np.int8)},
            Precision.INT8_DYNAMIC,
        ),
        (
            [
                _quantized("b", "w"),
                helper.make_node("MatMul", ["x", "b"], ["t"]),
                helper.make_node("MatMul", ["t", "f"], ["y"]),
            ],
            {"w": np.zeros((5, 3), np.int8), "scale": np.array(0.1, np.float32), "f": _zeros(3, 2)},
            Precision.MIXED,
        ),
    ],
)
def test_precision_is_named_as_the_manifest_names_it(
    nodes: list[Any], arrays: dict[str, Any], expected: Precision
) -> None:
    graph = helper.make_graph(
        nodes,
        "named",
        [helper.make_tensor_value_info("x", FLOAT, [1, 5])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 2 if "f" in arrays else 3])],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    assert precision_of(wrap_runnable(bytes(data), Format.ONNX, name="named")) is expected


def _probe(precision: Precision) -> Model:
    return wrap_runnable(probe_model(Probe(8, 4, 1), precision), Format.LITERT, name="probe")


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_litert_file_is_counted_and_named(precision: Precision) -> None:
    model = _probe(precision)
    # 3x3x3 to 4 channels at 4 x 4; depthwise 3x3 to 2 x 2; pointwise 4 to 8; dense 8 to 10.
    expected = 4 * 4 * 4 * 27 + 2 * 2 * 4 * 9 + 2 * 2 * 8 * 4 + 8 * 10
    assert multiply_adds(model) == expected
    assert precision_of(model) is precision


def test_litert_file_of_every_counted_operator_agrees_with_counting_by_hand() -> None:
    keras = import_keras()
    layers = keras.layers
    taken = keras.Input((12, 12, 2), name="image")
    # LiteRT runs a dilated convolution as batches of space; only an interpreter knows their shapes.
    made = layers.Conv2D(3, 3, dilation_rate=2, padding="same")(taken)
    made = layers.DepthwiseConv2D(3, strides=2, padding="same")(made)
    made = layers.Conv2DTranspose(4, 2, strides=2)(made)
    rows = layers.Reshape((144, 4))(made)
    made = layers.Flatten()(layers.Dot(axes=(1, 1))([rows, rows]))
    net = keras.Model(taken, layers.Dense(5)(made))
    model = wrap_keras(net, name="net")
    expected = (
        12 * 12 * 3 * (3 * 3 * 2)  # dilated
        + 6 * 6 * 3 * (3 * 3)  # depthwise
        + 6 * 6 * 3 * (2 * 2 * 4)  # transposed, by input values
        + 4 * 4 * 144  # rows by rows
        + 16 * 5  # dense
    )
    assert multiply_adds(wrap_keras(keras.Model(taken, layers.Dense(5)(layers.Flatten()(taken))), name="flat")) == 1440
    exported = wrap_runnable(export_keras(model, Format.LITERT), Format.LITERT, name="net.tflite")
    assert multiply_adds(exported) == expected


def test_format_that_no_engine_runs_has_no_count() -> None:
    model = _probe(Precision.FLOAT32)
    other = Model("f", Format.FUNCTION, None, model.inputs, model.outputs, model.run, b"")
    assert multiply_adds(other) is None
    assert precision_of(other) is None
