"""A dense network for tables: rows of numbers that have no order in space or time."""

from typing import Any

from edgeloop.toolchain.nets.layers import channels, normalised, standardised
from edgeloop.toolchain.source.model import FEATURES, LOGITS

_HIDDEN = 64


def dense_net(keras: Any, columns: int, *, classes: int, width: float = 1.0, depth: int = 2) -> Any:
    """`depth` hidden layers of 64 * width units, one score a class.

    Input "sample" (1, columns) of any range, normalised by the net's first layer; output "logits" (1, classes); the
    last hidden layer is called "features". Source: Rumelhart et al. 1986 (Nature 323), with ReLU and BatchNorm.
    """
    layers = keras.layers
    sample = keras.Input((columns,), name="sample")
    x = standardised(keras, sample)
    hidden = channels(_HIDDEN, width)
    for index in range(1, depth):
        x = normalised(keras, x, layers.Dense(hidden, use_bias=False, name=f"hidden{index}"), name=f"hidden{index}")
    x = layers.Dense(hidden, activation="relu", name=FEATURES)(x)
    return keras.Model(sample, layers.Dense(classes, name=LOGITS)(x), name="dense")
