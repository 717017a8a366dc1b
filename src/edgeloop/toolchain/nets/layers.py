"""What the networks here share: normalised layers, widths that suit integer kernels, the classifying end."""

from typing import Any

from edgeloop.toolchain.source.model import FEATURES, LOGITS

_MOMENTUM = 0.9  # Keras' 0.99 needs a thousand steps before inference knows what training saw


def channels(base: float, width: float) -> int:
    """base * width as a multiple of 4, at least 4: integer kernels take channels by fours."""
    return max(4, 4 * round(base * width / 4))


def standardised(keras: Any, x: Any) -> Any:
    """An input of any scale as numbers of about zero mean and unit spread, as training data has them."""
    return keras.layers.BatchNormalization(momentum=_MOMENTUM, name="norm")(x)


def normalised(keras: Any, x: Any, layer: Any, *, name: str, relu: bool = True) -> Any:
    """A convolution without bias, BatchNorm and ReLU; converters fold the three into one operator.

    Source: Ioffe and Szegedy 2015 (arXiv 1502.03167).
    """
    x = layer(x)
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def scored(keras: Any, x: Any, *, classes: int) -> Any:
    """Mean over all places, named "features", then one score a class, "logits".

    x: (N, ..., C) with one or two axes of places. Source: Lin et al. 2014 (arXiv 1312.4400), sec. 3.2.
    """
    places = len(x.shape) - 2
    pool = keras.layers.GlobalAveragePooling1D if places == 1 else keras.layers.GlobalAveragePooling2D
    return keras.layers.Dense(classes, name=LOGITS)(pool(name=FEATURES)(x))
