"""What is written into the engine's buffer against the plain path, bit by bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.assets import assets_or_skip

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Grey,
    Interpolation,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    Scale,
    Step,
    Window,
)
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.input.pixels import PixelFront
from edgeloop.runtime.input.port import Geometry, Source
from edgeloop.runtime.input.preprocess import apply_steps
from pictures import jpeg, turned, upright

RNG = np.random.default_rng(11)
COLOURS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREYS = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
AREA, LINEAR = Interpolation.AREA, Interpolation.LINEAR
POISON = 77

# ---- any steps, any image, any tensor

sides = st.integers(1, 24)
ways = st.sampled_from(list(Interpolation))
numbers = st.floats(-4, 4, width=32)
stds = st.floats(0.125, 8.0, width=32)
movers = st.one_of(
    st.builds(Resize, sides, sides, ways),
    st.builds(ResizeShorter, sides, ways),
    st.builds(Letterbox, sides, sides, ways, fill=st.integers(0, 255), centered=st.booleans()),
    st.builds(CenterCrop, st.integers(1, 6), st.integers(1, 6)),
)
colours = st.builds(Colour, st.sampled_from(list(ColourOrder)))
arithmetic = st.one_of(
    st.builds(Scale, numbers, numbers),
    st.builds(lambda mean, std: Normalize((mean,), (std,)), numbers, stds),
    st.builds(Normalize, st.tuples(*[numbers] * 3), st.tuples(*[stds] * 3)),
)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Step, ...]:
    """Mostly what the quick way knows; sometimes arithmetic before a resize, which only the plain path knows."""
    steps: list[Step] = draw(st.lists(movers, max_size=3))
    if draw(st.booleans()):
        steps.insert(draw(st.integers(0, len(steps))), Grey())
    steps += draw(st.lists(arithmetic, max_size=2))
    if draw(st.booleans()):
        last_grey = max((at + 1 for at, step in enumerate(steps) if isinstance(step, Grey)), default=0)
        steps.insert(draw(st.integers(last_grey, len(steps))), draw(colours))
    if draw(st.integers(0, 5)) == 0:
        steps.insert(draw(st.integers(0, len(steps))), draw(arithmetic))
    return tuple(steps)


def _in_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., ::-1])[..., ::-1] if image.ndim == 3 else image


LYING: dict[str, Callable[[NDArray[np.uint8]], Source]] = {
    "as it is": lambda image: image,
    "a view of BGR": _in_bgr,
    "every second pixel": lambda image: np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)[::2, ::2],
    "upside down": lambda image: np.ascontiguousarray(image[::-1])[::-1],
    "by columns": lambda image: np.asfortranarray(image),
    "with one channel": lambda image: image[:, :, np.newaxis] if image.ndim == 2 else image,
    "a PNG": encode_png,
}


@st.composite
def images(draw: st.DrawFn) -> NDArray[np.uint8]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    shape = (height, width, 3) if draw(st.booleans()) else (height, width)
    return np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, shape, dtype=np.uint8)


tensors = st.one_of(
    st.tuples(st.sampled_from(["float32", "float64"]), st.just(0.0), st.just(0)),
    st.tuples(st.just("uint8"), st.one_of(st.floats(1e-3, 4), st.just(1.0)), st.integers(0, 255)),
    st.tuples(st.just("int8"), st.one_of(st.floats(1e-3, 4), st.just(1.0)), st.integers(-128, 127)),
    st.tuples(st.just("int8"), st.just(1.0), st.just(-128)),
    st.tuples(st.just("uint8"), st.just(1.0), st.just(0)),
    st.tuples(st.just("int16"), st.floats(1e-3, 4), st.just(0)),
)


def _spec(shape: tuple[int, ...], layout: str = "NHWC") -> InputSpec:
    return InputSpec("x", Modality.IMAGE, shape, layout, (0.0, 1.0))


def _front(shape: tuple[int, ...], *steps: Step, layout: str = "NHWC", dtype: str = "float32") -> PixelFront:
    return PixelFront(_spec(shape, layout), steps, TensorSpec("x", shape, dtype))


def _shape_of(image: NDArray[np.uint8], steps: tuple[Step, ...], layout: str) -> tuple[int, ...] | None:
    try:
        made = apply_steps(image, steps, Modality.IMAGE).shape
    except InvalidInput:
        return None
    height, width, channels = made if len(made) == 3 else (*made, 1)
    return (1, height, width, channels) if layout.lower() == "nhwc" else (1, channels, height, width)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    image=images(),
    steps=chains(),
    tensor=tensors,
    layout=st.sampled_from(["NHWC", "nhwc", "nchw"]),
    lying=st.sampled_from(list(LYING)),
)
def test_what_is_written_is_the_plain_tensor_quantized_bit_by_bit(
    image: NDArray[np.uint8], steps: tuple[Step, ...], tensor: tuple[str, float, int], layout: str, lying: str
) -> None:
    shape = _shape_of(image, steps, layout)
    if shape is None:
        shape = (1, 1, 1, 1)
    spec = TensorSpec("x", shape, *tensor)
    front, source = PixelFront(_spec(shape, layout), steps, spec), LYING[lying](image)
    buffer = np.full(shape, POISON, spec.dtype)
    try:
        expected = quantize_tensor(front.tensor(source), spec)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            front.write(source, buffer)
        return
    front.write(source, buffer)
    assert buffer.tobytes() == expected.tobytes()
    front.write(LYING[lying](np.full_like(image, 200)), buffer)
    buffer[...] = POISON  # as an engine may that uses its input's memory
    front.write(source, buffer)
    assert buffer.tobytes() == expected.tobytes()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(*[st.integers(1, 90)] * 4),
    way=st.sampled_from([way for way in Interpolation if way is not Interpolation.CUBIC]),
)
def test_resize_treats_channels_alike(seed: int, size: tuple[int, ...], way: Interpolation) -> None:
    """Why channels may change places after it; the cubic one is the exception that `pixels` knows."""
    image = np.random.default_rng(seed).integers(0, 256, (*size[:2], 3), dtype=np.uint8)
    step = (Resize(*size[2:], way),)
    there = apply_steps(np.ascontiguousarray(image[:, :, ::-1]), step, Modality.IMAGE)[:, :, ::-1]
    assert np.array_equal(there, apply_steps(image, step, Modality.IMAGE))


def test_cubic_resize_is_of_channels_in_the_order_of_the_plain_path() -> None:
    buffer = np.empty((1, 85, 3, 3), np.uint8)
    front = _front(buffer.shape, Resize(85, 3, Interpolation.CUBIC), dtype="uint8")
    for _ in range(20):  # in 9 of 10 some value differs if channels change places only after it, on x86
        image = _in_bgr(RNG.integers(0, 256, (340, 3, 3), dtype=np.uint8))
        front.write(image, buffer)
        assert buffer.tobytes() == front.tensor(image).astype(np.uint8).tobytes()


def test_three_means_before_a_grey_image_is_repeated_are_refused() -> None:
    front = _front((1, 24, 32, 3), Normalize((0.0,) * 3, (1.0,) * 3), Colour(ColourOrder.RGB))
    with pytest.raises(InvalidInput, match="3 means and 3 stds for 1 channels"):
        front.write(GREYS, np.empty((1, 24, 32, 3), np.float32))


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_large_image_is_written_like_a_small_one(layout: str, dtype: str) -> None:
    image = RNG.integers(0, 256, (200, 260, 3), dtype=np.uint8)
    steps = (Resize(120, 90, LINEAR), Scale(1 / 255), Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.1)))
    shape = (1, 120, 90, 3) if layout == "nhwc" else (1, 3, 120, 90)
    spec = TensorSpec("x", shape, dtype, 0.03 if dtype == "int8" else 0.0, 3)
    front, buffer = PixelFront(_spec(shape, layout), steps, spec), np.empty(shape, dtype)
    for source in (image, _in_bgr(image), jpeg(image)):
        front.write(source, buffer)
        assert buffer.tobytes() == quantize_tensor(front.tensor(source), spec).tobytes()


# ---- by hand


def test_pixels_of_a_model_of_bytes_are_copied() -> None:
    buffer = np.empty((1, 24, 32, 3), np.uint8)
    _front(buffer.shape, dtype="uint8").write(COLOURS, buffer)
    assert np.array_equal(buffer[0], COLOURS)


@pytest.mark.parametrize("order", list(ColourOrder))
def test_file_comes_in_the_order_of_the_model(order: ColourOrder) -> None:
    buffer = np.empty((1, 24, 32, 3), np.uint8)
    _front(buffer.shape, Colour(order), dtype="uint8").write(encode_png(COLOURS), buffer)
    assert np.array_equal(buffer[0], COLOURS if order is ColourOrder.RGB else COLOURS[:, :, ::-1])


def test_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(GREYS))
    buffer = np.empty((1, 24, 32, 1), np.float32)
    _front(buffer.shape, Scale(2.0)).write(tmp_path / "a.png", buffer)
    assert np.array_equal(buffer[0, :, :, 0], GREYS * 2.0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_reduced", [False, True])
def test_photo_is_prepared_upright_and_its_geometry_is_of_the_upright_original(
    orientation: int, is_reduced: bool
) -> None:
    stored = np.kron(np.array([[10, 90, 170], [250, 50, 130]], np.uint8), np.ones((32, 32), np.uint8))
    expected = upright(np.array([[10, 90, 170], [250, 50, 130]], np.uint8), orientation)
    height, width = expected.shape
    buffer = np.empty((1, height, width, 1), np.uint8)
    front = _front(buffer.shape, Resize(height, width, AREA, is_reduced), dtype="uint8")
    geometry = front.write(turned(jpeg(stored), orientation), buffer)
    assert geometry == Geometry(width * 32, height * 32, scale_x=1 / 32, scale_y=1 / 32)
    assert np.abs(buffer[0, :, :, 0].astype(int) - expected).max() <= 2  # JPEG at quality 100


def test_images_of_many_sizes_take_turns() -> None:
    buffer = np.empty((1, 4, 4, 1), np.float32)
    front = _front(buffer.shape, Resize(4, 4, AREA), Scale(0.5))
    for side in [*range(4, 24), *range(4, 24)]:
        image = RNG.integers(0, 256, (side, side + 1), dtype=np.uint8)
        geometry = front.write(image, buffer)
        assert buffer.tobytes() == front.tensor(image).tobytes()
        assert (geometry.width_px, geometry.scale_y) == (side + 1, 4 / side)


def test_another_buffer_is_written_too() -> None:
    front = _front((1, 24, 32, 1), Scale(0.5))
    first, second = np.zeros((1, 24, 32, 1), np.float32), np.zeros((1, 24, 32, 1), np.float32)
    front.write(GREYS, first)
    front.write(GREYS, second)
    assert np.array_equal(first, second)
    assert second.any()


def test_source_is_left_as_it_was() -> None:
    image = COLOURS.copy()
    image.flags.writeable = False
    _front((1, 30, 30, 3), Letterbox(30, 30, AREA), Scale(0.5)).write(image, np.empty((1, 30, 30, 3), np.float32))
    assert np.array_equal(image, COLOURS)


# ---- decoding at a part of the size


def _photo(height: int, width: int) -> NDArray[np.uint8]:
    coarse = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("size", [(640, 480), (641, 642), (333, 801)], ids=str)
def test_reduced_decode_is_nearly_the_same_image(size: tuple[int, int]) -> None:
    data = jpeg(_photo(*size))
    exact, reduced = np.empty((1, 40, 40, 3), np.uint8), np.empty((1, 40, 40, 3), np.uint8)
    geometry = _front(exact.shape, Resize(40, 40, AREA), dtype="uint8").write(data, exact)
    assert _front(exact.shape, Resize(40, 40, AREA, True), dtype="uint8").write(data, reduced) == geometry
    apart = np.abs(exact.astype(int) - reduced)
    assert apart.max() > 0  # it was decoded otherwise
    # And is the same picture, moved by less than half a pixel, over which it changes by 16 at most.
    assert apart.mean() < 5
    assert np.abs(exact.astype(int) - exact[:, ::-1]).mean() > 40


def test_reduced_decode_of_a_grey_jpeg_is_grey() -> None:
    buffer = np.empty((1, 20, 20, 1), np.uint8)
    _front(buffer.shape, Resize(20, 20, AREA, True), dtype="uint8").write(
        jpeg(np.full((320, 320), 90, np.uint8)), buffer
    )
    assert (buffer == 90).all()


@pytest.mark.parametrize("kind", ["a JPEG that is hardly larger", "a PNG", "an array"])
def test_reduced_decode_changes_nothing_else(kind: str) -> None:
    image = _photo(39, 39)
    source: Source = {"a PNG": encode_png(image), "an array": image}.get(kind, jpeg(image))
    made = [np.empty((1, 20, 20, 3), np.uint8) for _ in range(2)]
    for buffer, is_reduced in zip(made, (False, True), strict=True):
        _front(buffer.shape, Resize(20, 20, AREA, is_reduced), dtype="uint8").write(source, buffer)
    assert np.array_equal(*made)


def test_reduced_jpeg_that_is_cut_off_is_refused_or_read_like_a_whole_one() -> None:
    data = jpeg(_photo(320, 320))
    buffer = np.empty((1, 20, 20, 3), np.uint8)
    front = _front(buffer.shape, Resize(20, 20, AREA, True), dtype="uint8")
    for end in range(0, len(data), 97):
        try:
            assert front.write(data[:end], buffer).width_px == 320
        except Corrupt:
            continue


# ---- what is refused


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"no image", Corrupt),
        (b"", Corrupt),
        ("/no/such/file.png", NotFound),
        (GREYS.astype(float), InvalidInput),
        (np.array(7, np.uint8), InvalidInput),
    ],
    ids=["bytes", "empty", "path", "floats", "no axes"],
)
def test_source_that_cannot_be_used_is_refused(source: Source, error: type[Exception]) -> None:
    with pytest.raises(error):
        _front((1, 24, 32, 1)).write(source, np.empty((1, 24, 32, 1), np.float32))


@pytest.mark.parametrize("image", [COLOURS, GREYS[:23]], ids=["channels", "size"])
def test_image_that_does_not_become_what_the_model_takes_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidInput, match="the model takes"):
        _front((1, 24, 32, 1)).write(image, np.empty((1, 24, 32, 1), np.float32))


@pytest.mark.parametrize("image", [GREYS, COLOURS], ids=["grey", "colour"])
def test_crop_of_a_smaller_image_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidInput, match="center_crop"):
        _front((1, 25, 32, 1), CenterCrop(25, 32)).write(image, np.empty((1, 25, 32, 1), np.float32))


@pytest.mark.parametrize("step", [Window(4, 4), Normalize((0.0,), (0.0,))])
def test_step_that_does_not_fit_is_refused_before_any_image(step: Step) -> None:
    with pytest.raises(InvalidInput, match=r"window|normalize"):
        _front((1, 4, 4, 1), step)


def test_pixels_that_the_tensor_cannot_hold_are_refused_before_any_image() -> None:
    with pytest.raises(InvalidInput, match="stores int8 without a scale"):
        _front((1, 4, 4, 1), dtype="int8")


def test_tensor_of_another_shape_than_the_manifest_says_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the manifest says"):
        PixelFront(_spec((1, 4, 4, 1)), (), TensorSpec("x", (1, 1, 4, 4), "float32"))


@pytest.mark.parametrize("buffer", [np.empty((1, 24, 32, 1)), np.empty((24, 32), np.float32)], ids=["type", "shape"])
def test_buffer_of_another_model_is_refused(buffer: NDArray[Any]) -> None:
    with pytest.raises(InvalidInput, match="the buffer is"):
        _front((1, 24, 32, 1)).write(GREYS, buffer)


# ---- a real photo for a real model


def test_photo_for_mobilenet_is_what_the_loop_written_by_hand_makes() -> None:
    path = assets_or_skip("mobilenet/grace_hopper.bmp") / "mobilenet" / "grace_hopper.bmp"
    buffer = np.empty((1, 224, 224, 3), np.uint8)
    _front(buffer.shape, Resize(224, 224, LINEAR), dtype="uint8").write(path, buffer)
    by_hand = cv2.resize(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), (224, 224))
    assert np.array_equal(buffer[0], by_hand)
