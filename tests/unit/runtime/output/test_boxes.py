"""Against the formulas of contracts.output, written out one box at a time."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import (
    Activation,
    CentreHeads,
    Corners,
    Decode,
    Detection,
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


@pytest.mark.parametrize(
    ("decode", "fields", "said"),
    [
        (SsdAnchors(feature_maps=((1, 1),), sizes_px=()), {}, "1 feature maps have 0 lists"),
        (SsdAnchors(feature_maps=((10**6, 10**6),), sizes_px=((1.0,),)), {}, "1,000,000,000,000 anchors"),
        (SsdAnchors(feature_maps=(), sizes_px=()), {}, "0 anchors"),
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
