from pathlib import Path

import pytest

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.contracts.output import Classification
from edgeloop.toolchain.described.description import (
    ModelFile,
    engine_of,
    read_description,
    read_labels,
    require_file,
)

PLAIN = """
name = "tiny"
version = "1.0.0"
golden = "photos"
labels = ["a", "b"]

[input]
name = "image"
modality = "image"
shape = [1, 8, 8, 1]
layout = "NHWC"
value_range = [0, 1]

[[preprocess]]
step = "scale"
factor = 0.5

[output]
task = "classification"
scores = "logits"
activation = "softmax"

[[variants]]
file = "tiny.onnx"
precision = "float32"
"""


def written(folder: Path, text: str = PLAIN) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def test_description_is_read_as_it_stands(tmp_path: Path) -> None:
    made, text = read_description(written(tmp_path))
    assert text == PLAIN
    assert isinstance(made.output, Classification)
    assert [step.__struct_config__.tag for step in made.preprocess] == ["scale"]
    assert (made.variants[0].file, made.variants[0].precision) == ("tiny.onnx", Precision.FLOAT32)
    assert made.reference is None


def test_absent_description_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no.toml; expected a TOML file"):
        read_description(tmp_path / "no.toml")


def test_description_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_description(path)


@pytest.mark.parametrize(("old", "new"), [('"tiny"', '"Tiny One"'), ('"1.0.0"', '"1.0"')])
def test_name_and_version_are_those_of_a_bundle(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(InvalidInput, match="names no bundle version"):
        read_description(written(tmp_path, PLAIN.replace(old, new)))


def test_description_without_variants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'variants' is missing"):
        read_description(written(tmp_path, PLAIN.split("[[variants]]")[0]))


def test_variant_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tiny\.onnx stands in \[\[variants\]\] more than once"):
        read_description(written(tmp_path, PLAIN + '[[variants]]\nfile = "tiny.onnx"\nprecision = "int8"\n'))


@pytest.mark.parametrize(
    ("added", "said"),
    [('enrol = "people"\n', "enrol is for an embedding"), ("number_doubles = true\n", "is for a file of labels")],
)
def test_key_that_would_do_nothing_is_refused(tmp_path: Path, added: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_description(written(tmp_path, added + PLAIN))


def test_enrolled_vectors_are_not_written_by_hand(tmp_path: Path) -> None:
    output = 'task = "embedding"\nvector = "v"\ndistance = "cosine"\nthreshold = 0.4\n'
    output += f'enrolled = {{ labels = ["ann"], vectors = "{"0" * 64}" }}\n'
    text = PLAIN.replace('task = "classification"\nscores = "logits"\nactivation = "softmax"\n', output)
    with pytest.raises(InvalidInput, match="enrol = FOLDER"):
        read_description(written(tmp_path, text))


# ---- labels


def labels_of(folder: Path, text: str, *, number_doubles: bool = False) -> tuple[str, ...]:
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    added = f'labels = "labels.txt"\nnumber_doubles = {str(number_doubles).lower()}\n'
    made, _ = read_description(written(folder, added + PLAIN.replace('labels = ["a", "b"]\n', "")))
    return read_labels(made, folder)


def test_labels_stand_in_a_file_one_a_line(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "tench, Tinca tinca\r\n Käse \r\nc\r\n\r\n") == ("tench, Tinca tinca", "Käse", "c")


def test_label_that_stands_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'crane' on the lines 1, 3; .* number_doubles = true .*'crane \(1\)'"):
        labels_of(tmp_path, "crane\ncat\ncrane\n")


def test_doubled_labels_get_the_numbers_of_their_lines_when_asked(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "crane\ncat\ncrane\n", number_doubles=True) == ("crane (1)", "cat", "crane (3)")


def test_empty_line_among_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"labels\.txt, line 2, is empty"):
        labels_of(tmp_path, "a\n\nb\n")


def test_file_that_is_not_there_is_not_found_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"labels names 'labels\.txt', .* no file .*relative to the description"):
        require_file(tmp_path, "labels.txt", "labels")


# ---- engines


@pytest.mark.parametrize(
    ("file", "engine"),
    [("a.tflite", "litert"), ("a.ONNX", "onnxruntime"), ("sub/a.openvino", "openvino")],
)
def test_engine_is_told_by_the_suffix(file: str, engine: str) -> None:
    assert engine_of(ModelFile(file=file)) == engine


def test_engine_is_as_told() -> None:
    assert engine_of(ModelFile(file="model.bin", engine=EngineName.LITERT)) is EngineName.LITERT


def test_suffix_that_no_engine_has_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InvalidInput, match=r"ends in '\.keras'.*\.tflite, \.onnx, \.openvino.*edgeloop convert"):
        engine_of(ModelFile(file="a.keras"))


ANOMALY = PLAIN.replace(
    'task = "classification"\nscores = "logits"\nactivation = "softmax"',
    'task = "anomaly"\nreconstruction = "logits"\nerror = "mean_squared"',
)
NORMAL = '\n[normal]\ninputs = "normal"\n'


def test_threshold_may_be_set_from_normal_inputs(tmp_path: Path) -> None:
    made, _ = read_description(written(tmp_path, ANOMALY + NORMAL))
    assert made.normal is not None
    assert (made.normal.inputs, made.normal.share, made.normal.times) == ("normal", 0.99, 1.1)


def test_anomaly_without_a_threshold_and_without_normal_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="threshold"):
        read_description(written(tmp_path, ANOMALY))


def test_threshold_beside_normal_inputs_is_refused(tmp_path: Path) -> None:
    both = ANOMALY.replace('error = "mean_squared"', 'error = "mean_squared"\nthreshold = 0.5')
    with pytest.raises(InvalidInput, match="leave one of them out"):
        read_description(written(tmp_path, both + NORMAL))


def test_normal_inputs_for_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="normal is for an anomaly"):
        read_description(written(tmp_path, PLAIN + NORMAL))
