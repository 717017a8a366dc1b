import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.openvino import OpenVinoEngine, import_openvino, pack_ir, unpack_ir


def _pack(network: Any, folder: Path) -> bytes:
    xml, weights = folder / "model.xml", folder / "model.bin"
    import_openvino().serialize(network, xml, weights)
    return pack_ir(xml.read_bytes(), weights.read_bytes())


def _network(shape: list[int], kind: str, body: Callable[[Any, Any], list[Any]]) -> Any:
    """A model of one input "x"; body: from the operators and x to the outputs' nodes."""
    openvino = import_openvino()
    ops = openvino.opset13
    x = ops.parameter(openvino.PartialShape(shape), getattr(openvino.Type, kind), name="x")
    x.output(0).set_names({"x"})
    return openvino.Model([openvino.opset13.result(node) for node in body(ops, x)], [x], "net")


def _named(node: Any, *names: str) -> Any:
    node.output(0).set_names(set(names))
    node.set_friendly_name(names[0])
    return node


def _twice(ops: Any, x: Any) -> list[Any]:
    return [_named(ops.add(x, x), "y")]


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


def test_packed_ir_gives_back_its_parts() -> None:
    assert unpack_ir(pack_ir(b"<net/>", b"\0\1\2")) == (b"<net/>", b"\0\1\2")


def test_same_parts_give_the_same_bytes() -> None:
    assert pack_ir(b"<net/>", b"\0") == pack_ir(b"<net/>", b"\0")


def test_packed_ir_tells_no_time_and_no_system() -> None:
    with zipfile.ZipFile(io.BytesIO(pack_ir(b"<net/>", b"\0"))) as archive:
        assert {(m.date_time, m.create_system) for m in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 3)}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"model.xml": b"<net/>"},
        {"model.bin": b"", "model.xml": b"<net/>"},
        {"model.xml": b"<net/>", "model.bin": b"", "more": b""},
        {"../model.xml": b"<net/>", "model.bin": b""},
    ],
    ids=["nothing", "no weights", "other order", "a third", "a path"],
)
def test_archive_of_other_members_is_invalid_input(members: dict[str, bytes]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        unpack_ir(_zip(members))


def test_compressed_weights_are_invalid_input() -> None:
    members = {"model.xml": b"<net/>", "model.bin": bytes(1000)}
    with pytest.raises(InvalidInput, match="compressed weights"):
        unpack_ir(_zip(members, zipfile.ZIP_DEFLATED))


def test_graph_that_unfolds_without_bound_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="would unfold"):
        unpack_ir(pack_ir(b"<net>" + bytes(65 * 1024 * 1024), b""))


@pytest.mark.parametrize("graph", [b"", b"\x08\x08\x12", b"not xml"])
def test_graph_that_is_no_xml_is_invalid_input(graph: bytes) -> None:
    with pytest.raises(InvalidInput, match="expected XML"):
        unpack_ir(pack_ir(graph, b""))


def test_flipped_bit_is_invalid_input() -> None:
    packed = bytearray(pack_ir(b"<net/>", bytes(range(200))))
    packed[packed.index(bytes(range(50, 60)))] ^= 1
    with pytest.raises(InvalidInput, match="CRC"):
        unpack_ir(bytes(packed))


def test_weights_that_are_too_short_are_invalid_input(tmp_path: Path) -> None:
    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.matmul(x, ops.constant(np.ones((64, 3), np.float32)), False, False), "y")]

    xml, weights = unpack_ir(_pack(_network([1, 64], "f32", body), tmp_path))
    with pytest.raises(InvalidInput, match="cannot load"):
        OpenVinoEngine(pack_ir(xml, weights[:-100]))


def test_free_first_axis_is_batch_1(tmp_path: Path) -> None:
    engine = OpenVinoEngine(_pack(_network([-1, 3], "f32", _twice), tmp_path))
    assert (engine.inputs[0].shape, engine.outputs[0].shape) == ((1, 3), (1, 3))


@pytest.mark.parametrize("rows", [-1, 1], ids=["free", "fixed"])
def test_batch_becomes_the_first_axis(rows: int, tmp_path: Path) -> None:
    engine = OpenVinoEngine(_pack(_network([rows, 3], "f32", _twice), tmp_path), batch=4)
    assert (engine.inputs[0].shape, engine.outputs[0].shape) == ((4, 3), (4, 3))


def test_batch_that_a_reshape_forbids_is_invalid_input(tmp_path: Path) -> None:
    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.reshape(x, ops.constant(np.array([1, 6], np.int64)), False), "y")]

    with pytest.raises(InvalidInput, match="cannot take 2 at a time"):
        OpenVinoEngine(_pack(_network([1, 2, 3], "f32", body), tmp_path), batch=2)


def test_batch_that_would_run_together_in_one_row_is_invalid_input(tmp_path: Path) -> None:
    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.reshape(x, ops.constant(np.array([1, -1], np.int64)), False), "y")]

    with pytest.raises(InvalidInput, match=r"output 'y' would be \(1, 12\)"):
        OpenVinoEngine(_pack(_network([1, 2, 3], "f32", body), tmp_path), batch=2)


def test_other_free_axis_is_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'x' has free axes"):
        OpenVinoEngine(_pack(_network([1, -1], "f32", _twice), tmp_path))


@pytest.mark.parametrize("kind", ["u8", "i8", "i32", "i64", "f32"])
def test_tensors_are_declared_in_the_type_that_the_file_has(kind: str, tmp_path: Path) -> None:
    engine = OpenVinoEngine(_pack(_network([1, 2], kind, _twice), tmp_path))
    dtype = {"u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64", "f32": "float32"}[kind]
    answer = engine.run({"x": np.array([[1, 2]], dtype)})["y"]
    assert (engine.inputs[0].dtype, answer.dtype.name, answer.tolist()) == (dtype, dtype, [[2, 4]])


def test_type_that_the_runtime_does_not_carry_is_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'x' has type f16"):
        OpenVinoEngine(_pack(_network([1, 2], "f16", _twice), tmp_path))


def test_several_outputs_come_by_name(tmp_path: Path) -> None:
    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.add(x, x), "twice"), _named(ops.negative(x), "less")]

    engine = OpenVinoEngine(_pack(_network([1, 2], "f32", body), tmp_path))
    answers = engine.run({"x": np.array([[1, 2]], np.float32)})
    assert {name: array.tolist() for name, array in answers.items()} == {"twice": [[2, 4]], "less": [[-1, -2]]}


def test_tensor_of_several_names_has_that_of_its_node(tmp_path: Path) -> None:
    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.add(x, x), "scores", "alias")]

    engine = OpenVinoEngine(_pack(_network([1, 2], "f32", body), tmp_path))
    assert engine.outputs[0].name == "scores"


def test_float_model_is_computed_in_float32(tmp_path: Path) -> None:
    # On processors with bfloat16, OpenVINO's own default would be off by some 1e-2 here.
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(256, 8)).astype(np.float32)

    def body(ops: Any, x: Any) -> list[Any]:
        return [_named(ops.matmul(x, ops.constant(weights), False, False), "y")]

    engine = OpenVinoEngine(_pack(_network([1, 256], "f32", body), tmp_path))
    x = rng.normal(size=(1, 256)).astype(np.float32)
    reference = x.astype(np.float64) @ weights.astype(np.float64)
    # 256 products of magnitude about 1, each rounded to 24 bits: 256 * 4 * 2**-24 = 6e-5.
    np.testing.assert_allclose(engine.run({"x": x})["y"], reference, atol=1e-4)


def test_loading_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    code = (
        "import sys; from edgeloop.runtime.engines.find import EngineName, probe_engine; "
        "print(probe_engine(EngineName.OPENVINO), [m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    # The package takes a continuous-integration run for a reason to be silent; a person's shell is not one.
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.stdout.strip(), done.stderr, list(tmp_path.rglob("*intel*"))) == ("None []", "", [])
