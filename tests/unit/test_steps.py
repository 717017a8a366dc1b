"""The steps from Python: one import for all of them, without the frameworks that they come to use."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from edgeloop import steps

COMMANDS = ("train", "transfer", "quantize", "prune", "distil", "convert", "check", "compress", "compare", "repeat")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_of_the_toolchain_is_a_function_of_that_name(name: str) -> None:
    step = getattr(steps, name)
    assert inspect.isfunction(step)
    assert step.__name__ == name
    assert step.__doc__


def test_importing_the_steps_imports_no_framework() -> None:
    code = "import sys; import edgeloop.steps; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()).isdisjoint({"tensorflow", "keras", "torch", "openvino", "ray"})


def test_a_model_goes_from_a_file_to_a_smaller_file(tmp_path: Path) -> None:
    digits = steps.open_dataset("digits")
    made, report = steps.train(steps.TrainRecipe(images_seen=640), digits)
    steps.save_model(made, tmp_path / "model.keras", report=report)
    model = steps.open_model(tmp_path / "model.keras")
    small, quantized = steps.quantize(model, steps.QuantizeRecipe(), steps.prepare(digits, model.only_input()))
    steps.save_model(small, tmp_path / "small.tflite", report=quantized)
    again = steps.open_model(tmp_path / "small.tflite")
    assert again.size_bytes < model.size_bytes / 3
    assert [step.kind for step in again.steps] == ["train", "convert", "quantize"]
