"""Masks against the definition, pixel by pixel, and against OpenCV's exact nearest resize."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.output import Activation, Segmentation
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.segmentation import SegmentationHead
from outputs import manifest_of

LABELS = ("sky", "road", "car")
RNG = np.random.default_rng(6)
SPEC = InputSpec("image", Modality.IMAGE, (1, 12, 16, 3), "nhwc", (0.0, 1.0))
WHOLE = Geometry(width_px=16, height_px=12)


def _head(activation: Activation = Activation.SOFTMAX, **fields: Any) -> SegmentationHead:
    output = Segmentation(scores="scores", activation=activation, **fields)
    return SegmentationHead(manifest_of(output, LABELS, input=SPEC), output)


def _scores(height: int, width: int) -> NDArray[np.float32]:
    return RNG.normal(size=(1, height, width, 3)).astype(np.float32)


def _of(labels: NDArray[Any]) -> NDArray[np.float32]:
    """(1, H, W, 3) probabilities that say these labels."""
    return np.eye(3, dtype=np.float32)[labels][np.newaxis]


def _mask(answer: Any) -> NDArray[np.uint8]:
    assert answer.mask_png is not None
    mask = cv2.imdecode(np.frombuffer(answer.mask_png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    return np.asarray(mask)


def test_each_pixel_has_its_best_label() -> None:
    scores = _scores(12, 16)
    assert _mask(_head().answer((scores,), WHOLE, None)).tolist() == scores[0].argmax(axis=-1).tolist()


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("channels_first", [False, True])
def test_a_pixel_below_the_threshold_has_none(activation: Activation, channels_first: bool) -> None:
    scores = _scores(12, 16)
    wide = scores[0].astype(np.float64)
    probability = {
        Activation.NONE: wide,
        Activation.SIGMOID: 1 / (1 + np.exp(-wide)),
        Activation.SOFTMAX: np.exp(wide) / np.exp(wide).sum(axis=-1, keepdims=True),
    }[activation]
    wanted = np.where(probability.max(axis=-1) >= 0.6, wide.argmax(axis=-1), 255)
    given = np.ascontiguousarray(scores.transpose(0, 3, 1, 2)) if channels_first else scores
    head = _head(activation, threshold=0.6, channels_first=channels_first)
    head.check((given.shape,))
    assert _mask(head.answer((given,), WHOLE, None)).tolist() == wanted.tolist()
    assert 0 < (wanted == 255).sum() < wanted.size


@pytest.mark.parametrize("activation", [Activation.NONE, Activation.SIGMOID])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.75])
def test_one_channel_is_the_score_of_the_second_label(
    activation: Activation, channels_first: bool, threshold: float
) -> None:
    share = RNG.random((1, 12, 16, 1)).astype(np.float32)
    raw = np.log(share / (1 - share)) if activation is Activation.SIGMOID else share
    given = np.ascontiguousarray(raw.transpose(0, 3, 1, 2)) if channels_first else raw
    output = Segmentation(
        scores="scores", activation=activation, channels_first=channels_first, threshold=threshold, single=True
    )
    head = SegmentationHead(manifest_of(output, ("background", "person"), input=SPEC), output)
    head.check((given.shape,))
    wide = share[0, :, :, 0].astype(np.float64)
    wanted = np.where(np.maximum(wide, 1 - wide) >= threshold, wide > 0.5, 255)
    clear = (np.abs(wide - 0.5) > 1e-6) & (np.abs(np.maximum(wide, 1 - wide) - threshold) > 1e-6)  # float32's rounding
    made = _mask(head.answer((given,), WHOLE, None))
    assert made[clear].tolist() == wanted[clear].tolist()
    assert head.agree(head.basis((given,), None)[np.newaxis], head.basis((given,), None)[np.newaxis]).tolist() == [True]


@pytest.mark.parametrize(
    ("labels", "activation"), [(LABELS, Activation.SIGMOID), (("background", "person"), Activation.SOFTMAX)]
)
def test_one_channel_is_of_two_labels_and_has_no_softmax(labels: tuple[str, ...], activation: Activation) -> None:
    output = Segmentation(scores="scores", activation=activation, single=True)
    with pytest.raises(InvalidInput, match="one channel is the score of the second of two labels"):
        SegmentationHead(manifest_of(output, labels, input=SPEC), output)


@pytest.mark.parametrize("size", [(12, 16), (6, 8), (5, 7), (24, 32)])
@pytest.mark.parametrize("original", [(100, 77), (16, 12), (7, 5), (33, 640)])
def test_a_resized_image_gets_the_nearest_of_the_model_s_pixels(
    size: tuple[int, int], original: tuple[int, int]
) -> None:
    scores = _scores(*size)
    width, height = original
    geometry = Geometry(width, height, scale_x=16 / width, scale_y=12 / height)
    small = scores[0].argmax(axis=-1).astype(np.uint8)
    made = _mask(_head().answer((scores,), geometry, None))
    # Where the middle of a pixel falls on the edge between two, either is right; OpenCV rounds in fixed point.
    x, y = (np.arange(width) + 0.5) * size[1] / width, (np.arange(height) + 0.5) * size[0] / height
    clear = np.ix_(np.abs(y - np.rint(y)) > 1e-4, np.abs(x - np.rint(x)) > 1e-4)
    wanted = cv2.resize(small, original, interpolation=cv2.INTER_NEAREST_EXACT)
    assert made.shape == wanted.shape
    assert made[clear].tolist() == wanted[clear].tolist()


def test_what_was_cropped_away_has_no_label() -> None:
    scores = _of(RNG.integers(0, 3, (12, 16)))
    made = _mask(_head().answer((scores,), Geometry(20, 18, left=-2, top=-3), None))
    wanted = np.full((18, 20), 255)
    wanted[3:15, 2:18] = scores[0].argmax(axis=-1)
    assert made.tolist() == wanted.tolist()


def test_the_margin_of_a_letterbox_is_left_out() -> None:
    labels = np.full((12, 16), 2)
    labels[2:10] = RNG.integers(0, 2, (8, 16))
    made = _mask(_head().answer((_of(labels),), Geometry(32, 16, scale_x=0.5, scale_y=0.5, top=2), None))
    assert made.tolist() == labels[2:10].repeat(2, axis=0).repeat(2, axis=1).tolist()


def test_top_is_the_shares_of_the_original_s_pixels() -> None:
    geometry = Geometry(31, 23, scale_x=0.5, scale_y=0.5, left=-1, top=1)
    head = _head(threshold=0.45)
    answer = head.answer((_scores(6, 8),), geometry, None)
    mask = _mask(answer)
    wanted = {label: float((mask == index).mean()) for index, label in enumerate(LABELS)}
    assert {one.label: one.score for one in answer.top} == pytest.approx(wanted, abs=1e-12)
    assert [one.score for one in answer.top] == sorted(wanted.values(), reverse=True)
    assert (answer.label, answer.score) == (answer.top[0].label, answer.top[0].score)
    assert answer.margin == answer.top[0].score - answer.top[1].score


def test_labels_that_no_pixel_has_are_left_out() -> None:
    answer = _head(Activation.NONE).answer((_of(np.ones((12, 16), int)),), WHOLE, None)
    assert [(one.label, one.score) for one in answer.top] == [("road", 1.0)]
    assert answer.margin == 1.0


def test_where_no_pixel_reaches_the_threshold_there_is_no_label() -> None:
    answer = _head(Activation.NONE, threshold=0.9).answer((_of(np.ones((12, 16), int)) / 2,), WHOLE, None)
    assert (answer.label, answer.score, answer.margin, answer.top) == (None, 0.0, 0.0, ())
    assert set(_mask(answer).reshape(-1).tolist()) == {255}


@pytest.mark.parametrize("channels_first", [False, True])
def test_answers_agree_if_95_percent_of_pixels_do(channels_first: bool) -> None:
    head = _head(Activation.NONE, channels_first=channels_first)

    def basis(labels: NDArray[Any]) -> NDArray[np.float32]:
        tensor = _of(labels)
        return head.basis((tensor.transpose(0, 3, 1, 2) if channels_first else tensor,), None)

    labels = RNG.integers(0, 3, (10, 20))
    rows = []
    for changed in (0, 10, 11):
        other = labels.copy()
        other.reshape(-1)[:changed] = (other.reshape(-1)[:changed] + 1) % 3
        rows.append(basis(other))
    assert head.agree(np.stack(rows), np.stack([basis(labels)] * 3)).tolist() == [True, True, False]


def test_golden_outputs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a golden output of 10 numbers is not 3 a pixel"):
        _head().agree(np.zeros((1, 10), np.float32), np.zeros((1, 10), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = _scores(6, 8)
    scores[0, 2, 2, 2] = bad
    for use in (_head().answer, lambda tensors, geometry, given: _head().basis(tensors, given)):
        with pytest.raises(InvalidInput, match="NaN or infinity"):
            use((scores,), WHOLE, None)


@pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 12, 16, 4), (2, 12, 16, 3), (12, 16, 3), (1, 0, 16, 3)])
def test_tensors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"they would be \(1, H, W, 3\)"):
        _head().check((shape,))


def test_more_labels_than_a_mask_has_room_for_are_refused() -> None:
    output = Segmentation(scores="scores", activation=Activation.NONE)
    with pytest.raises(InvalidInput, match="256 labels"):
        SegmentationHead(manifest_of(output, tuple(map(str, range(256))), input=SPEC), output)


def test_scores_as_far_apart_as_float32_goes_are_told_apart() -> None:
    scores = np.full((1, 6, 8, 3), -3.4e38, np.float32)
    scores[..., 1] = 3.4e38
    answer = _head(threshold=0.9).answer((scores,), WHOLE, None)
    assert [(one.label, one.score) for one in answer.top] == [(LABELS[1], 1.0)]
