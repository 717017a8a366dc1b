"""What a program hands over: arrays, encoded bytes or paths, one after another."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.sources.files import guarded
from edgeloop.runtime.sources.flow import file_parts
from edgeloop.runtime.sources.port import Cut, Frame, FrameError, Tally

_NAME = "input"


class Items:
    """The frames of an iterable; a Reader.

    Arrays belong together where the manifest has a window step: they are one sound or one series, piece by piece.
    Bytes and paths are files, each by itself. The first item says which of the two it is. `stop` is heeded between
    two items: nothing can wake an iterator that waits.
    """

    def __init__(self, items: Iterable[Source], cut: Cut) -> None:
        self.has_own_time = False
        self._items = items
        self._cut = cut

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader."""
        items = iter(self._items)
        first = next(items, None)
        if first is None:
            return iter(())
        items = itertools.takewhile(lambda _: not stop.is_set(), itertools.chain([first], items))
        self.has_own_time = self._cut.has_own_time and isinstance(first, np.ndarray)
        if isinstance(first, np.ndarray):
            return guarded(_NAME, partial(self._cut.of_arrays, _NAME, _arrays(items)))
        return guarded(_NAME, partial(self._files, items))

    def _files(self, items: Iterator[Source], now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        for number, item in enumerate(items, start=1):
            name = f"{_NAME}#{number:06d}"
            if isinstance(item, bytes):
                parts = iter([iter([item])])
            elif isinstance(item, str | os.PathLike):
                parts, name = file_parts(Path(item)), Path(item).name
            else:
                yield FrameError(name, _wrong(item, "bytes or paths, as the first item was"), now_s())
                continue
            yield from guarded(name, partial(self._cut.of_bytes, name, parts))


def _arrays(items: Iterator[Source]) -> Iterator[NDArray[Any]]:
    for item in items:
        if not isinstance(item, np.ndarray):
            raise _wrong(item, "arrays, as the first item was")
        yield item


def _wrong(item: object, expected: str) -> InvalidInput:
    return InvalidInput(f"the iterator gave a {type(item).__name__}; expected {expected}")
