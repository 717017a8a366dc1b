"""The commands that answer on this machine, run through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from builders import LABELS, make_bundle, make_parts, pack, quadrant_images
from edgeloop.bundle.archive import open_bundle
from edgeloop.cli.app import app
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.runtime.input.images import encode_png, read_image

IMAGES = quadrant_images(4, seed=3)


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(make_bundle(tmp_path))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(IMAGES):
        (folder / f"{index}.png").write_bytes(encode_png(image))
    return folder


def test_predict_prints_a_table(bundle: str, pictures: Path) -> None:
    said = _run("predict", bundle, str(pictures), "--race-s", "0").output
    assert all(label in said for label in LABELS)
    assert "tiny@1.0.0 on onnxruntime float32" in said


def test_labels_that_look_like_markup_are_printed_as_they_are(pictures: Path, tmp_path: Path) -> None:
    labels = ("[red]apple", "[/]pear", "plum\x1b[2J", "[bold]fig")
    path = pack(make_parts().changed(labels=labels), tmp_path)
    said = _run("predict", str(path), str(pictures), "--race-s", "0").output
    assert "[red]apple" in said
    assert "[/]pear" in said
    assert "plum?[2J" in said


def test_predict_prints_a_line_of_json_for_each_input(bundle: str, pictures: Path) -> None:
    lines = _run("predict", bundle, str(pictures), "--json", "--race-s", "0").output.splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["source"] for one in told] == [f"{index}.png" for index in range(4)]
    assert [one["prediction"]["label"] for one in told] == list(LABELS)


def test_predict_draws_a_picture_for_each_input(bundle: str, pictures: Path, tmp_path: Path) -> None:
    _run("predict", bundle, str(pictures), "--draw", str(tmp_path / "drawn"), "--race-s", "0")
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"{index}.png" for index in range(4)]
    assert read_image(drawn[0]).ndim == 3


def test_predict_goes_on_after_an_input_that_is_broken_and_says_so(bundle: str, pictures: Path) -> None:
    (pictures / "1b.png").write_bytes(b"no picture")
    with pytest.raises(Corrupt, match="1 of the inputs could not be used"):
        _run("predict", bundle, str(pictures), "--race-s", "0")


def test_predict_with_an_engine_that_is_not_there_is_refused(bundle: str, pictures: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no engine 'tvm'"):
        _run("predict", bundle, str(pictures), "--engine", "tvm")


@pytest.mark.parametrize("race_s", ["0", "0.1"])
def test_predict_with_a_damaged_bundle_is_corrupt(bundle: str, pictures: Path, race_s: str) -> None:
    opened = open_bundle(bundle)
    model, whole = opened.read(opened.manifest.variants[0].file), Path(bundle).read_bytes()
    place = whole.index(model) + len(model) // 2
    Path(bundle).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(Corrupt, match="Fetch or build it again"):
        _run("predict", bundle, str(pictures), "--race-s", race_s)


def test_bench_measures_every_setting_and_says_why_one_won(bundle: str) -> None:
    told = json.loads(_run("bench", bundle, "--seconds", "0.2", "--json").output)
    assert told["why"].startswith("onnxruntime float32 (")
    best = told["contenders"][0]
    assert best["failure"] is None
    assert best["agreement"] == 1.0
    assert best["latency_p50_ms"] <= best["latency_p99_ms"]
    assert best["throughput_per_s"] > 0
    assert best["peak_memory_bytes"] > 10_000_000  # a Python process with arrays
    assert {one["setting"]["threads"] for one in told["contenders"]} >= {1}


def test_bench_keeps_the_winner_for_later_loads(bundle: str, pictures: Path) -> None:
    import edgeloop

    told = json.loads(_run("bench", bundle, "--seconds", "0.2", "--json").output)
    predictor = edgeloop.load(bundle, race_s=0)
    assert predictor.race is not None
    assert predictor.setting.threads == told["contenders"][0]["setting"]["threads"]
    assert predictor.predict(IMAGES[3]).label == LABELS[3]


def test_watch_prints_a_line_of_json_for_each_answer(bundle: str, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(encode_png(IMAGES[2]))
    told = json.loads(_run("watch", bundle, str(path), "--json", "--race-s", "0").output)
    assert told["label"] == LABELS[2]


def test_watch_shows_rate_and_labels(bundle: str, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(encode_png(IMAGES[2]))
    said = _run("watch", bundle, str(path), "--race-s", "0").output
    assert "fps" in said
    assert LABELS[2] in said


def test_enrol_is_for_embeddings_alone(bundle: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only an embedding can be enrolled"):
        _run("enrol", bundle, "anna", str(pictures / "0.png"), "--to", str(tmp_path / "people"))


def test_drawing_is_for_images_alone(tmp_path: Path) -> None:
    from edgeloop.contracts.manifest import InputSpec, Modality

    spec = InputSpec("image", Modality.TENSOR, (1, 8, 8, 1), "NHWC", (0.0, 1.0))
    path = pack(make_parts().changed(input=spec, preprocess=()), tmp_path)
    np.save(tmp_path / "one.npy", np.zeros((8, 8, 1), np.float32))
    with pytest.raises(InvalidInput, match="--draw is for images"):
        _run("predict", str(path), str(tmp_path / "one.npy"), "--draw", str(tmp_path / "out"), "--race-s", "0")


def test_drawing_where_nothing_can_be_written_is_invalid_input(bundle: str, pictures: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot write .*0\.png"):
        _run("predict", bundle, str(pictures), "--draw", str(pictures / "0.png"), "--race-s", "0")


def test_watch_says_why_an_input_could_not_be_used(bundle: str, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(b"no picture")
    said = _run("watch", bundle, str(path), "--race-s", "0").output
    assert "last error: corrupt: one.png: input is no image" in said


def test_bench_of_what_may_not_be_used_here_fails_after_it_said_why(bundle: str) -> None:
    result = CliRunner().invoke(app, ["bench", bundle, "--seconds", "0", "--threads", "100000", "--json"])
    assert isinstance(result.exception, Unavailable)
    (failure,) = {one["failure"] for one in json.loads(result.stdout)["contenders"]}
    assert failure == "does not load: threads are at most 1,024, got 100,000"
