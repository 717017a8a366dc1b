"""A small one-dimensional network for series: motion, vibration, sound, spectra."""

from typing import Any

from edgeloop.toolchain.nets.layers import channels, normalised, scored, standardised

_FIRST = 16
_WIDEST = 128
_KERNEL = 5
_SHORTEST = 8


def series_net(keras: Any, length: int, per_step: int, *, classes: int, width: float = 1.0, depth: int = 3) -> Any:
    """`depth` convolutions over time, each halving the length down to 8 steps, mean over time, one score a class.

    Input "series" (1, T, C) of any range, normalised by the net's first layer; output "logits" (1, classes). width:
    factor on the channels, 16 and then doubling up to 128. Source: Wang et al. 2017 (arXiv 1611.06455), the fully
    convolutional network, with strides.
    """
    layers = keras.layers
    series = keras.Input((length, per_step), name="series")
    x = standardised(keras, series)
    left = length
    for index in range(1, depth + 1):
        stride = 2 if left > _SHORTEST else 1
        left = -(-left // stride)
        filters = channels(min(_WIDEST, _FIRST * 2 ** (index - 1)), width)
        conv = layers.Conv1D(filters, _KERNEL, strides=stride, padding="same", use_bias=False, name=f"conv{index}")
        x = normalised(keras, x, conv, name=f"conv{index}")
    return keras.Model(series, scored(keras, x, classes=classes), name="series")
