"""Where the steps that move pixels put an image: sizes, margins, and the way back to the original.

Positions are of pixel edges: pixel i covers i to i + 1, and a resize maps edge to edge. Neighbours: `preprocess` and
`pixels` both place pixels by `place`, so that they cannot disagree.
"""

from collections.abc import Iterable
from typing import NamedTuple

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.preprocess import CenterCrop, Letterbox, Resize, ResizeShorter, Step
from edgeloop.runtime.input.port import Geometry

MAX_PIXELS = 64_000_000
"""Of one image, as it comes and after any step."""

Geometric = Resize | ResizeShorter | Letterbox | CenterCrop


class Place(NamedTuple):
    """What a geometric step does: the image becomes inner_height_px x inner_width_px, and is laid with its corner at
    (top, left) of one of height_px x width_px: less than 0 where it is cut off."""

    inner_height_px: int
    inner_width_px: int
    top: int
    left: int
    height_px: int
    width_px: int


def place(step: Geometric, height_px: int, width_px: int) -> Place:
    """Of an image of this size. Raises InvalidInput if it is too small for a crop, or would become too large."""
    match step:
        case Resize():
            made = _whole(step.height_px, step.width_px)
        case ResizeShorter():
            made = _whole(*_shorter(step.side_px, height_px, width_px))
        case Letterbox():
            inner_height_px, inner_width_px = _inside(step, height_px, width_px)
            top = (step.height_px - inner_height_px) // 2 if step.centered else 0
            left = (step.width_px - inner_width_px) // 2 if step.centered else 0
            made = Place(inner_height_px, inner_width_px, top, left, step.height_px, step.width_px)
        case CenterCrop():
            made = _middle(step, height_px, width_px)
    if made.height_px * made.width_px > MAX_PIXELS:
        raise InvalidInput(
            f"an image of {height_px}x{width_px} pixels would become {made.height_px}x{made.width_px} by its "
            f"preprocessing; at most {MAX_PIXELS:,} pixels are made"
        )
    return made


def locate(steps: Iterable[Step], height_px: int, width_px: int) -> Geometry:
    """Where the pixels that these steps make lie in an image of this size. Raises InvalidInput like `place`."""
    height, width = height_px, width_px
    scale_x = scale_y = 1.0
    left = top = 0.0
    for step in steps:
        if isinstance(step, Geometric):
            to = place(step, height, width)
            by_x, by_y = to.inner_width_px / width, to.inner_height_px / height
            scale_x, scale_y = scale_x * by_x, scale_y * by_y
            left, top = left * by_x + to.left, top * by_y + to.top
            height, width = to.height_px, to.width_px
    return Geometry(width_px=width_px, height_px=height_px, scale_x=scale_x, scale_y=scale_y, left=left, top=top)


def _whole(height_px: int, width_px: int) -> Place:
    return Place(height_px, width_px, 0, 0, height_px, width_px)


def _shorter(side_px: int, height_px: int, width_px: int) -> tuple[int, int]:
    if height_px <= width_px:
        return side_px, _in_proportion(width_px, side_px, height_px)
    return _in_proportion(height_px, side_px, width_px), side_px


def _inside(step: Letterbox, height_px: int, width_px: int) -> tuple[int, int]:
    if step.height_px * width_px <= step.width_px * height_px:
        return step.height_px, _in_proportion(width_px, step.height_px, height_px)
    return _in_proportion(height_px, step.width_px, width_px), step.width_px


def _in_proportion(length_px: int, to_px: int, of_px: int) -> int:
    """length_px * to_px / of_px to the nearest whole pixel, halves up, in whole numbers; at least one."""
    return max(1, (2 * length_px * to_px + of_px) // (2 * of_px))


def _middle(step: CenterCrop, height_px: int, width_px: int) -> Place:
    if height_px < step.height_px or width_px < step.width_px:
        raise InvalidInput(
            f"step 'center_crop' wants {step.height_px}x{step.width_px} pixels, the image has {height_px}x{width_px}"
        )
    top, left = (height_px - step.height_px) // 2, (width_px - step.width_px) // 2
    return Place(height_px, width_px, -top, -left, step.height_px, step.width_px)
