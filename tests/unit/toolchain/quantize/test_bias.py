import numpy as np
import pytest

from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.quantize.bias import mean_output
from edgeloop.toolchain.quantize.litert import quantize_litert
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from quantizable import images


def test_mean_output_of_a_convolution_is_the_mean_of_its_outputs() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(4, 3, 3, 2)), rng.normal(size=(2,))
    constant = np.broadcast_to(x, (3, 3, 2))
    expected = [(kernel * constant).sum() for kernel in weights]
    assert np.allclose(mean_output(weights, x, "CONV_2D"), expected, rtol=1e-12)


def test_mean_output_of_a_depthwise_kernel_keeps_channels_apart() -> None:
    rng = np.random.default_rng(0)
    # Two outputs for each of three channels, side by side.
    weights, x = rng.normal(size=(1, 3, 3, 6)), rng.normal(size=(3,))
    expected = [weights[0, :, :, out].sum() * x[out // 2] for out in range(6)]
    assert np.allclose(mean_output(weights, x, "DEPTHWISE_CONV_2D"), expected, rtol=1e-12)


def test_mean_output_of_a_dense_layer_is_its_product() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(5, 3)), rng.normal(size=(3,))
    assert np.allclose(mean_output(weights, x, "FULLY_CONNECTED"), [row @ x for row in weights], rtol=1e-12)


@pytest.mark.parametrize("granularity", list(Granularity))
def test_correction_brings_mean_scores_back_to_the_float_models(
    float_model: Model, float_litert: bytes, granularity: Granularity
) -> None:
    expected = float_model.scores(images())

    def shift(*, corrected: bool) -> float:
        recipe = QuantizeRecipe(precision=Precision.INT4_WEIGHTS, granularity=granularity, correct_bias=corrected)
        made = quantize_litert(float_litert, recipe, {"image": images()})
        scores = wrap_runnable(made, Format.LITERT, name="made.tflite").scores(images())
        return float(np.abs((scores - expected).mean(axis=0)).max())

    assert shift(corrected=True) < 0.5 * shift(corrected=False)
