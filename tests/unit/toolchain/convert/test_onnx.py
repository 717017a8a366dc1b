from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.convert.onnx import rename_onnx, require_standard
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.targets import Target
from small_onnx import convnet

RNG = np.random.default_rng(0)


def _bytes(nodes: list[object], *, weights: dict[str, np.ndarray] | None = None, domain: str = "") -> bytes:
    """x (batch, 2) to y (batch, 2)."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _model(data: bytes) -> Model:
    return wrap_runnable(data, Format.ONNX, name="m.onnx")


def test_slimmed_graph_answers_the_same_with_fewer_nodes() -> None:
    source = _model(convnet())
    slim, report = convert(source, ConvertRecipe(to=Target.ONNX))
    _, full = convert(source, ConvertRecipe(to=Target.ONNX, simplify=False))
    image = RNG.normal(size=(3, 1, 8, 8)).astype(np.float32)
    assert sum(report.operators.values()) < sum(full.operators.values())
    assert np.allclose(slim.scores(image), source.scores(image), atol=1e-4)  # normalisation folds into weights


def test_as_it_is_changes_nothing() -> None:
    source = _model(convnet())
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX, simplify=False))
    assert made.data == source.data


def test_batch_is_fixed_as_told() -> None:
    source = _model(_bytes([helper.make_node("Relu", ["x"], ["y"])]))
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX, shapes={"x": (1, 2)}))
    import onnx

    (axis, _) = onnx.load_from_string(made.data).graph.input[0].type.tensor_type.shape.dim
    assert axis.dim_value == 1


def test_way_to_litert_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInput, match="no converter from ONNX to LiteRT"):
        convert(_model(convnet()), ConvertRecipe(to=Target.LITERT))


def test_nan_in_a_weight_is_refused_by_its_name() -> None:
    data = _bytes([helper.make_node("Add", ["x", "bad"], ["y"])], weights={"bad": np.array([np.nan, 1], np.float32)})
    with pytest.raises(Refused, match="'bad'"):
        convert(_model(data), ConvertRecipe(to=Target.ONNX))


def test_operator_that_onnx_does_not_define_is_named() -> None:
    data = _bytes([helper.make_node("Whirl", ["x"], ["y"], domain="mine")], domain="mine")
    with pytest.raises(Refused, match="'Whirl'"):
        require_standard(data, "m.onnx")


def test_renamed_tensors_compute_the_same() -> None:
    data = rename_onnx(convnet(), {"image": "picture", "scores": "c1"})  # c1 is an inner tensor already
    model = _model(data)
    image = RNG.normal(size=(1, 1, 8, 8)).astype(np.float32)
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["picture", "c1"]
    assert np.array_equal(model.run({"picture": image})["c1"], _model(convnet()).run({"image": image})["scores"])


def test_two_names_may_be_swapped() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["inner"]), helper.make_node("Exp", ["inner"], ["y"])]
    model = _model(rename_onnx(_bytes(nodes), {"x": "y", "y": "x"}))
    assert model.run({"y": np.zeros((1, 2), np.float32)})["x"].tolist() == [[1.0, 1.0]]


def test_written_file_opens_with_its_history(tmp_path: Path) -> None:
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import save_model

    made, report = convert(_model(convnet()), ConvertRecipe(to=Target.ONNX))
    save_model(made, tmp_path / "m.onnx", report=report)
    assert [step.kind for step in open_model(tmp_path / "m.onnx").steps] == ["convert"]
