"""Where pixels come from: read off the pixels themselves, and computed in exact fractions from the steps' words."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.contracts.preprocess import CenterCrop, Grey, Interpolation, Letterbox, Resize, ResizeShorter, Scale, Step
from edgeloop.runtime.input.geometry import locate
from edgeloop.runtime.input.port import Geometry
from edgeloop.runtime.input.preprocess import apply_steps

LINEAR = Interpolation.LINEAR

Point = tuple[Fraction, Fraction]
sides = st.integers(4, 60)
steps_of_one = st.one_of(
    st.builds(Resize, sides, sides, st.just(LINEAR)),
    st.builds(ResizeShorter, sides, st.just(LINEAR)),
    st.builds(Letterbox, sides, sides, st.just(LINEAR), centered=st.booleans()),
    st.builds(CenterCrop, st.integers(1, 30), st.integers(1, 30)),
)


def _half_up(value: Fraction) -> int:
    return max(1, int(value + Fraction(1, 2)))


def _moved(point: Point, size: tuple[int, int], step: Step) -> tuple[Point, tuple[int, int]]:
    """Where a point (x, y) of an image (height, width) goes, and the new size, as the step's docstring says."""
    (x, y), (height, width) = point, size
    if isinstance(step, CenterCrop):
        left, top = (width - step.width_px) // 2, (height - step.height_px) // 2
        return (x - left, y - top), (step.height_px, step.width_px)
    if isinstance(step, ResizeShorter):
        factor = Fraction(step.side_px, min(size))
        new = (_half_up(height * factor), _half_up(width * factor))
        return (x * Fraction(new[1], width), y * Fraction(new[0], height)), new
    if isinstance(step, Letterbox):
        factor = min(Fraction(step.height_px, height), Fraction(step.width_px, width))
        inner = (_half_up(height * factor), _half_up(width * factor))
        margin = ((step.width_px - inner[1]) // 2, (step.height_px - inner[0]) // 2) if step.centered else (0, 0)
        to = (x * Fraction(inner[1], width) + margin[0], y * Fraction(inner[0], height) + margin[1])
        return to, (step.height_px, step.width_px)
    assert isinstance(step, Resize)
    to = (x * Fraction(step.width_px, width), y * Fraction(step.height_px, height))
    return to, (step.height_px, step.width_px)


def _back(geometry: Geometry, x: float, y: float) -> tuple[float, float]:
    return (x - geometry.left) / geometry.scale_x, (y - geometry.top) / geometry.scale_y


@given(size=st.tuples(sides, sides), steps=st.lists(steps_of_one, max_size=4))
def test_corners_come_back_through_any_chain(size: tuple[int, int], steps: list[Step]) -> None:
    height, width = size
    try:
        geometry = locate(steps, height, width)
    except InvalidInput:
        return  # a crop of something smaller
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        point, now = (Fraction(corner[0]), Fraction(corner[1])), size
        for step in steps:
            point, now = _moved(point, now, step)
        # A few roundings of floats of at most some thousands.
        assert _back(geometry, float(point[0]), float(point[1])) == pytest.approx(corner, abs=1e-9)
    assert (geometry.height_px, geometry.width_px) == size


@pytest.mark.parametrize(
    "steps",
    [
        (Resize(24, 30, LINEAR),),
        (ResizeShorter(28, LINEAR), CenterCrop(24, 24)),
        (Letterbox(40, 40, LINEAR, fill=0),),
        (CenterCrop(40, 50), Letterbox(37, 50, LINEAR, fill=0, centered=False), Resize(30, 33, LINEAR)),
    ],
    ids=["resize", "shorter and crop", "letterbox", "all"],
)
def test_pixels_lie_where_the_geometry_says(steps: tuple[Step, ...]) -> None:
    rows, columns = np.mgrid[:48, :64].astype(np.float32) + 0.5
    made = apply_steps(np.dstack([columns, rows, np.ones_like(rows)]), steps, Modality.IMAGE)
    geometry = locate(steps, 48, 64)
    inside = np.zeros(made.shape[:2], bool)
    inside[6:-6, 6:-6] = True
    inside &= np.abs(made[:, :, 2] - 1) < 1e-6  # no filled margin, nor what is mixed with it
    assert inside.sum() > 100
    y, x = np.nonzero(inside)
    # Linear interpolation of a ramp is exact but for weights in float32, up to 64 * 2^-12 in OpenCV's tables.
    np.testing.assert_allclose((x + 0.5 - geometry.left) / geometry.scale_x, made[y, x, 0], atol=0.02)
    np.testing.assert_allclose((y + 0.5 - geometry.top) / geometry.scale_y, made[y, x, 1], atol=0.02)


def test_steps_that_move_nothing_change_nothing() -> None:
    assert locate((Grey(), Scale(2.0)), 6, 8) == Geometry(width_px=8, height_px=6)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(300, 400, (50.0, 0.5, 0.0, 25.0)), (400, 300, (50.0, 0.5, 25.0, 0.0))]
)
def test_letterbox_leaves_equal_margins(height: int, width: int, expected: tuple[float, ...]) -> None:
    made = locate((Letterbox(200, 200, LINEAR),), height, width)
    assert (made.scale_x, made.scale_y, made.left, made.top) == (0.5, 0.5, expected[2], expected[3])


def test_image_that_would_become_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        locate((Resize(10_000, 10_000, LINEAR),), 4, 4)
