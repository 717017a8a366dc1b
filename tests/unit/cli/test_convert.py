import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeloop.cli.app import app
from edgeloop.contracts.errors import InvalidInput, Refused
from small_onnx import convnet


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(convnet())
    return path


def _run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(one) for one in ("convert", *arguments)])


def test_file_goes_beside_the_model_with_its_history(model: Path) -> None:
    result = _run(model, "--to", "openvino")
    assert result.exit_code == 0, result.output
    assert model.with_name("net.openvino").is_file()
    history = json.loads(model.with_name("net.openvino.lineage.json").read_bytes())
    assert [step["kind"] for step in history["steps"]] == ["convert"]


def test_proof_without_data_says_so(model: Path) -> None:
    said = " ".join(_run(model, "--to", "openvino").stdout.split())
    assert "proven on 64 random inputs in 0..1, not on real ones" in said


def test_json_bears_the_whole_report(model: Path, tmp_path: Path) -> None:
    result = _run(model, "--to", "onnx", "--out", tmp_path / "slim.onnx", "--json")
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["converted"]["samples"]) == (str(tmp_path / "slim.onnx"), 64)
    assert answer["converted"]["parity"][0]["name"] == "scores"


def test_source_is_never_replaced(model: Path) -> None:
    before = model.read_bytes()
    assert isinstance(_run(model, "--to", "onnx").exception, InvalidInput)
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "openvino", "--out", "net.tflite"), "must end in .openvino"),
        (("--to", "onnx", "--out", "folder"), "--calibrate DATA"),
        (("--to", "onnx", "--out", "x.onnx", "--shape", "image=1,x"), "NAME=1,3,224,224"),
        (("--to", "onnx", "--out", "x.onnx", "--shape", "picture=1,1,8,8"), "no input 'picture'"),
        (("--to", "onnx", "--out", "x.onnx", "--input-range", "1..0"), "is empty"),
        (("--to", "onnx", "--out", "x.onnx", "--precision", "int8"), "real samples"),
        (("--to", "litert", "--out", "x.tflite"), "no converter from ONNX to LiteRT"),
    ],
)
def test_what_cannot_be_done_writes_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(model.parent)
    result = _run(model, *arguments)
    assert said in str(result.exception)
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.onnx"]


def test_pickle_needs_the_persons_word(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"anything")
    assert isinstance(_run(tmp_path / "model.pkl", "--to", "onnx").exception, Refused)
