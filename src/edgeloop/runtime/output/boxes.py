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
    CentreHeads,
    Corners,
    Detection,
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
        return PlainDecoder(output, decode, classes=classes, extent=extent)
    if isinstance(decode, CentreHeads):
        return CentreDecoder(output, decode, classes=classes, extent=extent)
    return YoloDecoder(output, decode, classes=classes)


class _BoxesAndScores:
    """Boxes (1, N, 4) beside scores (1, N, classes)."""

    places: int | None = None

    def __init__(self, output: Detection, classes: int) -> None:
        self.wants: tuple[str, ...] = (output.boxes, output.scores)
        self.numbers = 4 + classes

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return (1, places, 4), (1, places, self.numbers - 4)

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
        super().__init__(output, classes)
        self._anchors = ssd_anchors(decode, extent)
        self._extent = extent
        self._variances = (decode.center_variance, decode.size_variance)
        self.places = len(self._anchors)

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        offset, anchor = tensors[0][0][rows].astype(np.float64), self._anchors[rows]
        centre = anchor[:, :2] + offset[:, :2] * self._variances[0] * anchor[:, 2:]
        size = anchor[:, 2:] * np.exp(np.minimum(offset[:, 2:] * self._variances[1], _LARGEST_EXPONENT))
        return _from_centres(centre * self._extent.sides, size * self._extent.sides)


def ssd_anchors(decode: SsdAnchors, extent: Extent) -> Boxes:
    """(N, 4) centre x, y, width and height in shares of the input's sides, in the order of SsdAnchors.

    Raises InvalidInput if there are not as many lists of sizes as feature maps, or too many anchors.
    """
    if len(decode.feature_maps) != len(decode.sizes_px):
        raise InvalidInput(
            f"{len(decode.feature_maps)} feature maps have {len(decode.sizes_px)} lists of anchor sizes; expected one "
            "for each"
        )
    pairs = list(zip(decode.feature_maps, decode.sizes_px, strict=True))
    count = sum(rows * columns * len(sizes) for (rows, columns), sizes in pairs)
    if not 0 < count <= _MOST_PLACES:
        raise InvalidInput(f"the feature maps ask for {count:,} anchors; expected 1 to {_MOST_PLACES:,}")
    parts = []
    for (rows, columns), sizes in pairs:
        y, x, size = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, np.array(sizes), indexing="ij"
        )
        parts.append(np.stack([x, y, size / extent.width_px, size / extent.height_px], axis=-1).reshape(-1, 4))
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
        numbers = tensors[0][0][rows].astype(np.float64)
        if self._order is Corners.YXYX:
            numbers = numbers[:, [1, 0, 3, 2]]
        first, second = numbers[:, :2] * self._sides, numbers[:, 2:] * self._sides
        if self._order is Corners.CXCYWH:
            return _from_centres(first, second)
        return np.concatenate([first, first + second if self._order is Corners.XYWH else second], axis=1)


class CentreDecoder:
    """Heat maps of centres; see CentreHeads."""

    def __init__(self, output: Detection, decode: CentreHeads, *, classes: int, extent: Extent) -> None:
        self.wants: tuple[str, ...] = (output.boxes, output.scores, decode.offsets)
        self.numbers = 4 + classes
        self._stride_px = decode.stride_px
        self._rows = math.ceil(extent.height_px / decode.stride_px)
        self._columns = math.ceil(extent.width_px / decode.stride_px)
        self.places: int | None = self._rows * self._columns

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        cells = (1, self._rows, self._columns)
        return (*cells, 2), (*cells, self.numbers - 4), (*cells, 2)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return tensors[1].reshape(-1, self.numbers - 4)

    def objectness(self, tensors: Reals) -> None:
        """See Decoder."""

    def allowed(self, found: Reached) -> NDArray[np.bool_]:
        """Where no neighbour of the 3x3 is higher."""
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
        y, x = np.divmod(rows, self._columns)
        size = tensors[0].reshape(-1, 2)[rows].astype(np.float64)
        centre = tensors[2].reshape(-1, 2)[rows].astype(np.float64) + np.stack([x, y], axis=1)
        return _from_centres(centre * self._stride_px, size * self._stride_px)


_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class YoloDecoder:
    """All in one tensor; see YoloHeads."""

    places: int | None = None

    def __init__(self, output: Detection, decode: YoloHeads, *, classes: int) -> None:
        if output.boxes != output.scores:
            raise InvalidInput(
                f"YOLO heads are one tensor, but boxes are {output.boxes!r} and scores {output.scores!r}; name it twice"
            )
        if decode.objectness and output.activation is Activation.SOFTMAX:
            raise InvalidInput("objectness is one number, which has no softmax; its activation is none or sigmoid")
        self.wants: tuple[str, ...] = (output.scores,)
        self.numbers = 4 + decode.objectness + classes
        self._decode = decode

    def shapes(self, places: int) -> Shapes:
        """See Decoder."""
        return ((1, self.numbers, places) if self._decode.transposed else (1, places, self.numbers),)

    def table(self, tensors: Reals) -> NDArray[np.float32]:
        """See Decoder."""
        return self._by_place(tensors)[:, 4 + self._decode.objectness :]

    def objectness(self, tensors: Reals) -> NDArray[np.float32] | None:
        """See Decoder."""
        return self._by_place(tensors)[:, 4] if self._decode.objectness else None

    def allowed(self, found: Reached) -> NDArray[np.bool_] | None:
        """See Decoder."""
        return None

    def corners(self, tensors: Reals, rows: Rows) -> Boxes:
        """See Decoder."""
        numbers = self._by_place(tensors)[rows, :4].astype(np.float64)
        return _from_centres(numbers[:, :2], numbers[:, 2:])

    def _by_place(self, tensors: Reals) -> NDArray[np.float32]:
        return np.asarray(tensors[0][0].T if self._decode.transposed else tensors[0][0])


def _from_centres(centre: NDArray[np.float64], size: NDArray[np.float64]) -> Boxes:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)
