"""Searches over other kinds of source and data than images and Keras: each ends with bundles that predict."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgeloop
from edgeloop.steps import NetName, TrainRecipe, open_dataset, save_model, train
from small_onnx import convnet

pytestmark = pytest.mark.timeout(300)


def _compress(model: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "edgeloop", "compress", str(model), "--data", str(data), "--out", str(out), "--json"),
        *("--precisions", "int8", "--images-seen", "1000", "--workers", "1", "--max-drop", "95", *more),
    ]
    done = subprocess.run(command, capture_output=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _bundled(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in report["candidates"] if one["bundle"] and one["plan"]["body"]["kind"] == kind]


def test_a_scikit_learn_pipeline_on_a_table_teaches_dense_nets(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from skops.io import dump

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    rows = (2 * rng.normal(size=(3, 6))[labels] + rng.normal(size=(600, 6))).astype(np.float32)
    table = tmp_path / "rows.csv"
    lines = [
        ",".join([*(f"{value:.5f}" for value in row), f"kind{label}"]) for row, label in zip(rows, labels, strict=True)
    ]
    table.write_text("\n".join(["a,b,c,d,e,f,label", *lines]))
    dump(make_pipeline(StandardScaler(), SVC()).fit(rows, labels), tmp_path / "pipeline.skops")
    report = _compress(tmp_path / "pipeline.skops", table, tmp_path / "out", "--trials", "1")
    students = _bundled(report, "student")
    assert students
    assert {one["plan"]["body"]["net"] for one in students} == {"dense"}
    prediction = edgeloop.load(students[0]["bundle"]).predict(rows[0])
    assert prediction.label in {"kind0", "kind1", "kind2"}


def test_series_are_searched_on_two_engines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    phase = rng.uniform(0, 6.28, (400, 1))
    waves = np.sin(np.linspace(0, 6.28, 32) * (1 + 2 * labels[:, None]) + phase)[..., None].astype(np.float32)
    np.savez(tmp_path / "waves.npz", inputs=waves, labels=labels)
    dataset = open_dataset(str(tmp_path / "waves.npz"))
    made, trained = train(TrainRecipe(net=NetName.SERIES, width=0.5, images_seen=3_000), dataset)
    save_model(made, tmp_path / "series.keras", report=trained)
    more = ("--trials", "4", "--engines", "litert,onnxruntime")
    report = _compress(tmp_path / "series.keras", tmp_path / "waves.npz", tmp_path / "out", *more)
    # Which of them the front keeps is for it to say; both were tried.
    trials = [json.loads(path.read_bytes())["outcome"] for path in (tmp_path / "out" / "trials").iterdir()]
    assert {one["plan"]["finish"]["engine"] for one in trials} == {"litert", "onnxruntime"}
    students = [one for one in trials if one["plan"]["body"]["kind"] == "student"]
    assert {one["plan"]["body"]["net"] for one in students} == {"series"}
    assert [one["failure"] for one in students if one["failure"]] == []
    assert report["trials"] == 4


def test_images_without_labels_are_searched_for_a_microcontroller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(240):
        cv2.imwrite(str(folder / f"{index:03}.png"), rng.integers(0, 256, (8, 8), dtype=np.uint8))
    (tmp_path / "net.onnx").write_bytes(convnet())
    report = _compress(tmp_path / "net.onnx", folder, tmp_path / "out", "--trials", "1", "--profile", "esp32-s3")
    students = _bundled(report, "student")
    assert students
    for one in students:
        assert one["latency_is"] == "estimated"
        # The arena of TensorFlow Lite Micro, and not the megabytes of an interpreter on this machine.
        assert 0 < one["memory_bytes"] < 512 * 1024
