import numpy as np
import pytest

from edgeloop.toolchain.augment import vary


def _images(count: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 8:20, 10:18] = 200
    return images


def test_form_is_kept() -> None:
    varied = vary(_images(), np.random.default_rng(0))
    assert (varied.shape, varied.dtype) == ((8, 28, 28), np.uint8)


def test_images_are_not_changed_in_place() -> None:
    images = _images()
    vary(images, np.random.default_rng(0))
    assert np.array_equal(images, _images())


def test_each_image_is_varied_its_own_way() -> None:
    varied = vary(_images(), np.random.default_rng(0))
    assert len({image.tobytes() for image in varied}) == 8


def test_same_seed_varies_the_same_way() -> None:
    first, again = (vary(_images(), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)


def test_variation_is_small() -> None:
    # At most 2 pixels and 10 degrees: the middle of a 12 x 8 block stays inside it.
    varied = vary(_images(200), np.random.default_rng(1))
    assert (varied[:, 14, 14] == 200).all()


@pytest.mark.parametrize("value", [0, 77, 255])
def test_background_stays_a_background(value: int) -> None:
    flat = np.full((20, 28, 28), value, np.uint8)
    assert np.array_equal(vary(flat, np.random.default_rng(2)), flat)


def test_mean_shift_over_many_is_none() -> None:
    varied = vary(_images(2000), np.random.default_rng(3)).astype(np.float64)
    rows = (varied.sum(axis=2) * np.arange(28)).sum(axis=1) / varied.sum(axis=(1, 2))
    # Shifts are uniform in -2..2 (std 1.15), so the mean of 2,000 has a standard error of 0.026; 5 of them.
    assert abs(rows.mean() - 13.5) < 0.13
