"""What the pictures show, looked at pixel by pixel where there is something to expect."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Box, Prediction, Scored
from edgeloop.runtime.draw import SMALLEST_SIDE_PX, caption, colour_of, draw

LABELS = ("cat", "dog", "bird")
GREY = np.full((480, 640, 3), 128, np.uint8)


def _prediction(task: Task, **fields: Any) -> Prediction:
    stated: dict[str, Any] = {"label": None, "score": 0.5, "margin": 0.1, "top": (), "latency_ms": 1.0}
    return Prediction(bundle="a@1.0.0", engine="e", precision="float32", task=task, **(stated | fields))


def _changed(picture: NDArray[np.uint8], ground: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((picture != ground).any(axis=-1))


def _count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def test_a_box_has_its_label_s_colour_on_its_edges_and_nothing_inside() -> None:
    box = Box("dog", 0.9, 200, 100, 400, 300)
    picture = draw(GREY, _prediction(Task.DETECTION, label="dog", boxes=(box,)), LABELS)
    for x, y in ((200, 200), (400, 200), (300, 300), (300, 100)):
        assert tuple(picture[y, x]) == colour_of("dog", LABELS)
    assert not _changed(picture, GREY)[110:290, 210:390].any()
    assert not _changed(picture, GREY)[:60].any()


def test_its_label_stands_above_it_or_inside_where_there_is_no_room() -> None:
    colour = colour_of("dog", LABELS)
    for top, where in ((100, slice(70, 97)), (0, slice(4, 30))):
        box = Box("dog", 0.9, 200, top, 400, 300)
        picture = draw(GREY, _prediction(Task.DETECTION, label="dog", boxes=(box,)), LABELS)
        strip = picture[where, 204:290]
        assert _count(strip, colour) > 500
        ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
        assert _count(strip, ink) > 30


def test_the_text_says_label_and_score() -> None:
    pictures = []
    for label, score in (("dog", 0.5), ("cow", 0.5), ("dog", 0.25)):
        answer = _prediction(Task.DETECTION, boxes=(Box(label, score, 200, 100, 400, 300),))
        pictures.append(draw(GREY, answer, ("cat", label)))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


def test_a_label_at_the_right_edge_is_moved_in() -> None:
    box = Box("a rather long label", 0.9, 600, 100, 640, 300)
    picture = draw(GREY, _prediction(Task.DETECTION, label="dog", boxes=(box,)), LABELS)
    # The text is wider than the 40 pixels that there are.
    assert _changed(picture, GREY)[75:95, 480:590].any()


def test_the_image_that_is_given_is_left_alone() -> None:
    image = GREY.copy()
    draw(image, _prediction(Task.DETECTION, label="cat", boxes=(Box("cat", 0.9, 1, 1, 90, 90),)), LABELS)
    assert (image == GREY).all()


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.DETECTION])
def test_every_task_writes_into_the_top_left(task: Task) -> None:
    fields = {"label": "cat", "top": (Scored("cat", 0.75), Scored("dog", 0.25))}
    picture = draw(GREY, _prediction(task, **fields), LABELS)
    changed = _changed(picture, GREY)
    assert changed[:60, :200].sum() > 1000
    assert not changed[100:].any()


@pytest.mark.parametrize(
    ("prediction", "lines"),
    [
        (_prediction(Task.CLASSIFICATION, label="cat", top=(Scored("cat", 0.755),)), ["cat 0.76"]),
        (_prediction(Task.CLASSIFICATION, top=(Scored("cat", 0.3),)), ["none of these", "cat 0.30"]),
        (_prediction(Task.DETECTION), ["nothing found"]),
        (_prediction(Task.REGRESSION, top=(Scored("t", 291.25),)), ["t 291.2"]),
        (_prediction(Task.ANOMALY, label="odd", top=(Scored("odd", 0.0123),)), ["odd, error 0.0123"]),
        (_prediction(Task.EMBEDDING, top=(Scored("ann", 0.7),)), ["none of these", "ann, 0.70 away"]),
        (_prediction(Task.SEGMENTATION, label="sky", top=(Scored("sky", 0.4),)), ["sky 40%"]),
    ],
)
def test_captions_say_what_the_task_says(prediction: Prediction, lines: list[str]) -> None:
    assert [line for _, line in caption(prediction)] == lines


def test_pixels_of_a_mask_are_mixed_with_their_label_s_colour() -> None:
    mask = np.full((480, 640), 255, np.uint8)
    mask[200:300, 100:500] = 1
    png = cv2.imencode(".png", mask)[1].tobytes()
    picture = draw(GREY, _prediction(Task.SEGMENTATION, label="dog", mask_png=png), LABELS)
    wanted = (np.array(colour_of("dog", LABELS)) + 128) / 2
    np.testing.assert_allclose(picture[250, 300], wanted, atol=1)
    assert not _changed(picture, GREY)[310:].any()
    assert not _changed(picture, GREY)[200:300, 510:].any()


@pytest.mark.parametrize("png", [b"no png", cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()])
def test_a_mask_of_another_image_is_refused(png: bytes) -> None:
    with pytest.raises(InvalidInput, match="draw the image it was made of"):
        draw(GREY, _prediction(Task.SEGMENTATION, mask_png=png), LABELS)


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (28, 28, 3), (5, 900), (900, 5), (2160, 3840, 3)])
def test_any_size_can_be_drawn_on_and_small_ones_are_enlarged_in_whole_steps(shape: tuple[int, ...]) -> None:
    box = Box("cat", 0.9, 0, 0, shape[1], shape[0])
    image = np.zeros(shape, np.uint8)
    for fields in ({"boxes": (box,)}, {"top": (Scored("cat " * 40, 0.5),) * 3, "label": "cat"}):
        picture = draw(image, _prediction(Task.CLASSIFICATION, **fields), LABELS)
        times = picture.shape[0] // shape[0]
        assert picture.shape == (shape[0] * times, shape[1] * times, 3)
        assert max(picture.shape[:2]) >= SMALLEST_SIDE_PX
        assert times == 1 or max(picture.shape[:2]) < SMALLEST_SIDE_PX + max(shape[:2])
        assert picture.dtype == np.uint8


def test_a_box_is_enlarged_with_its_image() -> None:
    picture = draw(
        np.zeros((32, 32), np.uint8), _prediction(Task.DETECTION, boxes=(Box("cat", 1, 8, 8, 24, 24),)), LABELS
    )
    assert tuple(picture[160, 80]) == tuple(picture[240, 160]) == colour_of("cat", LABELS)


def test_text_grows_with_the_image() -> None:
    answer = _prediction(Task.CLASSIFICATION, label="cat", top=(Scored("cat", 0.5),))
    heights = []
    for side in (400, 1600):
        ground = np.zeros((side, side, 3), np.uint8)
        heights.append(int(_changed(draw(ground, answer, LABELS), ground).any(axis=1).sum()))
    assert 2.5 < heights[1] / heights[0] < 4.5


def test_labels_next_to_one_another_differ_in_colour() -> None:
    labels = tuple(map(str, range(20)))
    colours = np.array([colour_of(label, labels) for label in labels], float)
    away = np.abs(colours[1:] - colours[:-1]).sum(axis=1)
    assert away.min() > 100
    assert colour_of("unknown", labels) == colour_of("unknown", labels)
