"""Photos of any size as one array of raw pixels: what golden images of a bundle are.

Images of one size that are not much larger than what the model looks at stay as they are. Others are resized in
proportion until they cover a canvas, and the middle is kept. The canvas is a quarter longer and wider than what the
first step that sets a size asks for: so the bundle's own resizing is proven, too, and 32 images stay small enough to
travel. Neighbour: `golden` chooses the images.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import CenterCrop, Letterbox, Resize, ResizeShorter, Step
from edgeloop.runtime.input.images import Image

ROOM = 1.25
"""Sides of the canvas, in sides of what the model looks at."""

Size = tuple[int, int]
"""Height and width in pixels."""


def to_canvas(
    images: Sequence[Image], spec: InputSpec, steps: tuple[Step, ...], *, names: Sequence[str]
) -> NDArray[np.uint8]:
    """(count, height, width), or (count, height, width, 3) in RGB if any image has colour; uint8.

    names: of the images, for errors. Raises InvalidInput if no step sets a size and an image is not of the model's.
    """
    sizes = [image.shape[:2] for image in images]
    asked = _asked_size(steps)
    if asked is None:
        _require_size(sizes, _own_size(spec), names)
        return _stacked(images)
    if len(set(sizes)) == 1 and sizes[0][0] * sizes[0][1] <= ROOM**2 * asked[0] * asked[1]:
        return _stacked(images)
    canvas = (round(ROOM * asked[0]), round(ROOM * asked[1]))
    return _stacked([_covering(image, canvas) for image in images])


def _asked_size(steps: tuple[Step, ...]) -> Size | None:
    for step in steps:
        if isinstance(step, Resize | Letterbox | CenterCrop):
            return step.height_px, step.width_px
        if isinstance(step, ResizeShorter):
            return step.side_px, step.side_px
    return None


def _own_size(spec: InputSpec) -> Size:
    layout = spec.layout.upper()
    if "H" not in layout or "W" not in layout or len(layout) != len(spec.shape):
        raise InvalidInput(
            f"[input] has the layout {spec.layout!r} for {list(spec.shape)}; of an image it has a letter an axis, such "
            "as NHWC or NCHW"
        )
    return spec.shape[layout.index("H")], spec.shape[layout.index("W")]


def _require_size(sizes: Sequence[tuple[int, ...]], own: Size, names: Sequence[str]) -> None:
    for size, name in zip(sizes, names, strict=True):
        if size != own:
            raise InvalidInput(
                f"{name} has {size[0]}x{size[1]} pixels (height x width), the model takes {own[0]}x{own[1]}, and no "
                'step sets a size; begin with [[preprocess]] step = "resize"'
            )


def _covering(image: Image, canvas: Size) -> Image:
    height, width = image.shape[:2]
    factor = max(canvas[0] / height, canvas[1] / width)
    size = max(canvas[0], round(height * factor)), max(canvas[1], round(width * factor))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    grown = cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    top, left = (size[0] - canvas[0]) // 2, (size[1] - canvas[1]) // 2
    return np.asarray(grown[top : top + canvas[0], left : left + canvas[1]], np.uint8)


def _stacked(images: Sequence[Image]) -> NDArray[np.uint8]:
    if any(image.ndim == 3 for image in images):
        return np.stack(
            [image if image.ndim == 3 else np.repeat(image[..., np.newaxis], 3, axis=2) for image in images]
        )
    return np.stack(images)
