"""Float models that the works begin with, trained here once and kept in the cache under the hash of their recipe."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Images, as_tensor
from edgeloop.toolchain.backend import import_keras, seed_everything

Tell = Callable[[str], None]
"""Told a line for people as work goes on."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a float model is trained. shift_px, flip: of each image, anew each epoch. learning_rate: the highest."""

    net: str
    epochs: int
    batch_size: int = 128
    learning_rate: float
    optimizer: str = "adam"
    weight_decay: float = 0.0
    shift_px: int = 0
    flip: bool = False
    seed: int = 0


CLASSIC_CNN = Recipe(net="classic_cnn", epochs=12, learning_rate=1e-3)
"""The classic Keras example: 225,034 parameters, dropout, Adam, 12 epochs, images as they are."""

RESNET_10 = Recipe(
    net="resnet_10",
    epochs=20,
    learning_rate=0.1,
    optimizer="sgd",
    weight_decay=5e-4,
    shift_px=2,
    flip=True,
)
"""A residual net as in He et al. 2016 (arXiv 1512.03385), section 4.2: flips, shifts, SGD with momentum."""


def trained(recipe: Recipe, images: Images, cache: Path, tell: Tell) -> Path:
    """The .keras file of this recipe on the fit part of these images; trained unless the cache has it."""
    given = f"{images.learn.sha256} {len(images.learn.fit)}"
    key = hashlib.sha256(msgspec.json.encode(recipe) + given.encode()).hexdigest()[:16]
    path = cache / f"{images.name}-{recipe.net}-{key}.keras"
    if path.is_file():
        tell(f"{path.name} is in the cache")
        return path
    keras = import_keras()
    seed_everything(keras, recipe.seed)
    model = NETS[recipe.net](keras)
    fit(model, recipe, images, tell)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    model.save(partial)
    partial.replace(path)
    return path


def fit(model: Any, recipe: Recipe, images: Images, tell: Tell) -> None:
    """Train in place on the fit part: cross-entropy on logits, the learning rate falling as a cosine."""
    keras = import_keras()
    part = images.learn.fit
    steps = recipe.epochs * -(-len(part) // recipe.batch_size)
    warm_up = steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 10, steps - warm_up, warmup_target=recipe.learning_rate, warmup_steps=warm_up
    )
    model.compile(
        optimizer=_optimizer(keras, recipe, schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rng = np.random.default_rng(recipe.seed)
    for epoch in range(recipe.epochs):
        shown = _varied(part.inputs, recipe, rng)
        history = model.fit(as_tensor(shown), part.labels, batch_size=recipe.batch_size, epochs=1, verbose=0).history
        tell(
            f"{recipe.net} on {images.name}: epoch {epoch + 1} of {recipe.epochs}, "
            f"{100 * history['accuracy'][0]:.2f} % of training images right"
        )


def classic_cnn(keras: Any) -> Any:
    """Two valid 3x3 convolutions with pooling, a dense layer, logits; (1, 28, 28, 1) in 0..1, 225,034 parameters."""
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = layers.MaxPooling2D()(layers.Conv2D(32, 3, activation="relu")(image))
    x = layers.MaxPooling2D()(layers.Conv2D(64, 3, activation="relu")(x))
    x = layers.Dense(128, activation="relu")(layers.Dropout(0.25)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(10)(layers.Dropout(0.5)(x)), name="classic_cnn")


def resnet_10(keras: Any) -> Any:
    """A stem of 16 filters, two blocks of 32 at 14x14, two of 64 at 7x7; (1, 28, 28, 1) in 0..1 to logits."""
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = _convolution(keras, image, 16, 3, 1)
    for filters, stride in ((32, 2), (32, 1), (64, 2), (64, 1)):
        x = _block(keras, x, filters, stride)
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="resnet_10")


NETS: dict[str, Callable[[Any], Any]] = {"classic_cnn": classic_cnn, "resnet_10": resnet_10}
"""By the name that a recipe gives."""


def _block(keras: Any, x: Any, filters: int, stride: int) -> Any:
    layers = keras.layers
    y = _convolution(keras, x, filters, 3, stride)
    y = _convolution(keras, y, filters, 3, 1, relu=False)
    if stride != 1 or x.shape[-1] != filters:
        x = _convolution(keras, x, filters, 1, stride, relu=False)
    return layers.ReLU()(layers.Add()([x, y]))


def _convolution(keras: Any, x: Any, filters: int, kernel: int, stride: int, *, relu: bool = True) -> Any:
    layers = keras.layers
    x = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def _optimizer(keras: Any, recipe: Recipe, schedule: Any) -> Any:
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(schedule)
    # Keras decays weights by learning_rate * weight_decay each step, which is what L2 in SGD amounts to.
    return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def _varied(images: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image moved by up to shift_px (zeros come in) and mirrored at even odds."""
    if recipe.shift_px == 0 and not recipe.flip:
        return images
    reach, (count, height, width) = recipe.shift_px, images.shape
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    down, right = rng.integers(0, 2 * reach + 1, (2, count))
    rows = (down[:, None] + np.arange(height))[:, :, None]
    columns = (right[:, None] + np.arange(width))[:, None, :]
    moved = np.asarray(padded[np.arange(count)[:, None, None], rows, columns])
    if recipe.flip:
        mirrored = np.flatnonzero(rng.random(count) < 0.5)
        moved[mirrored] = moved[mirrored, :, ::-1]
    return moved
