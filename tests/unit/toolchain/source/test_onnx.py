from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, load, numpy_helper, save

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.toolchain.source.open import open_model


def _write(path: Path, inputs: dict[str, list[Any]], nodes: list[Any], outputs: dict[str, list[Any]]) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def free(tmp_path: Path) -> Path:
    """x (batch, 3, width) to its mean over the width, and to its sum with a bias."""
    return _write(
        tmp_path / "free.onnx",
        {"x": ["batch", "width", 3]},
        [helper.make_node("Add", ["x", "w"], ["sum"]), helper.make_node("Relu", ["sum"], ["y"])],
        {"y": ["batch", "width", 3]},
    )


def test_free_axes_are_fixed_as_told(free: Path) -> None:
    model = open_model(free, shapes={"x": (1, 5, 3)})
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((1, 5, 3), (1, 5, 3))


def test_fixed_model_computes_the_same(free: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    made = open_model(free, shapes={"x": (1, 5, 3)}).run({"x": x})["y"]
    assert np.array_equal(made, np.maximum(x + np.arange(3, dtype=np.float32), 0))


def test_free_axes_are_refused_unless_told(free: Path) -> None:
    with pytest.raises(InvalidInput, match="free axes"):
        open_model(free)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"z": (1, 5, 3)}, "no input 'z'"),
        ({"x": (1, 5)}, "3 axes"),
        ({"x": (1, 5, 4)}, "fixed to 3, not 4"),
    ],
)
def test_shape_that_does_not_fit_is_refused(free: Path, shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        open_model(free, shapes=shapes)


def test_shape_for_another_format_is_refused(tmp_path: Path) -> None:
    from edgeloop.toolchain.source.sklearn import wrap_sklearn

    linear = pytest.importorskip("sklearn.linear_model").LinearRegression()
    linear.fit(np.eye(3), np.arange(3))
    (tmp_path / "m.skops").write_bytes(wrap_sklearn(linear).data)
    with pytest.raises(InvalidInput, match="only an ONNX model's free axes"):
        open_model(tmp_path / "m.skops", shapes={"input": (1, 4)})


def test_weights_beside_the_file_are_taken_in(free: Path) -> None:
    proto = load(free)
    external_data_helper.convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    save(proto, free.with_name("outside.onnx"))
    model = open_model(free.with_name("outside.onnx"), shapes={"x": (1, 1, 3)})
    assert model.run({"x": np.zeros((1, 1, 3), np.float32)})["y"].tolist() == [[[0.0, 1.0, 2.0]]]


def test_weights_that_should_be_beside_the_file_are_missed(free: Path) -> None:
    proto = load(free)
    external_data_helper.convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    save(proto, free.with_name("outside.onnx"))
    free.with_name("weights.bin").unlink()
    with pytest.raises(Corrupt, match="weights"):
        open_model(free.with_name("outside.onnx"))


def test_damaged_file_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff nothing")
    with pytest.raises(Corrupt, match="cannot be read as ONNX"):
        open_model(tmp_path / "m.onnx")


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_model(tmp_path / "m.onnx")


def test_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"\.keras.*\.pt2.*\.skops.*SavedModel"):
        open_model(tmp_path / "m.bin")
