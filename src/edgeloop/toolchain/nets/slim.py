"""Convolutional networks for images, as small as wanted: depthwise-separable, or of whole convolutions."""

from math import ceil, log2
from typing import Any

from edgeloop.toolchain.nets.layers import channels, normalised, scored

_STEM = 16
_WIDEST = 256
_SIDE_AT_END_PX = 4
_SIDE_FOR_STRIDED_STEM_PX = 24


def slim_net(
    keras: Any,
    shape: tuple[int, ...],
    *,
    classes: int,
    width: float = 1.0,
    depth: int = 4,
    growth: float = 2.0,
    separable: bool = True,
) -> Any:
    """A convolution, then `depth` blocks, mean over all places, one score a class.

    Input "image" (1, H, W, 1 or 3), H and W 8 or more, of any range; output "logits" (1, classes). shape: (H, W, 1
    or 3). width: factor on all channels, which begin at 16, double in the first block and grow by `growth` where a
    later one halves the sides; these end near 4 pixels. separable: a block is a depthwise convolution and a 1x1 one;
    else one 3x3 convolution, which has more weights for its channels, and trains three times as fast on a CPU.
    Source: Howard et al. 2017 (arXiv 1704.04861), table 1; without its first-layer width of 32.
    """
    layers = keras.layers
    height_px, width_px, colours = shape
    halvings = max(1, round(log2(min(height_px, width_px) / _SIDE_AT_END_PX)))
    image = keras.Input((height_px, width_px, colours), name="image")
    strided_stem = min(height_px, width_px) >= _SIDE_FOR_STRIDED_STEM_PX
    stem = layers.Conv2D(
        channels(_STEM, width), 3, strides=1 + strided_stem, padding="same", use_bias=False, name="stem"
    )
    x = normalised(keras, image, stem, name="stem")
    strides = _strides(depth, halvings - strided_stem)
    base: float = _STEM
    for index, stride in enumerate(strides, start=1):
        if index == 1:
            base = 2 * base
        elif stride == 2:
            base = min(_WIDEST, growth * base)
        name = f"block{index}"
        if separable:
            deep = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{name}_depth")
            x = normalised(keras, x, deep, name=f"{name}_depth")
            point = layers.Conv2D(channels(base, width), 1, use_bias=False, name=f"{name}_point")
            x = normalised(keras, x, point, name=f"{name}_point")
        else:
            whole = layers.Conv2D(
                channels(base, width), 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
            )
            x = normalised(keras, x, whole, name=f"{name}_conv")
    return keras.Model(image, scored(keras, x, classes=classes), name="slim" if separable else "plain")


def _strides(depth: int, halvings: int) -> list[int]:
    """A stride for each block: as many halvings as there are, spread evenly; at most one a block."""
    halved = {ceil(depth * turn / max(1, halvings)) - 1 for turn in range(1, min(halvings, depth) + 1)}
    if halvings >= depth:
        halved = set(range(depth))
    return [2 if index in halved else 1 for index in range(depth)]
