"""Costs against numbers worked out by hand."""

from typing import Any

import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.prune.macs import count

keras = import_keras()
layers = keras.layers

IMAGE = (8, 8, 3)

BY_HAND = [
    # output positions x kernel positions x channels in x channels out; weights and biases
    (layers.Conv2D(5, 3, padding="same"), IMAGE, 64 * 9 * 3 * 5, 9 * 3 * 5 + 5),
    (layers.Conv2D(5, 3, strides=2), IMAGE, 9 * 9 * 3 * 5, 9 * 3 * 5 + 5),
    (layers.Conv2D(6, 1, groups=3, use_bias=False), IMAGE, 64 * 1 * 6, 6),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, 36 * 9 * 3 * 2, 9 * 3 * 2 + 6),
    (layers.SeparableConv2D(4, 3, padding="same"), IMAGE, 64 * (9 * 3 + 3 * 4), 27 + 12 + 4),
    # every input position is spread over the kernel
    (layers.Conv2DTranspose(2, 3, strides=2, padding="same"), IMAGE, 64 * 9 * 3 * 2, 9 * 3 * 2 + 2),
    (layers.Conv1D(4, 3), (10, 2), 8 * 3 * 2 * 4, 3 * 2 * 4 + 4),
    (layers.Dense(7), (5,), 35, 42),
    (layers.Dense(7), (10, 5), 350, 42),
    (layers.LSTM(4), (10, 3), 10 * 4 * (3 * 4 + 4 * 4), 4 * (12 + 16 + 4)),
    (layers.BatchNormalization(), IMAGE, 0, 12),
]


@pytest.mark.parametrize(("layer", "shape", "macs", "parameters"), BY_HAND)
def test_cost_of_a_layer_is_what_hand_counting_gives(
    layer: Any, shape: tuple[int, ...], macs: int, parameters: int
) -> None:
    image = keras.Input(shape)
    found = count(keras.Model(image, layer(image)))
    assert (found.macs, found.parameters, found.uncounted) == (macs, parameters, ())


def test_layer_that_is_called_twice_costs_twice_its_arithmetic_and_once_its_parameters() -> None:
    image = keras.Input((5,))
    dense = layers.Dense(5, name="dense")
    found = count(keras.Model(image, dense(dense(image))))
    assert (found.macs, found.parameters) == (50, 30)
    assert [(one.name, one.macs) for one in found.layers] == [("dense", 50)]


def test_model_inside_counts_with_its_layers() -> None:
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4)])
    image = keras.Input((5,))
    assert count(keras.Model(image, layers.Dense(2)(inner(image)))).macs == 20 + 8


def test_layer_with_unknown_arithmetic_is_named() -> None:
    series = keras.Input((6, 4))
    found = count(keras.Model(series, layers.MultiHeadAttention(2, 2, name="heads")(series, series)))
    assert found.uncounted == ("heads",)


def test_free_axes_are_refused_by_the_layers_name() -> None:
    image = keras.Input((None, None, 3))
    with pytest.raises(InvalidInput, match="'conv' works on"):
        count(keras.Model(image, layers.Conv2D(2, 3, name="conv")(image)))
