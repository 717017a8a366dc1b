"""Boxes in the original image: against boxes put there by hand, and UltraFace's on a real photo."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from assets import assets_or_skip
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.output import Activation, CentreHeads, Corners, Detection, PlainBoxes, SsdAnchors, YoloHeads
from edgeloop.contracts.prediction import Box
from edgeloop.runtime.input.images import read_image
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.detection import DetectionHead, same_boxes
from edgeloop.runtime.output.nms import overlaps
from outputs import manifest_of

LABELS = ("cat", "dog")
PLAIN = Detection(
    boxes="boxes",
    scores="scores",
    activation=Activation.NONE,
    decode=PlainBoxes(Corners.XYXY, normalized=False),
    threshold=0.5,
    iou_threshold=0.5,
)
WHOLE = Geometry(width_px=320, height_px=240)


def _head(output: Detection = PLAIN, **changes: Any) -> DetectionHead:
    changed = replace(output, **changes)
    return DetectionHead(manifest_of(changed, LABELS), changed)


def _tensors(*found: tuple[list[float], list[float]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes and scores of these pairs."""
    boxes, scores = [one for one, _ in found], [one for _, one in found]
    return np.array([boxes], np.float32).reshape(1, -1, 4), np.array([scores], np.float32).reshape(1, -1, 2)


CAT = ([10.0, 20.0, 110.0, 120.0], [0.75, 0.0])
DOG = ([200.0, 50.0, 300.0, 150.0], [0.25, 0.875])
FAINT = ([5.0, 5.0, 15.0, 15.0], [0.375, 0.25])


def test_best_box_comes_first_and_is_the_answer() -> None:
    answer = _head().answer(_tensors(CAT, FAINT, DOG), WHOLE, None)
    assert answer.boxes == (Box("dog", 0.875, 200, 50, 300, 150), Box("cat", 0.75, 10, 20, 110, 120))
    assert (answer.label, answer.score) == ("dog", 0.875)
    assert answer.margin == 0.25  # of the cat, which would go first
    assert [(one.label, one.score) for one in answer.top] == [("dog", 0.875), ("cat", 0.75)]


def test_where_nothing_is_found_the_score_is_that_of_what_came_nearest() -> None:
    answer = _head().answer(_tensors(FAINT), WHOLE, None)
    assert (answer.label, answer.score, answer.margin, answer.boxes, answer.top) == (None, 0.375, 0.125, (), ())


def test_no_places_at_all_are_nothing_found() -> None:
    answer = _head().answer(_tensors(), WHOLE, None)
    assert (answer.label, answer.score, answer.boxes) == (None, 0.0, ())


def test_each_label_has_its_best_score_in_top_once() -> None:
    other = ([120.0, 120.0, 180.0, 180.0], [0.5, 0.0])
    answer = _head().answer(_tensors(CAT, other), WHOLE, None)
    assert [(one.label, one.score) for one in answer.top] == [("cat", 0.75)]
    assert len(answer.boxes) == 2


def test_overlapping_boxes_of_one_label_leave_the_better_and_of_two_labels_both() -> None:
    near = ([12.0, 20.0, 112.0, 120.0], [0.625, 0.5625])
    answer = _head().answer(_tensors(CAT, near), WHOLE, None)
    assert [(box.label, box.score) for box in answer.boxes] == [("cat", 0.75), ("dog", 0.5625)]


def test_with_one_label_a_place_is_a_box_of_its_best_alone() -> None:
    # The first place's second label would take the second place away, and the third's scores are equal.
    first, second = ([10.0, 20.0, 110.0, 120.0], [0.75, 0.875]), ([12.0, 20.0, 112.0, 120.0], [0.625, 0.0])
    third = ([200.0, 20.0, 300.0, 120.0], [0.5625, 0.5625])
    answer = _head(one_label=True).answer(_tensors(first, second, third), WHOLE, None)
    assert [(box.label, box.score) for box in answer.boxes] == [("dog", 0.875), ("cat", 0.625), ("cat", 0.5625)]


@pytest.mark.parametrize(("clip_first", "left"), [(True, 1), (False, 2)])
def test_boxes_are_compared_as_they_are_cut_or_as_they_were(clip_first: bool, left: int) -> None:
    # Half of the second lies beyond the right edge: cut, three quarters of both overlap; uncut, three sevenths.
    inside, across = ([240.0, 0.0, 320.0, 80.0], [0.75, 0.0]), ([260.0, 0.0, 380.0, 80.0], [0.625, 0.0])
    assert len(_head(clip_first=clip_first).answer(_tensors(inside, across), WHOLE, None).boxes) == left


def test_no_more_boxes_than_asked_for() -> None:
    grid = [([float(x), 0.0, x + 8.0, 8.0], [0.5 + x / 1024, 0.0]) for x in range(0, 200, 10)]
    answer = _head(max_boxes=3).answer(_tensors(*grid), WHOLE, None)
    assert [box.left for box in answer.boxes] == [190, 180, 170]


@pytest.mark.parametrize("background", [0, 1, 2])
def test_background_is_never_a_box(background: int) -> None:
    row = np.insert(np.array([0.75, 0.0], np.float32), background, 1.0)
    tensors = (np.array([[CAT[0]]], np.float32), row[np.newaxis, np.newaxis])
    head = _head(background=background)
    head.check(((1, 1, 4), (1, 1, 3)))
    assert [(box.label, box.score) for box in head.answer(tensors, WHOLE, None).boxes] == [("cat", 0.75)]


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(640, 480, scale_x=0.5, scale_y=0.5),  # resized
        Geometry(1280, 480, scale_x=0.25, scale_y=0.25, top=60),  # letterboxed
        Geometry(500, 400, scale_x=1.0, scale_y=1.0, left=-90, top=-80),  # the middle cropped
        Geometry(100, 900, scale_x=3.2, scale_y=240 / 900),
    ],
)
def test_boxes_come_back_in_pixels_of_the_original(geometry: Geometry) -> None:
    wanted = [40.0, 130.0, 90.0, 300.0]
    shift, scale = [geometry.left, geometry.top] * 2, [geometry.scale_x, geometry.scale_y] * 2
    shown = [edge * by + to for edge, by, to in zip(wanted, scale, shift, strict=True)]
    (box,) = _head().answer(_tensors((shown, [0.75, 0])), geometry, None).boxes
    # float32 coordinates of up to 900 err by 3e-5, times 4.
    assert [box.left, box.top, box.right, box.bottom] == pytest.approx(wanted, abs=2e-4)


def test_boxes_are_cut_at_the_edges_of_the_image() -> None:
    (box,) = _head().answer(_tensors(([-50.0, -5.0, 400.0, 250.0], [0.75, 0])), WHOLE, None).boxes
    assert (box.left, box.top, box.right, box.bottom) == (0, 0, 320, 240)


@pytest.mark.parametrize(
    "outside", [[400.0, 10, 500, 20], [-9.0, 10, 0, 20], [20.0, 20, 10, 30], [20.0, 20, 20, 30]], ids=str
)
def test_boxes_beside_the_image_or_without_area_are_none(outside: list[float]) -> None:
    answer = _head().answer(_tensors((outside, [0.75, 0])), WHOLE, None)
    assert (answer.label, answer.boxes) == (None, ())


def test_without_geometry_boxes_are_in_pixels_of_the_input() -> None:
    assert _head().answer(_tensors(CAT), None, None).boxes[0].right == 110


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_tensor_that_is_not_finite_is_refused(bad: float, which: int) -> None:
    tensors = _tensors(CAT, FAINT)
    tensors[which][0, 1, 0] = bad  # of a box that would not even be decoded
    for use in (_head().answer, lambda tensors, geometry, given: _head().basis(tensors, given)):
        with pytest.raises(InvalidInput, match="NaN or infinity"):
            use(tensors, WHOLE, None)


SSD = SsdAnchors(feature_maps=((3, 4), (1, 2)), sizes_px=((16.0, 32.0), (64.0,)))
HEADS = {
    "ssd": (_head(decode=SSD), ((1, 26, 4), (1, 26, 2))),
    "plain": (_head(), ((1, 7, 4), (1, 7, 2))),
    "centre": (
        _head(decode=CentreHeads(offsets="offsets", stride_px=20)),
        ((1, 12, 16, 2), (1, 12, 16, 2), (1, 12, 16, 2)),
    ),
    "yolo": (_head(boxes="scores", decode=YoloHeads(objectness=True, transposed=False)), ((1, 9, 7),)),
    "yolo turned": (_head(boxes="scores", decode=YoloHeads(objectness=False, transposed=True)), ((1, 6, 9),)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_basis_says_the_same_boxes_as_the_tensors(kind: str) -> None:
    head, shapes = HEADS[kind]
    head.check(shapes)
    rng = np.random.default_rng(9)
    tensors = tuple(rng.uniform(0, 40 if kind != "ssd" else 1, shape).astype(np.float32) for shape in shapes)
    basis = head.basis(tensors, None)
    assert basis.shape == (sum(int(np.prod(shape)) for shape in shapes),)
    rows = np.stack([basis, basis])
    assert head.agree(rows, rows).tolist() == [True, True]
    assert head.answer(tensors, WHOLE, None).boxes == head._decoded(basis) != ()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("ssd", ((1, 26, 4), (1, 26, 3))),
        ("ssd", ((1, 25, 4), (1, 25, 2))),  # not as many as anchors
        ("ssd", ((1, 1, 4), (1, 1, 2))),  # what LiteRT says of a free axis before it ran
        ("plain", ((1, 7, 4), (1, 8, 2))),
        ("plain", ((1, 7, 2), (1, 7, 4))),
        ("plain", ((7, 4), (7, 2))),
        ("centre", ((1, 16, 12, 2), (1, 16, 12, 2), (1, 16, 12, 2))),
        ("centre", ((1, 12, 16, 2), (1, 12, 16, 3), (1, 12, 16, 2))),
        ("yolo", ((1, 9, 6),)),
        ("yolo", ((1, 7, 9),)),
        ("yolo turned", ((1, 9, 6),)),
    ],
)
def test_tensors_of_other_shapes_are_refused(kind: str, wrong: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InvalidInput, match="they would be"):
        HEADS[kind][0].check(wrong)


def test_golden_outputs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a golden output of 13 numbers"):
        _head().agree(np.zeros((1, 13), np.float32), np.zeros((1, 13), np.float32))


def _row(*found: tuple[list[float], list[float]]) -> NDArray[np.float32]:
    return _head().basis(_tensors(*found), None)[np.newaxis]


@pytest.mark.parametrize(
    ("made", "same"),
    [
        ((CAT, DOG), True),
        ((DOG, CAT), True),
        ((([15.0, 25.0, 115.0, 125.0], [0.5625, 0.0]), DOG), True),  # moved by 5 of 100 pixels: IoU 0.82
        ((([60.0, 20.0, 160.0, 120.0], [0.75, 0.0]), DOG), False),  # moved by half: IoU 1/3
        ((CAT, (DOG[0], [0.875, 0.25])), False),  # the dog taken for a cat
        ((CAT, FAINT), False),  # the dog lost
    ],
)
def test_answers_agree_when_the_same_things_are_found(
    made: tuple[tuple[list[float], list[float]], ...], same: bool
) -> None:
    assert _head().agree(_row(*made), _row(CAT, DOG)).tolist() == [same]


def test_two_boxes_cannot_share_one_of_the_other_side() -> None:
    one, twin, far = Box("a", 0.9, 0, 0, 10, 10), Box("a", 0.8, 0, 0, 10, 9), Box("a", 0.7, 50, 50, 60, 60)
    assert not same_boxes((one, twin), (one, far))


def test_an_input_without_height_and_width_is_refused() -> None:
    flat = InputSpec("rows", Modality.TENSOR, (1, 12), "NF", (0.0, 1.0))
    with pytest.raises(InvalidInput, match="with H and W among them"):
        DetectionHead(manifest_of(PLAIN, LABELS, input=flat), PLAIN)


FACES = Detection(
    boxes="boxes",
    scores="scores",
    activation=Activation.NONE,
    decode=PlainBoxes(Corners.XYXY, normalized=True),
    threshold=0.7,
    iou_threshold=0.3,
    background=0,
)
# As UltraFace's authors define them for 320x240.
ANCHORS = SsdAnchors(
    feature_maps=((30, 40), (15, 20), (8, 10), (4, 5)),
    sizes_px=((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)),
)
ULTRAFACE = ("version-RFB-320.onnx", "version-RFB-320_without_postprocessing.onnx",
             "version-RFB-320_without_postprocessing.tflite")  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    """Grace Hopper: one face."""
    return read_image(assets_or_skip("mobilenet/grace_hopper.bmp") / "mobilenet" / "grace_hopper.bmp")


def _ultraface(file: Path, photo: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes and scores, by the engine itself: RGB, mean 127, std 128."""
    pixels = ((cv2.resize(photo, (320, 240)).astype(np.float32) - 127) / 128)[np.newaxis]
    if file.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options)
        scores, boxes = session.run(["scores", "boxes"], {"input": pixels.transpose(0, 3, 1, 2)})
        return boxes, scores
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(file))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    boxes, scores = (interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details())
    return boxes, scores


def test_ultraface_finds_the_one_face_at_the_same_place_in_all_its_files(photo: NDArray[np.uint8]) -> None:
    folder = assets_or_skip(*(f"ultraface/{name}" for name in ULTRAFACE)) / "ultraface"
    geometry = Geometry(photo.shape[1], photo.shape[0], scale_x=320 / photo.shape[1], scale_y=240 / photo.shape[0])
    found = []
    for name in ULTRAFACE:
        output = FACES if name == ULTRAFACE[0] else replace(FACES, decode=ANCHORS)
        head = DetectionHead(manifest_of(output, ("face",)), output)
        tensors = _ultraface(folder / name, photo)
        head.check(tuple(tensor.shape for tensor in tensors))
        answer = head.answer(tensors, geometry, None)
        assert len(answer.boxes) == 1, name
        found.append([answer.boxes[0].left, answer.boxes[0].top, answer.boxes[0].right, answer.boxes[0].bottom])
    # The face by eye, from chin to hat and cheek to cheek, within 15 pixels of 600.
    np.testing.assert_allclose(found[0], [172, 121, 357, 334], atol=15)
    # Decoded by the model and by us: the same but for rounding; measured 0.999999.
    assert overlaps(np.array(found[0]), np.array(found)).min() > 0.999


def test_our_decoding_of_every_anchor_is_the_model_s_own(photo: NDArray[np.uint8]) -> None:
    folder = assets_or_skip(*(f"ultraface/{name}" for name in ULTRAFACE)) / "ultraface"
    own, _ = _ultraface(folder / ULTRAFACE[0], photo)
    tensors = _ultraface(folder / ULTRAFACE[1], photo)
    output = replace(FACES, decode=ANCHORS)
    decoder = DetectionHead(manifest_of(output, ("face",)), output)._decoder
    corners = decoder.corners(tensors, np.arange(4420)) / [320, 240, 320, 240]
    # The model decodes in float32 numbers of up to 2; measured 9e-8.
    np.testing.assert_allclose(corners, own[0], atol=1e-6)
