import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import CenterCrop, Grey, Interpolation, Letterbox, Resize, ResizeShorter, Scale, Step
from edgeloop.toolchain.described.canvas import to_canvas

SPEC = InputSpec("image", Modality.IMAGE, (1, 3, 40, 60), "NCHW", (0.0, 1.0))
RESIZE = Resize(height_px=40, width_px=60, interpolation=Interpolation.AREA)


def photo(height: int, width: int, *, colour: bool = True) -> NDArray[np.uint8]:
    shape = (height, width, 3) if colour else (height, width)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


def canvas(*images: NDArray[np.uint8], steps: tuple[Step, ...] = (RESIZE,)) -> NDArray[np.uint8]:
    return to_canvas(images, SPEC, steps, names=[f"{index}.png" for index in range(len(images))])


@pytest.mark.parametrize("size", [(40, 60), (50, 75), (20, 30)])
def test_images_of_one_size_near_the_models_stay_as_they_are(size: tuple[int, int]) -> None:
    images = [photo(*size), photo(*size)[::-1]]
    assert (canvas(*images) == np.stack(images)).all()


def test_images_of_several_sizes_get_one_a_quarter_larger_than_what_the_model_looks_at() -> None:
    made = canvas(photo(300, 400), photo(41, 77), photo(10, 500))
    assert made.shape == (3, 50, 75, 3)
    assert made.dtype == np.uint8


def test_large_images_of_one_size_are_brought_down() -> None:
    assert canvas(photo(480, 640), photo(480, 640)).shape == (2, 50, 75, 3)


def test_the_middle_is_kept_and_the_proportions_too() -> None:
    """A white disc in the middle of a wide photo stays a disc in the middle."""
    rows, columns = np.mgrid[0:400, 0:1200]
    disc = (((rows - 199.5) ** 2 + (columns - 599.5) ** 2) < 100**2).astype(np.uint8) * 255
    (made,) = canvas(disc)
    lit = made > 127
    assert made.shape == (50, 75)
    # 100 of 400 pixels, on 50 rows: a radius of 12.5.
    assert int(lit.any(axis=0).sum()) == pytest.approx(25, abs=1)
    assert int(lit.any(axis=1).sum()) == pytest.approx(25, abs=1)
    assert [float(places.mean()) for places in np.nonzero(lit)] == pytest.approx([24.5, 37.0], abs=1)


def test_grey_images_stay_grey_and_beside_colour_get_three_like_channels() -> None:
    grey, colour = photo(50, 75, colour=False), photo(50, 75)
    assert canvas(grey, grey).shape == (2, 50, 75)
    made = canvas(grey, colour)
    assert made.shape == (2, 50, 75, 3)
    assert (made[0] == grey[..., np.newaxis]).all()
    assert (made[1] == colour).all()


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ((Grey(), Scale(factor=1.0), RESIZE), (50, 75)),
        ((Letterbox(height_px=16, width_px=32, interpolation=Interpolation.LINEAR),), (20, 40)),
        ((ResizeShorter(side_px=80, interpolation=Interpolation.LINEAR), CenterCrop(40, 60)), (100, 100)),
        ((CenterCrop(height_px=40, width_px=60),), (50, 75)),
    ],
)
def test_the_first_step_that_sets_a_size_decides(steps: tuple[Step, ...], size: tuple[int, int]) -> None:
    assert canvas(photo(300, 400), photo(400, 300), steps=steps).shape[1:3] == size


def test_without_such_a_step_images_have_the_models_own_size() -> None:
    assert canvas(photo(40, 60), steps=(Scale(factor=1.0),)).shape == (1, 40, 60, 3)
    with pytest.raises(InvalidInput, match=r"1\.png has 41x60 pixels .* takes 40x60, and no step sets a size"):
        canvas(photo(40, 60), photo(41, 60), steps=(Scale(factor=1.0),))
