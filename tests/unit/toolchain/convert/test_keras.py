"""Keras and SavedModel to each target, TensorFlow imported once for all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.source.keras import load_keras, wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.source.savedmodel import load_savedmodel
from edgeloop.toolchain.targets import Target
from edgeloop.toolchain.variant import make_variant

# TensorFlow's and its exporters' own deprecations; none of them is about a call of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:keras"),
]

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def keras() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(1)
    return keras


@pytest.fixture(scope="module")
def net(keras: Any) -> Model:
    """A picture and a number in, two outputs of unlike widths out."""
    layers = keras.layers
    picture, number = keras.Input((6, 6, 1), name="picture"), keras.Input((2,), name="number")
    x = layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(picture))
    joined = layers.Concatenate()([x, number])
    outputs = {"zeta": layers.Dense(4)(joined), "alpha": layers.Dense(2)(joined)}
    return wrap_keras(keras.Model([picture, number], outputs), name="net.keras")


@pytest.fixture(scope="module")
def one(keras: Any) -> Model:
    """One input, one output; four classes of (6, 6, 1) images."""
    layers = keras.layers
    image = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(4, 3, activation="relu")(image)
    return wrap_keras(keras.Model(image, layers.Dense(4)(layers.Flatten()(x))), name="one.keras")


@pytest.fixture(scope="module")
def data(one: Model) -> Prepared:
    def part(count: int) -> Part:
        return Part(RNG.integers(0, 256, (count, 6, 6), dtype=np.uint8), RNG.integers(0, 4, count))

    dataset = Dataset("squares", tuple("abcd"), part(64), part(20), part(20), part(0), "0" * 64)
    return prepare(dataset, one.only_input())


@pytest.fixture(scope="module")
def saved(net: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    net.native.export(str(folder), format="tf_saved_model", verbose=False)
    return folder


@pytest.mark.parametrize(("to", "form"), [("litert", Format.LITERT), ("onnx", Format.ONNX), ("openvino", "openvino")])
def test_every_output_keeps_its_name_and_its_values(net: Model, to: str, form: str) -> None:
    made, report = convert(net, ConvertRecipe(to=Target(to)))
    feeds = {"picture": RNG.uniform(size=(2, 6, 6, 1)).astype(np.float32), "number": np.ones((2, 2), np.float32)}
    expected, got = net.run(feeds), made.run(feeds)
    assert made.format == form
    assert {one.name for one in report.parity} == {"zeta", "alpha"} == set(got)
    for name, value in expected.items():
        assert np.allclose(got[name], value, atol=1e-5)  # the order of float sums


def test_report_says_what_it_was_proven_on(one: Model, data: Prepared) -> None:
    _, on_random = convert(one, ConvertRecipe(to=Target.LITERT))
    _, on_data = convert(one, ConvertRecipe(to=Target.LITERT), data=data)
    assert (on_random.real, on_random.samples, on_data.real, on_data.samples) == (False, 64, True, 20)


def test_result_bears_how_it_was_made(one: Model) -> None:
    made, _ = convert(one, ConvertRecipe(to=Target.LITERT))
    assert [(step.kind, step.recipe["to"]) for step in made.steps] == [("convert", "litert")]


def test_litert_is_made_for_one_sample_without_arithmetic_on_shapes(one: Model) -> None:
    _, report = convert(one, ConvertRecipe(to=Target.LITERT))
    assert report.operators == {"CONV_2D": 1, "FULLY_CONNECTED": 1, "RESHAPE": 1}


@pytest.mark.parametrize("to", [Target.LITERT, Target.ONNX])
def test_savedmodel_keeps_names_and_values(net: Model, saved: Path, to: Target) -> None:
    source = load_savedmodel(saved)
    made, _ = convert(source, ConvertRecipe(to=to))
    feeds = {"picture": RNG.uniform(size=(2, 6, 6, 1)).astype(np.float32), "number": np.ones((2, 2), np.float32)}
    expected, got = net.run(feeds), made.run(feeds)
    for name, value in expected.items():
        assert np.allclose(got[name], value, atol=1e-5)  # the order of float sums


def test_folder_without_a_savedmodel_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"saved_model\.pb"):
        load_savedmodel(tmp_path)


def test_savedmodel_that_reads_files_is_refused(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    class Reader(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1,), tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))}

    module = Reader()
    tf.saved_model.save(module, str(tmp_path / "reader"), signatures={"serving_default": module.__call__})
    with pytest.raises(Refused, match="ReadFile"):
        load_savedmodel(tmp_path / "reader")


def test_legacy_file_converts(keras: Any, one: Model, tmp_path: Path) -> None:
    keras.Model(one.native.input, one.native.output["logits"]).save(tmp_path / "old.h5")
    source = load_keras(tmp_path / "old.h5")
    made, _ = convert(source, ConvertRecipe(to=Target.LITERT))
    x = RNG.uniform(size=(3, 6, 6, 1)).astype(np.float32)
    assert np.allclose(made.scores(x), one.scores(x), atol=1e-5)  # the order of float sums


# ---- precisions


def test_int8_bears_both_steps_and_is_smaller(one: Model, data: Prepared) -> None:
    made = make_variant(one, ConvertRecipe(to=Target.LITERT), Precision.INT8, data)
    assert [step.kind for step in made.model.steps] == ["convert", "quantize"]
    assert made.model.inputs[0].dtype == "int8"


def test_precision_below_float_asks_for_data(one: Model) -> None:
    with pytest.raises(InvalidInput, match="--calibrate DATA"):
        make_variant(one, ConvertRecipe(to=Target.LITERT), Precision.INT8, None)


def test_int8_goes_onto_a_microcontroller(one: Model, data: Prepared) -> None:
    made = make_variant(one, ConvertRecipe(to=Target.MCU), Precision.INT8, data)
    assert made.converted is not None
    assert (made.model.format, made.model.name) == (Format.MCU, "one.int8.h")
    assert 500 < (made.converted.arena_bytes or 0) < 20_000
    assert [step.kind for step in made.model.steps] == ["convert", "quantize", "convert"]


# ---- what is refused


def test_operator_that_litert_lacks_is_named(keras: Any) -> None:
    image = keras.Input((4, 4), name="x")
    model = wrap_keras(keras.Model(image, keras.ops.svd(image, compute_uv=False)), name="svd.keras")
    with pytest.raises(Refused, match="no operator 'Svd'"):
        convert(model, ConvertRecipe(to=Target.LITERT))


def test_operator_that_onnx_lacks_is_named(keras: Any) -> None:
    image = keras.Input((4, 4), name="x")
    model = wrap_keras(keras.Model(image, keras.ops.svd(image, compute_uv=False)), name="svd.keras")
    with pytest.raises(Refused, match="no operator 'Svd'"):
        convert(model, ConvertRecipe(to=Target.ONNX))


def test_recurrent_layer_converts(keras: Any) -> None:
    series = keras.Input((5, 3), name="series")
    model = wrap_keras(keras.Model(series, keras.layers.Dense(2)(keras.layers.LSTM(4)(series))), name="lstm.keras")
    _, report = convert(model, ConvertRecipe(to=Target.LITERT))
    assert report.parity[0].max_abs_error < 1e-5


def test_stateful_layer_is_named(keras: Any) -> None:
    series = keras.Input(batch_shape=(1, 5, 3), name="series")
    lstm = keras.layers.LSTM(4, stateful=True, name="memory")
    model = wrap_keras(keras.Model(series, lstm(series)), name="lstm.keras")
    with pytest.raises(Refused, match=r"'memory' .*keeps state"):
        convert(model, ConvertRecipe(to=Target.LITERT))


def test_nan_in_a_weight_is_refused_by_its_name(keras: Any) -> None:
    x = keras.Input((2,), name="x")
    made = keras.Model(x, keras.layers.Dense(2, name="broken")(x))
    made.get_layer("broken").set_weights([np.full((2, 2), np.nan, np.float32), np.zeros(2, np.float32)])
    with pytest.raises(Refused, match="broken/kernel"):
        convert(wrap_keras(made, name="m.keras"), ConvertRecipe(to=Target.LITERT))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layer_with_code_of_its_own_is_named(keras: Any, tmp_path: Path, suffix: str) -> None:
    class Doubled(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    x = keras.Input((2,))
    keras.Model(x, Doubled()(x)).save(tmp_path / f"own{suffix}")
    with pytest.raises(Refused, match="'Doubled', which is no class of Keras"):
        load_keras(tmp_path / f"own{suffix}")


def test_lambda_layer_is_not_run(keras: Any, tmp_path: Path) -> None:
    x = keras.Input((2,))
    keras.Model(x, keras.layers.Lambda(lambda value: value * 2)(x)).save(tmp_path / "lambda.keras")
    with pytest.raises(Refused, match="Lambda layer"):
        load_keras(tmp_path / "lambda.keras")


@pytest.mark.parametrize("span", [(1.0, 0.0), (0.0, float("nan"))])
def test_range_that_is_none_is_refused(one: Model, span: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match="input range"):
        convert(one, ConvertRecipe(to=Target.LITERT, input_range=span))


def test_shape_that_the_model_does_not_take_is_refused(one: Model) -> None:
    with pytest.raises(InvalidInput, match="cannot take the shape"):
        convert(one, ConvertRecipe(to=Target.LITERT, shapes={"image": (1, 9, 9, 1)}))
