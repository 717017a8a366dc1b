"""Drafts of bundles for any model and any data, in the runtime's engines alone: no framework is loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality, Precision
from edgeloop.contracts.output import Activation
from edgeloop.toolchain.build import BuildFolder
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.draft import TOLERANCE, Draft, add_variant, begin_draft
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.targets import Target
from small_onnx import convnet

RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def source() -> Model:
    """image (1, 1, 8, 8) to scores (1, 10)."""
    return wrap_runnable(convnet(), Format.ONNX, name="net.onnx")


def _images(model: Model, *, labels: int = 10, validation: int = 20, low: float = 0.0, high: float = 1.0) -> Prepared:
    def part(count: int) -> Part:
        return Part(RNG.integers(0, 256, (count, 8, 8), dtype=np.uint8), RNG.integers(0, labels, count))

    names = tuple(f"l{index}" for index in range(labels))
    dataset = Dataset("squares", names, part(40), part(validation), part(30), part(0), "0" * 64)
    return prepare(dataset, model.only_input(), value_range=(low, high))


def _begin(source: Model, data: Prepared, folder: Path) -> Draft:
    return begin_draft(source, data, BuildFolder(folder), recipe={"seed": 0})


def test_every_precision_has_a_tolerance() -> None:
    assert set(TOLERANCE) == set(Precision)


def test_fewer_bits_are_never_held_to_less_error() -> None:
    order = (Precision.FLOAT32, Precision.FLOAT16, Precision.INT16, Precision.INT8, Precision.INT4)
    bounds = [TOLERANCE[one].max_abs_error for one in order]
    assert bounds == sorted(bounds)


def test_channels_first_and_another_range_are_what_devices_get(source: Model, tmp_path: Path) -> None:
    build = _begin(source, _images(source, low=-1.0, high=1.0), tmp_path).build
    assert (build.input.layout, build.input.value_range, build.output.scores) == ("nchw", (-1.0, 1.0), "scores")


def test_variant_bears_the_steps_that_made_it(source: Model, tmp_path: Path) -> None:
    draft = _begin(source, _images(source), tmp_path)
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX))
    (variant,) = add_variant(draft, made, Precision.FLOAT32).build.variants
    assert [step.kind for step in variant.steps] == ["convert"]
    assert variant.measured is not None
    assert (variant.measured.agreement, variant.measured.samples) == (1.0, 30)


def test_arrays_make_a_draft_as_images_do(source: Model, tmp_path: Path) -> None:
    def part(count: int) -> Part:
        return Part(RNG.normal(size=(count, 1, 8, 8)).astype(np.float32), RNG.integers(0, 10, count))

    dataset = Dataset(
        "series", tuple("abcdefghij"), part(40), part(20), part(30), part(0), "0" * 64, modality=Modality.TENSOR
    )
    data = prepare(dataset, source.only_input())
    draft = add_variant(_begin(source, data, tmp_path), source, Precision.FLOAT32)
    assert (draft.build.input.modality, len(draft.build.variants)) == (Modality.TENSOR, 1)


def test_answers_that_are_distributions_get_no_softmax(source: Model, tmp_path: Path) -> None:
    def run(feeds: object) -> dict[str, np.ndarray]:
        raised = np.exp(source.run(feeds)["scores"])  # type: ignore[arg-type]
        return {"scores": raised / raised.sum(axis=1, keepdims=True)}

    assert _begin(replace(source, run=run), _images(source), tmp_path).build.output.activation is Activation.NONE
    assert _begin(source, _images(source), tmp_path / "raw").build.output.activation is Activation.SOFTMAX


def test_samples_without_labels_do_not_judge(source: Model, tmp_path: Path) -> None:
    data = _images(source)
    part = data.dataset.holdout
    some = Part(part.inputs, np.where(np.arange(len(part)) < 10, part.labels, -1))
    unlabelled = replace(data, dataset=replace(data.dataset, holdout=some))
    assert len(_begin(source, unlabelled, tmp_path).judged) == 10


def test_data_without_labels_is_refused(source: Model, tmp_path: Path) -> None:
    data = _images(source)
    with pytest.raises(InvalidInput, match="needs data with labels"):
        _begin(source, replace(data, dataset=replace(data.dataset, label_names=())), tmp_path / "build")
    assert not (tmp_path / "build").exists()


def test_too_few_samples_for_golden_ones_are_refused(source: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="golden samples are at least 16"):
        _begin(source, _images(source, validation=15), tmp_path)


def test_variant_that_lost_a_tensor_is_refused(source: Model, tmp_path: Path) -> None:
    from edgeloop.toolchain.convert.onnx import rename_onnx

    draft = _begin(source, _images(source), tmp_path)
    other = wrap_runnable(rename_onnx(source.data, {"scores": "other"}), Format.ONNX, name="other.onnx")
    with pytest.raises(Refused, match="lost the tensor 'scores'"):
        add_variant(draft, other, Precision.FLOAT32)


def test_model_that_no_engine_runs_is_refused(source: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="which no engine runs"):
        add_variant(_begin(source, _images(source), tmp_path), replace(source, format=Format.MCU), Precision.FLOAT32)
