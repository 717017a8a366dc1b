"""Which scores of a detector's table reach the threshold, without activating those that do not.

A table is (N, classes) raw scores, a row a place that a box could be at. Neighbours: `boxes` gives the table,
`detection` decodes only the places found here.
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.output import Activation
from edgeloop.runtime.output.scores import least_float32, sigmoid

_ROUNDING = 1e-6
"""More than a float32 sigmoid errs by."""


class Reached(msgspec.Struct, frozen=True):
    """Row, class and score (M,) of all that reach the threshold, in the order of rows or of classes.

    nearest: the highest score there is, reached or not; 0.0 of an empty table. compared: (N, classes), rising with
    the scores, by which one place can be compared with another.
    """

    rows: NDArray[np.intp]
    classes: NDArray[np.intp]
    scores: NDArray[np.float32]
    nearest: float
    compared: NDArray[np.float32]


def reached(
    table: NDArray[np.float32],
    threshold: float,
    *,
    activation: Activation,
    background: int | None = None,
    objectness: NDArray[np.float32] | None = None,
) -> Reached:
    """Activate and compare.

    background: the class that is left out, those after it move up by one. objectness: (N,) raw, multiplies each
    row's scores; not with softmax, which one number has not.
    """
    if activation is Activation.SOFTMAX:
        table, activation = _softmax(table), Activation.NONE
    table = _without(table, background)
    if objectness is not None:
        table, activation = _times(table, objectness, activation), Activation.NONE
    if activation is Activation.SIGMOID:
        return _reached_by_sigmoid(table, threshold)
    rows, classes = _places(table >= least_float32(threshold))
    scores = table[rows, classes]
    return Reached(rows, classes, scores, _largest(scores if len(scores) else table), table)


def _reached_by_sigmoid(table: NDArray[np.float32], threshold: float) -> Reached:
    """Compares before the activation, a little too low, and again after it."""
    lowest = threshold - _ROUNDING
    bound = np.float32(np.log(lowest / (1.0 - lowest))) if lowest > 0.0 else np.float32(-np.inf)
    rows, classes = _places(table >= bound)
    scores = sigmoid(table[rows, classes])
    holds = scores >= least_float32(threshold)
    if holds.any():
        return Reached(rows[holds], classes[holds], scores[holds], _largest(scores), table)
    nearest = _largest(sigmoid(table.max(keepdims=True))) if table.size else 0.0
    return Reached(rows[holds], classes[holds], scores[holds], nearest, table)


def _softmax(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over classes, which come first in memory here: NumPy takes long over many short rows."""
    turned = np.ascontiguousarray(table.T)
    if turned.size:
        with np.errstate(over="ignore"):  # as far apart as float32 goes: the lower one's share is 0
            np.subtract(turned, turned.max(axis=0), out=turned)
    np.exp(turned, out=turned)
    np.divide(turned, turned.sum(axis=0), out=turned)
    return turned.T


def _without(table: NDArray[np.float32], background: int | None) -> NDArray[np.float32]:
    """A view where the background is the first or the last class."""
    if background is None:
        return table
    if background == 0:
        return table[:, 1:]
    if background == table.shape[1] - 1:
        return table[:, :-1]
    return np.delete(table, background, axis=1)


def _times(table: NDArray[np.float32], objectness: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation is Activation.SIGMOID:
        table, objectness = sigmoid(table), sigmoid(objectness)
    return np.multiply(table, objectness[:, np.newaxis])


def _places(hits: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and classes of what is true, looked for in the order of memory: several times faster."""
    if hits.flags.c_contiguous:
        rows, classes = np.divmod(np.flatnonzero(hits), hits.shape[1])
    else:
        classes, rows = np.divmod(np.flatnonzero(hits.T), hits.shape[0])
    return rows, classes


def _largest(scores: NDArray[Any]) -> float:
    return float(scores.max()) if scores.size else 0.0
