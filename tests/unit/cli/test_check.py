import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from builders import onnx_model, quadrant_images, quadrant_means, quadrant_weights
from edgeloop.cli import check, profile
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.probe import Probe, probe_model

app = typer.Typer()
app.command()(check.check)
app.add_typer(profile.app, name="profile")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "sure.onnx").write_bytes(onnx_model(quadrant_weights()))
    (folder / "unsure.onnx").write_bytes(onnx_model(quadrant_weights(sharpness=5.0)))
    (folder / "probe.tflite").write_bytes(probe_model(Probe(16, 4, 1), Precision.INT8))
    return folder


def test_table_shows_both_models_and_where_they_differ(models: Path) -> None:
    result = _run("check", models / "unsure.onnx", "--against", models / "sure.onnx", "--samples", 8)
    assert result.exception is None, result.exception
    for expected in ("unsure.onnx", "sure.onnx", "multiply-adds", "272", "8 random samples", "logits", "fits"):
        assert expected in result.output


def test_json_holds_the_whole_report(models: Path) -> None:
    result = _run(
        "check",
        models / "probe.tflite",
        "--against",
        models / "probe.tflite",
        "--samples",
        8,
        "--profile",
        "pi5",
        "--json",
    )
    assert result.exception is None, result.exception
    found = json.loads(result.stdout)
    assert (found["passes"], found["samples"], found["device"]["profile"]) == (True, 8, "pi5")
    assert found["device"]["latency"]["method"].startswith("estimated: ")


def test_images_are_read_for_the_model_that_looks_at_more_pixels(models: Path, tmp_path: Path) -> None:
    import cv2

    for index, image in enumerate(quadrant_images(240, seed=2)):
        path = tmp_path / "photos" / "abcd"[index % 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    (tmp_path / "small.onnx").write_bytes(quadrant_means((1, 4, 4, 1)))
    for names in (("small.onnx", "sure.onnx"), ("sure.onnx", "small.onnx")):
        candidate, against = (tmp_path / name if name == "small.onnx" else models / name for name in names)
        result = _run("check", candidate, "--against", against, "--data", tmp_path / "photos", "--json")
        assert result.exception is None, result.exception
        found = json.loads(result.stdout)
        assert found["classified"]["accuracy"] == found["classified"]["accuracy_against"] == 1.0
        assert any("images were prepared for each" in note for note in found["notes"])


def test_missed_bound_and_misfit_end_as_refused(models: Path) -> None:
    result = _run(
        "check",
        models / "sure.onnx",
        "--against",
        models / "sure.onnx",
        "--samples",
        8,
        "--max-size",
        "900B",
        "--profile",
        "coral-tpu",
    )
    assert isinstance(result.exception, Refused)
    size_bytes = (models / "sure.onnx").stat().st_size
    assert f"sure.onnx has {size_bytes:,} bytes, allowed 900: {size_bytes - 900:,} too many" in str(result.exception)
    assert "does not fit Coral Dev Board with Edge TPU: it runs litert, not onnxruntime" in str(result.exception)
    assert "multiply-adds" in result.output


def test_agreement_is_shown_for_data_without_labels(models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "blank.npz", x=quadrant_images(250, seed=1))
    result = _run("check", models / "unsure.onnx", "--against", models / "sure.onnx", "--data", tmp_path / "blank.npz")
    assert result.exception is None, result.exception
    assert "they agree on 100.0 %; no sample has a label" in " ".join(result.output.split())


def test_random_inputs_are_in_the_range_that_was_given(models: Path) -> None:
    result = _run(
        *("check", models / "sure.onnx", "--against", models / "sure.onnx"),
        *("--samples", 8, "--input-range", "-1..1", "--json"),
    )
    assert json.loads(result.stdout)["inputs"] == "8 random samples between -1 and 1"


def test_bound_with_an_unknown_unit_is_wrong_input(models: Path) -> None:
    result = _run("check", models / "sure.onnx", "--against", models / "sure.onnx", "--max-size", "16 bananas")
    assert isinstance(result.exception, InvalidInput)


def test_profiles_are_listed_by_name() -> None:
    result = _run("profile", "list", "--json")
    assert [one["name"] for one in json.loads(result.stdout)] == list(KNOWN)
    assert all(name in _run("profile", "list").output for name in KNOWN)


def test_profile_is_shown_with_the_sources_of_its_figures() -> None:
    output = " ".join(_run("profile", "show", "esp32-s3").output.split())
    assert "7.16 million multiply-adds in 54 ms; github.com/espressif/esp-tflite-micro" in output
    assert json.loads(_run("profile", "show", "pi4", "--json").stdout)["title"] == "Raspberry Pi 4 Model B"
    assert isinstance(_run("profile", "show", "pi3").exception, NotFound)


def test_measured_profile_is_taken_by_check(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "my-board.json"
    result = _run("profile", "measure", "--out", path, "--name", "my-board")
    assert result.exception is None, result.exception
    probe = models / "probe.tflite"
    found = _run("check", probe, "--against", probe, "--samples", 8, "--profile", path, "--json")
    device = json.loads(found.stdout)["device"]
    assert device["profile"] == "my-board"
    assert "measured there" in device["latency"]["method"]


def test_profile_is_measured_into_a_json_file_only(tmp_path: Path) -> None:
    assert isinstance(_run("profile", "measure", "--out", tmp_path / "board").exception, InvalidInput)
