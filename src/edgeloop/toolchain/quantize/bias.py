"""Bias correction: what rounding shifts a layer's mean output by is taken off its bias.

E[y] = W E[x] + b in float; with rounded weights W', and inputs x' from layers that are rounded already, it is
W' E[x'] + b. So b' = b + W E[x] - W' E[x'], layer by layer from the input on, E measured on calibration samples.
Source: Nagel et al. 2019 (arXiv 1906.04721), sec. 4.2 and appendix D; Nagel et al. 2021 (arXiv 2106.08295), sec. 3.3.
Neighbours: `litert` calls it on the float graph, before the library quantizes it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.quantize.activations import channel_means
from edgeloop.toolchain.quantize.flatbuffer import CHANNEL_AXIS, FOUR_BIT_KINDS, Graph, Operator
from edgeloop.toolchain.quantize.formulas import rounded
from edgeloop.toolchain.quantize.recipe import FOUR_BITS, Granularity, QuantizeRecipe

_SAMPLES = 64
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

    feeds: (N, ...) by input name, of which 64 are used: the graph runs once for each layer. keep: operators that stay
    in float; wide: that have 8 bits. A mean over positions counts padding as the inside: near borders it is inexact.
    """
    spared, eight = {one.index for one in keep}, {one.index for one in wide}
    some = {name: array[:_SAMPLES] for name, array in feeds.items()}
    chosen = [one for one in graph.operators if _can_be_corrected(graph, one) and one.index not in spared]
    exact = channel_means(graph, tuple(one.inputs[0] for one in chosen), some)
    rounding = Graph(graph.to_bytes())
    for one in chosen:
        four = recipe.precision in FOUR_BITS and one.kind in FOUR_BIT_KINDS and one.index not in eight
        weights = graph.constant(one.inputs[1]).astype(np.float64)
        axis = CHANNEL_AXIS[one.kind] if recipe.granularity is Granularity.CHANNEL else None
        coarse = rounded(weights, bits=4 if four else 8, symmetry=recipe.weights, axis=axis)
        tensor = one.inputs[0]
        reached = channel_means(rounding, (tensor,), some)[tensor]
        shift = mean_output(coarse, reached, one.kind) - mean_output(weights, exact[tensor], one.kind)
        bias = (graph.constant(one.inputs[2]) - shift).astype(np.float32)
        graph.set_constant(graph.operators[one.index], 2, bias)
        twin = rounding.operators[one.index]
        rounding.set_constant(twin, 1, coarse.astype(np.float32))
        rounding.set_constant(rounding.operators[one.index], 2, bias)


def mean_output(weights: NDArray[np.float64], mean: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """W E[x] for each output channel (O,), without the bias.

    weights: as LiteRT lays them out: (O, H, W, I) for CONV_2D, (1, H, W, O) for DEPTHWISE_CONV_2D, (O, I) for
    FULLY_CONNECTED. mean: (I,) of the input's channels.
    """
    if kind == "DEPTHWISE_CONV_2D":
        repeated = np.repeat(mean, weights.shape[-1] // len(mean))
        return np.asarray(weights.sum(axis=(0, 1, 2)) * repeated)
    if kind == "CONV_2D":
        return np.asarray(weights.sum(axis=(1, 2)) @ mean)
    return np.asarray(weights @ mean)


def _can_be_corrected(graph: Graph, operator: Operator) -> bool:
    if operator.kind not in _CORRECTED or len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return False
    weights, bias = operator.inputs[1], operator.inputs[2]
    if not (graph.is_constant(weights) and graph.is_constant(bias)):
        return False
    # Grouped convolutions see a part of the input's channels each.
    grouped = operator.kind == "CONV_2D" and graph.constant(weights).shape[-1] != graph.last_axis(operator.inputs[0])
    return not grouped
