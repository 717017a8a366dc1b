"""What holds for the head of every task."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle, digest
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import DriftReference, InputSpec, Modality
from edgeloop.contracts.output import (
    Activation,
    Anomaly,
    CentreHeads,
    Classification,
    Corners,
    Detection,
    Distance,
    Embedding,
    Enrolled,
    ErrorKind,
    Output,
    PlainBoxes,
    Regression,
    Segmentation,
    SsdAnchors,
    YoloHeads,
)
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.classification import ClassificationHead
from edgeloop.runtime.output.embedding import EmbeddingHead
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.output.port import Answer
from outputs import bundle_of

INPUT = InputSpec("image", Modality.IMAGE, (1, 12, 16, 3), "nhwc", (0.0, 1.0))
GEOMETRY = Geometry(32, 24, scale_x=0.5, scale_y=0.5)
VECTORS = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """An output, the shapes of the tensors that it wants, and others that it cannot read."""

    output: Output
    shapes: tuple[tuple[int, ...], ...]
    wrong: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...] = ("a", "b")
    shipped: tuple[bytes, ...] = field(default=(), repr=False)
    fields: dict[str, Any] = field(default_factory=dict, repr=False)

    def bundle(self) -> Bundle:
        return bundle_of(self.output, self.labels, self.shipped, **({"input": INPUT} | self.fields))

    def tensors(self, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
        rng = np.random.default_rng(seed)
        return tuple(rng.uniform(0.01, 0.99, shape).astype(np.float32) for shape in self.shapes)


def _detection(decode: Any, **fields: Any) -> Detection:
    stated: dict[str, Any] = {"boxes": "boxes", "scores": "scores", "activation": Activation.NONE} | fields
    return Detection(decode=decode, threshold=0.5, iou_threshold=0.5, **stated)


MEANS, STD = to_npy(VECTORS[:2]), to_npy(np.abs(VECTORS[2]) + np.float32(0.1))
REFERENCE = DriftReference(digest(MEANS), digest(STD), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))

CASES = {
    "classification": Case(Classification("scores", Activation.SOFTMAX), ((1, 2),), ((1, 3),)),
    "classification with features": Case(
        Classification("scores", Activation.SIGMOID, features="features"),
        ((1, 2), (1, 5)),
        ((1, 2), (1, 4)),
        shipped=(MEANS, STD),
        fields={"reference": REFERENCE},
    ),
    "ssd": Case(
        _detection(SsdAnchors(feature_maps=((3, 4),), sizes_px=((8.0,),)), background=0),
        ((1, 12, 4), (1, 12, 3)),
        ((1, 12, 4), (1, 12, 2)),
    ),
    "plain boxes": Case(
        _detection(PlainBoxes(Corners.XYWH, normalized=True)), ((1, 9, 4), (1, 9, 2)), ((1, 9, 4), (1, 9))
    ),
    "centre heads": Case(
        _detection(CentreHeads(offsets="offsets", stride_px=4)),
        ((1, 3, 4, 2), (1, 3, 4, 2), (1, 3, 4, 2)),
        ((1, 3, 4, 2), (1, 3, 4, 2), (1, 3, 3, 2)),
    ),
    "yolo heads": Case(
        _detection(YoloHeads(objectness=False, transposed=True), boxes="scores"), ((1, 6, 30),), ((1, 30, 6),)
    ),
    "regression": Case(Regression(value="value", unit=("K", "Pa"), agree_within=0.1), ((1, 2),), ((2, 1),)),
    "anomaly": Case(
        Anomaly(reconstruction="made", error=ErrorKind.MEAN_SQUARED, threshold=0.1),
        ((1, 12, 16, 3),),
        ((1, 12, 16, 1),),
    ),
    "embedding": Case(
        Embedding(
            vector="vector",
            distance=Distance.COSINE,
            threshold=0.5,
            enrolled=Enrolled(("ann", "bob", "ann"), digest(to_npy(VECTORS))),
        ),
        ((1, 5),),
        ((1, 6),),
        labels=(),
        shipped=(to_npy(VECTORS),),
    ),
    "segmentation": Case(
        Segmentation(scores="scores", activation=Activation.SOFTMAX, channels_first=True),
        ((1, 2, 6, 8),),
        ((1, 6, 8, 2),),
    ),
}
GIVEN = np.zeros(INPUT.shape, np.float32)


def _answer(case: Case, tensors: tuple[NDArray[np.float32], ...]) -> Answer:
    return make_head(case.bundle()).answer(tensors, GEOMETRY, GIVEN)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = CASES[request.param]
    return found


def test_it_names_the_tensors_that_it_reads(case: Case) -> None:
    head = make_head(case.bundle())
    assert len(head.wants) == len(case.shapes)
    assert head.wants_input == isinstance(case.output, Anomaly)


def test_it_checks_the_shapes_of_its_tensors(case: Case) -> None:
    head = make_head(case.bundle())
    head.check(case.shapes)
    with pytest.raises(InvalidInput, match=r"made@1\.0\.0"):
        head.check(case.wrong)


def test_the_same_tensors_get_the_same_answer_and_are_left_alone(case: Case) -> None:
    tensors = case.tensors()
    before = [tensor.copy() for tensor in tensors]
    assert _answer(case, tensors) == _answer(case, tensors)
    make_head(case.bundle()).basis(tensors, GIVEN)
    assert all((one == other).all() for one, other in zip(tensors, before, strict=True))


def test_read_only_tensors_will_do(case: Case) -> None:
    tensors = case.tensors()
    wanted = _answer(case, tensors)
    for tensor in tensors:
        tensor.flags.writeable = False
    assert _answer(case, tensors) == wanted


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_any_number_that_is_not_finite_is_refused(case: Case, bad: float) -> None:
    for which in range(len(case.shapes)):
        tensors = case.tensors()
        tensors[which].reshape(-1)[-1] = bad
        with pytest.raises(InvalidInput, match="NaN or infinity"):
            _answer(case, tensors)


def test_basis_is_flat_float32_of_its_own(case: Case) -> None:
    tensors = case.tensors()
    basis = make_head(case.bundle()).basis(tensors, GIVEN)
    kept = basis.copy()
    for tensor in tensors:
        tensor[...] = 0
    assert (basis.dtype, basis.ndim) == (np.float32, 1)
    assert basis.tolist() == kept.tolist()


def test_it_agrees_with_itself_row_by_row(case: Case) -> None:
    head = make_head(case.bundle())
    rows = np.stack([head.basis(case.tensors(seed), GIVEN) for seed in range(4)])
    agreed = head.agree(rows, rows)
    assert (np.asarray(agreed).dtype, agreed.tolist()) == (np.bool_, [True] * 4)


def test_it_does_not_agree_with_everything(case: Case) -> None:
    head = make_head(case.bundle())
    rows = np.stack([head.basis(case.tensors(seed), GIVEN) for seed in range(8)])
    assert not head.agree(rows, -rows).all()


def test_scores_are_finite_and_margins_from_0_to_1(case: Case) -> None:
    for seed in range(8):
        answer = _answer(case, case.tensors(seed))
        assert 0.0 <= answer.margin <= 1.0
        assert np.isfinite([answer.score, *(one.score for one in answer.top)]).all()


def test_reference_and_examples_come_from_the_bundle() -> None:
    with_features = CASES["classification with features"]
    answer = _answer(with_features, with_features.tensors())
    assert answer.novelty is not None
    assert answer.energy_z is not None
    head = make_head(CASES["embedding"].bundle())
    assert isinstance(head, EmbeddingHead)
    assert head.enrolled[0] == ("ann", "bob", "ann")
    assert head.enrolled[1].tolist() == VECTORS.tolist()


def test_without_a_reference_there_is_no_novelty() -> None:
    plain = Case(Classification("scores", Activation.SOFTMAX, features="features"), ((1, 2), (1, 5)), ())
    answer = _answer(plain, plain.tensors())
    assert (answer.novelty, answer.energy_z) == (None, None)
    assert answer.energy is not None


def test_a_reference_without_features_is_not_used() -> None:
    plain = Case(
        Classification("scores", Activation.SOFTMAX),
        ((1, 2),),
        (),
        shipped=(MEANS, STD),
        fields={"reference": REFERENCE},
    )
    head = make_head(plain.bundle())
    assert isinstance(head, ClassificationHead)
    assert head.wants == ("scores",)
    assert head.answer(plain.tensors(), None, None).novelty is None


def test_files_that_are_damaged_or_missing_are_told() -> None:
    broken = b"no array"
    output = Embedding(vector="v", distance=Distance.COSINE, threshold=0.5, enrolled=Enrolled(("ann",), digest(broken)))
    with pytest.raises(Corrupt, match="enrolled vectors"):
        make_head(bundle_of(output, (), (broken,)))
    with pytest.raises(NotFound):
        make_head(bundle_of(output, ()))
