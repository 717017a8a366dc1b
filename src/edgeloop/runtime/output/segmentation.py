"""A label for each pixel of the original image.

Pixels are decided where the model's are and then spread: each pixel of the original takes the model's that its middle
lies in. Pixels that the model was not shown (cropped away) have no label.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.output import Activation, Segmentation
from edgeloop.contracts.prediction import Scored
from edgeloop.runtime.input.opencv import cv2
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.output.detection import input_extent
from edgeloop.runtime.output.port import Answer, Reals
from edgeloop.runtime.output.scores import least_float32, require_finite, sigmoid

NO_LABEL = 255
"""A pixel of the mask without a label."""

SAME_SHARE = 0.95
"""Two masks are the same if 95 % of their pixels are: what differs between variants is edges, and of an object of a
tenth of the image, one pixel around it at 128 x 128 is 1 %; of three, 3 %. A lost object of that size is 10 %."""

Places = NDArray[np.intp]


class SegmentationHead:
    """Pixel scores to a mask of the original image; the label is the most frequent one, top are all that there are."""

    wants_input = False

    def __init__(self, manifest: Manifest, output: Segmentation) -> None:
        if len(manifest.labels) > NO_LABEL:
            raise InvalidInput(
                f"{manifest.ref} has {len(manifest.labels)} labels; a mask has room for {NO_LABEL} and 'none'"
            )
        if output.single and (len(manifest.labels) != 2 or output.activation is Activation.SOFTMAX):
            raise InvalidInput(
                f"{manifest.ref}: one channel is the score of the second of two labels, by sigmoid or as it is; here "
                f"are {len(manifest.labels)} labels and the activation {output.activation}"
            )
        self.wants: tuple[str, ...] = (output.scores,)
        self._channels = 1 if output.single else len(manifest.labels)
        self._ref = manifest.ref
        self._labels = manifest.labels
        self._extent = input_extent(manifest.input)
        self._output = output

    def check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """See Head.check."""
        shape = shapes[0]
        axis = 1 if self._output.channels_first else 3
        if len(shape) != 4 or shape[0] != 1 or shape[axis] != self._channels or 0 in shape:
            expected = "(1, {0}, H, W)" if self._output.channels_first else "(1, H, W, {0})"
            raise InvalidInput(
                f"{self._ref}: its pixel scores {self.wants[0]!r} are {shape}; with {len(self._labels)} labels they "
                f"would be {expected.format(self._channels)}"
            )

    def answer(self, tensors: Reals, geometry: Geometry | None, given: NDArray[np.float32] | None) -> Answer:
        """See Head.answer. Without a geometry, the mask is of the input's size."""
        require_finite(tensors[0])
        scores = tensors[0][0] if self._output.channels_first else np.moveaxis(tensors[0][0], -1, 0)
        small = self._decided(scores)
        place = geometry or Geometry(width_px=self._extent.width_px, height_px=self._extent.height_px)
        rows = _sources(place.height_px, place.scale_y, place.top, of=small.shape[0], over=self._extent.height_px)
        columns = _sources(place.width_px, place.scale_x, place.left, of=small.shape[1], over=self._extent.width_px)
        # What lies outside takes from a row and a column more, which have no label.
        padded = np.pad(small, (0, 1), constant_values=NO_LABEL)
        mask = padded.take(columns, axis=1).take(rows, axis=0)
        top = self._shares(padded, rows, columns)
        second = top[1].score if len(top) > 1 else 0.0
        return Answer(
            label=top[0].label if top else None,
            score=top[0].score if top else 0.0,
            margin=top[0].score - second if top else 0.0,
            top=top,
            mask_png=encode_mask(mask),
        )

    def basis(self, tensors: Reals, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The pixel scores as they are; see Head.basis."""
        require_finite(tensors[0])
        return np.array(tensors[0]).reshape(-1)

    def agree(self, made: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[Any]:
        """Whether at least SAME_SHARE of the model's pixels have the same label, or none; see Head.agree."""
        pairs = zip(made, wanted, strict=True)
        shares = [float((self._flat(one) == self._flat(other)).mean()) for one, other in pairs]
        return np.array(shares, dtype=np.float64) >= SAME_SHARE

    def _flat(self, row: NDArray[np.float32]) -> NDArray[np.uint8]:
        if len(row) % self._channels:
            raise InvalidInput(f"{self._ref}: a golden output of {len(row)} numbers is not {self._channels} a pixel")
        if self._output.channels_first:
            return self._decided(row.reshape(self._channels, -1))
        return self._decided(row.reshape(-1, self._channels).T)

    def _decided(self, scores: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(channels, ...) to the index of the best label, or NO_LABEL."""
        activation = self._output.activation
        if self._output.single:
            share = sigmoid(scores) if activation is Activation.SIGMOID else scores
            scores, activation = np.concatenate([1 - share, share]), Activation.NONE
        best: NDArray[np.uint8] = scores.argmax(axis=0).astype(np.uint8)
        if self._output.threshold > 0.0:
            best[_best_probability(scores, activation) < least_float32(self._output.threshold)] = NO_LABEL
        return best

    def _shares(self, padded: NDArray[np.uint8], rows: Places, columns: Places) -> tuple[Scored, ...]:
        """Shares of the mask's pixels by label, counted on the model's pixels: each as often as it was taken."""
        height, width = padded.shape
        times = np.outer(np.bincount(rows, minlength=height), np.bincount(columns, minlength=width))
        counts = np.bincount(padded.reshape(-1), weights=times.reshape(-1), minlength=len(self._labels))
        shares = counts[: len(self._labels)] / (len(rows) * len(columns))
        order = np.argsort(-shares, kind="stable").tolist()
        return tuple([Scored(self._labels[index], float(shares[index])) for index in order if shares[index] > 0.0])


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A grey PNG of (H, W) label indices."""
    return bytes(cv2.imencode(".png", mask)[1])


def _best_probability(scores: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    best = scores.max(axis=0)
    if activation is Activation.NONE:
        return np.asarray(best)
    if activation is Activation.SIGMOID:
        return sigmoid(best)
    with np.errstate(over="ignore"):  # as far apart as float32 goes: the lower one's share is 0
        return np.asarray(np.float32(1) / np.exp(scores - best).sum(axis=0))


def _sources(length: int, scale: float, shift: float, *, of: int, over: int) -> Places:
    """For each of `length` pixels of the original, which of the model's `of` it lies in; `of` where it lies in none.

    over: the pixels of the input that those `of` cover.
    """
    middle = (np.arange(length) + 0.5) * scale + shift
    place: NDArray[np.float64] = np.floor(middle * (of / over))
    place[(place < 0) | (place >= of)] = of
    return np.asarray(place, dtype=np.intp)
