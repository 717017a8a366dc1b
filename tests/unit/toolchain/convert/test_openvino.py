import numpy as np
import onnx
import pytest

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.runtime.engines.onnx import OnnxEngine
from edgeloop.runtime.engines.openvino import OpenVinoEngine
from edgeloop.toolchain.convert.openvino import read_network, to_openvino, write_network
from edgeloop.toolchain.quantize.onnx import quantize_onnx
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from small_onnx import convnet, dense, images, two_in_two_out


def test_outputs_are_those_of_onnx_runtime() -> None:
    before, after = OnnxEngine(convnet()), OpenVinoEngine(to_openvino(convnet()))
    for image in images(8):
        feeds = {"image": image[None]}
        # Both compute in float32, in another order: sums of up to 1,024 products of magnitude 1.
        np.testing.assert_allclose(after.run(feeds)["scores"], before.run(feeds)["scores"], atol=1e-4)


def test_tensors_are_matched_by_name() -> None:
    before, after = OnnxEngine(two_in_two_out()), OpenVinoEngine(to_openvino(two_in_two_out()))
    rng = np.random.default_rng(1)
    feeds = {name: rng.normal(size=(1, 64)).astype(np.float32) for name in ("a", "b")}
    expected, made = before.run(feeds), after.run(feeds)
    assert set(made) == {"left", "right"}
    for name in expected:
        np.testing.assert_allclose(made[name], expected[name], atol=1e-4)


def test_same_model_gives_the_same_bytes() -> None:
    assert to_openvino(convnet()) == to_openvino(convnet())


def test_reading_and_writing_changes_nothing_that_is_computed() -> None:
    made = to_openvino(convnet())
    feeds = {"image": images(1)}
    again = OpenVinoEngine(write_network(read_network(made))).run(feeds)["scores"]
    assert again.tolist() == OpenVinoEngine(made).run(feeds)["scores"].tolist()


def test_half_stores_constants_in_half() -> None:
    weights = np.random.default_rng(1).normal(size=(128, 128))
    made = to_openvino(dense(weights))
    assert len(write_network(read_network(made), half=True)) < 0.6 * len(made)


def test_layers_keep_the_names_of_the_source() -> None:
    names = {node.get_friendly_name() for node in read_network(to_openvino(convnet())).get_ordered_ops()}
    assert {"image", "second", "relu2", "pool", "dense"} <= names


def test_free_batch_axis_stays_free_and_runs_as_one() -> None:
    model = onnx.load_model_from_string(dense(np.ones((4, 3))))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    engine = OpenVinoEngine(to_openvino(model.SerializeToString()))
    assert engine.inputs[0].shape == (1, 4)


def test_unknown_operator_is_refused_by_name() -> None:
    model = onnx.load_model_from_string(dense(np.ones((4, 3))))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Warp", "my.lab"
    model.opset_import.append(onnx.helper.make_opsetid("my.lab", 1))
    with pytest.raises(Refused, match=r"operations: my\.lab\.Warp"):
        to_openvino(model.SerializeToString())


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS])
def test_quantized_onnx_answers_as_in_onnx_runtime(precision: Precision) -> None:
    quantized = quantize_onnx(convnet(), QuantizeRecipe(precision=precision), {"image": images(32)})
    before, after = OnnxEngine(quantized), OpenVinoEngine(to_openvino(quantized))
    for image in images(4):
        feeds = {"image": image[None]}
        expected = before.run(feeds)["scores"]
        # Both do the same integer or float arithmetic; a value at .5 may round either way, one step of 256.
        np.testing.assert_allclose(after.run(feeds)["scores"], expected, atol=2 * np.abs(expected).max() / 256)


def test_activations_of_16_bits_are_refused() -> None:
    wide = quantize_onnx(convnet(), QuantizeRecipe(precision=Precision.INT16), {"image": images(32)})
    with pytest.raises(Refused, match="no 16-bit activations"):
        to_openvino(wide)


def test_weights_in_another_file_are_invalid_input() -> None:
    model = onnx.load_model_from_string(dense(np.ones((4, 3))))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin")
    with pytest.raises(InvalidInput, match="weights in files beside it"):
        to_openvino(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"no model", bytes(40)])
def test_bytes_that_are_no_model_are_told_so(data: bytes) -> None:
    with pytest.raises(EdgeloopError, match="ONNX"):
        to_openvino(data)
