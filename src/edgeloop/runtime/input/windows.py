"""From chunks of any size to windows: what a stream of samples or rows is cut into.

Neighbours: `contracts.preprocess.Window` has the numbers; `sound` and `series` prepare each window.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput

Gap = TypeVar("Gap")


def windows(
    chunks: Iterable[NDArray[Any] | Gap], *, length: int, hop: int, pad: bool = False
) -> Iterator[tuple[int, NDArray[Any]] | Gap]:
    """Index of the first sample or row, and the window: every `hop` from 0, as soon as its last one has come.

    chunks: (count,) or (count, channels), of one dtype; the sizes do not matter. Windows are the caller's own. What
    remains at the end and was in no window yet makes a last one if `pad`, filled up with zeros; else it is left out.

    What is no array is a gap, and handed on in its place: what came before it has ended there, as at the end of all;
    the next window begins with the first sample or row behind it, whose dtype and channels may be others. A gap has
    no length: indices count what came.

    Raises InvalidInput if chunks without a gap between them differ in dtype or channels, or if all that came is
    shorter than one window, `pad` is off and no gap lies in it.

    >>> [(start, window.tolist()) for start, window in windows([np.arange(3), np.arange(3, 5)], length=2, hop=2)]
    [(0, [0, 1]), (2, [2, 3])]
    """
    if length < 1 or hop < 1:
        raise InvalidInput(f"windows have a length of {length} and a hop of {hop}; expected at least 1")
    run = _Run(0, length, hop)
    for chunk in chunks:
        if isinstance(chunk, np.ndarray):
            yield from run.add(chunk)
            continue
        if pad:
            yield from run.filled()
        run = _Run(run.end, length, hop)
        yield chunk
    if pad:
        yield from run.filled()
    elif run.start == 0 < run.end:
        raise InvalidInput(f"the input ended after {run.end:,} of the {length:,} that one window takes")


class _Run:
    """The windows of chunks without a gap between them. begin: the index of their first sample or row. start: of the
    next window."""

    def __init__(self, begin: int, length: int, hop: int) -> None:
        self._begin, self._length, self._hop = begin, length, hop
        # The next window's first index, and how much lies in `parts`, of which parts[0] begins there.
        self.start, self._held = begin, 0
        self._parts: list[NDArray[Any]] = []
        self._skip = 0
        self._first: NDArray[Any] | None = None

    @property
    def end(self) -> int:
        """The index behind the last sample or row that came."""
        return self.start + self._held - self._skip

    def add(self, chunk: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """The windows that this chunk completes."""
        if self._first is None:
            self._first = np.asarray(chunk)[:0]
        _check(chunk, self._first)
        dropped = min(self._skip, len(chunk))
        self._skip -= dropped
        self._parts.append(chunk[dropped:])
        self._held += len(chunk) - dropped
        if self._held < self._length:
            self._parts[-1] = self._parts[-1].copy()  # the sensor may use its buffer again
            return
        whole = np.concatenate(self._parts)
        place, held = 0, self._held
        while place + self._length <= held:
            yield self.start, whole[place : place + self._length].copy()
            self.start, place = self.start + self._hop, place + self._hop
        self._skip = max(0, place - held)
        self._parts = [whole[place:].copy()]
        self._held = len(self._parts[0])

    def filled(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """What was in no window yet, if anything, as a last one with zeros behind it."""
        seen = 0 if self.start == self._begin else max(0, self._length - self._hop)
        if self._held > seen:
            whole = np.concatenate(self._parts)
            filled = np.zeros((self._length, *whole.shape[1:]), whole.dtype)
            filled[: self._held] = whole
            yield self.start, filled


def _check(chunk: NDArray[Any], first: NDArray[Any]) -> None:
    if chunk.ndim not in (1, 2) or chunk.dtype != first.dtype or chunk.shape[1:] != first.shape[1:]:
        raise InvalidInput(
            f"a chunk is {chunk.dtype} {chunk.shape} where the first was {first.dtype} (count, "
            f"{', '.join(map(str, first.shape[1:]))}); expected one dtype and as many channels in all"
        )
