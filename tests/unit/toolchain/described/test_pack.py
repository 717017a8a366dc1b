"""Small models of several tasks, described and packed; what is refused, and in which words."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders import LABELS, Weights, onnx_model, quadrant_images, quadrant_weights
from edgeloop.bundle.archive import Bundle, digest, open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.contracts.output import Embedding, Task
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.described.pack import pack_described

CLASSIFIER = f"""
name = "tiny"
version = "1.0.0"
golden = "photos"
labels = {list(LABELS)}

[input]
name = "image"
modality = "image"
shape = [1, 8, 8, 1]
layout = "NHWC"
value_range = [0, 1]

[[preprocess]]
step = "scale"
factor = {1 / 255}

[output]
task = "classification"
scores = "logits"
activation = "softmax"
features = "features"

[[variants]]
file = "tiny.onnx"
precision = "float32"
"""
IMAGES = quadrant_images(20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A description, its model and its photos."""
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(IMAGES):
        (tmp_path / "photos" / f"{index:02}.png").write_bytes(encode_png(image))
    (tmp_path / "tiny.onnx").write_bytes(onnx_model(quadrant_weights()))
    return tmp_path


def packed(folder: Path, text: str = CLASSIFIER, *, measure: bool = False) -> Bundle:
    path, out = folder / "tiny.toml", folder / "tiny.edgeloop"
    path.write_text(text)
    pack_described(path, out=out, measure=measure)
    return open_bundle(out)


def refusal(folder: Path, text: str, kind: type[EdgeloopError] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        packed(folder, text)
    assert type(caught.value) is kind
    assert not (folder / "tiny.edgeloop").exists()
    return str(caught.value)


def swapped(old: str, new: str) -> str:
    assert old in CLASSIFIER
    return CLASSIFIER.replace(old, new)


# ---- what is packed


def test_golden_outputs_are_the_references_answers_to_the_photos(folder: Path) -> None:
    bundle = packed(folder)
    golden = bundle.manifest.golden
    inputs = from_npy(bundle.read(golden.inputs), what="inputs")
    outputs = from_npy(bundle.read(golden.outputs), what="outputs")
    assert (inputs == IMAGES).all()
    # Probabilities in float32 against NumPy's in float64.
    np.testing.assert_allclose(outputs, quadrant_weights().probabilities(IMAGES), atol=1e-5)
    assert golden.count == 20


def test_the_bundle_says_what_the_description_says_and_predicts(folder: Path) -> None:
    bundle = packed(folder)
    manifest = bundle.manifest
    assert (str(manifest.ref), manifest.task, manifest.labels) == ("tiny@1.0.0", Task.CLASSIFICATION, LABELS)
    (variant,) = manifest.variants
    assert (variant.engine, variant.precision) == (EngineName.ONNXRUNTIME, Precision.FLOAT32)
    assert variant.measured is None
    predictor = Predictor(bundle, variant)
    assert [predictor.predict(image).label for image in IMAGES] == [LABELS[index % 4] for index in range(20)]


def test_the_bundle_holds_what_it_needs_and_nothing_else(folder: Path) -> None:
    bundle = packed(folder)
    golden = bundle.manifest.golden
    listed = {entry.sha256 for entry in bundle.manifest.files}
    assert listed == {bundle.manifest.variants[0].file, golden.inputs, golden.outputs}


def test_the_same_inputs_give_the_same_bytes(folder: Path) -> None:
    packed(folder)
    first = (folder / "tiny.edgeloop").read_bytes()
    packed(folder)
    assert (folder / "tiny.edgeloop").read_bytes() == first


def test_lineage_has_the_description_the_files_hashes_and_the_libraries(folder: Path) -> None:
    lineage = packed(folder).manifest.lineage
    assert lineage.recipe["description"] == CLASSIFIER
    assert lineage.data_sha256["tiny.onnx"] == digest((folder / "tiny.onnx").read_bytes())
    assert lineage.data_sha256["photos/07.png"] == digest((folder / "photos" / "07.png").read_bytes())
    assert {"numpy", "onnxruntime", "opencv-python-headless"} <= set(lineage.libraries)


def test_variants_are_measured_in_a_clean_process(folder: Path) -> None:
    (variant,) = packed(folder, measure=True).manifest.variants
    measured = variant.measured
    assert measured is not None
    assert 0 < measured.latency_p50_ms <= measured.latency_p99_ms
    assert measured.peak_memory_bytes > 10_000_000
    assert (measured.samples, measured.agreement, measured.max_abs_error) == (20, 1.0, 0.0)


def test_reuse_budget_and_tolerance_are_those_of_the_description(folder: Path) -> None:
    added = "[reuse]\nnear = 0.5\n[budget]\nmax_latency_p50_ms = 1000.0\n"
    added += "[tolerance.int8]\nmax_abs_error = 0.1\nmean_abs_error = 0.01\nmin_agreement = 0.5\n"
    manifest = packed(folder, CLASSIFIER + added).manifest
    assert manifest.reuse.near == 0.5
    assert manifest.budget.max_latency_p50_ms == 1000.0
    assert manifest.golden.tolerance[Precision.INT8].min_agreement == 0.5
    assert manifest.golden.tolerance[Precision.FLOAT32].min_agreement == 1.0


# ---- tensors


def renamed(folder: Path, **names: str) -> None:
    """The same model, its tensors called otherwise."""
    import onnx

    model = onnx.load_from_string(onnx_model(quadrant_weights()))
    for one in (*model.graph.input, *model.graph.output):
        one.name = names.get(one.name, one.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    (folder / "tiny.onnx").write_bytes(model.SerializeToString())


def test_tensors_of_other_names_are_mapped(folder: Path) -> None:
    renamed(folder, image="x", logits="Identity_1", features="Identity")
    added = 'tensors = { image = "x", logits = "Identity_1", features = "Identity" }\n'
    (variant,) = packed(folder, CLASSIFIER + added).manifest.variants
    assert variant.tensors == {"image": "x", "logits": "Identity_1", "features": "Identity"}


def test_the_only_input_and_the_only_output_need_no_name(folder: Path) -> None:
    renamed(folder, image="x")
    assert packed(folder).manifest.variants[0].tensors["image"] == "x"


def test_output_that_the_file_does_not_have_is_told_with_those_that_it_has(folder: Path) -> None:
    said = refusal(folder, swapped('scores = "logits"', 'scores = "probabilities"'))
    assert "tiny.onnx has no output 'probabilities'" in said
    assert "'logits' float32 [1, 4]" in said
    assert "'features' float32 [1, 4]" in said
    assert 'tensors = { probabilities = "' in said


def test_tensors_that_the_description_does_not_know_are_refused(folder: Path) -> None:
    said = refusal(folder, CLASSIFIER + 'tensors = { score = "logits" }\n')
    assert "tensors of tiny.onnx names 'score'; the description's tensors are features, image, logits" in said


def test_input_of_another_shape_is_refused_with_the_file_and_both_shapes(folder: Path) -> None:
    said = refusal(folder, swapped("[1, 8, 8, 1]", "[1, 1, 8, 8]"))
    assert "tiny.onnx does not fit the description" in said
    assert "(1, 8, 8, 1)" in said
    assert "(1, 1, 8, 8)" in said


def test_labels_that_are_not_as_many_as_scores_are_refused(folder: Path) -> None:
    assert "tiny.onnx does not fit" in refusal(folder, swapped(str(list(LABELS)), '["a", "b", "c"]'))


# ---- the rest of the description


def test_too_few_labels_for_the_task_are_refused(folder: Path) -> None:
    assert "needs two or more distinct labels" in refusal(folder, swapped(str(list(LABELS)), '["a"]'))


def test_step_of_another_modality_is_refused(folder: Path) -> None:
    said = refusal(folder, swapped("[output]", '[[preprocess]]\nstep = "window"\nlength = 3\nhop = 1\n[output]'))
    assert "window" in said


def test_forgotten_step_shows_in_the_range_of_what_comes_out(folder: Path) -> None:
    said = refusal(folder, swapped(f"factor = {1 / 255}", "factor = 1.0"))
    assert re.search(r"come out of \[\[preprocess\]\] from 0 to 1\d\d; .* value_range = \[0, 1\]", said)


@pytest.mark.parametrize("given", ["[1, 0]", "[0, 0]"])
def test_range_that_is_none_is_refused(folder: Path, given: str) -> None:
    assert "expected two ends" in refusal(folder, swapped("[0, 1]", given))


def test_model_that_is_not_there_is_not_found(folder: Path) -> None:
    said = refusal(folder, swapped("tiny.onnx", "big.onnx"), NotFound)
    assert "file names 'big.onnx', and there is no file" in said


def test_file_that_is_no_model_is_refused_by_name(folder: Path) -> None:
    (folder / "tiny.onnx").write_bytes(b"no model")
    assert "tiny.onnx is no model that onnxruntime runs" in refusal(folder, CLASSIFIER)


def test_too_few_photos_are_refused_with_how_many_there_are(folder: Path) -> None:
    for path in sorted((folder / "photos").iterdir())[9:]:
        path.unlink()
    assert "holds 9 images; golden inputs are 16 or more real ones: add 7 more" in refusal(folder, CLASSIFIER)


def test_out_of_another_suffix_is_refused(folder: Path) -> None:
    (folder / "tiny.toml").write_text(CLASSIFIER)
    with pytest.raises(InvalidInput, match=r"must end in \.edgeloop"):
        pack_described(folder / "tiny.toml", out=folder / "tiny.zip")


# ---- variants that do not hold


def with_reference(folder: Path, other: Weights) -> str:
    """The model as the reference, another one as the only variant."""
    (folder / "other.onnx").write_bytes(onnx_model(other))
    return swapped(
        '[[variants]]\nfile = "tiny.onnx"', '[reference]\nfile = "tiny.onnx"\n[[variants]]\nfile = "other.onnx"'
    )


def test_variant_of_another_model_is_refused_with_how_far_it_is_off(folder: Path) -> None:
    weights = quadrant_weights()
    turned = Weights(weights.to_features, np.roll(weights.to_logits, 1, axis=1), weights.bias)
    said = refusal(folder, with_reference(folder, turned), Refused)
    assert "tiny@1.0.0 is not written. other.onnx (onnxruntime float32): golden samples: 0%" in said
    assert "[tolerance.PRECISION]" in said


def test_variant_that_may_differ_so_much_is_packed(folder: Path) -> None:
    text = with_reference(folder, quadrant_weights(sharpness=5.0))
    refusal(folder, text, Refused)
    added = "[tolerance.float32]\nmax_abs_error = 1.0\nmean_abs_error = 1.0\nmin_agreement = 0.9\n"
    manifest = packed(folder, text + added).manifest
    assert [variant.file for variant in manifest.variants] == [digest((folder / "other.onnx").read_bytes())]
    assert set(manifest.lineage.data_sha256) >= {"tiny.onnx", "other.onnx"}
    assert digest((folder / "tiny.onnx").read_bytes()) not in {entry.sha256 for entry in manifest.files}


def test_variant_that_is_slower_than_the_budget_is_refused(folder: Path) -> None:
    said = refusal(folder, CLASSIFIER + "[budget]\nmax_latency_p50_ms = 0.000001\n", Refused)
    assert "too slow here" in said


def test_reference_that_answers_nan_is_refused(folder: Path) -> None:
    weights = quadrant_weights()
    broken = Weights(weights.to_features, weights.to_logits, np.full_like(weights.bias, np.nan))
    (folder / "tiny.onnx").write_bytes(onnx_model(broken))
    with pytest.raises(EdgeloopError, match=r"NaN"):
        packed(folder)
    assert not (folder / "tiny.edgeloop").exists()


def test_reference_with_one_answer_for_all_is_refused(folder: Path) -> None:
    weights = quadrant_weights()
    (folder / "tiny.onnx").write_bytes(onnx_model(Weights(weights.to_features, 0 * weights.to_logits, weights.bias)))
    assert "same answer for all 20 golden inputs" in refusal(folder, CLASSIFIER, Refused)


# ---- other tasks


EMBEDDING = CLASSIFIER.replace(f"labels = {list(LABELS)}\n", 'enrol = "people"\n').replace(
    'task = "classification"\nscores = "logits"\nactivation = "softmax"\nfeatures = "features"',
    'task = "embedding"\nvector = "features"\ndistance = "cosine"\nthreshold = 0.2',
)


def test_embedding_ships_the_examples_of_a_folder_for_each_label(folder: Path) -> None:
    for index, image in enumerate(quadrant_images(8, seed=3)):
        place = folder / "people" / LABELS[index % 4]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.png").write_bytes(encode_png(image))
    bundle = packed(folder, EMBEDDING)
    output = bundle.manifest.output
    assert isinstance(output, Embedding)
    assert output.enrolled is not None
    assert output.enrolled.labels == tuple(label for label in sorted(LABELS) for _ in range(2))
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    assert [predictor.predict(image).label for image in IMAGES[:8]] == [*LABELS, *LABELS]


def test_embedding_without_examples_is_packed_empty_for_those_who_enrol_later(folder: Path) -> None:
    output = packed(folder, EMBEDDING.replace('enrol = "people"\n', "")).manifest.output
    assert isinstance(output, Embedding)
    assert output.enrolled is None


@pytest.mark.parametrize(("made", "kind"), [(False, NotFound), (True, InvalidInput)])
def test_examples_that_are_not_there_are_told(folder: Path, made: bool, kind: type[EdgeloopError]) -> None:
    if made:
        (folder / "people").mkdir()
    assert "people" in refusal(folder, EMBEDDING, kind)


REGRESSION = """
name = "level"
version = "0.1.0"
golden = "tables"
labels = ["mean"]

[input]
name = "rows"
modality = "series"
shape = [1, 10, 2]
layout = "ntc"
value_range = [-100, 100]
channels = ["x", "y"]

[[preprocess]]
step = "window"
length = 10
hop = 5

[output]
task = "regression"
value = "level"
unit = ["mm"]
agree_within = 0.1
factor = 10.0

[[variants]]
file = "level.onnx"
precision = "float32"
"""


def mean_of_rows() -> bytes:
    """ONNX: the mean of all of "rows" (1, 10, 2) as "level" (1, 1)."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["rows", "flat"], ["all"]),
            helper.make_node("MatMul", ["all", "share"], ["level"]),
        ],
        "mean",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, (1, 10, 2))],
        [helper.make_tensor_value_info("level", TensorProto.FLOAT, (1, 1))],
        [
            numpy_helper.from_array(np.array([1, 20], np.int64), "flat"),
            numpy_helper.from_array(np.full((20, 1), 0.05, np.float32), "share"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_regression_on_series_answers_what_numpy_computes(tmp_path: Path) -> None:
    rows: NDArray[Any] = np.random.default_rng(0).normal(size=(95, 2)).round(3)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("\n".join(["x,y", *(f"{x},{y}" for x, y in rows.tolist())]))
    (tmp_path / "level.onnx").write_bytes(mean_of_rows())
    bundle = packed(tmp_path, REGRESSION)
    golden = bundle.manifest.golden
    assert golden.count == 18
    outputs = from_npy(bundle.read(golden.outputs), what="outputs")
    wanted = [10 * rows[start : start + 10].mean() for start in range(0, 90, 5)]
    np.testing.assert_allclose(outputs[:, 0], wanted, atol=1e-5)  # float32 against float64
    made = Predictor(bundle, bundle.manifest.variants[0]).predict(rows[5:15].astype(np.float32))
    assert made.score == pytest.approx(wanted[1], abs=1e-5)
    # Their spread is what an error is measured by.
    assert golden.tolerance[Precision.FLOAT32].max_abs_error == pytest.approx(1e-3 * np.ptp(wanted), rel=1e-4)
