"""What a camera would hand over, made from the photos in assets/mobilenet: JPEGs of camera size, and a still scene.

No video can be decoded here and none is in the assets, so both are built, and this is how. The photos are of half a
megapixel; they are enlarged (bicubic) to 1,280 pixels on the longer side, which is about a megapixel, and each frame
gets sensor noise of its own (Gaussian, a standard deviation of 3 of 255, independent for each pixel and channel), so
that a JPEG costs about what a camera's does to decode: 190 and 300 KB at quality 90, 1.4 and 1.7 bits a pixel.

The scene is a window of 640 x 480 over such an enlarged photo, in cycles of 25 frames: five in which the camera pans
(8 to 40 pixels a frame, in one direction a cycle, turning round at the photo's edge), then 20 in which it stands still;
every fourth cycle starts with a cut to the other photo. Frames of a standing camera differ
by their noise and, where asked, by a shake of whole pixels; no two frames are equal byte for byte. What it lacks of a
real video: people who walk through the view, changing light, a codec's blocks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Absent, require

Pixels = NDArray[np.uint8]

CAT, PERSON = "cat.bmp", "grace_hopper.bmp"
LONGER_SIDE_PX, QUALITY, NOISE = 1280, 90, 3.0
VIEW_WIDTH_PX, VIEW_HEIGHT_PX = 640, 480
CYCLE_FRAMES, PAN_FRAMES = 25, 5

_CYCLES_A_PHOTO = 4
_LEAST_STEP_PX, _MOST_STEP_PX = 8, 40


class Frame(NamedTuple):
    """pixels: (480, 640, 3) uint8 RGB. changed: whether the view is another than that of the frame before."""

    pixels: Pixels
    changed: bool


class View(NamedTuple):
    """Where the window's top left lies on which photo."""

    photo: int
    left: int
    top: int


def enlarged(assets: Path, name: str) -> Pixels:
    """(height, width, 3) uint8 RGB, 1,280 pixels on the longer side. Raises Absent."""
    pixels = cv2.imread(str(require(assets / "mobilenet" / name)))
    if pixels is None:
        raise Absent(f"{name} is no image")
    factor = LONGER_SIDE_PX / max(pixels.shape[:2])
    large = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.cvtColor(large, cv2.COLOR_BGR2RGB), np.uint8)


def camera_jpeg(assets: Path, name: str, *, seed: int = 0) -> bytes:
    """A photo as a camera's JPEG of about a megapixel. Raises Absent."""
    return as_jpeg(noisy(enlarged(assets, name), np.random.default_rng(seed)))


def as_jpeg(pixels: Pixels) -> bytes:
    """RGB pixels as a JPEG of quality 90."""
    blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def noisy(pixels: Pixels, rng: np.random.Generator, *, sigma: float = NOISE) -> Pixels:
    """The same with sensor noise of this standard deviation, in steps of the 8-bit range."""
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(sigma)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def still_scene(assets: Path, count: int, *, seed: int = 0, shake_px: int = 0) -> Iterator[Frame]:
    """So many frames, of which 80 % show what the frame before showed; see the module for how they are made.

    shake_px: each frame's window lies off its place by up to so many pixels, drawn anew; frames count as unchanged
    all the same. The same seed gives the same frames. Raises Absent.
    """
    photos = [enlarged(assets, CAT), enlarged(assets, PERSON)]
    rng = np.random.default_rng(seed)
    before: View | None = None
    for view in path(count, [(photo.shape[1], photo.shape[0]) for photo in photos], rng, margin_px=shake_px):
        left, top = (at + int(rng.integers(-shake_px, shake_px + 1)) for at in (view.left, view.top))
        seen = photos[view.photo][top : top + VIEW_HEIGHT_PX, left : left + VIEW_WIDTH_PX]
        yield Frame(noisy(seen, rng), view != before)
        before = view


def path(
    count: int, sizes_px: list[tuple[int, int]], rng: np.random.Generator, *, margin_px: int = 0
) -> Iterator[View]:
    """Where the window is, frame by frame. sizes_px: width and height of each photo; margin_px: kept off its edges."""
    views_px = (VIEW_WIDTH_PX, VIEW_HEIGHT_PX)
    rooms = [
        [(margin_px, size - view - margin_px) for size, view in zip(sizes, views_px, strict=True)] for sizes in sizes_px
    ]
    photo, places, steps = 0, [0, 0], [0, 0]
    for index in range(count):
        cycle, within = divmod(index, CYCLE_FRAMES)
        if within == 0:
            steps = rng.integers(_LEAST_STEP_PX, _MOST_STEP_PX + 1, 2).tolist()
            if cycle % _CYCLES_A_PHOTO == 0:
                photo = cycle // _CYCLES_A_PHOTO % len(rooms)
                places = [int(rng.integers(least, most + 1)) for least, most in rooms[photo]]
        if within < PAN_FRAMES:
            moved = [_moved(*one) for one in zip(places, steps, rooms[photo], strict=True)]
            places, steps = [place for place, _ in moved], [step for _, step in moved]
        yield View(photo, *places)


def _moved(at: int, step: int, room: tuple[int, int]) -> tuple[int, int]:
    """The next place and step: it turns round where the step would lead beyond an end."""
    least, most = room
    if not least <= at + step <= most:
        step = -step
    return min(max(at + step, least), most), step
