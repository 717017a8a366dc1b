"""From chunks of any size to windows: what a stream of samples or rows is cut into.

Neighbours: `contracts.preprocess.Window` has the numbers; `sound` and `series` prepare each window.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput


def windows(
    chunks: Iterable[NDArray[Any]], *, length: int, hop: int, pad: bool = False
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Index of the first sample or row, and the window: every `hop` from 0, as soon as its last one has come.

    chunks: (count,) or (count, channels), of one dtype; the sizes do not matter. Windows are the caller's own. What
    remains at the end and was in no window yet makes a last one if `pad`, filled up with zeros; else it is left out.
    Raises InvalidInput if chunks differ in dtype or channels, or if all of them are shorter than one window and
    `pad` is off.

    >>> [(start, window.tolist()) for start, window in windows([np.arange(3), np.arange(3, 5)], length=2, hop=2)]
    [(0, [0, 1]), (2, [2, 3])]
    """
    if length < 1 or hop < 1:
        raise InvalidInput(f"windows have a length of {length} and a hop of {hop}; expected at least 1")
    rest: NDArray[Any] | None = None
    parts: list[NDArray[Any]] = []
    start = held = 0  # the next window's first index, and how much lies in `parts`, of which parts[0] begins there
    skip = 0
    for chunk in chunks:
        if rest is None:
            rest = np.asarray(chunk)[:0]
        _check(chunk, rest)
        dropped = min(skip, len(chunk))
        skip -= dropped
        parts.append(chunk[dropped:])
        held += len(chunk) - dropped
        if held < length:
            parts[-1] = parts[-1].copy()  # the sensor may use its buffer again
            continue
        whole = np.concatenate(parts)
        place = 0
        while place + length <= held:
            yield start, whole[place : place + length].copy()
            start, place = start + hop, place + hop
        skip = max(0, place - held)
        parts = [whole[place:].copy()]
        held = len(parts[0])
    yield from _last(parts, start=start, length=length, hop=hop, pad=pad)


def _last(
    parts: list[NDArray[Any]], *, start: int, length: int, hop: int, pad: bool
) -> Iterator[tuple[int, NDArray[Any]]]:
    held = sum(len(part) for part in parts)
    if not pad:
        if start == 0 and held:
            raise InvalidInput(f"the input ended after {held:,} of the {length:,} that one window takes")
        return
    seen = max(0, length - hop) if start else 0
    if held > seen:
        whole = np.concatenate(parts)
        filled = np.zeros((length, *whole.shape[1:]), whole.dtype)
        filled[:held] = whole
        yield start, filled


def _check(chunk: NDArray[Any], first: NDArray[Any]) -> None:
    if chunk.ndim not in (1, 2) or chunk.dtype != first.dtype or chunk.shape[1:] != first.shape[1:]:
        raise InvalidInput(
            f"a chunk is {chunk.dtype} {chunk.shape} where the first was {first.dtype} (count, "
            f"{', '.join(map(str, first.shape[1:]))}); expected one dtype and as many channels in all"
        )
