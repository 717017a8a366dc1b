"""Bias correction: what rounding the weights shifts a layer's mean output by is taken off its bias.

E[y] = E[W x + b], and with rounded weights W' = W + e it is E[W' x + b] = E[y] + e E[x]. So b' = b - e E[x], with
E[x] measured on the calibration samples. Source: Nagel et al. 2019 (arXiv 1906.04721), sec. 4.2, eq. 17.
Neighbours: `litert` calls it on the float graph, before the library quantizes it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.quantize.activations import channel_means
from edgeloop.toolchain.quantize.flatbuffer import CHANNEL_AXIS, Graph, Operator
from edgeloop.toolchain.quantize.formulas import rounded
from edgeloop.toolchain.quantize.recipe import Granularity, QuantizeRecipe

_FOUR_BITS = (Precision.INT4, Precision.INT4_DYNAMIC, Precision.INT4_WEIGHTS)
_FOUR_BIT_KINDS = ("CONV_2D", "FULLY_CONNECTED")
_CORRECTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def correct_bias(
    graph: Graph,
    recipe: QuantizeRecipe,
    feeds: Mapping[str, NDArray[Any]],
    *,
    keep: tuple[Operator, ...] = (),
    wide: tuple[Operator, ...] = (),
) -> None:
    """Change the biases of a float graph, in place, to suit the weights that the recipe is going to round.

    feeds: (N, ...) by input name. keep: operators that stay in float; wide: that have 8 bits. A mean over positions
    counts padding as the inside: at borders the correction is a little too large.
    """
    spared, eight = {one.index for one in keep}, {one.index for one in wide}
    chosen = [one for one in graph.operators if _can_be_corrected(graph, one) and one.index not in spared]
    means = channel_means(graph, tuple(one.inputs[0] for one in chosen), feeds)
    for one in chosen:
        four = recipe.precision in _FOUR_BITS and one.kind in _FOUR_BIT_KINDS and one.index not in eight
        weights = graph.constant(one.inputs[1]).astype(np.float64)
        axis = CHANNEL_AXIS[one.kind] if recipe.granularity is Granularity.CHANNEL else None
        error = rounded(weights, bits=4 if four else 8, symmetry=recipe.weights, axis=axis) - weights
        shift = output_shift(error, means[one.inputs[0]], one.kind)
        graph.set_constant(one, 2, (graph.constant(one.inputs[2]) - shift).astype(np.float32))


def output_shift(error: NDArray[np.float64], mean: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """e E[x] for each output channel (O,).

    error: of the weights, as LiteRT lays them out: (O, H, W, I) for CONV_2D, (1, H, W, O) for DEPTHWISE_CONV_2D,
    (O, I) for FULLY_CONNECTED. mean: (I,) of the input's channels.
    """
    if kind == "DEPTHWISE_CONV_2D":
        repeated = np.repeat(mean, error.shape[-1] // len(mean))
        return np.asarray(error.sum(axis=(0, 1, 2)) * repeated)
    if kind == "CONV_2D":
        return np.asarray(error.sum(axis=(1, 2)) @ mean)
    return np.asarray(error @ mean)


def _can_be_corrected(graph: Graph, operator: Operator) -> bool:
    if operator.kind not in _CORRECTED or len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return False
    weights, bias = operator.inputs[1], operator.inputs[2]
    if not (graph.is_constant(weights) and graph.is_constant(bias)):
        return False
    # Grouped convolutions see a part of the input's channels each.
    grouped = operator.kind == "CONV_2D" and graph.constant(weights).shape[-1] != graph.last_axis(operator.inputs[0])
    return not grouped
