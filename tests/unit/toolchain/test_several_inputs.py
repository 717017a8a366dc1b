"""Models with several inputs: what takes them, by name, and what says that it does not."""

from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.steps import (
    CheckRecipe,
    QuantizeRecipe,
    TransferRecipe,
    check,
    open_dataset,
    prepare,
    quantize,
    student_data,
    transfer,
)
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model


@pytest.fixture(scope="module")
def model() -> Model:
    """Scores from a left and a right input of unlike scale, so that exchanged inputs show."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    apart = keras.layers.Concatenate()([keras.layers.Dense(128)(left), keras.layers.Rescaling(0.01)(right)])
    return wrap_keras(keras.Model([left, right], keras.layers.Dense(64, name="scores")(apart)), name="two.keras")


def _feeds(count: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    return {
        "right": (100 * rng.normal(size=(count, 8))).astype(np.float32),
        "left": rng.normal(size=(count, 8)).astype(np.float32),
    }


@pytest.mark.parametrize("to", [Format.LITERT, Format.ONNX])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_WEIGHTS])
def test_inputs_are_quantized_by_name(model: Model, to: Format, precision: Precision) -> None:
    made, report = quantize(model, QuantizeRecipe(precision=precision), _feeds(200), to=to)
    assert {spec.name for spec in made.inputs} == {"left", "right"}
    assert report.agreement is not None
    assert report.agreement > 0.9


def test_checked_on_random_numbers_by_name(model: Model) -> None:
    made, _ = quantize(model, QuantizeRecipe(precision=Precision.FLOAT16), _feeds(64), to=Format.LITERT)
    report = check(made, model, None, CheckRecipe(samples=32, measure=False))
    assert report.errors[0].max_abs_error < 0.01
    assert report.samples == 32


def test_data_with_one_input_is_refused_by_every_step_that_trains(model: Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", inputs=np.eye(300, 8, dtype=np.float32), labels=np.arange(300) % 4)
    dataset = open_dataset(str(tmp_path / "rows.npz"))
    data = prepare(dataset, model.inputs[0])
    refused = r"two\.keras has 2 inputs \((left, right|right, left)\).*without --data"
    with pytest.raises(InvalidInput, match=refused):
        student_data(model, dataset)
    with pytest.raises(InvalidInput, match=refused):
        transfer(model, TransferRecipe(), data)
    with pytest.raises(InvalidInput, match=refused):
        quantize(model, QuantizeRecipe(), data)
