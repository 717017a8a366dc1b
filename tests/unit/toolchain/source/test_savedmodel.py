"""Which SavedModels are opened: those that compute only, whatever else their file could do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.savedmodel import load_savedmodel

# TensorFlow's own deprecations while it exports; none of them is about a call of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


def _saved(folder: Path, call: Callable[[Any], Any], **held: Any) -> Path:
    """A SavedModel whose signature is `call`."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in held.items():
        setattr(module, name, value)
    module.call = tf.function(call, input_signature=[tf.TensorSpec((1,), tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return folder


def test_model_that_prints_into_a_file_is_refused_and_writes_nothing(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    target = tmp_path / "written.txt"

    def call(x: Any) -> dict[str, Any]:
        tf.print("anything", output_stream=f"file://{target}")
        return {"y": x}

    folder = _saved(tmp_path / "model", call)
    target.unlink(missing_ok=True)
    with pytest.raises(Refused, match=r"(PrintV2|StringFormat), which is none of those that only compute"):
        load_savedmodel(folder)
    assert not target.exists()


def test_file_write_in_a_branch_of_a_called_function_is_found(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    def write() -> Any:
        tf.io.write_file(str(tmp_path / "written.txt"), "anything")
        return tf.constant(1.0)

    def call(x: Any) -> dict[str, Any]:
        return {"y": x * tf.cond(x[0] > 1.0, write, lambda: tf.constant(2.0))}

    with pytest.raises(Refused, match="WriteFile"):
        load_savedmodel(_saved(tmp_path / "model", call))


def test_python_code_is_refused(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    def call(x: Any) -> dict[str, Any]:
        return {"y": tf.ensure_shape(tf.numpy_function(np.sin, [x], tf.float32), (1,))}

    with pytest.raises(Refused, match="PyFunc"):
        load_savedmodel(_saved(tmp_path / "model", call))


def test_table_from_a_file_is_refused_though_only_the_initialiser_reads_it(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    words = tmp_path / "words.txt"
    words.write_text("one\ntwo\n")
    content = tf.lookup.TextFileInitializer(
        str(words), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    table = tf.lookup.StaticHashTable(content, "none")

    def call(x: Any) -> dict[str, Any]:
        return {"y": x * tf.cast(tf.size(table.lookup(tf.cast(x, tf.int64))), tf.float32)}

    with pytest.raises(Refused, match="InitializeTableFromTextFileV2"):
        load_savedmodel(_saved(tmp_path / "model", call, table=table))


def test_savers_operators_are_refused_where_they_would_run(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    def call(x: Any) -> dict[str, Any]:
        tf.raw_ops.SaveV2(prefix=str(tmp_path / "written"), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        return {"y": x}

    with pytest.raises(Refused, match="SaveV2"):
        load_savedmodel(_saved(tmp_path / "model", call))


def test_tensorflow_1_form_is_refused_with_what_to_do(keras: Any, tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    stored.meta_graphs.add().graph_def.node.add(name="x", op="Placeholder")
    (tmp_path / "saved_model.pb").write_bytes(stored.SerializeToString())
    with pytest.raises(Refused, match="save it anew in TensorFlow 2"):
        load_savedmodel(tmp_path)


def test_loop_over_a_variable_passes(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    held = tf.Variable([3.0])

    def call(x: Any) -> dict[str, Any]:
        for _ in tf.range(2):
            x = x * held
        return {"y": x}

    made = load_savedmodel(_saved(tmp_path / "model", call, held=held)).run({"x": np.ones(1, np.float32)})
    assert made["y"].tolist() == [9.0]


@pytest.mark.filterwarnings("ignore::UserWarning:keras")
def test_what_keras_exports_passes_with_the_same_answers(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image, series = keras.Input((8, 8, 2), name="image"), keras.Input((5, 3), name="series")
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.MaxPooling2D(2)(layers.Conv2DTranspose(3, 3)(layers.UpSampling2D(2)(x)))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.Concatenate()([x, layers.LSTM(4)(series), layers.GRU(4)(series)])
    net = keras.Model([image, series], layers.Dense(3, activation="softmax", name="scores")(x))
    net.export(str(tmp_path / "net"), format="tf_saved_model", verbose=False)
    feeds = {"image": np.ones((1, 8, 8, 2), np.float32), "series": np.ones((1, 5, 3), np.float32)}
    made = load_savedmodel(tmp_path / "net").run(feeds)
    expected = np.asarray(net([feeds["image"], feeds["series"]]))
    assert np.allclose(next(iter(made.values())), expected, atol=1e-6)  # the order of float sums
