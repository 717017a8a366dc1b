"""The commands `prune` and `distil` as a person runs them, on files in a folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from edgeloop.cli.distil import distil
from edgeloop.cli.prune import parse_share, prune
from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras, seed_everything
from edgeloop.toolchain.source.keras import keras_bytes
from edgeloop.toolchain.source.open import open_model
from striped import SHAPE, striped

app = typer.Typer()
app.command()(prune)
app.command()(distil)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and labelled data as a person has them; the model learnt nothing."""
    keras = import_keras()
    seed_everything(keras, 0)
    image = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = keras.layers.Flatten(name="flat")(x)
    net = keras.Model(image, keras.layers.Dense(3, name="logits")(x))
    made = tmp_path_factory.mktemp("models")
    (made / "net.keras").write_bytes(keras_bytes(net))
    part = striped(600).dataset.fit
    np.savez(made / "stripes.npz", x=part.inputs, y=part.labels)
    return made


def test_prune_writes_the_smaller_model_beside_the_old_one_with_its_history(folder: Path) -> None:
    done = _run("prune", folder / "net.keras", "--data", folder / "stripes.npz", "--keep", "50%", "--fine-tune", 0)
    assert done.exception is None, done.exception
    assert "multiply-adds" in done.stdout
    made = open_model(folder / "net.pruned.keras")
    assert [step.kind for step in made.steps] == ["prune"]
    assert made.native.get_layer("conv").filters == 4


def test_prune_unstructured_says_what_it_does_not_gain(folder: Path) -> None:
    out = folder / "zeros.keras"
    done = _run("prune", folder / "net.keras", "--data", folder / "stripes.npz", "--keep", "0.3", "--unstructured",
                "--fine-tune", 0, "--out", out, "--json")  # fmt: skip
    assert done.exception is None, done.exception
    assert json.loads(done.stdout)["sparsity_after"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    "option", [("--of", "macs"), ("--by", "l1"), ("--scope", "layer"), ("--rounds", 1), ("--least-channels", 2),
               ("--multiple-of", 4)]
)  # fmt: skip
def test_prune_unstructured_refuses_what_it_would_ignore(folder: Path, option: tuple[str, object]) -> None:
    done = _run("prune", folder / "net.keras", "--data", folder / "stripes.npz", "--unstructured", *option)
    assert isinstance(done.exception, InvalidInput)
    assert str(done.exception).startswith(f"{option[0]} is about whole channels")


def test_distil_writes_a_student_beside_the_teacher(folder: Path) -> None:
    done = _run("distil", folder / "net.keras", "--data", folder / "stripes.npz", "--student", "digits",
                "--images-seen", 64, "--json")  # fmt: skip
    assert done.exception is None, done.exception
    report = json.loads(done.stdout)
    assert (report["teacher_gives"], report["asked"]) == ("logits", 64)
    assert [step.kind for step in open_model(folder / "net.student.keras").steps] == ["distil"]


def test_out_that_is_the_model_or_no_keras_file_is_refused(folder: Path) -> None:
    for out in (folder / "net.keras", folder / "net.onnx"):
        done = _run("prune", folder / "net.keras", "--data", "digits", "--out", out)
        assert isinstance(done.exception, InvalidInput)


@pytest.mark.parametrize("text", ["0", "100%", "1.5", "half", "40%%", ""])
def test_share_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="40%"):
        parse_share(text)
