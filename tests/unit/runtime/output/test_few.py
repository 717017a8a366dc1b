"""The short way for few labels against `ClassificationHead.answer`, which is held to the definitions."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from builders import as_bundle, make_parts, quadrant_images
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Activation, Classification
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import dequantize_tensor
from edgeloop.runtime.output.classification import ClassificationHead
from edgeloop.runtime.output.few import MOST_LABELS
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.predictor import Predictor
from outputs import manifest_of

FIELDS = ("label", "score", "margin", "top", "energy", "energy_z", "novelty")
FLOAT = TensorSpec("scores", (1, 4), "float32")

floats = hnp.arrays(np.float32, st.integers(2, MOST_LABELS), elements=st.floats(-60, 60, width=32))


def _head(labels: int, **fields: Any) -> ClassificationHead:
    output = Classification("scores", **fields)
    return ClassificationHead(manifest_of(output, tuple(f"label {i}" for i in range(labels))), output, None)


def _assert_same(head: ClassificationHead, stored: NDArray[Any], spec: TensorSpec) -> None:
    few = head.decide_few((spec,))
    assert few is not None
    made = dict(zip(FIELDS, few(stored[np.newaxis], None), strict=True))
    wanted = head.answer((dequantize_tensor(stored[np.newaxis], spec),), None, None)
    # On the long way scores of up to 100 are float32, rounded by 4e-6 each, which moves a probability by as much, and
    # an energy of that size by 1e-5.
    assert made["score"] == pytest.approx(wanted.score, abs=1e-5)
    assert made["margin"] == pytest.approx(wanted.margin, abs=1e-5)
    assert made["energy"] == (None if wanted.energy is None else pytest.approx(wanted.energy, abs=2e-5))
    assert [one.score for one in made["top"]] == pytest.approx([one.score for one in wanted.top], abs=1e-5)
    if wanted.margin > 1e-5:
        assert made["label"] == wanted.label
        assert made["top"][0].label == wanted.top[0].label


@given(floats, st.sampled_from(Activation), st.integers(1, 12))
def test_float_scores_are_answered_as_on_the_long_way(
    row: NDArray[np.float32], activation: Activation, top_k: int
) -> None:
    _assert_same(_head(len(row), activation=activation, top_k=top_k), row, FLOAT)


@given(
    hnp.arrays(np.uint8, st.integers(2, MOST_LABELS)),
    st.sampled_from(["int8", "uint8"]),
    st.sampled_from(Activation),
    st.sampled_from([(1 / 256, -128), (0.1, 3), (0.37, 0)]),
)
def test_scores_in_8_bits_are_answered_as_on_the_long_way(
    row: NDArray[np.uint8], dtype: str, activation: Activation, quantized: tuple[float, int]
) -> None:
    spec = TensorSpec("scores", (1, len(row)), dtype, *quantized)
    _assert_same(_head(len(row), activation=activation), row.view(dtype), spec)


def test_ties_keep_the_order_of_labels() -> None:
    few = _head(4, activation=Activation.SOFTMAX).decide_few((FLOAT,))
    assert few is not None
    assert [one.label for one in few(np.zeros((1, 4), np.float32), None)[3]] == ["label 0", "label 1", "label 2"]


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(3))
def test_scores_that_are_not_finite_are_refused(activation: Activation, bad: float, place: int) -> None:
    few = _head(3, activation=activation).decide_few((FLOAT,))
    row = np.zeros((1, 3), np.float32)
    row[0, place] = bad
    assert few is not None
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        few(row, None)


def test_many_labels_take_the_long_way() -> None:
    assert _head(MOST_LABELS, activation=Activation.NONE).decide_few((FLOAT,)) is not None
    assert _head(MOST_LABELS + 1, activation=Activation.NONE).decide_few((FLOAT,)) is None


@pytest.mark.parametrize("dtype", ["int16", "float16", "int32"])
def test_scores_stored_otherwise_take_the_long_way(dtype: str) -> None:
    assert _head(4, activation=Activation.NONE).decide_few((TensorSpec("scores", (1, 4), dtype),)) is None


@pytest.mark.parametrize("quantized", [None, (0.05, -3)])
def test_novelty_and_energy_are_those_of_the_long_way(quantized: tuple[float, int] | None) -> None:
    bundle = as_bundle(make_parts())
    head = make_head(bundle)
    assert isinstance(head, ClassificationHead)
    rng = np.random.default_rng(2)
    features = rng.random((20, 1, 4), dtype=np.float32)
    spec = TensorSpec("features", (1, 4), "float32")
    if quantized is not None:
        spec = msgspec.structs.replace(spec, dtype="int8", scale=quantized[0], zero_point=quantized[1])
        features = rng.integers(-128, 128, (20, 1, 4)).astype(np.int8)
    few = head.decide_few((FLOAT, spec))
    assert few is not None
    for row in features:
        scores = rng.normal(0, 4, (1, 4)).astype(np.float32)
        wanted = head.answer((scores, dequantize_tensor(row, spec)), None, None)
        made = dict(zip(FIELDS, few(scores, row), strict=True))
        assert made["novelty"] == pytest.approx(wanted.novelty, rel=1e-4, abs=1e-3)
        assert made["energy_z"] == pytest.approx(wanted.energy_z, rel=1e-4, abs=1e-3)


def test_predictor_takes_the_short_way_and_answers_as_on_the_long_one() -> None:
    bundle = as_bundle(make_parts())
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    assert predictor._decide is not None
    for image in quadrant_images(8):
        made = predictor.predict(image)
        basis = predictor.basis(image)
        assert made.score == pytest.approx(basis.max(), rel=2e-6)
        assert made.label == bundle.manifest.labels[int(basis.argmax())]
    predictor.close()


@pytest.mark.parametrize("features", [3e38, -3e38, np.inf, np.nan])
def test_features_without_a_finite_distance_are_refused(features: float) -> None:
    bundle = as_bundle(make_parts())
    few = make_head(bundle).decide_few((FLOAT, FLOAT))  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        few(np.zeros((1, 4), np.float32), np.full((1, 4), features, np.float32))
