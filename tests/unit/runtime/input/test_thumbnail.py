import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.runtime.input.thumbnail import THUMBNAIL_CELLS, thumbnail

RNG = np.random.default_rng(5)


def _scene(height: int, width: int) -> NDArray[np.uint8]:
    """Soft shapes under a camera's noise."""
    coarse = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + RNG.normal(0, 3, (height, width, 3)), 0, 255), np.uint8)


def _means(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean grey of each cell of all its pixels; sides must be multiples of 16."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    return np.asarray(grey.reshape(16, height // 16, 16, width // 16).mean(axis=(1, 3)))


@pytest.mark.parametrize(("size", "tolerance"), [((32, 48), 1.0), ((480, 640), 3.0), ((96, 320), 2.0)], ids=str)
def test_cells_are_means_of_grey_values(size: tuple[int, int], tolerance: float) -> None:
    image = _scene(*size)
    made = thumbnail(image)
    assert (made.shape, made.dtype, made.size) == ((16, 16), np.uint8, THUMBNAIL_CELLS)
    # All pixels of small images: two roundings. Of large ones, samples: edges within a cell fall between them.
    assert np.abs(made - _means(image)).max() <= tolerance


@pytest.mark.parametrize("size", [(480, 640), (28, 28), (16, 16), (100, 900)], ids=str)
def test_grey_image_gives_what_it_gives_in_three_channels(size: tuple[int, int]) -> None:
    grey = np.ascontiguousarray(_scene(*size)[:, :, 0])
    colour = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    assert np.abs(thumbnail(grey).astype(int) - thumbnail(colour)).max() <= 1  # one rounding more


@pytest.mark.parametrize("size", [(480, 640), (28, 28)], ids=str)
def test_order_of_channels_makes_no_difference_if_it_is_told(size: tuple[int, int]) -> None:
    image = _scene(*size)
    turned = np.ascontiguousarray(image[:, :, ::-1])
    assert (thumbnail(turned, is_bgr=True) == thumbnail(image)).all()
    assert (thumbnail(turned) != thumbnail(image)).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 5), (97, 96)], ids=str)
def test_image_of_any_size_has_one(size: tuple[int, int]) -> None:
    assert (thumbnail(np.full(size, 90, np.uint8)) == 90).all()


def test_noise_of_a_camera_hardly_shows() -> None:
    scene = cv2.GaussianBlur(_scene(480, 640), (0, 0), 2)
    frames = [np.clip(scene + RNG.normal(0, 4, scene.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    apart = max(np.abs(thumbnail(frames[0]).astype(int) - thumbnail(frame)).max() for frame in frames[1:])
    assert apart <= 3  # the default bound of a manifest is 0.02 * 255 = 5.1


@pytest.mark.parametrize("at", [(0, 0), (237, 311), (456, 616)], ids=str)
def test_thing_of_half_a_cell_shows(at: tuple[int, int]) -> None:
    before = np.full((480, 640, 3), 100, np.uint8)
    after = before.copy()
    after[at[0] : at[0] + 24, at[1] : at[1] + 24] = 190
    assert np.abs(thumbnail(before).astype(int) - thumbnail(after)).max() > 5
