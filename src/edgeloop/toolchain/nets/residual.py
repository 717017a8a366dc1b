"""Residual networks for small images: what pruning and the benchmarks are tried on."""

from typing import Any

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.nets.layers import channels, normalised, scored

_STAGES = (16, 32, 64)


def residual_net(
    keras: Any, height_px: int, width_px: int, colours: int, *, classes: int, width: float = 1.0, depth: int = 8
) -> Any:
    """A convolution, three stages of residual blocks at full, half and quarter size, mean, one score a class.

    Input "image" (1, H, W, 1 or 3) of any range; output "logits" (1, classes). depth: 6 n + 2 layers for n blocks a
    stage: 8, 14, 20, ...; width: factor on the stages' 16, 32 and 64 channels. Raises InvalidInput on another depth.
    Source: He et al. 2016 (arXiv 1512.03385), sec. 4.2, with 1x1 convolutions as shortcuts where shapes change.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise InvalidInput(f"a residual net has 6 n + 2 layers: 8, 14, 20, ...; not {depth}")
    layers = keras.layers
    image = keras.Input((height_px, width_px, colours), name="image")
    stem = layers.Conv2D(channels(_STAGES[0], width), 3, padding="same", use_bias=False, name="stem")
    x = normalised(keras, image, stem, name="stem")
    for stage, base in enumerate(_STAGES, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(keras, x, channels(base, width), stride, name=f"stage{stage}_block{block}")
    return keras.Model(image, scored(keras, x, classes=classes), name="residual")


def _block(keras: Any, x: Any, filters: int, stride: int, *, name: str) -> Any:
    layers = keras.layers
    first = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")
    second = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")
    y = normalised(keras, x, first, name=f"{name}_conv1")
    y = normalised(keras, y, second, name=f"{name}_conv2", relu=False)
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, strides=stride, use_bias=False, name=f"{name}_shortcut")
        x = normalised(keras, x, shortcut, name=f"{name}_shortcut", relu=False)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([y, x]))
