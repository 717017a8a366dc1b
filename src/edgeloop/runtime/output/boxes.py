"""Where a detector's boxes lie in the model's input: one decoder for each type of contracts.output.Decode.

A decoder says which tensors it reads, shows their scores as a table (places, classes), and gives the corners of
the places that it is asked for. Corners are float64 (M, 4): left, top, right, bottom, in pixels of the input.
Neighbours: `reached` picks places from the table, `detection` asks for their corners.
"""

import math
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import (
    Activation,
    BoxRows,
    CentreHeads,
    CentreOrder,
    CentreSize,
    Corners,
    Detection,
    OffsetOrder,
    PlainBoxes,
    SsdAnchors,
    YoloHeads,
)
from edgeloop.runtime.output.nms import Boxes
from edgeloop.runtime.output.port import Reals
from edgeloop.runtime.output.reached import Reached

_MOST_PLACES = 4_000_000
_LARGEST_EXPONENT = 40.0
"""A box is at most exp(40) anchors wide, and no image is; from 710 on exp overflows."""

Rows = NDArray[np.intp]
Shapes = tuple[tuple[int, ...], ...]


class Extent(msgspec.Struct, frozen=True):
    """The size of a model's input."""

    width_px: int
    height_px: int

    @property
    def sides(self) -> NDArray[np.float64]:
        """(width, height), to multiply points with."""
        return np.array([self.width_px, self.height_px], dtype=np.float64)


class Decoder(Protocol):
    """How one model says where its boxes are.

    wants: names of the tensors, in order. numbers: how many a place has in all of them. places: how many places
    there are, None if the tensors say so.
    """

    wants: tuple[str, ...]
    numbers: int
    places: int | None

    def shapes(self, places: int) -> Shapes:
        """The shapes of `wants`, for so many places."""
        ...

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """(places, classes) raw scores."""
        ...

    def objectness(self, tensors: Reals) -> NDArray[np.float32] | None:
        """(places,) raw numbers that multiply the scores, if the model has them."""
        ...

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """(M,) which of those found may be boxes; None for all."""
        ...

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """(M, 4) corners of these places."""
        ...


def make_decoder(output: Detection, *, labels: int, extent: Extent) -> Decoder:
    """The decoder that an output asks for. Raises InvalidInput if its parameters contradict one another."""
    classes = labels + (output.background is not None)
    if output.background is not None and output.background >= classes:
        raise InvalidInput(f"class {output.background} cannot be the background: there are {classes}, counted from 0")
    decode = output.decode
    if isinstance(decode, SsdAnchors):
        return SsdDecoder(output, decode, classes=classes, extent=extent)
    if isinstance(decode, PlainBoxes):
        if decode.kinds is not None:
            return PickedDecoder(output, decode, kinds=decode.kinds, classes=classes, extent=extent)
        return PlainDecoder(output, decode, classes=classes, extent=extent)
    if isinstance(decode, BoxRows):
        return RowsDecoder(output, decode, classes=classes, extent=extent)
    if isinstance(decode, CentreHeads):
        return CentreDecoder(output, decode, classes=classes, extent=extent)
    return YoloDecoder(output, decode, classes=classes, extent=extent)


class _BoxesAndScores:
    """Boxes (1, N, 4 + extra) beside scores (1, N, classes)."""

    places: int | None = None

    def __init__(self, output: Detection, classes: int, *, extra: int = 0) -> None:
        self.wants: tuple[str, ...] = (output.boxes, output.scores)
        self.numbers = 4 + extra + classes
        self._classes = classes

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return (1, places, self.numbers - self._classes), (1, places, self._classes)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return np.asarray(tensors[1][0])

    def objectness(self, tensors: Reals) -> None:
        """See Decoder."""

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """See Decoder."""
        return None


class SsdDecoder(_BoxesAndScores):
    """Offsets from anchors; see SsdAnchors."""

    def __init__(self, output: Detection, decode: SsdAnchors, *, classes: int, extent: Extent) -> None:
        super().__init__(output, classes, extra=decode.extra)
        self._anchors = ssd_anchors(decode, extent)
        self._extent = extent
        self._order = [1, 0, 3, 2] if decode.order is OffsetOrder.YXHW else [0, 1, 2, 3]
        self._linear_size = decode.linear_size
        self._variances = (decode.center_variance, decode.size_variance)
        self.places = len(self._anchors)

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        offset, anchor = tensors[0][0][rows][:, self._order].astype(np.float64), self._anchors[rows]
        centre = anchor[:, :2] + offset[:, :2] * self._variances[0] * anchor[:, 2:]
        stretch = offset[:, 2:] * self._variances[1]
        size = anchor[:, 2:] * (stretch if self._linear_size else _exp(stretch))
        return _from_centres(centre * self._extent.sides, size * self._extent.sides)


def ssd_anchors(decode: SsdAnchors, extent: Extent) -> Boxes:
    """(N, 4) centre x, y, width and height in shares of the input's sides, in the order of SsdAnchors.

    Raises InvalidInput if there are not as many lists of sizes or strides as feature maps, or too many anchors.
    """
    shapes = decode.shapes_px or tuple([tuple([(size, size) for size in sizes]) for sizes in decode.sizes_px])
    maps = len(decode.feature_maps)
    if decode.sizes_px and decode.shapes_px:
        raise InvalidInput("anchors have sizes_px and shapes_px; the one is in place of the other")
    if len(shapes) != maps:
        raise InvalidInput(f"{maps} feature maps have {len(shapes)} lists of anchor sizes; expected one for each")
    if len(decode.strides_px) not in (0, maps):
        raise InvalidInput(f"{maps} feature maps have {len(decode.strides_px)} strides; expected one for each, or none")
    count = sum(rows * columns * len(own) for (rows, columns), own in zip(decode.feature_maps, shapes, strict=True))
    if not 0 < count <= _MOST_PLACES:
        raise InvalidInput(f"the feature maps ask for {count:,} anchors; expected 1 to {_MOST_PLACES:,}")
    parts = []
    for place, ((rows, columns), own) in enumerate(zip(decode.feature_maps, shapes, strict=True)):
        down, right = 1 / rows, 1 / columns
        if decode.strides_px:
            down, right = decode.strides_px[place] / extent.height_px, decode.strides_px[place] / extent.width_px
        y, x, which = np.meshgrid(
            (np.arange(rows) + decode.cell_share) * down,
            (np.arange(columns) + decode.cell_share) * right,
            np.arange(len(own)),
            indexing="ij",
        )
        size = np.array(own, dtype=np.float64).reshape(-1, 2)[which] / extent.sides
        parts.append(np.concatenate([np.stack([x, y], axis=-1), size], axis=-1).reshape(-1, 4))
    anchors = np.concatenate(parts)
    return np.clip(anchors, 0.0, 1.0) if decode.clip else anchors


class PlainDecoder(_BoxesAndScores):
    """Boxes that the model decoded; see PlainBoxes."""

    def __init__(self, output: Detection, decode: PlainBoxes, *, classes: int, extent: Extent) -> None:
        super().__init__(output, classes)
        self._order = decode.corners
        self._sides = extent.sides if decode.normalized else np.ones(2)

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        return _as_corners(tensors[0][0][rows], self._order, self._sides)


class PickedDecoder(PlainDecoder):
    """Boxes of which the model picked each one's class; see PlainBoxes.kinds."""

    def __init__(self, output: Detection, decode: PlainBoxes, *, kinds: str, classes: int, extent: Extent) -> None:
        super().__init__(output, decode, classes=classes, extent=extent)
        _require_picked(output)
        self.wants = (output.boxes, output.scores, kinds)
        self.numbers = 6
        self._threshold = output.threshold

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return (1, places, 4), (1, places), (1, places)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return _spread(tensors[1][0], tensors[2][0], classes=self._classes, threshold=self._threshold)


class RowsDecoder:
    """Finished boxes with score and class in one tensor; see BoxRows."""

    places: int | None = None

    def __init__(self, output: Detection, decode: BoxRows, *, classes: int, extent: Extent) -> None:
        _require_one_tensor(output, "rows of boxes")
        _require_picked(output)
        self.wants: tuple[str, ...] = (output.scores,)
        self.numbers = 6 + decode.extra
        self._classes = classes
        self._threshold = output.threshold
        self._order = decode.corners
        self._sides = extent.sides if decode.normalized else np.ones(2)

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return ((1, places, self.numbers),)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        rows = tensors[0][0]
        return _spread(rows[:, 4], rows[:, 5], classes=self._classes, threshold=self._threshold)

    def objectness(self, tensors: Reals) -> None:
        """See Decoder."""

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """See Decoder."""
        return None

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        return _as_corners(tensors[0][0][rows, :4], self._order, self._sides)


class CentreDecoder:
    """Heat maps of centres; see CentreHeads."""

    def __init__(self, output: Detection, decode: CentreHeads, *, classes: int, extent: Extent) -> None:
        self.wants: tuple[str, ...] = (output.boxes, output.scores, decode.offsets)
        self.numbers = 4 + classes
        self._decode = decode
        self._rows = math.ceil(extent.height_px / decode.stride_px)
        self._columns = math.ceil(extent.width_px / decode.stride_px)
        self.places: int | None = self._rows * self._columns

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        channels = (2, self.numbers - 4, 2)
        if self._decode.channels_first:
            return tuple([(1, count, self._rows, self._columns) for count in channels])
        return tuple([(1, self._rows, self._columns, count) for count in channels])

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return self._by_cell(tensors[1])

    def objectness(self, tensors: Reals) -> None:
        """See Decoder."""

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """Where no neighbour of the 3x3 is higher."""
        if not self._decode.peaks:
            return None
        y, x = np.divmod(found.rows, self._columns)
        own = found.compared[found.rows, found.classes]
        peak = np.ones(len(own), dtype=np.bool_)
        for dy, dx in _NEIGHBOURS:
            # Beyond the edge, the cell at the edge stands in: it is a neighbour, too, or the cell itself.
            near_y, near_x = np.clip(y + dy, 0, self._rows - 1), np.clip(x + dx, 0, self._columns - 1)
            peak &= own >= found.compared[near_y * self._columns + near_x, found.classes]
        return peak

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        decode = self._decode
        size, offset = [self._by_cell(tensors[place])[rows].astype(np.float64) for place in (0, 2)]
        if decode.order is CentreOrder.YX:
            size, offset = size[:, ::-1], offset[:, ::-1]
        if decode.size is CentreSize.LOG_CELLS:
            size = _exp(size)
        y, x = np.divmod(rows, self._columns)
        centre = offset + np.stack([x, y], axis=1) + decode.cell_share
        times_px = 1 if decode.size is CentreSize.PIXELS else decode.stride_px
        return _from_centres(centre * decode.stride_px, size * times_px)

    def _by_cell(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(cells, channels), a view."""
        if self._decode.channels_first:
            return tensor.reshape(-1, self._rows * self._columns).T
        return tensor.reshape(self._rows * self._columns, -1)


_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class YoloDecoder:
    """All in one tensor; see YoloHeads."""

    places: int | None = None

    def __init__(self, output: Detection, decode: YoloHeads, *, classes: int, extent: Extent) -> None:
        _require_one_tensor(output, "YOLO heads")
        if decode.objectness and output.activation is Activation.SOFTMAX:
            raise InvalidInput("objectness is one number, which has no softmax; its activation is none or sigmoid")
        self.wants: tuple[str, ...] = (output.scores,)
        self.numbers = 4 + decode.objectness + classes + decode.extra
        self._decode = decode
        self._sides = extent.sides if decode.normalized else np.ones(2)

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return ((1, self.numbers, places) if self._decode.transposed else (1, places, self.numbers),)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return self._by_place(tensors)[:, 4 + self._decode.objectness : self.numbers - self._decode.extra]

    def objectness(self, tensors: Reals) -> NDArray[np.float32] | None:
        """See Decoder."""
        return self._by_place(tensors)[:, 4] if self._decode.objectness else None

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """See Decoder."""
        return None

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        return _as_corners(self._by_place(tensors)[rows, :4], Corners.CXCYWH, self._sides)

    def _by_place(self, tensors: Reals) -> NDArray[np.float32]:
        return np.asarray(tensors[0][0].T if self._decode.transposed else tensors[0][0])


def _as_corners(numbers: NDArray[np.float32], order: Corners, sides: NDArray[np.float64]) -> Boxes:
    """(M, 4) numbers, each pair times `sides`, as corners."""
    wide = numbers.astype(np.float64)
    if order is Corners.YXYX:
        wide = wide[:, [1, 0, 3, 2]]
    first, second = wide[:, :2] * sides, wide[:, 2:] * sides
    if order is Corners.CXCYWH:
        return _from_centres(first, second)
    return np.concatenate([first, first + second if order is Corners.XYWH else second], axis=1)


def _from_centres(centre: NDArray[np.float64], size: NDArray[np.float64]) -> Boxes:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def _exp(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(np.minimum(numbers, _LARGEST_EXPONENT)))


def _spread(
    scores: NDArray[np.float32], kinds: NDArray[np.float32], *, classes: int, threshold: float
) -> NDArray[np.float32]:
    """(N, classes) of one score a place; 0 for all other classes. Raises InvalidInput if a score that reaches the
    threshold is of a class that there is not."""
    whole = np.rint(kinds).astype(np.int64)
    known = (whole >= 0) & (whole < classes)
    strange = ~known & (scores >= threshold)
    if strange.any():
        raise InvalidInput(
            f"the model found class {whole[strange][0]}, counted from 0, and the manifest has {classes}; list all of "
            "the model's classes as labels"
        )
    table = np.zeros((len(scores), classes), np.float32)
    rows = np.flatnonzero(known)
    table[rows, whole[rows]] = scores[rows]
    return table


def _require_one_tensor(output: Detection, what: str) -> None:
    if output.boxes != output.scores:
        raise InvalidInput(
            f"{what} are one tensor, but boxes are {output.boxes!r} and scores {output.scores!r}; name it twice"
        )


def _require_picked(output: Detection) -> None:
    if output.activation is not Activation.NONE:
        raise InvalidInput(
            f"the model picked classes, and its scores are final; the activation {output.activation} is not"
        )
