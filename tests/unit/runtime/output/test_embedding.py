"""Nearest examples against distances written out one by one, and the file of examples against tampering."""

import stat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Golden
from edgeloop.contracts.output import Distance, Embedding
from edgeloop.runtime.output.embedding import EmbeddingHead, EnrolledFile, Examples
from outputs import manifest_of

RNG = np.random.default_rng(3)
WIDTH = 24


def _vectors(count: int) -> NDArray[np.float32]:
    return RNG.normal(size=(count, WIDTH)).astype(np.float32)


def _head(
    distance: Distance = Distance.COSINE,
    threshold: float = 0.5,
    *,
    shipped: Examples | None = None,
    top_k: int = 3,
    **manifest: Any,
) -> EmbeddingHead:
    output = Embedding(vector="vector", distance=distance, threshold=threshold, top_k=top_k)
    return EmbeddingHead(manifest_of(output, (), **manifest), output, shipped)


def _distance(a: NDArray[np.float32], b: NDArray[np.float32], kind: Distance) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    if kind is Distance.EUCLIDEAN:
        return float(np.sqrt(((x - y) ** 2).sum()))
    return float(1 - (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


@pytest.mark.parametrize("kind", list(Distance))
def test_top_is_the_nearest_example_of_each_label(kind: Distance) -> None:
    labels = ("ann", "bob", "ann", "cy", "bob", "dee", "ann")
    examples, query = _vectors(7), _vectors(1)
    head = _head(kind, 100.0, shipped=Examples(labels[:3], examples[:3]))
    for label, vector in zip(labels[3:], examples[3:], strict=True):
        head.enrol(label, vector)
    distances = [_distance(example, query[0], kind) for example in examples]
    nearest = {label: min(d for d, of in zip(distances, labels, strict=True) if of == label) for label in labels}
    wanted = sorted(nearest.items(), key=lambda pair: pair[1])[:3]
    answer = head.answer((query,), None, None)
    assert [one.label for one in answer.top] == [label for label, _ in wanted]
    # Distances of up to 10, from float32.
    assert [one.score for one in answer.top] == pytest.approx([d for _, d in wanted], abs=2e-6)
    assert answer.label == wanted[0][0]
    assert answer.score == pytest.approx(1 / (1 + wanted[0][1]), abs=1e-6)
    assert answer.vector == tuple(query[0].tolist())


@pytest.mark.parametrize(("x", "label"), [(0.4999, "ann"), (0.5, None), (0.75, None)])
def test_only_nearer_than_the_threshold_has_a_label(x: float, label: str | None) -> None:
    head = _head(Distance.EUCLIDEAN)
    head.enrol("ann", np.zeros(2))
    answer = head.answer((np.array([[x, 0]], np.float32),), None, None)
    assert (answer.label, answer.top[0].label) == (label, "ann")


def test_margin_is_the_smaller_of_the_steps_to_the_threshold_and_to_the_next_label() -> None:
    head = _head(Distance.EUCLIDEAN, 1.0)
    head.enrol("ann", np.array([0.0, 0]))
    head.enrol("bob", np.array([4.0, 0]))

    def margin(x: float) -> float:
        return head.answer((np.array([[x, 0]], np.float32),), None, None).margin

    assert margin(0.25) == pytest.approx(1 / 1.25 - 1 / 2)  # ann, and no other within 1.0
    assert margin(2.0) == pytest.approx(1 / 2 - 1 / 3)  # nobody
    head.enrol("cy", np.array([0.5, 0]))
    assert margin(0.125) == pytest.approx(1 / 1.125 - 1 / 1.375)  # cy is nearer than the threshold


@pytest.mark.parametrize("kind", list(Distance))
def test_an_example_is_at_no_distance_from_itself(kind: Distance) -> None:
    head = _head(kind)
    (vector,) = _vectors(1)
    head.enrol("ann", vector)
    answer = head.answer((vector[np.newaxis],), None, None)
    assert answer.label == "ann"
    assert answer.top[0].score == pytest.approx(0.0, abs=1e-6)


def test_nobody_enrolled_is_nobody_recognised() -> None:
    answer = _head().answer((_vectors(1),), None, None)
    assert (answer.label, answer.score, answer.margin, answer.top) == (None, 0.0, 1.0, ())
    assert len(answer.vector) == WIDTH


def test_enrolled_are_those_of_the_bundle_and_then_one_s_own() -> None:
    shipped, own = _vectors(2), _vectors(1)
    head = _head(shipped=Examples(("ann", "bob"), shipped))
    head.enrol("cy", own)
    labels, vectors = head.enrolled
    assert labels == ("ann", "bob", "cy")
    assert vectors.tolist() == [*shipped.tolist(), *own.tolist()]


def test_what_was_enrolled_does_not_change_with_the_array_it_came_from() -> None:
    head = _head()
    vector = _vectors(1)
    head.enrol("ann", vector)
    vector[:] = 0
    assert head.enrolled[1].any()


def test_forgetting_drops_one_s_own_examples_of_a_label_alone() -> None:
    head = _head(shipped=Examples(("ann",), _vectors(1)))
    for label in ("ann", "bob", "ann"):
        head.enrol(label, _vectors(1)[0])
    assert head.forget("ann") == 2
    assert head.enrolled[0] == ("ann", "bob")


@pytest.mark.parametrize(
    ("label", "vector", "said"),
    [
        ("", np.ones(WIDTH), "needs a label"),
        ("bob", np.ones(WIDTH + 1), "25 numbers, where this model's vectors have 24"),
        ("bob", np.full(WIDTH, np.nan), "NaN or infinity"),
        ("bob", np.zeros(WIDTH), "no direction"),
        ("bob", np.ones((2, WIDTH)), r"1 labels with float32 \(2, 24\)"),
    ],
)
def test_what_cannot_be_an_example_is_refused(label: str, vector: NDArray[Any], said: str) -> None:
    head = _head(shipped=Examples(("ann",), _vectors(1)))
    with pytest.raises(InvalidInput, match=said):
        head.enrol(label, vector)
    assert head.enrolled[0] == ("ann",)


@pytest.mark.parametrize(
    "examples",
    [
        Examples(("ann",), _vectors(2)),
        Examples(("ann",), _vectors(1).astype(np.float64)),
        Examples(("ann",), _vectors(1)[0]),
        Examples(("ann",), _vectors(1) * np.float32(np.nan)),
    ],
)
def test_a_bundle_with_damaged_examples_is_corrupt(examples: Examples) -> None:
    with pytest.raises(Corrupt, match="its enrolled examples"):
        _head(shipped=examples)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(bad: float) -> None:
    vector = _vectors(1)
    vector[0, 3] = bad
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        _head().answer((vector,), None, None)


def test_a_vector_without_direction_is_refused_where_angles_count() -> None:
    head = _head()
    head.enrol("ann", _vectors(1))
    with pytest.raises(InvalidInput, match="no direction"):
        head.answer((np.zeros((1, WIDTH), np.float32),), None, None)


@pytest.mark.parametrize("shape", [(1, WIDTH, 1, 1), (1, 1, 1, WIDTH), (1, 1, WIDTH)])
def test_a_vector_may_have_more_axes_of_one(shape: tuple[int, ...]) -> None:
    vector = _vectors(1)
    shipped = Examples(("ann",), _vectors(1))
    flat, deep = _head(shipped=shipped), _head(shipped=shipped)
    deep.check((shape,))
    assert deep.answer((vector.reshape(shape),), None, None) == flat.answer((vector,), None, None)
    assert deep.basis((vector.reshape(shape),), None).tolist() == vector[0].tolist()


@pytest.mark.parametrize("shape", [(1, WIDTH + 1), (2, WIDTH), (WIDTH,), (1, 2, WIDTH // 2), (1, WIDTH, 2)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    head = _head(shipped=Examples(("ann",), _vectors(1)))
    head.check(((1, WIDTH),))
    with pytest.raises(InvalidInput, match=r"expected \(1, 24\), the width of its examples"):
        head.check((shape,))


def test_without_examples_alike_vectors_agree() -> None:
    wanted = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    made = np.array([[1, 0.3], [1, 0.4], [0, 0]], np.float32)  # 16.7 and 21.8 degrees, and none
    assert _head().agree(made, wanted).tolist() == [True, False, False]


def test_with_examples_the_same_label_agrees_and_alike_vectors_without_one() -> None:
    head = _head(Distance.EUCLIDEAN, 1.0, shipped=Examples(("ann", "bob"), np.array([[1, 0], [0, 1]], np.float32)))
    pairs = [
        ([1.0, 0.9], [1.0, 0.1], True),  # ann twice, though 36 degrees apart
        ([0.6, 0.4], [0.4, 0.6], False),  # ann, bob
        ([9.0, 9.0], [9.0, 8.9], True),  # nobody, and much the same vector
        ([9.0, 9.0], [-9.0, 9.0], False),  # nobody, and another vector
    ]
    made, wanted = (np.array([pair[side] for pair in pairs], np.float32) for side in (0, 1))
    assert head.agree(made, wanted).tolist() == [pair[2] for pair in pairs]


def test_saved_examples_come_back(tmp_path: Path) -> None:
    head = _head(shipped=Examples(("shipped",), _vectors(1)))
    head.enrol("ann", _vectors(1))
    head.enrol("Zoë", _vectors(1))
    head.save(tmp_path / "faces.json")
    other = _head(version="2.0.0")
    other.enrol("replaced", _vectors(1))
    other.load(str(tmp_path / "faces.json"))
    assert other.enrolled[0] == ("ann", "Zoë")
    assert other.enrolled[1].tolist() == head.enrolled[1][1:].tolist()
    assert stat.S_IMODE((tmp_path / "faces.json").stat().st_mode) == 0o600


def test_nothing_enrolled_can_be_saved_and_loaded(tmp_path: Path) -> None:
    _head().save(tmp_path / "none")
    head = _head()
    head.load(tmp_path / "none")
    assert head.enrolled[0] == ()


@pytest.mark.parametrize("other", [{"name": "voices"}, {"golden": Golden("a" * 64, "c" * 64, 16, {})}])
def test_examples_of_another_bundle_or_model_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    head = _head()
    head.enrol("ann", _vectors(1))
    head.save(tmp_path / "faces")
    with pytest.raises(InvalidInput, match="Enrol again"):
        _head(**other).load(tmp_path / "faces")


def test_examples_of_another_width_are_refused(tmp_path: Path) -> None:
    head = _head()
    head.enrol("ann", np.ones(3))
    head.save(tmp_path / "faces")
    with pytest.raises(Corrupt, match="3 numbers, where this model's vectors have 24"):
        _head(shipped=Examples(("a",), _vectors(1))).load(tmp_path / "faces")


def _file(**changes: Any) -> bytes:
    good = EnrolledFile(bundle="made", golden="b" * 64, labels=("ann",), vectors=to_npy(_vectors(1)))
    return to_json(msgspec.structs.replace(good, **changes))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Corrupt),
        (_file()[:-9], Corrupt),
        (b"\x80\x04K\x01.", Corrupt),  # a pickle
        (b"{}", InvalidInput),
        (_file(vectors=b"no array"), Corrupt),
        (_file(labels=("ann", "bob")), Corrupt),
        (_file(vectors=to_npy(np.full((1, WIDTH), np.nan, np.float32))), Corrupt),
        (_file(schema=99), InvalidInput),
    ],
)
def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path: Path, data: bytes, kind: type[Exception]) -> None:
    (tmp_path / "faces").write_bytes(data)
    head = _head()
    head.enrol("kept", _vectors(1))
    with pytest.raises(kind):
        head.load(tmp_path / "faces")
    assert head.enrolled[0] == ("kept",)


def test_a_sound_file_is_what_the_damaged_ones_were_made_of(tmp_path: Path) -> None:
    (tmp_path / "faces").write_bytes(_file())
    assert from_json(_file(), EnrolledFile, what="file").labels == ("ann",)
    head = _head()
    head.load(tmp_path / "faces")
    assert head.enrolled[0] == ("ann",)


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no enrolled examples"):
        _head().load(tmp_path / "faces")


def test_vectors_whose_squares_float32_cannot_hold_are_compared() -> None:
    made = np.full((2, WIDTH), 3e38, np.float32)
    wanted = np.stack([made[0] / 2, -made[1]])
    assert _head().agree(made, wanted).tolist() == [True, False]
