"""What every activation of an ONNX model is on real inputs, and the range that the recipe's calibration picks.

ONNX Runtime has calibrators of its own; ours are the same for every engine, so that a recipe means one thing.
Neighbours: `formulas` turns what was seen into ranges, `onnx` gives them to ONNX Runtime.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.onnx import import_onnxruntime
from edgeloop.toolchain.quantize.formulas import SMALLEST_RANGE, Seen, chosen_range, counted, needs_histogram
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.onnx import import_onnx

Ranges = dict[str, tuple[float, float]]
"""The range of each activation, by tensor name."""


def calibrated_ranges(ready: Any, recipe: QuantizeRecipe, feeds: Mapping[str, NDArray[Any]], *, bits: int) -> Ranges:
    """The range of every float activation and input. ready: see onnx_graph.prepare. feeds: (N, ...) by input name.

    Raises InvalidInput if an activation becomes NaN or infinite.
    """
    tap = _Tap(ready)
    lows: dict[str, list[float]] = {name: [] for name in tap.tensors}
    highs: dict[str, list[float]] = {name: [] for name in tap.tensors}
    for values in tap.each(feeds):
        for name, value in values.items():
            lows[name].append(float(value.min()))
            highs[name].append(float(value.max()))
    seen = {name: Seen(np.array(lows[name]), np.array(highs[name]), np.zeros(0, np.int64)) for name in tap.tensors}
    for name, one in seen.items():
        if not np.isfinite(one.bound):
            raise InvalidInput(f"tensor {name!r} becomes infinite or NaN on the calibration samples")
    if needs_histogram(recipe.calibration):
        seen = _with_counts(tap, seen, feeds)
    return {name: chosen_range(one, recipe, bits=bits) for name, one in seen.items()}


class _Tap:
    """A prepared model that shows all of its float activations."""

    def __init__(self, ready: Any) -> None:
        onnx = import_onnx()
        onnxruntime = import_onnxruntime()
        shown = onnx.ModelProto()
        shown.CopyFrom(ready)
        there = {one.name for one in shown.graph.output}
        made = {name for node in shown.graph.node for name in node.output}
        for one in shown.graph.value_info:
            if one.name in made - there and one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                shown.graph.output.append(one)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs = tuple(one.name for one in self._session.get_outputs() if one.type == "tensor(float)")
        inputs = tuple(one.name for one in self._session.get_inputs() if one.type == "tensor(float)")
        self._shown = outputs
        self.tensors = (*inputs, *outputs)

    def each(self, feeds: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """The tensors for each sample in turn. feeds: (N, ...) by input name."""
        for at in range(len(next(iter(feeds.values())))):
            one = {name: np.ascontiguousarray(array[at : at + 1]) for name, array in feeds.items()}
            values = dict(zip(self._shown, self._session.run(list(self._shown), one), strict=True))
            yield values | {name: array for name, array in one.items() if name in self.tensors}


def _with_counts(tap: _Tap, seen: dict[str, Seen], feeds: Mapping[str, NDArray[Any]]) -> dict[str, Seen]:
    """A second run, now that the bounds are known: all values at once would not fit into memory."""
    counts = {name: counted(np.zeros(0), 1.0) for name in seen}
    for values in tap.each(feeds):
        for name, value in values.items():
            counts[name] = counts[name] + counted(value, max(seen[name].bound, SMALLEST_RANGE))
    return {name: Seen(one.lows, one.highs, counts[name]) for name, one in seen.items()}
