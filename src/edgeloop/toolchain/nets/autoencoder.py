"""Autoencoders, for anomalies: what a net cannot reproduce, it has not seen."""

from math import prod
from typing import Any

from edgeloop.toolchain.nets.layers import channels, normalised
from edgeloop.toolchain.source.model import FEATURES

_HIDDEN = 64
_NARROWEST = 8
_FILTERS = 16


def array_autoencoder(keras: Any, shape: tuple[int, ...], *, width: float = 1.0, depth: int = 2) -> Any:
    """Dense layers down to a narrow middle called "features" and up again, to the input's own shape.

    Input "sample" (1, *shape) of any range; output the same. width: factor on 64 hidden and 8 middle units; depth:
    hidden layers on each side. Source: Hinton and Salakhutdinov 2006 (Science 313); its size after the anomaly
    detection task of MLPerf Tiny, Banbury et al. 2021 (arXiv 2106.07597), at half the width and depth.
    """
    layers = keras.layers
    sample = keras.Input(shape, name="sample")
    hidden = channels(_HIDDEN, width)
    x = layers.Flatten(name="flatten")(sample) if len(shape) > 1 else sample
    for index in range(1, depth + 1):
        x = normalised(keras, x, layers.Dense(hidden, use_bias=False, name=f"down{index}"), name=f"down{index}")
    x = layers.Dense(channels(_NARROWEST, width), activation="relu", name=FEATURES)(x)
    for index in range(1, depth + 1):
        x = normalised(keras, x, layers.Dense(hidden, use_bias=False, name=f"up{index}"), name=f"up{index}")
    x = layers.Dense(prod(shape), name="reproduced")(x)
    return keras.Model(sample, layers.Reshape(shape, name="shaped")(x) if len(shape) > 1 else x, name="autoencoder")


def image_autoencoder(
    keras: Any, height_px: int, width_px: int, colours: int, *, width: float = 1.0, depth: int = 2
) -> Any:
    """Strided convolutions down to a narrow middle called "features", and up again, to the input's own shape.

    Input "image" (1, H, W, C) of any range; output the same. depth: times that the sides are halved; width: factor
    on 16 channels, doubling with each halving, and on the middle's 64 units. Source: Masci et al. 2011 (ICANN,
    LNCS 6791), with strides for pooling; resize and convolution on the way up, Odena et al. 2016 (distill.00003).
    """
    layers = keras.layers
    image = keras.Input((height_px, width_px, colours), name="image")
    x = image
    for index in range(1, depth + 1):
        filters = channels(_FILTERS * 2 ** (index - 1), width)
        conv = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"down{index}")
        x = normalised(keras, x, conv, name=f"down{index}")
    small = tuple(int(size) for size in x.shape[1:])
    x = layers.Dense(channels(_HIDDEN, width), activation="relu", name=FEATURES)(layers.Flatten(name="flatten")(x))
    x = layers.Reshape(small, name="spread")(layers.Dense(prod(small), activation="relu", name="widen")(x))
    for index in range(depth, 0, -1):
        filters = channels(_FILTERS * 2 ** max(0, index - 2), width)
        x = layers.UpSampling2D(name=f"up{index}_larger")(x)
        conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"up{index}")
        x = normalised(keras, x, conv, name=f"up{index}")
    surplus = (x.shape[1] - height_px, x.shape[2] - width_px)
    if any(surplus):
        x = layers.Cropping2D(((0, surplus[0]), (0, surplus[1])), name="cropped")(x)
    return keras.Model(image, layers.Conv2D(colours, 3, padding="same", name="reproduced")(x), name="autoencoder")
