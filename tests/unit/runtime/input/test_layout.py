import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Scale
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.front import in_layout_of
from edgeloop.runtime.input.preprocess import CHANNELS_FIRST, preprocess

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_channels_move_first_as_the_last_step() -> None:
    spec = InputSpec(
        name="x", modality=Modality.IMAGE, shape=(1, 3, 6, 8), layout=CHANNELS_FIRST, value_range=(0.0, 1.0)
    )
    made = preprocess(PIXELS, (Scale(factor=1 / 255),), spec)
    assert np.array_equal(made, np.moveaxis(PIXELS, 2, 0)[np.newaxis].astype(np.float32) * np.float32(1 / 255))


def test_grey_image_gets_its_one_channel_first() -> None:
    spec = InputSpec(
        name="x", modality=Modality.IMAGE, shape=(1, 1, 6, 8), layout=CHANNELS_FIRST, value_range=(0.0, 255.0)
    )
    assert np.array_equal(preprocess(PIXELS[:, :, 0], (), spec)[0, 0], PIXELS[:, :, 0])


def test_grey_image_may_have_no_channel_axis() -> None:
    spec = InputSpec(name="x", modality=Modality.IMAGE, shape=(1, 6, 8), layout="nhw", value_range=(0.0, 255.0))
    assert np.array_equal(preprocess(PIXELS[:, :, 0], (), spec)[0], PIXELS[:, :, 0])


@pytest.mark.parametrize(
    ("layout", "shape"), [("hwcn", (6, 8, 3, 1)), ("nhwc", (1, 6, 8)), ("", (1, 6, 8, 3)), ("nhwc", (2, 6, 8, 3))]
)
def test_layout_that_no_image_has_is_refused(layout: str, shape: tuple[int, ...]) -> None:
    spec = InputSpec(name="x", modality=Modality.IMAGE, shape=shape, layout=layout, value_range=(0.0, 255.0))
    with pytest.raises(InvalidInput, match="layout"):
        preprocess(PIXELS, (), spec)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 8, 3, 1)])
def test_layout_of_other_axes_than_the_shape_is_left_for_the_front_to_refuse(shape: tuple[int, ...]) -> None:
    spec = InputSpec("image", Modality.IMAGE, shape, "nhwc", (0.0, 1.0))
    assert in_layout_of(spec, TensorSpec("image", (1, 8, 8, 3), "float32")) is spec
