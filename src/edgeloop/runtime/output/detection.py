"""A detector's tensors to boxes in the original image's pixels.

Scores first: only places of which a score reaches the threshold are decoded. A place may be a box of several labels,
unless the manifest says one_label.
What is left: in the image (a box that lies beside it, in a letterbox's margin, is none), the best of those that
overlap, and at most max_boxes. Neighbours: `reached`, `boxes` and `nms` do the steps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Manifest
from edgeloop.contracts.output import Detection
from edgeloop.contracts.prediction import Box, Scored
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.boxes import Extent, Rows, make_decoder
from edgeloop.runtime.output.nms import Boxes, overlaps, suppress
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.reached import reached
from edgeloop.runtime.output.scores import require_finite

SAME_BOX_IOU = 0.5
"""Two models find the same thing where their boxes overlap by half: what PASCAL VOC counts as found (Everingham et al.
2010, 4.2)."""


class DetectionHead:
    """Boxes with labels, the best first. The label is that of the best; the score, if there is none, that of what came
    nearest."""

    wants_input = False

    def __init__(self, manifest: Manifest, output: Detection) -> None:
        self._extent = input_extent(manifest.input)
        self._decoder = make_decoder(output, labels=len(manifest.labels), extent=self._extent)
        self.wants: tuple[str, ...] = self._decoder.wants
        self._ref = manifest.ref
        self._labels = manifest.labels
        self._output = output

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        places = sum(int(np.prod(shape)) for shape in shapes) // self._decoder.numbers
        expected = self._decoder.shapes(self._decoder.places or places)
        if shapes != expected:
            raise InvalidInput(
                f"{self._ref}: its tensors {', '.join(self.wants)} are {', '.join(map(str, shapes))}; with "
                f"{len(self._labels)} labels and this decoding they would be {', '.join(map(str, expected))}"
            )

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer. Without a geometry, boxes are in pixels of the model's input."""
        boxes, nearest = self._boxes(tensors, geometry or self._unit())
        if not boxes:
            return Answer(label=None, score=nearest, margin=abs(self._output.threshold - nearest), top=())
        best: dict[str, float] = {}
        for box in boxes:
            best.setdefault(box.label, box.score)
        return Answer(
            label=boxes[0].label,
            score=boxes[0].score,
            margin=boxes[-1].score - self._output.threshold,  # they come best first: the one nearest to going
            top=tuple([Scored(label, score) for label, score in best.items()]),
            boxes=boxes,
        )

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The tensors as they are, one after the other; see Head.basis."""
        for tensor in tensors:
            require_finite(tensor)
        return np.concatenate([tensor.reshape(-1) for tensor in tensors])

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether there are as many boxes, each with one of its label on the other side that overlaps by SAME_BOX_IOU.

        See Head.agree.
        """
        pairs = zip(made, wanted, strict=True)
        return np.array([same_boxes(self._decoded(one), self._decoded(other)) for one, other in pairs], dtype=np.bool_)

    def _boxes(self, tensors: Reals, geometry: Geometry) -> tuple[tuple[Box, ...], float]:
        for tensor in tensors:
            require_finite(tensor)
        output, decoder = self._output, self._decoder
        found = reached(
            decoder.table(tensors),
            output.threshold,
            activation=output.activation,
            background=output.background,
            objectness=decoder.objectness(tensors),
        )
        if not len(found.rows):
            return (), found.nearest
        rows, classes, scores = found.rows, found.classes, found.scores
        allowed = decoder.allowed(found)
        if allowed is not None:
            rows, classes, scores = rows[allowed], classes[allowed], scores[allowed]
        if output.one_label:
            best = _best_of_each(rows, classes, scores)
            rows, classes, scores = rows[best], classes[best], scores[best]
        placed = to_original(decoder.corners(tensors, rows), geometry)
        clipped = np.clip(placed, 0.0, [geometry.width_px, geometry.height_px] * 2)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)  # what is turned inside out stays so when it is cut
        if not inside.all():
            placed, clipped, classes, scores = placed[inside], clipped[inside], classes[inside], scores[inside]
        compared = clipped if output.clip_first else placed
        kept = suppress(compared, scores, classes, iou_threshold=output.iou_threshold, most=output.max_boxes)
        picked = zip(classes[kept].tolist(), scores[kept].tolist(), clipped[kept].tolist(), strict=True)
        return tuple([Box(self._labels[kind], score, *edges) for kind, score, edges in picked]), found.nearest

    def _decoded(self, row: NDArray[np.float32]) -> tuple[Box, ...]:
        """The boxes of one row of `basis`, in pixels of the input."""
        decoder = self._decoder
        places = decoder.places or len(row) // decoder.numbers
        shapes = decoder.shapes(places)
        sizes = [int(np.prod(shape)) for shape in shapes]
        if sum(sizes) != len(row):
            raise InvalidInput(
                f"{self._ref}: a golden output of {len(row)} numbers is not {' and '.join(map(str, shapes))}; it holds "
                "the boxes and scores of the float model, one after the other"
            )
        parts = np.split(row, np.cumsum(sizes)[:-1])
        tensors = tuple([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])
        return self._boxes(tensors, self._unit())[0]

    def _unit(self) -> Geometry:
        return Geometry(width_px=self._extent.width_px, height_px=self._extent.height_px)


def input_extent(spec: InputSpec) -> Extent:
    """Height and width of an image input. Raises InvalidInput if its layout names none."""
    layout = spec.layout.upper()
    if len(layout) != len(spec.shape) or "H" not in layout or "W" not in layout:
        raise InvalidInput(
            f"the input {spec.name!r} of {spec.shape} has the layout {spec.layout!r}; this task needs one letter an "
            "axis, with H and W among them"
        )
    return Extent(width_px=spec.shape[layout.index("W")], height_px=spec.shape[layout.index("H")])


def to_original(corners: Boxes, geometry: Geometry) -> Boxes:
    """(M, 4) from pixels of the input to pixels of the original image, not clipped."""
    shift = np.array([geometry.left, geometry.top] * 2)
    return np.asarray((corners - shift) / np.array([geometry.scale_x, geometry.scale_y] * 2))


def _best_of_each(rows: Rows, classes: Rows, scores: NDArray[np.float32]) -> Rows:
    """Where each row has its best score; of equal ones, the first class."""
    order = np.lexsort((classes, -scores, rows))
    return np.asarray(order[np.unique(rows[order], return_index=True)[1]])


def same_boxes(made: tuple[Box, ...], wanted: tuple[Box, ...]) -> bool:
    """Whether each box on one side has one of its own on the other: of its label, overlapping by SAME_BOX_IOU.

    From the best downwards, each takes the one of those left that it overlaps most.
    """
    if len(made) != len(wanted):
        return False
    left = list(wanted)
    for box in made:
        alike = [one for one in left if one.label == box.label]
        if not alike:
            return False
        shares = overlaps(_edges((box,))[0], _edges(alike))
        best = int(shares.argmax())
        if shares[best] < SAME_BOX_IOU:
            return False
        left.remove(alike[best])
    return True


def _edges(boxes: list[Box] | tuple[Box, ...]) -> Boxes:
    return np.array([[box.left, box.top, box.right, box.bottom] for box in boxes], dtype=np.float64)
