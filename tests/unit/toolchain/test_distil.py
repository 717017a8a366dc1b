"""Students of any teacher: Keras, a file that an engine runs, a function with scores, probabilities or labels only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.source.function import wrap_function
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.teacher import Gives, Questions, arranged, ask, student_input
from striped import NAMES, SHAPE, striped

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

QUICK = DistilRecipe(student=NetName.DIGITS, images_seen=2_000, batch_size=32, most_asked=700, learning_rate=3e-3)
IMAGE = TensorSpec("image", (1, *SHAPE), "float32")


def _stripes(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits by rule: the spread between rows, between columns, or neither. x: (N, 8, 8, 1)."""
    rows = x.mean(axis=(2, 3)).std(axis=1)
    columns = x.mean(axis=(1, 3)).std(axis=1)
    return np.stack([80 * rows, 80 * columns, np.full(len(x), 10.0)], axis=1).astype(np.float32)


def _function(fn: Any, *shape: int, dtype: str = "float32", takes: TensorSpec = IMAGE) -> Model:
    return wrap_function(fn, [takes], [TensorSpec("answer", (1, *shape), dtype)], "rule")


@pytest.fixture(scope="module")
def data() -> Prepared:
    return striped()


def test_student_learns_from_a_function_without_a_label() -> None:
    unlabelled = striped(labelled=False)
    asked: list[int] = []

    def count_questions(x: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(len(x))
        return _stripes(x)

    student, report = distil(_function(count_questions, 3), QUICK, unlabelled)

    assert report.teacher_gives is Gives.LOGITS
    # By chance a third would agree.
    assert report.agreement >= 0.85
    assert (report.accuracy_teacher, report.accuracy_student) == (None, None)
    assert report.asked == 700
    assert sum(asked) == 700 + len(unlabelled.dataset.validation)
    assert max(asked) > 100
    assert student.format is Format.KERAS
    assert [step.kind for step in student.steps] == ["distil"]
    assert msgspec.convert(student.steps[0].recipe, DistilRecipe) == QUICK


def test_labels_alone_teach(data: Prepared) -> None:
    teacher = _function(lambda x: _stripes(x).argmax(axis=1), dtype="int64")
    _, report = distil(teacher, QUICK, data)
    assert report.teacher_gives is Gives.LABELS
    assert report.temperature == 1.0
    assert report.agreement >= 0.85
    assert report.accuracy_student is not None
    assert report.accuracy_student >= 0.85
    right = (_stripes(data.tensors(data.dataset.validation.inputs)).argmax(axis=1)) == data.dataset.validation.labels
    assert report.accuracy_teacher == pytest.approx(right.mean())


def test_keras_teacher_gives_hints_through_its_features(data: Prepared) -> None:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, name="image")
    features = keras.layers.Dense(9, activation="relu", name="features")(keras.layers.Flatten(name="flat")(image))
    teacher = wrap_keras(keras.Model(image, keras.layers.Dense(3, name="logits")(features)), name="teacher.keras")
    _, report = distil(teacher, msgspec.structs.replace(QUICK, hints=2_000, images_seen=32), data)
    assert report.hint_loss is not None
    # Features are brought to a deviation of 1: guessing their mean loses 1.
    assert report.hint_loss < 0.5


def test_same_seed_gives_the_same_student(data: Prepared) -> None:
    recipe = msgspec.structs.replace(QUICK, images_seen=64)
    first, again = (distil(_function(_stripes, 3), recipe, data)[0] for _ in range(2))
    tensors = data.tensors(data.dataset.validation.inputs)
    assert np.array_equal(first.scores(tensors), again.scores(tensors))


def test_probabilities_become_logs(data: Prepared) -> None:
    def probabilities(x: NDArray[np.float32]) -> NDArray[np.float32]:
        raised = np.exp(_stripes(x) - _stripes(x).max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    inputs = data.dataset.validation.inputs
    found = ask(Questions(_function(probabilities, 3), data, with_features=False), inputs)
    assert found.gives is Gives.PROBABILITIES
    expected = np.log(np.maximum(probabilities(data.tensors(inputs)), 1e-7))
    np.testing.assert_allclose(found.logits, expected, rtol=1e-6)


def test_labels_become_logs_of_a_sure_answer(data: Prepared) -> None:
    teacher = _function(lambda x: np.ones((len(x), 1), np.int64), 1, dtype="int64")
    found = ask(Questions(teacher, data, with_features=False), data.dataset.validation.inputs)
    assert np.exp(found.logits).sum(axis=1) == pytest.approx(1.0)
    assert (found.logits.argmax(axis=1) == 1).all()
    assert found.logits.shape[1] == len(NAMES)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 64)])
def test_teacher_gets_the_same_numbers_in_its_own_shape(data: Prepared, shape: tuple[int, ...]) -> None:
    def flat_first(x: NDArray[np.float32]) -> NDArray[np.float32]:
        assert x.shape[1:] == shape[1:]
        return _stripes(x.reshape(-1, 8, 8, 1))

    inputs = data.dataset.validation.inputs
    teacher = _function(flat_first, 3, takes=TensorSpec("x", shape, "float32"))
    found = ask(Questions(teacher, data, with_features=False), inputs)
    np.testing.assert_array_equal(found.logits, _stripes(data.tensors(inputs)))
    assert tuple(student_input(teacher, data.dataset).shape) == (1, *SHAPE)


def test_colours_move_first_for_a_teacher_that_wants_them_so() -> None:
    tensors = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
    np.testing.assert_array_equal(arranged(tensors, (1, 3, 4, 5)), tensors.transpose(0, 3, 1, 2))


def test_teacher_of_another_shape_is_refused_with_both(data: Prepared) -> None:
    teacher = _function(_stripes, 3, takes=TensorSpec("x", (1, 9, 9, 1), "float32"))
    with pytest.raises(InvalidInput, match=r"\(1, 9, 9, 1\).*\(1, 8, 8, 1\)"):
        distil(teacher, QUICK, data)


def test_teacher_with_nan_is_refused_with_how_many(data: Prepared) -> None:
    def sometimes(x: NDArray[np.float32]) -> NDArray[np.float32]:
        made = _stripes(x)
        made[0, 1] = np.nan
        return made

    with pytest.raises(Refused, match=r"to \d+ of 700 samples hold NaN"):
        distil(_function(sometimes, 3), QUICK, data)


def test_teacher_of_other_classes_than_the_labels_is_refused(data: Prepared) -> None:
    teacher = _function(lambda x: np.concatenate([_stripes(x), _stripes(x)], axis=1), 6)
    with pytest.raises(InvalidInput, match="3"):
        distil(teacher, QUICK, data)


def test_teacher_that_answers_real_numbers_is_refused(data: Prepared) -> None:
    teacher = _function(lambda x: x.mean(axis=(1, 2)), 1)
    with pytest.raises(InvalidInput, match="class index"):
        distil(teacher, QUICK, data)


def test_hints_from_a_teacher_without_features_are_refused(data: Prepared) -> None:
    with pytest.raises(InvalidInput, match="features"):
        distil(_function(_stripes, 3), msgspec.structs.replace(QUICK, hints=100), data)


def test_output_that_scores_is_found_among_several(data: Prepared) -> None:
    two = [TensorSpec("label", (1,), "int64"), TensorSpec("probabilities", (1, 3), "float32")]
    teacher = wrap_function(lambda x: {"label": np.zeros(len(x)), "probabilities": _stripes(x)}, [IMAGE], two)
    assert Questions(teacher, data, with_features=False).output.name == "probabilities"
    unclear = replace(teacher, outputs=(two[1], TensorSpec("other", (1, 3), "float32")))
    with pytest.raises(InvalidInput, match="not clear"):
        Questions(unclear, data, with_features=False)


def test_engine_file_teaches_in_its_own_shape(data: Prepared, tmp_path: Path) -> None:
    """An ONNX file, flat input, asked through the runtime that devices use."""
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "linear.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    from edgeloop.toolchain.source.open import open_model

    inputs = data.dataset.validation.inputs
    found = ask(Questions(open_model(path), data, with_features=False), inputs)
    expected = data.tensors(inputs).reshape(len(inputs), -1) @ weights
    # Float32 sums in another order.
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)
