"""The field's first lesson, for small grey images; what the demo trains."""

from typing import Any

from edgeloop.toolchain.source.model import FEATURES, LOGITS

KerasModel = Any
"""A keras.Model; Keras ships no types."""


def digits_net(keras: Any, height_px: int, width_px: int, *, classes: int) -> KerasModel:
    """Two convolutions with pooling, a dense layer, one score a class.

    Input "image" (1, H, W, 1) float32 in 0..1; output "logits" (1, classes), softmax is the loss's and the
    runtime's part. Source: LeCun et al. 1998, with ReLU and max pooling as in Krizhevsky et al. 2012.
    """
    layers = keras.layers
    image = keras.Input((height_px, width_px, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(image)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name=FEATURES)(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(classes, name=LOGITS)(x), name="digits")
