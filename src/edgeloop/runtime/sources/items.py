"""What a program hands over: arrays, encoded bytes or paths, one after another."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.sources.files import guarded
from edgeloop.runtime.sources.flow import file_parts
from edgeloop.runtime.sources.port import Arrays, Cut, Frame, FrameError, Tally

_NAME = "input"
_Numbered = Iterator[tuple[int, object]]


class Items:
    """The frames of an iterable; a Reader.

    Arrays belong together where the manifest has a window step: they are one sound or one series, piece by piece.
    Bytes and paths are files, each by itself. The first item says which of the two it is; what is neither, or not of
    that kind, is told and passed over: a gap between pieces. `stop` is heeded between two items: nothing can wake an
    iterator that waits.
    """

    def __init__(self, items: Iterable[Source], cut: Cut) -> None:
        self.has_own_time = False
        self._items = items
        self._cut = cut

    def read(self, stop: threading.Event, tally: Tally) -> Iterator[Frame | FrameError]:
        """See Reader. Where the first item is of neither kind, frames have no time of their own."""
        items = itertools.takewhile(lambda _: not stop.is_set(), self._items)
        first = list(itertools.islice(items, 1))
        self.has_own_time = self._cut.has_own_time and isinstance(first[0] if first else None, np.ndarray)
        return guarded(_NAME, partial(self._read, enumerate(itertools.chain(first, items), start=1)))

    def _read(self, items: _Numbered, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        for number, item in items:
            rest = itertools.chain([(number, item)], items)
            if isinstance(item, np.ndarray):
                yield from self._cut.of_arrays(_NAME, _arrays(rest, now_s), now_s)
            elif isinstance(item, bytes | str | os.PathLike):
                yield from self._files(rest, now_s)
            else:
                yield _wrong(number, item, "arrays, bytes or paths", now_s)

    def _files(self, items: _Numbered, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        for number, item in items:
            name = _name(number)
            if isinstance(item, bytes):
                parts = iter([iter([item])])
            elif isinstance(item, str | os.PathLike):
                parts, name = file_parts(Path(item)), Path(item).name
            else:
                yield _wrong(number, item, "bytes or paths, as the first item was", now_s)
                continue
            yield from guarded(name, partial(self._cut.of_bytes, name, parts))


def _arrays(items: _Numbered, now_s: Callable[[], float]) -> Arrays:
    for number, item in items:
        if isinstance(item, np.ndarray):
            yield item
        else:
            yield _wrong(number, item, "arrays, as the first item was", now_s)


def _wrong(number: int, item: object, expected: str, now_s: Callable[[], float]) -> FrameError:
    error = InvalidInput(f"the iterator gave a {type(item).__name__}; expected {expected}")
    return FrameError(_name(number), error, now_s())


def _name(number: int) -> str:
    return f"{_NAME}#{number:06d}"
