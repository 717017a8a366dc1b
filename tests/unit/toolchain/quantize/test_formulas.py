import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.quantize import formulas
from edgeloop.toolchain.quantize.recipe import Calibration, QuantizeRecipe, Symmetry

WEIGHTS = arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32))


def _stated(row: NDArray[np.float32], bits: int, symmetry: Symmetry) -> NDArray[np.float64]:
    """What quantizing and back makes of real values, said again without the code under test: one value at a time."""
    if symmetry is Symmetry.SYMMETRIC:
        top = 2 ** (bits - 1) - 1
        step = max(max(abs(float(x)) for x in row.ravel()), 1e-9) / top
        return np.array([min(max(round(float(x) / step), -top), top) * step for x in row.ravel()]).reshape(row.shape)
    low, high = min(0.0, float(row.min())), max(0.0, float(row.max()))
    step = max(high - low, 1e-9) / (2**bits - 1)
    zero = round(-(2 ** (bits - 1)) - low / step)
    made = []
    for x in row.ravel():
        stored = min(max(round(float(x) / step) + zero, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
        made.append((stored - zero) * step)
    return np.array(made).reshape(row.shape)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("symmetry", list(Symmetry))
@pytest.mark.parametrize("axis", [None, 0, -1])
@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS)
def test_each_scheme_is_what_its_formula_says(
    weights: NDArray[np.float32], bits: int, symmetry: Symmetry, axis: int | None
) -> None:
    made = formulas.rounded(weights, bits=bits, symmetry=symmetry, axis=axis)
    if axis is None:
        expected = _stated(weights, bits, symmetry)
    else:
        rows = np.moveaxis(weights, axis, 0)
        expected = np.moveaxis(np.stack([_stated(row, bits, symmetry) for row in rows]), 0, axis)
    # The same float64 formula: what differs is the last digit of a division.
    assert np.allclose(made, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("symmetry", list(Symmetry))
@settings(max_examples=50, deadline=None)
@given(weights=WEIGHTS, bits=st.integers(3, 16))
def test_no_value_inside_the_range_moves_by_more_than_half_a_step(
    weights: NDArray[np.float32], bits: int, symmetry: Symmetry
) -> None:
    scale, _ = formulas.scale_and_zero(weights.min(), weights.max(), bits=bits, symmetry=symmetry)
    made = formulas.rounded(weights, bits=bits, symmetry=symmetry)
    # Asymmetric ends lie up to half a step off, since zero itself is exact; so the outermost may move by one step.
    most = 0.5 if symmetry is Symmetry.SYMMETRIC else 1.0
    assert np.abs(made - weights).max() <= most * scale * (1 + 1e-9)


@pytest.mark.parametrize("symmetry", list(Symmetry))
def test_zero_is_stored_exactly(symmetry: Symmetry) -> None:
    values = np.array([-1.3, 0.0, 0.7, 5.1])
    assert formulas.rounded(values, bits=4, symmetry=symmetry)[1] == 0.0


def test_a_range_that_is_nan_or_upside_down_is_refused() -> None:
    for low, high in ((np.nan, 1.0), (1.0, -1.0), (0.0, np.inf)):
        with pytest.raises(InvalidInput, match="has no scale"):
            formulas.scale_and_zero(low, high, bits=8, symmetry=Symmetry.SYMMETRIC)


# ---- calibration


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float64]:
    """Mostly a bell, a few values far out."""
    made = np.random.default_rng(1).normal(size=(64, 500))
    made[3, 7], made[40, 0] = 30.0, -12.0
    return made


def _range(samples: NDArray[np.float64], calibration: Calibration, **settings: object) -> tuple[float, float]:
    recipe = QuantizeRecipe(calibration=calibration, **settings)  # type: ignore[arg-type]
    return formulas.chosen_range(formulas.seen_in(samples), recipe, bits=8)


def test_min_max_is_the_range_of_all_samples(samples: NDArray[np.float64]) -> None:
    assert _range(samples, Calibration.MIN_MAX) == (-12.0, 30.0)


def test_moving_average_follows_each_samples_ends(samples: NDArray[np.float64]) -> None:
    low, high = samples[0].min(), samples[0].max()
    for sample in samples[1:]:
        low, high = 0.95 * low + 0.05 * sample.min(), 0.95 * high + 0.05 * sample.max()
    assert _range(samples, Calibration.MOVING_AVERAGE) == pytest.approx((low, high), rel=1e-12)


def test_percentile_cuts_off_the_same_share_at_each_end(samples: NDArray[np.float64]) -> None:
    made = _range(samples, Calibration.PERCENTILE, percentile=99.0)
    # Exact to one bin of the histogram: 60 wide in 4096 bins.
    assert made == pytest.approx(tuple(np.percentile(samples, [1.0, 99.0])), abs=2 * 60 / formulas.BINS)


def test_percentile_of_symmetric_activations_is_of_the_magnitude(samples: NDArray[np.float64]) -> None:
    low, high = _range(samples, Calibration.PERCENTILE, percentile=99.0, activations=Symmetry.SYMMETRIC)
    assert (-low, high) == pytest.approx((np.percentile(np.abs(samples), 99.0),) * 2, abs=2 * 60 / formulas.BINS)


@pytest.mark.parametrize("symmetry", list(Symmetry))
def test_mse_range_has_less_squared_error_than_min_max(samples: NDArray[np.float64], symmetry: Symmetry) -> None:
    def error(ends: tuple[float, float]) -> float:
        scale, zero = formulas.scale_and_zero(*ends, bits=4, symmetry=symmetry)
        stored = formulas.quantize(samples, scale, zero, bits=4, symmetry=symmetry)
        return float(((formulas.dequantize(stored, scale, zero) - samples) ** 2).mean())

    recipe = QuantizeRecipe(calibration=Calibration.MSE, activations=symmetry)
    chosen = formulas.chosen_range(formulas.seen_in(samples), recipe, bits=4)
    others = [(-12.0 * share, 30.0 * share) for share in np.linspace(0.2, 1.0, 81)]
    # The search reads bin centres, 0.015 apart, not the values themselves.
    assert error(chosen) <= min(error(ends) for ends in others) * 1.02


def test_entropy_clips_outliers_and_keeps_the_bulk(samples: NDArray[np.float64]) -> None:
    low, high = _range(samples, Calibration.ENTROPY)
    assert 2.0 < high < 12.0
    assert -12.0 < low < -2.0


def test_entropy_is_not_led_astray_by_the_zeros_that_a_relu_leaves() -> None:
    bulk = np.abs(np.random.default_rng(0).normal(size=(32, 400)))
    with_zeros = np.concatenate([bulk, np.zeros((32, 4000))], axis=1)
    assert _range(with_zeros, Calibration.ENTROPY)[1] == _range(bulk, Calibration.ENTROPY)[1]


@pytest.mark.parametrize("calibration", list(Calibration))
def test_a_tensor_that_is_always_zero_has_a_range(calibration: Calibration) -> None:
    assert _range(np.zeros((16, 5)), calibration) == (0.0, 0.0)


@pytest.mark.parametrize("calibration", list(Calibration))
@settings(max_examples=20, deadline=None)
@given(values=arrays(np.float64, (16, 8), elements=st.floats(-100, 100, width=32)))
def test_every_range_lies_within_what_was_seen(values: NDArray[np.float64], calibration: Calibration) -> None:
    low, high = _range(values, calibration)
    assert min(values.min(), 0) - 1e-9 <= low <= high <= max(values.max(), 0) + 1e-9
