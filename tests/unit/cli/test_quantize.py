"""The commands `quantize` and `transfer` as a person runs them, on files in a folder; `check` has a file of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from edgeloop.cli.quantize import quantize
from edgeloop.cli.transfer import transfer
from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

# TensorFlow's own deprecations while it exports; none of them is about a call of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]

app = typer.Typer()
app.command()(quantize)
app.command()(transfer)

# The head sees 30,000 samples: of few there would be many short rounds, which take longest.
COUNT, SIDE_PX = 3_000, 8


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that learnt nothing, in two formats, and labelled images that are red or blue."""
    keras = import_keras()
    seed_everything(keras, 0)
    layers = keras.layers
    ends: list[Any] = [layers.GlobalAveragePooling2D(name="pooled"), layers.Dense(4, name="scores")]
    image = keras.Input((SIDE_PX, SIDE_PX, 3), name="image")
    net = keras.Sequential([image, layers.Conv2D(8, 3, activation="relu", name="only"), *ends])
    made = tmp_path_factory.mktemp("models")
    net.save(made / "net.keras")
    net.export(str(made / "saved"), format="tf_saved_model", verbose=False)
    labels = np.arange(COUNT) % 2
    images = np.random.default_rng(0).integers(0, 100, (COUNT, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    np.savez(made / "colours.npz", x=images, y=labels)
    return made


def test_quantize_writes_the_file_beside_the_model_with_its_history(folder: Path) -> None:
    done = _run("quantize", folder / "net.keras", "--calibrate", folder / "colours.npz")
    assert done.exception is None, done.exception
    assert "calibrated by min max" in " ".join(done.stdout.split())
    made = open_model(folder / "net.int8.tflite")
    assert [step.kind for step in made.steps] == ["convert", "quantize"]
    assert made.inputs[0].dtype == "int8"


def test_savedmodel_is_quantized_for_litert_unless_told(folder: Path) -> None:
    out = folder / "saved.tflite"
    done = _run("quantize", folder / "saved", "--calibrate", folder / "colours.npz", "--out", out, "--json")
    assert done.exception is None, done.exception
    report = json.loads(done.stdout)["report"]
    assert report["engine"] == "litert"
    # Scores of a net that learnt nothing are below 1; an 8-bit step is a hundredth of them.
    assert report["mean_abs_error"] < 0.02
    assert open_model(out).format is Format.LITERT


def test_percentile_that_no_calibration_uses_is_refused(folder: Path) -> None:
    given = ("quantize", folder / "net.keras", "--calibrate", folder / "colours.npz", "--percentile", 99)
    refused = _run(*given)
    assert isinstance(refused.exception, InvalidInput)
    assert str(refused.exception) == "--percentile is used with --calibration percentile only; leave it out"
    done = _run(*given, "--calibration", "percentile", "--out", folder / "percentile.tflite")
    assert done.exception is None, done.exception


def test_transfer_writes_a_classifier_and_says_what_was_trained(folder: Path) -> None:
    out = folder / "classifier.keras"
    done = _run("transfer", folder / "net.keras", "--data", folder / "colours.npz", "--out", out, "--images-seen", 64)
    assert done.exception is None, done.exception
    said = " ".join(done.stdout.split())
    assert "cut at only, 8 features" in said
    assert "with the last layer of the backbone fine-tuned too" in said
    assert open_model(out).only_output().shape == (1, 2)


def test_transfer_can_leave_the_backbone_alone(folder: Path) -> None:
    out = folder / "frozen.keras"
    done = _run(
        *("transfer", folder / "net.keras", "--data", folder / "colours.npz", "--out", out),
        *("--unfreeze", 0, "--cut-at", "only", "--json"),
    )
    assert done.exception is None, done.exception
    report = json.loads(done.stdout)
    assert (report["cut_at"], report["tuned_layers"], report["tuned_accuracy"]) == ("only", 0, None)


def test_transfer_names_the_option_where_a_layer_cannot_be_cut_at(folder: Path) -> None:
    done = _run(
        *("transfer", folder / "net.keras", "--data", folder / "colours.npz", "--out", folder / "x.keras"),
        *("--cut-at", "pooled"),
    )
    assert isinstance(done.exception, InvalidInput)
    assert "name one with --cut-at" in str(done.exception)
