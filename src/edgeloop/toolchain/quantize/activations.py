"""What every tensor of a .tflite model is on real inputs: run sample by sample with nothing thrown away.

Neighbours: `formulas` turns what was seen into ranges, `litert` gives them to the quantizer, `bias` reads means.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.quantize.flatbuffer import Graph
from edgeloop.toolchain.quantize.formulas import SMALLEST_RANGE, Seen, chosen_range, counted, needs_histogram
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe

Ranges = dict[str, tuple[float, float]]
"""The range of each activation, by tensor name."""


class Tap:
    """A .tflite model that shows all of its tensors. tensors: which, by index."""

    def __init__(self, data: bytes, tensors: tuple[int, ...]) -> None:
        self._interpreter = _interpreter(data)
        self._inputs = _input_indices(self._interpreter)
        self._tensors = tensors

    def each(self, feeds: Mapping[str, NDArray[Any]]) -> Iterator[dict[int, NDArray[np.float32]]]:
        """The tensors for each sample in turn. feeds: (N, ...) by input name. Raises InvalidInput on other names."""
        if set(feeds) != set(self._inputs):
            raise InvalidInput(
                f"calibration data is for inputs {', '.join(sorted(feeds))}; the model has "
                f"{', '.join(sorted(self._inputs))}"
            )
        for at in range(len(next(iter(feeds.values())))):
            for name, (index, dtype) in self._inputs.items():
                self._interpreter.set_tensor(index, np.ascontiguousarray(feeds[name][at : at + 1], dtype))
            self._interpreter.invoke()
            yield {index: self._interpreter.get_tensor(index) for index in self._tensors}


def calibrated_ranges(graph: Graph, recipe: QuantizeRecipe, feeds: Mapping[str, NDArray[Any]], *, bits: int) -> Ranges:
    """The range of every activation, as the recipe's calibration picks it. feeds: (N, ...) by input name."""
    tensors = graph.activations()
    tap = Tap(graph.to_bytes(), tensors)
    lows: dict[int, list[float]] = {index: [] for index in tensors}
    highs: dict[int, list[float]] = {index: [] for index in tensors}
    for values in tap.each(feeds):
        for index, value in values.items():
            lows[index].append(float(value.min()))
            highs[index].append(float(value.max()))
    seen = {index: Seen(np.array(lows[index]), np.array(highs[index]), np.zeros(0, np.int64)) for index in tensors}
    for index, one in seen.items():
        if not np.isfinite(one.bound):
            raise InvalidInput(f"tensor {graph.name(index)!r} becomes infinite or NaN on the calibration samples")
    if needs_histogram(recipe.calibration):
        seen = _with_counts(tap, seen, feeds)
    return {graph.name(index): chosen_range(one, recipe, bits=bits) for index, one in seen.items()}


def _with_counts(tap: Tap, seen: dict[int, Seen], feeds: Mapping[str, NDArray[Any]]) -> dict[int, Seen]:
    """A second run, now that the bounds are known: all values at once would not fit into memory."""
    counts = {index: np.int64(0) + counted(np.zeros(0), 1.0) for index in seen}
    for values in tap.each(feeds):
        for index, value in values.items():
            counts[index] += counted(value, max(seen[index].bound, SMALLEST_RANGE))
    return {index: Seen(one.lows, one.highs, counts[index]) for index, one in seen.items()}


def channel_means(
    graph: Graph, tensors: tuple[int, ...], feeds: Mapping[str, NDArray[Any]]
) -> dict[int, NDArray[np.float64]]:
    """The mean of each tensor (..., C) over samples and all axes but the last: (C,)."""
    sums: dict[int, NDArray[np.float64]] = {}
    count = 0
    for values in Tap(graph.to_bytes(), tensors).each(feeds):
        count += 1
        for index, value in values.items():
            mean = value.reshape(-1, value.shape[-1]).mean(axis=0, dtype=np.float64)
            sums[index] = sums.get(index, 0.0) + mean
    return {index: total / count for index, total in sums.items()}


def _interpreter(data: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise Unavailable(
            f"quantization needs ai-edge-litert ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            interpreter = Interpreter(
                model_content=data,
                # A delegate fuses operators, and what lies between them is then never written down.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidInput(f"LiteRT cannot load this model: {error}") from error
    return interpreter


def _input_indices(interpreter: Any) -> dict[str, tuple[int, Any]]:
    """Index and dtype of each input, by the signature's name where there is one signature."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        details = dict(interpreter.get_signature_runner(next(iter(signatures))).get_input_details())
    else:
        details = {detail["name"]: detail for detail in interpreter.get_input_details()}
    return {str(name): (int(detail["index"]), detail["dtype"]) for name, detail in details.items()}
