"""Against the formulas of contracts.output, written out one box at a time."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import (
    Activation,
    BoxRows,
    CentreHeads,
    CentreOrder,
    CentreSize,
    Corners,
    Decode,
    Detection,
    OffsetOrder,
    PlainBoxes,
    SsdAnchors,
    YoloHeads,
)
from edgeloop.runtime.output.boxes import Decoder, Extent, make_decoder, ssd_anchors
from edgeloop.runtime.output.reached import reached

EXTENT = Extent(width_px=320, height_px=240)
RNG = np.random.default_rng(4)


def _decoder(
    decode: Decode, *, labels: int = 2, boxes: str = "boxes", scores: str = "scores", **fields: Any
) -> Decoder:
    stated: dict[str, Any] = {"activation": Activation.NONE, "threshold": 0.5, "iou_threshold": 0.5} | fields
    output = Detection(boxes=boxes, scores=scores, decode=decode, **stated)
    return make_decoder(output, labels=labels, extent=EXTENT)


def _normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


SSD = SsdAnchors(feature_maps=((2, 3), (1, 2)), sizes_px=((10.0, 400.0), (64.0,)))


@pytest.mark.parametrize("clip", [True, False])
def test_ssd_anchors_come_map_by_map_row_by_row_cell_by_cell_size_by_size(clip: bool) -> None:
    wanted = []
    for (rows, columns), sizes in zip(SSD.feature_maps, SSD.sizes_px, strict=True):
        for row in range(rows):
            for column in range(columns):
                for size in sizes:
                    anchor = ((column + 0.5) / columns, (row + 0.5) / rows, size / 320, size / 240)
                    wanted.append([min(number, 1.0) for number in anchor] if clip else list(anchor))
    made = ssd_anchors(SsdAnchors(feature_maps=SSD.feature_maps, sizes_px=SSD.sizes_px, clip=clip), EXTENT)
    np.testing.assert_allclose(made, wanted, rtol=1e-15)


def test_ssd_offsets_move_and_stretch_their_anchor() -> None:
    offsets = _normal(1, 14, 4)
    rows = np.array([13, 0, 5])
    corners = _decoder(SSD).corners((offsets, _normal(1, 14, 2)), rows)
    for made, row in zip(corners, rows, strict=True):
        x, y, width, height = ssd_anchors(SSD, EXTENT)[row]
        dx, dy, dw, dh = offsets[0, row].tolist()
        x, y = x + dx * 0.1 * width, y + dy * 0.1 * height
        width, height = width * math.exp(dw * 0.2), height * math.exp(dh * 0.2)
        wanted = [(x - width / 2) * 320, (y - height / 2) * 240, (x + width / 2) * 320, (y + height / 2) * 240]
        np.testing.assert_allclose(made, wanted, rtol=1e-12)


def test_an_ssd_box_of_absurd_size_is_large_and_finite() -> None:
    offsets = np.full((1, 14, 4), 1e30, np.float32)
    assert np.isfinite(_decoder(SSD).corners((offsets, _normal(1, 14, 2)), np.array([0]))).all()


def test_ssd_anchors_of_any_shape_lie_a_stride_apart() -> None:
    decode = SsdAnchors(
        feature_maps=((2, 3), (1, 2)),
        shapes_px=(((10.0, 20.0), (40.0, 8.0)), ((64.0, 32.0),)),
        strides_px=(100.0, 130.0),
        cell_share=0.25,
        clip=False,
    )
    wanted = [
        ((column + 0.25) * stride / 320, (row + 0.25) * stride / 240, width / 320, height / 240)
        for (rows, columns), own, stride in zip(decode.feature_maps, decode.shapes_px, decode.strides_px, strict=True)
        for row in range(rows)
        for column in range(columns)
        for width, height in own
    ]
    np.testing.assert_allclose(ssd_anchors(decode, EXTENT), wanted, rtol=1e-15)


def test_ssd_numbers_in_another_order_with_more_behind_them_say_the_same_box() -> None:
    offsets, scores, rows = _normal(1, 14, 4), _normal(1, 14, 2), np.array([13, 0, 5])
    turned = SsdAnchors(feature_maps=SSD.feature_maps, sizes_px=SSD.sizes_px, order=OffsetOrder.YXHW, extra=12)
    decoder = _decoder(turned)
    assert decoder.shapes(14) == ((1, 14, 16), (1, 14, 2))
    more = np.concatenate([offsets[..., [1, 0, 3, 2]], _normal(1, 14, 12)], axis=-1)
    made = decoder.corners((more, scores), rows)
    assert made.tolist() == _decoder(SSD).corners((offsets, scores), rows).tolist()


def test_ssd_sizes_may_be_linear() -> None:
    # MediaPipe's BlazeFace: anchors are the whole input, and offsets count in its pixels.
    decode = SsdAnchors(
        feature_maps=((2, 2),),
        shapes_px=(((320.0, 240.0),),),
        center_variance=1 / 128,
        size_variance=1 / 128,
        linear_size=True,
    )
    offsets = np.array([[[0, 0, 0, 0], [12.8, -6.4, 32, 64], [0, 0, 0, 0], [0, 0, 0, 0]]], np.float32)
    made = _decoder(decode).corners((offsets, _normal(1, 4, 2)), np.array([1]))
    x, y, width, height = (0.75 + 0.1) * 320, (0.25 - 0.05) * 240, 0.25 * 320, 0.5 * 240
    wanted = [[x - width / 2, y - height / 2, x + width / 2, y + height / 2]]
    np.testing.assert_allclose(made, wanted, rtol=1e-6)  # 12.8 and -6.4 in float32


@pytest.mark.parametrize(
    ("corners", "numbers"),
    [
        (Corners.XYXY, [0.1, 0.2, 0.5, 0.8]),
        (Corners.YXYX, [0.2, 0.1, 0.8, 0.5]),
        (Corners.CXCYWH, [0.3, 0.5, 0.4, 0.6]),
        (Corners.XYWH, [0.1, 0.2, 0.4, 0.6]),
    ],
)
@pytest.mark.parametrize("normalized", [True, False])
def test_plain_boxes_in_every_order_say_the_same_box(corners: Corners, numbers: list[float], normalized: bool) -> None:
    boxes = np.array([[[9, 9, 9, 9], numbers]], np.float32)
    made = _decoder(PlainBoxes(corners, normalized)).corners((boxes, _normal(1, 2, 2)), np.array([1]))
    wanted = np.array([0.1, 0.2, 0.5, 0.8]) * ([320, 240, 320, 240] if normalized else 1)
    # Numbers below 320 in float32.
    np.testing.assert_allclose(made, [wanted], atol=1e-4)


def test_a_class_that_the_model_picked_has_the_score_and_no_other_has_any() -> None:
    kinds, scores = np.array([[1, 0, 1, 9]], np.float32), np.array([[0.75, 0.5, 0.25, 0.0]], np.float32)
    decoder = _decoder(PlainBoxes(Corners.YXYX, normalized=True, kinds="kinds"))
    assert decoder.wants == ("boxes", "scores", "kinds")
    assert decoder.shapes(4) == ((1, 4, 4), (1, 4), (1, 4))
    boxes = np.array([[[0.2, 0.1, 0.8, 0.5]] * 4], np.float32)
    # What stands beyond the model's own count has no score, whatever its class.
    assert decoder.table((boxes, scores, kinds)).tolist() == [[0, 0.75], [0.5, 0], [0, 0.25], [0, 0]]
    made = decoder.corners((boxes, scores, kinds), np.array([2]))
    np.testing.assert_allclose(made, [[32, 48, 160, 192]], rtol=1e-6)  # shares in float32


@pytest.mark.parametrize("normalized", [False, True])
def test_rows_hold_corners_score_and_class(normalized: bool) -> None:
    decoder = _decoder(BoxRows(corners=Corners.XYXY, normalized=normalized, extra=2), boxes="all", scores="all")
    numbers = [0.125, 0.25, 0.5, 0.75] if normalized else [40.0, 60.0, 160.0, 180.0]
    rows = np.array([[[9, 9, 9, 9, 0.25, 0, 7, 7], [*numbers, 0.75, 1, 7, 7]]], np.float32)
    assert decoder.shapes(2) == (rows.shape,)
    assert decoder.table((rows,)).tolist() == [[0.25, 0], [0, 0.75]]
    assert decoder.corners((rows,), np.array([1])).tolist() == [[40, 60, 160, 180]]


@pytest.mark.parametrize("kind", [-1.0, 2.0])
def test_a_class_without_a_label_is_told(kind: float) -> None:
    decoder = _decoder(BoxRows(corners=Corners.XYXY, normalized=False), boxes="all", scores="all")
    with pytest.raises(InvalidInput, match=f"class {kind:.0f}, counted from 0, and the manifest has 2"):
        decoder.table((np.array([[[0, 0, 1, 1, 0.5, kind]]], np.float32),))


CENTRE = CentreHeads(offsets="offsets", stride_px=40)
CELLS = (6, 8)


def test_centre_heads_place_a_box_around_its_cell_s_offset() -> None:
    decoder = _decoder(CENTRE)
    size, offset = np.abs(_normal(1, *CELLS, 2)), np.abs(_normal(1, *CELLS, 2))
    made = decoder.corners((size, _normal(1, *CELLS, 2), offset), np.array([3 * 8 + 5]))
    (width, height), (dx, dy) = size[0, 3, 5].tolist(), offset[0, 3, 5].tolist()
    x, y = (5 + dx) * 40, (3 + dy) * 40
    wanted = [[x - width * 20, y - height * 20, x + width * 20, y + height * 20]]
    np.testing.assert_allclose(made, wanted, rtol=1e-12)


@pytest.mark.parametrize("order", list(CentreOrder))
@pytest.mark.parametrize("size", list(CentreSize))
@pytest.mark.parametrize("channels_first", [False, True])
def test_centre_heads_of_every_convention_say_the_same_box(
    order: CentreOrder, size: CentreSize, channels_first: bool
) -> None:
    decode = CentreHeads(
        offsets="offsets", stride_px=40, channels_first=channels_first, size=size, order=order, cell_share=0.5
    )
    decoder = _decoder(decode)
    cells = {CentreSize.CELLS: [2.0, 3.0], CentreSize.PIXELS: [80.0, 120.0], CentreSize.LOG_CELLS: np.log([2.0, 3.0])}
    sizes, offsets, heat = np.zeros((1, *CELLS, 2)), np.zeros((1, *CELLS, 2)), _normal(1, *CELLS, 2)
    sizes[0, 3, 5], offsets[0, 3, 5] = cells[size], [0.25, -0.5]
    if order is CentreOrder.YX:
        sizes, offsets = sizes[..., ::-1], offsets[..., ::-1]
    tensors = tuple([one.astype(np.float32) for one in (sizes, heat, offsets)])
    wanted_table = heat.reshape(-1, 2).tolist()
    if channels_first:
        tensors = tuple([np.ascontiguousarray(one.transpose(0, 3, 1, 2)) for one in tensors])
    assert decoder.shapes(48) == tuple([one.shape for one in tensors])
    assert decoder.table(tensors).tolist() == wanted_table
    x, y = (5 + 0.75) * 40, (3 + 0.0) * 40
    made = decoder.corners(tensors, np.array([3 * 8 + 5]))
    np.testing.assert_allclose(made, [[x - 40, y - 60, x + 40, y + 60]], rtol=1e-6)  # logarithms in float32


def test_without_peaks_every_cell_counts() -> None:
    decoder = _decoder(CentreHeads(offsets="offsets", stride_px=40, peaks=False))
    found = reached(np.ones((48, 2), np.float32), 0.5, activation=Activation.NONE)
    assert decoder.allowed(found) is None


@pytest.mark.parametrize("activation", list(Activation))
def test_a_cell_counts_where_no_neighbour_is_higher(activation: Activation) -> None:
    table = np.abs(_normal(1, *CELLS, 2))
    decoder = _decoder(CENTRE, activation=activation)
    found = reached(decoder.table((table, table, table)), 0.0, activation=activation)
    allowed = decoder.allowed(found)
    assert allowed is not None
    heat = np.exp(table) / np.exp(table).sum(axis=-1, keepdims=True) if activation is Activation.SOFTMAX else table
    wanted = set()
    for row, column, kind in np.ndindex(*CELLS, 2):
        near = heat[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2, kind]
        if heat[0, row, column, kind] >= near.max():
            wanted.add((row * 8 + column, kind))
    made = zip(found.rows[allowed].tolist(), found.classes[allowed].tolist(), strict=True)
    assert set(made) == wanted


@pytest.mark.parametrize("objectness", [True, False])
def test_yolo_heads_say_the_same_turned_and_unturned(objectness: bool) -> None:
    numbers = _normal(1, 9, 4 + objectness + 2)
    straight = _decoder(YoloHeads(objectness=objectness, transposed=False), boxes="all", scores="all")
    turned = _decoder(YoloHeads(objectness=objectness, transposed=True), boxes="all", scores="all")
    other = (np.ascontiguousarray(numbers.transpose(0, 2, 1)),)
    assert straight.table((numbers,)).tolist() == turned.table(other).tolist() == numbers[0, :, -2:].tolist()
    parts = straight.objectness((numbers,)), turned.objectness(other)
    assert [None if part is None else part.tolist() for part in parts] == (
        [numbers[0, :, 4].tolist()] * 2 if objectness else [None, None]
    )
    x, y, width, height = numbers[0, 7, :4].astype(np.float64)
    wanted = [[x - width / 2, y - height / 2, x + width / 2, y + height / 2]]
    for decoder, tensors in ((straight, (numbers,)), (turned, other)):
        np.testing.assert_allclose(decoder.corners(tensors, np.array([7])), wanted, rtol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_yolo_heads_may_be_normalized_and_hold_more_than_is_used(transposed: bool) -> None:
    numbers = _normal(1, 9, 4 + 2 + 5)
    decode = YoloHeads(objectness=False, transposed=transposed, normalized=True, extra=5)
    given = (np.ascontiguousarray(numbers.transpose(0, 2, 1)) if transposed else numbers,)
    decoder = _decoder(decode, boxes="all", scores="all")
    assert decoder.shapes(9) == (given[0].shape,)
    assert decoder.table(given).tolist() == numbers[0, :, 4:6].tolist()
    x, y, width, height = numbers[0, 7, :4].astype(np.float64) * [320, 240, 320, 240]
    wanted = [[x - width / 2, y - height / 2, x + width / 2, y + height / 2]]
    np.testing.assert_allclose(decoder.corners(given, np.array([7])), wanted, rtol=1e-12)


ROWS = BoxRows(corners=Corners.XYXY, normalized=False)


@pytest.mark.parametrize(
    ("decode", "fields", "said"),
    [
        (SsdAnchors(feature_maps=((1, 1),), sizes_px=()), {}, "1 feature maps have 0 lists"),
        (SsdAnchors(feature_maps=((10**6, 10**6),), sizes_px=((1.0,),)), {}, "1,000,000,000,000 anchors"),
        (SsdAnchors(feature_maps=(), sizes_px=()), {}, "0 anchors"),
        (SsdAnchors(feature_maps=((1, 1),), sizes_px=((1.0,),), shapes_px=(((1.0, 1.0),),)), {}, "in place of"),
        (SsdAnchors(feature_maps=((1, 1),), sizes_px=((1.0,),), strides_px=(8.0, 16.0)), {}, "2 strides"),
        (ROWS, {}, "name it twice"),
        (ROWS, {"boxes": "all", "scores": "all", "activation": Activation.SIGMOID}, "final"),
        (PlainBoxes(Corners.XYXY, normalized=True, kinds="kinds"), {"activation": Activation.SOFTMAX}, "final"),
        (SSD, {"background": 3}, "class 3 cannot be the background"),
        (YoloHeads(objectness=True, transposed=False), {}, "name it twice"),
        (
            YoloHeads(objectness=True, transposed=False),
            {"boxes": "all", "scores": "all", "activation": Activation.SOFTMAX},
            "no softmax",
        ),
    ],
)
def test_parameters_that_contradict_one_another_are_refused(decode: Decode, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        _decoder(decode, **fields)
