"""Each step against a plain NumPy statement of what the manifest says that it does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    FillMissing,
    Grey,
    Interpolation,
    Letterbox,
    Missing,
    Normalize,
    Resize,
    ResizeShorter,
    Scale,
    Step,
    Window,
)
from edgeloop.runtime.input.image_steps import grey, whole_weights
from edgeloop.runtime.input.preprocess import check_steps, preprocess

RNG = np.random.default_rng(7)
COLOURS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREYS = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
FLOATS = RNG.random((6, 8)).astype(np.float32)


def _image(*shape: int) -> InputSpec:
    return InputSpec("x", Modality.IMAGE, (1, *shape), "NHWC", (0.0, 255.0))


def _tensor(*shape: int) -> InputSpec:
    return InputSpec("x", Modality.TENSOR, (1, *shape), "N" + "DHWC"[: len(shape)], (0.0, 1.0))


def _run(value: NDArray[np.generic], *steps: Step, spec: InputSpec) -> NDArray[np.float32]:
    return preprocess(value, steps, spec)[0]


# ---- shaping


def test_grey_image_gets_batch_and_channel_axes() -> None:
    assert preprocess(GREYS, (), _image(6, 8, 1)).shape == (1, 6, 8, 1)


def test_colour_image_gets_a_batch_axis() -> None:
    assert preprocess(COLOURS, (), _image(6, 8, 3))[0].tolist() == COLOURS.tolist()


def test_result_is_contiguous_float32() -> None:
    result = preprocess(COLOURS, (CenterCrop(2, 2),), _image(2, 2, 3))
    assert (result.dtype, result.flags.c_contiguous) == (np.float32, True)


def test_input_is_left_as_it_was() -> None:
    value = FLOATS.copy()
    preprocess(value, (Scale(2.0), Normalize((1.0,) * 8, (2.0,) * 8)), _tensor(6, 8))
    assert value.tolist() == FLOATS.tolist()


@pytest.mark.parametrize("shape", [(6, 8, 1), (8, 6, 3), (5, 8, 3)], ids=str)
def test_result_of_another_shape_than_the_model_takes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="the model takes"):
        preprocess(COLOURS, (), _image(*shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensor_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        preprocess(np.array([1.0, bad], np.float32), (), _tensor(2))


def test_tensor_beyond_float32_is_refused() -> None:
    with pytest.raises(InvalidInput):
        preprocess(np.array([1.0, 1e300]), (), _tensor(2))


@pytest.mark.parametrize("value", [np.array(["a", "b"]), np.array([None, {}], dtype=object)], ids=["text", "object"])
def test_tensor_that_holds_no_numbers_is_refused(value: NDArray[np.generic]) -> None:
    with pytest.raises(InvalidInput):
        preprocess(value, (), _tensor(2))


# ---- grey


def test_grey_is_the_weighted_sum_of_channels() -> None:
    weights = (0.25, 0.5, 0.125)  # exact in binary, so the sum is too
    expected = [[math.floor(0.25 * r + 0.5 * g + 0.125 * b + 0.5) for r, g, b in row] for row in COLOURS.tolist()]
    assert _run(COLOURS, Grey(weights), spec=_image(6, 8, 1))[:, :, 0].tolist() == expected


def test_grey_weighs_red_green_and_blue_as_the_manifest_says_by_default() -> None:
    corners = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    # BT.601: 255 times 0.299, 0.587 and 0.114, rounded to whole grey levels as the input's are.
    assert _run(corners, Grey(), spec=_image(1, 3, 1))[0, :, 0].tolist() == [76.0, 150.0, 29.0]


def test_grey_is_computed_in_whole_numbers() -> None:
    colours = np.random.default_rng(5).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    red, green, blue = (colours[..., channel].astype(int) for channel in range(3))
    # 0.299, 0.587 and 0.114 in 2^-15ths: rounded down 9797, 19234 and 3735, and two more where most was cut off.
    expected = (9798 * red + 19235 * green + 3735 * blue + 2**14) >> 15
    assert np.array_equal(grey(colours, Grey()), expected)


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_whole_weights_add_up_to_what_the_real_ones_do(weights: tuple[float, float, float]) -> None:
    whole = whole_weights(weights)
    assert sum(whole) == round(sum(weight * 2**15 for weight in weights))
    assert all(abs(one - weight * 2**15) <= 1 for one, weight in zip(whole, weights, strict=True))


def test_grey_leaves_a_grey_image_as_it_is() -> None:
    assert _run(GREYS, Grey(), spec=_image(6, 8, 1))[:, :, 0].tolist() == GREYS.tolist()


def test_grey_of_floats_is_not_rounded() -> None:
    value = np.full((1, 1, 3), 0.25, np.float32)
    result = _run(value, Grey((0.5, 0.25, 0.125)), spec=_image(1, 1, 1))
    assert result.tolist() == [[[0.21875]]]


def test_grey_of_four_channels_is_refused() -> None:
    with pytest.raises(InvalidInput, match="grey"):
        preprocess(np.zeros((2, 2, 4), np.float32), (Grey(),), _image(2, 2, 1))


# ---- resize


def test_area_resize_is_the_mean_of_blocks() -> None:
    expected = FLOATS.astype(np.float64).reshape(3, 2, 4, 2).mean(axis=(1, 3))
    result = _run(FLOATS, Resize(3, 4, Interpolation.AREA), spec=_image(3, 4, 1))[:, :, 0]
    np.testing.assert_allclose(result, expected, rtol=1e-6)  # four float32 additions: a few parts in 10^7


def test_nearest_resize_repeats_pixels() -> None:
    result = _run(GREYS, Resize(12, 16, Interpolation.NEAREST), spec=_image(12, 16, 1))
    assert result[:, :, 0].tolist() == np.repeat(np.repeat(GREYS, 2, axis=0), 2, axis=1).tolist()


def _linear(value: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear with pixel centres at half: output i lies at (i + 0.5) * old / new - 0.5, clamped to the image."""
    for axis, size in ((0, height), (1, width)):
        old = value.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        value = value.take(low, axis) * (1 - share) + value.take(high, axis) * share
    return value


@pytest.mark.parametrize("size", [(12, 16), (9, 5), (4, 4)], ids=str)
def test_linear_resize_interpolates_between_pixel_centres(size: tuple[int, int]) -> None:
    result = _run(FLOATS, Resize(*size, Interpolation.LINEAR), spec=_image(*size, 1))[:, :, 0]
    # Values up to 1, weights in float32: a few units of 2^-24 each.
    np.testing.assert_allclose(result, _linear(FLOATS.astype(np.float64), *size), atol=1e-6)


def _cubic(value: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Keys 1981 with a = -0.75, over the four nearest pixel centres, the image's edge repeated."""
    for axis, size in ((0, height), (1, width)):
        old = value.shape[axis]
        at = (np.arange(size) + 0.5) * old / size - 0.5
        low, made = np.floor(at).astype(int), 0.0
        for tap in range(-1, 3):
            d = np.abs(at - (low + tap))
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weight = np.where(d <= 1, near, far).reshape((-1, 1) if axis == 0 else (1, -1))
            made = made + value.take(np.clip(low + tap, 0, old - 1), axis) * weight
        value = np.asarray(made)
    return value


@pytest.mark.parametrize("size", [(12, 16), (9, 5), (4, 4)], ids=str)
def test_cubic_resize_lays_a_curve_through_four_pixels(size: tuple[int, int]) -> None:
    result = _run(FLOATS, Resize(*size, Interpolation.CUBIC), spec=_image(*size, 1))[:, :, 0]
    # Values up to 1.5, sixteen products in float32: a few units of 2^-24 each.
    np.testing.assert_allclose(result, _cubic(FLOATS.astype(np.float64), *size), atol=2e-6)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((6, 8), 3, (3, 4)), ((8, 6), 3, (4, 3)), ((5, 5), 2, (2, 2)), ((4, 10), 3, (3, 8)), ((3, 7), 4, (4, 9))],
    ids=str,
)  # 10 * 3 / 4 = 7.5 is 8, 7 * 4 / 3 = 9.33 is 9
def test_shorter_side_is_brought_to_its_length(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    value = RNG.integers(0, 256, size, dtype=np.uint8)
    result = _run(value, ResizeShorter(side, Interpolation.LINEAR), spec=_image(*expected, 1))
    same = _run(value, Resize(*expected, Interpolation.LINEAR), spec=_image(*expected, 1))
    assert result.tolist() == same.tolist()


def test_long_image_that_would_become_a_huge_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="would become 300x300000"):
        preprocess(np.zeros((1, 1000), np.uint8), (ResizeShorter(300, Interpolation.AREA),), _image(300, 300, 1))


# ---- letterbox


@pytest.mark.parametrize(("centered", "rows"), [(True, slice(1, 4)), (False, slice(0, 3))], ids=["centred", "top left"])
def test_letterbox_fills_what_the_image_leaves_free(centered: bool, rows: slice) -> None:
    step = Letterbox(6, 4, Interpolation.AREA, fill=9, centered=centered)  # 6x8 becomes 3x4; 3 rows are left
    expected = np.full((6, 4, 3), 9.0)
    expected[rows] = _run(COLOURS, Resize(3, 4, Interpolation.AREA), spec=_image(3, 4, 3))
    assert _run(COLOURS, step, spec=_image(6, 4, 3)).tolist() == expected.tolist()


def test_letterbox_puts_the_smaller_half_of_an_odd_rest_on_the_left() -> None:
    result = _run(np.full((4, 4), 200, np.uint8), Letterbox(4, 7, Interpolation.AREA), spec=_image(4, 7, 1))
    assert result[0, :, 0].tolist() == [114.0, 200.0, 200.0, 200.0, 200.0, 114.0, 114.0]


def test_letterbox_enlarges_what_is_small() -> None:
    result = _run(GREYS, Letterbox(12, 20, Interpolation.NEAREST, fill=0), spec=_image(12, 20, 1))[:, :, 0]
    assert result[:, 2:18].tolist() == np.repeat(np.repeat(GREYS, 2, axis=0), 2, axis=1).tolist()
    assert not result[:, :2].any()
    assert not result[:, 18:].any()


@pytest.mark.parametrize(("size", "inner"), [((1000, 3), (8, 1)), ((3, 1000), (1, 8))], ids=str)
def test_letterbox_leaves_a_line_of_what_is_very_long(size: tuple[int, int], inner: tuple[int, int]) -> None:
    value = np.full(size, 200, np.uint8)
    result = _run(value, Letterbox(8, 8, Interpolation.AREA, fill=0, centered=False), spec=_image(8, 8, 1))[:, :, 0]
    assert (result > 0).sum() == inner[0] * inner[1]


# ---- colour


def test_grey_image_is_repeated_in_three_channels() -> None:
    result = _run(GREYS, Colour(ColourOrder.RGB), spec=_image(6, 8, 3))
    assert all(result[:, :, channel].tolist() == GREYS.tolist() for channel in range(3))


@pytest.mark.parametrize(("order", "channels"), [(ColourOrder.RGB, [0, 1, 2]), (ColourOrder.BGR, [2, 1, 0])])
def test_colours_come_in_the_order_that_is_asked_for(order: ColourOrder, channels: list[int]) -> None:
    assert _run(COLOURS, Colour(order), spec=_image(6, 8, 3)).tolist() == COLOURS[:, :, channels].tolist()


def test_mean_and_std_after_colour_are_of_its_order() -> None:
    result = _run(COLOURS, Colour(ColourOrder.BGR), Normalize((1.0, 2.0, 3.0), (1.0,) * 3), spec=_image(6, 8, 3))
    assert result[0, 0].tolist() == (COLOURS[0, 0, ::-1].astype(float) - [1.0, 2.0, 3.0]).tolist()


# ---- which steps go together


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ((Window(10, 10),), "'window' does not go with image"),
        ((Grey(), FillMissing(Missing.ZERO, 0.5)), "'fill_missing' does not go with image"),
        ((Grey(), Resize(2, 2, Interpolation.AREA, reduced_decode=True)), "'resize' with reduced_decode"),
        ((Colour(ColourOrder.RGB), Colour(ColourOrder.BGR)), "'colour' comes a second time"),
        ((Colour(ColourOrder.BGR), Grey()), "'grey' comes after 'colour'"),
        ((Scale(float("nan")),), "'scale' has"),
        ((Scale(1e39),), "'scale' has"),
        ((Scale(1.0, float("inf")),), "'scale' has"),
        ((Grey((1.0, float("nan"), 0.0)),), "'grey' has"),
        ((Normalize((float("inf"),), (1.0,)),), "'normalize' has"),
        ((Normalize((0.0,), (0.0,)),), "'normalize' has"),
        ((Normalize((0.0,), (1e-60,)),), "'normalize' has"),
        ((Normalize((0.0, 0.0), (1.0,)),), "'normalize' has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_that_no_image_can_take_are_refused_by_name(steps: tuple[Step, ...], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        check_steps(steps, _image(2, 2, 1))


@pytest.mark.parametrize(
    "step", [Grey(), Colour(ColourOrder.RGB), CenterCrop(1, 1), Resize(1, 1, Interpolation.AREA), Window(1, 1)]
)
def test_tensor_takes_only_arithmetic(step: Step) -> None:
    with pytest.raises(InvalidInput, match="does not go with tensor"):
        check_steps((step,), _tensor(4))


@pytest.mark.parametrize("modality", [Modality.SOUND, Modality.SERIES])
def test_other_inputs_are_prepared_elsewhere(modality: Modality) -> None:
    with pytest.raises(InvalidInput, match="images and tensors"):
        check_steps((), InputSpec("x", modality, (1, 4), "NT", (0.0, 1.0)))


def test_reduced_decode_may_be_the_first_step() -> None:
    check_steps((Resize(2, 2, Interpolation.AREA, reduced_decode=True), Grey()), _image(2, 2, 1))


def test_grey_beyond_white_is_white() -> None:
    assert _run(np.full((1, 1, 3), 200, np.uint8), Grey((1.0, 1.0, -0.5)), spec=_image(1, 1, 1)).tolist() == [[[255.0]]]


def test_arithmetic_beyond_float32_is_refused() -> None:
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        preprocess(GREYS, (Scale(1e38), Scale(1e38)), _image(6, 8, 1))


@pytest.mark.parametrize("way", list(Interpolation))
def test_resize_to_the_same_size_changes_nothing(way: Interpolation) -> None:
    assert _run(GREYS, Resize(6, 8, way), spec=_image(6, 8, 1))[:, :, 0].tolist() == GREYS.tolist()


@pytest.mark.parametrize("way", list(Interpolation))
def test_resize_keeps_colours_apart(way: Interpolation) -> None:
    red = np.zeros((6, 8, 3), np.uint8)
    red[:, :, 0] = 200
    assert _run(red, Resize(3, 5, way), spec=_image(3, 5, 3)).reshape(-1, 3).max(axis=0).tolist() == [200.0, 0.0, 0.0]


# ---- crop, scale, normalize


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(2, 2, (2, 4), (3, 5)), (3, 5, (1, 4), (1, 6)),
                                                                 (6, 8, (0, 6), (0, 8))])  # fmt: skip
def test_center_crop_takes_the_middle(height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    expected = COLOURS[slice(*rows), slice(*columns)]
    assert _run(COLOURS, CenterCrop(height, width), spec=_image(height, width, 3)).tolist() == expected.tolist()


@pytest.mark.parametrize("step", [CenterCrop(7, 8), CenterCrop(6, 9)])
def test_center_crop_of_a_smaller_image_is_refused(step: CenterCrop) -> None:
    with pytest.raises(InvalidInput, match="center_crop"):
        preprocess(COLOURS, (step,), _image(step.height_px, step.width_px, 3))


def test_scale_is_times_factor_plus_offset() -> None:
    result = _run(GREYS, Scale(0.5, -3.0), spec=_image(6, 8, 1))
    assert result[:, :, 0].tolist() == (GREYS.astype(np.float64) * 0.5 - 3.0).tolist()  # exact in float32


def test_normalize_is_minus_mean_by_std_for_each_channel() -> None:
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    result = _run(COLOURS, Normalize(mean, std), spec=_image(6, 8, 3))
    assert result.tolist() == ((COLOURS.astype(np.float64) - mean) / std).tolist()  # exact: divided by powers of two


def test_normalize_of_a_grey_image_takes_one_mean() -> None:
    result = _run(GREYS, Normalize((10.0,), (2.0,)), spec=_image(6, 8, 1))
    assert result[:, :, 0].tolist() == ((GREYS.astype(np.float64) - 10.0) / 2.0).tolist()


def test_normalize_of_a_vector_takes_one_mean_a_feature() -> None:
    result = _run(np.array([1.0, 2.0]), Normalize((1.0, 1.0), (2.0, 4.0)), spec=_tensor(2))
    assert result.tolist() == [0.0, 0.25]


@pytest.mark.parametrize(("mean", "std"), [((1.0,), (1.0,)), ((1.0,) * 3, (1.0,)), ((1.0,) * 4, (1.0,) * 4), ((), ())])
def test_normalize_for_another_number_of_channels_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="normalize"):
        preprocess(COLOURS, (Normalize(mean, std),), _image(6, 8, 3))


@given(
    value=hnp.arrays(np.uint8, (3, 4, 3)),
    factor=st.floats(1 / 512, 2.0),
    offset=st.floats(-2.0, 2.0),
    mean=st.tuples(*[st.floats(-1.0, 1.0)] * 3),
    std=st.tuples(*[st.floats(0.1, 2.0)] * 3),
)
def test_scale_then_normalize_is_one_affine_map(
    value: NDArray[np.uint8],
    factor: float,
    offset: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> None:
    result = _run(value, Scale(factor, offset), Normalize(mean, std), spec=_image(3, 4, 3))
    expected = (value.astype(np.float64) * factor + offset - mean) / std
    # Before the division values reach 513; each of four float32 roundings errs by up to 2^-24 of that, and the
    # division by std >= 0.1 multiplies it by up to 10: 4 * 513 * 10 / 2^24 = 0.0012.
    np.testing.assert_allclose(result, expected, atol=1.3e-3)


def test_steps_are_applied_in_their_order() -> None:
    value = np.array([4.0], np.float32)
    first = _run(value, Scale(2.0), Scale(1.0, 1.0), spec=_tensor(1))
    second = _run(value, Scale(1.0, 1.0), Scale(2.0), spec=_tensor(1))
    assert (first.tolist(), second.tolist()) == ([9.0], [10.0])


def test_normalize_of_a_table_takes_one_mean_a_column() -> None:
    value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    result = _run(value, Normalize((1.0, 2.0), (2.0, 4.0)), spec=_tensor(3, 2))
    assert result.tolist() == [[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]]
