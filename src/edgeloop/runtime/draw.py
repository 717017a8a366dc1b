"""Predictions drawn into their images, for people to look at.

Text and lines grow with the image; each label has a colour of its own, the same in every picture of a bundle. A small
image is enlarged, so that there is room to read. Neighbours: `contracts.prediction` says what there is to show.
"""

import colorsys
import math
import zlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Box, Prediction
from edgeloop.runtime.input.images import Image, as_image
from edgeloop.runtime.input.opencv import cv2

SMALLEST_SIDE_PX = 320
"""Images of which the longer side is shorter are enlarged by the whole number that brings it here."""

_NO_LABEL = 255
_OVERLAY = 0.5
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_UNIT_TEXT_PX = 22  # what a capital is high at scale 1.0
_TEXT_SHARE = 1 / 45  # of the longer side
_LEAST_TEXT_PX = 12
_MOST_LINES = 5
_NEUTRAL = (40, 40, 40)
_FORMS = {
    Task.CLASSIFICATION: "{label} {score:.2f}",
    Task.REGRESSION: "{label} {score:.4g}",
    Task.ANOMALY: "{label}, error {score:.3g}",
    Task.EMBEDDING: "{label}, {score:.2f} away",
    Task.SEGMENTATION: "{label} {score:.0%}",
}

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""


class _Pen(msgspec.Struct, frozen=True):
    """Sizes for one picture, in pixels."""

    text_px: int
    line_px: int
    pad_px: int

    @property
    def scale(self) -> float:
        return self.text_px / _UNIT_TEXT_PX

    @property
    def stroke_px(self) -> int:
        return max(1, round(self.text_px / 12))


def draw(image: Image, prediction: Prediction, labels: tuple[str, ...]) -> Image:
    """A picture of an answer: boxes with labels and scores, pixels in their labels' colours, or lines of text.

    image: (H, W) or (H, W, 3) RGB uint8, the original that was asked about. labels: the manifest's. Returns RGB uint8
    of its own, of the image's size or, below SMALLEST_SIDE_PX, a multiple of it. Raises InvalidInput if it is no image
    or not that of the prediction's mask.
    """
    original = as_image(image)
    picture, times = _enlarged(original)
    pen = _pen(max(picture.shape[:2]))
    if prediction.mask_png is not None:
        _overlay(picture, _mask(prediction.mask_png, of=original, times=times), labels)
    for box in reversed(prediction.boxes):
        _draw_box(picture, box, times, pen, colour_of(box.label, labels))
    if not prediction.boxes:
        _draw_lines(picture, caption(prediction), pen, labels)
    return picture


def caption(prediction: Prediction) -> list[tuple[str | None, str]]:
    """What to write where there is no box: a label, if the line is about one, and the line; the decision first."""
    if prediction.task is Task.DETECTION:
        return [(None, "nothing found")]
    form = _FORMS[prediction.task]
    lines: list[tuple[str | None, str]] = [
        (one.label, form.format(label=one.label, score=one.score)) for one in prediction.top[:_MOST_LINES]
    ]
    decides = prediction.label is not None or prediction.task is Task.REGRESSION
    return lines if decides else [(None, "none of these"), *lines]


def colour_of(label: str, labels: tuple[str, ...]) -> Colour:
    """The label's colour: by its place among the manifest's, each far in hue from those before; else by its letters."""
    place = labels.index(label) if label in labels else zlib.crc32(label.encode())
    hue = (place * (math.sqrt(5) - 1) / 2 + 0.33) % 1.0
    value = 0.95 if place % 2 == 0 else 0.75
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _enlarged(image: Image) -> tuple[Image, int]:
    """A copy with three channels, and how many times it is larger."""
    picture = np.repeat(image[:, :, np.newaxis], 3, axis=2) if image.ndim == 2 else image
    times = max(1, math.ceil(SMALLEST_SIDE_PX / max(picture.shape[:2])))
    return np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1)), times


def _pen(longer_side_px: int) -> _Pen:
    text_px = max(_LEAST_TEXT_PX, round(longer_side_px * _TEXT_SHARE))
    return _Pen(text_px=text_px, line_px=max(1, round(text_px / 6)), pad_px=max(2, round(text_px / 3)))


def _mask(png: bytes, *, of: Image, times: int) -> NDArray[np.uint8]:
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None or mask.shape != of.shape[:2]:
        got = "no PNG" if mask is None else f"{mask.shape[1]}x{mask.shape[0]}"
        raise InvalidInput(f"the mask is {got}, the image {of.shape[1]}x{of.shape[0]}; draw the image it was made of")
    return np.asarray(mask, dtype=np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def _overlay(picture: Image, mask: NDArray[np.uint8], labels: tuple[str, ...]) -> None:
    colours = np.zeros((256, 3), dtype=np.float32)
    colours[: len(labels)] = [colour_of(label, labels) for label in labels]
    shown = mask != _NO_LABEL
    mixed = picture[shown] * (1 - _OVERLAY) + colours[mask[shown]] * _OVERLAY
    picture[shown] = np.rint(mixed).astype(np.uint8)


def _draw_box(picture: Image, box: Box, times: int, pen: _Pen, colour: Colour) -> None:
    """Its edge, dark outside so that it shows on any ground, and its label above it, or inside if there is no room."""
    left, top, right, bottom = (round(edge * times) for edge in (box.left, box.top, box.right, box.bottom))
    cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 0), pen.line_px + 2, cv2.LINE_AA)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, pen.line_px, cv2.LINE_AA)
    height_px = _line_height(pen)
    _write(picture, f"{box.label} {box.score:.2f}", (left, top - height_px if top >= height_px else top), pen, colour)


def _draw_lines(picture: Image, lines: list[tuple[str | None, str]], pen: _Pen, labels: tuple[str, ...]) -> None:
    """One below another from the top left, as many as there is room for."""
    for place, (label, line) in enumerate(lines):
        y = pen.pad_px + place * (_line_height(pen) + max(1, pen.pad_px // 3))
        if y + _line_height(pen) > picture.shape[0]:
            return
        _write(picture, line, (pen.pad_px, y), pen, _NEUTRAL if label is None else colour_of(label, labels))


def _write(picture: Image, text: str, corner: tuple[int, int], pen: _Pen, ground: Colour) -> None:
    """Text on a ground of this colour, black or white by what contrasts more; moved and cut so that it is all seen."""
    room_px = picture.shape[1] - 2 * pen.pad_px
    text = _cut(text, room_px, pen)
    width_px = _width(text, pen)
    left = max(0, min(corner[0], picture.shape[1] - width_px - 2 * pen.pad_px))
    top = max(0, min(corner[1], picture.shape[0] - _line_height(pen)))
    right, bottom = left + width_px + 2 * pen.pad_px, top + _line_height(pen)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), ground, cv2.FILLED)
    red, green, blue = ground
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)
    base = (left + pen.pad_px, top + pen.pad_px + pen.text_px)
    cv2.putText(picture, text, base, _FONT, pen.scale, ink, pen.stroke_px, cv2.LINE_AA)


def _cut(text: str, room_px: int, pen: _Pen) -> str:
    """As much of the text's beginning as there is room for, with dots if that is not all."""
    if _width(text, pen) <= room_px:
        return text
    fits = [end for end in range(len(text)) if _width(f"{text[:end]}...", pen) <= room_px]
    return f"{text[: fits[-1]]}..." if fits else ""


def _width(text: str, pen: _Pen) -> int:
    size: Any = cv2.getTextSize(text, _FONT, pen.scale, pen.stroke_px)
    return int(size[0][0])


def _line_height(pen: _Pen) -> int:
    """A capital, what hangs below the line, and room on both sides."""
    return pen.text_px + math.ceil(pen.text_px * 0.35) + 2 * pen.pad_px - pen.pad_px // 2
