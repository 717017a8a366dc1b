import numpy as np
import pytest

from edgeloop.toolchain.quantize.equalize import equalize, fold_batchnorm, output_ranges
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe
from edgeloop.toolchain.source.model import Model
from quantizable import images, mixed_model, mixed_net


@pytest.fixture(scope="module")
def unequal() -> Model:
    return mixed_model(unequal=True)


def test_folding_takes_batchnorm_out_and_changes_no_answer() -> None:
    net = mixed_net()
    folded = fold_batchnorm(net)
    expected = net.predict(images(), verbose=0)
    assert "BatchNormalization" not in {type(layer).__name__ for layer in folded.layers}
    # Sums in another order: 1e-5 of the largest is a hundred times float32's rounding.
    assert np.abs(folded.predict(images(), verbose=0) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_folded_weights_are_those_of_the_formula() -> None:
    net = mixed_net()
    norm, kernel = net.get_layer("norm"), net.get_layer("first").get_weights()[0]
    gamma, beta, mean, variance = (np.asarray(one, np.float64) for one in norm.get_weights())
    folded, bias = fold_batchnorm(net).get_layer("first").get_weights()
    factor = gamma / np.sqrt(variance + norm.epsilon)
    assert np.allclose(folded, kernel * factor, rtol=1e-6)
    assert np.allclose(bias, beta - mean * factor, rtol=1e-5, atol=1e-6)


def test_a_norm_that_does_not_follow_its_layer_alone_stays() -> None:
    from edgeloop.toolchain.backend import import_keras

    keras = import_keras()
    image = keras.Input((4, 4, 2))
    made = keras.layers.Conv2D(2, 1)(image)
    net = keras.Model(image, keras.layers.Add()([keras.layers.BatchNormalization()(made), made]))
    assert [type(layer).__name__ for layer in fold_batchnorm(net).layers].count("BatchNormalization") == 1


def test_equalising_changes_no_answer(unequal: Model) -> None:
    expected = unequal.scores(images())
    assert np.abs(equalize(unequal).scores(images()) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_equalised_neighbours_have_the_same_range_in_each_channel(unequal: Model) -> None:
    net = equalize(unequal).native
    depth = np.abs(np.asarray(net.get_layer("depth").kernel)).max(axis=(0, 1, 3))
    # It ends when a round changes nothing by more than 0.1 %.
    assert np.allclose(output_ranges(net.get_layer("first")), depth, rtol=2e-3)


def test_a_ceiling_between_two_layers_holds_factors_up() -> None:
    from edgeloop.toolchain.backend import import_keras
    from edgeloop.toolchain.source.keras import wrap_keras

    keras = import_keras()
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 2))
    x = keras.layers.ReLU(6.0)(keras.layers.Conv2D(4, 1, name="first")(image))
    model = wrap_keras(keras.Model(image, keras.layers.Conv2D(2, 1)(x)), name="six.keras")
    kernel = np.asarray(model.native.get_layer("first").kernel)
    assert np.array_equal(np.asarray(equalize(model).native.get_layer("first").kernel), kernel)


def test_one_scale_a_tensor_errs_less_on_equalised_channels(unequal: Model) -> None:
    plain, equalised = (
        quantize(unequal, QuantizeRecipe(granularity=Granularity.TENSOR, calibration_samples=64, equalize=on), images())
        for on in (False, True)
    )
    assert equalised[1].mean_abs_error < 0.5 * plain[1].mean_abs_error
    assert [step.kind for step in equalised[0].steps] == ["equalize", "convert", "quantize"]
