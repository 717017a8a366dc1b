"""Series and rows of numbers: CSV files and CSV as it comes, arrays from a program.

Rules kept here: a row is used as soon as its line has ended; one that cannot be read is told, and in a series it
counts as missing, so that time goes on; the first line of each part may name the columns. A cell that spans lines is
not taken. Neighbours: `runtime.input.table` reads cells, `runtime.input.windows` cuts.
"""

import csv
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import Step, Window
from edgeloop.runtime.input.series import as_rows, channel_count
from edgeloop.runtime.input.table import decode_rows
from edgeloop.runtime.input.windows import windows
from edgeloop.runtime.sources.pictures import joined
from edgeloop.runtime.sources.pieces import each_a_frame, pieces_of_one
from edgeloop.runtime.sources.port import Arrays, Frame, FrameError, Parts

_MOST_BYTES = 2**26
_MOST_LINE_BYTES = 2**20
_MOST_PADDED = 10_000

Rows = NDArray[np.float32]


class SeriesCut:
    """Series; a Cut. Without a window step a file or stream is one frame."""

    suffixes: tuple[str, ...] = (".csv",)

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...]) -> None:
        self._channels = spec.channels
        self._rate_hz = spec.rate_hz
        self._window = next((step for step in steps if isinstance(step, Window)), None)
        self._width = 0 if self._window is None else channel_count(spec, self._window)
        self.can_follow = self._window is not None
        self.has_own_time = self.can_follow and self._rate_hz is not None

    def of_bytes(self, name: str, parts: Parts, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. Raises Corrupt or InvalidInput if it is no table of these channels."""
        if self._window is None:
            for part in parts:
                yield Frame(name, joined(part, _MOST_BYTES, what=name), now_s(), "text/csv")
            return
        bad: deque[FrameError] = deque()
        pieces = self._pieces(read_tables(name, parts, self._channels), bad, now_s)
        yield from self._windows(name, pieces, bad, now_s)

    def of_arrays(self, name: str, arrays: Arrays, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. With a window step the arrays, each a row or some, are one series; else each is one.

        A piece that cannot be used is a gap: a new window begins behind it, and its rows are not counted.
        """
        if self._window is None:
            return each_a_frame(name, arrays, now_s, media="series/raw")
        return self._windows(name, pieces_of_one(name, arrays, self._rows, now_s), deque(), now_s)

    def _windows(
        self, name: str, pieces: Arrays, bad: deque[FrameError], now_s: Callable[[], float]
    ) -> Iterator[Frame | FrameError]:
        assert self._window is not None
        window = self._window
        for one in windows(pieces, length=window.length, hop=window.hop, pad=window.pad):
            while bad:
                yield bad.popleft()
            if isinstance(one, FrameError):
                yield one
                continue
            start, rows = one
            at_s = start / self._rate_hz if self._rate_hz is not None else now_s()
            yield Frame(f"{name}#{start + 1:06d}", rows, at_s, "series/raw")
        yield from bad

    def _pieces(
        self, read: "Iterator[Rows | BadRow]", bad: deque[FrameError], now_s: Callable[[], float]
    ) -> Iterator[Rows]:
        for one in read:
            if isinstance(one, BadRow):
                bad.append(FrameError(one.name, one.error, now_s()))
                yield np.full((1, one.width), np.nan, np.float32)
            else:
                yield one

    def _rows(self, piece: NDArray[Any]) -> Rows:
        rows = as_rows(piece[np.newaxis] if piece.ndim == 1 and self._width > 1 else piece, channels=self._channels)
        if rows.shape[1] != self._width:
            raise InvalidInput(f"a series of {self._width} channels got rows of {rows.shape[1]}")
        return rows


class TensorCut:
    """Inputs of any shape; a Cut. A row of a CSV table is one input, or an .npy file holds one or many."""

    suffixes: tuple[str, ...] = (".csv", ".npy")
    has_own_time = False
    can_follow = True

    def __init__(self, spec: InputSpec) -> None:
        self._channels = spec.channels
        self._shape = spec.shape[1:]

    def of_bytes(self, name: str, parts: Parts, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. Raises Corrupt or InvalidInput if it is no table and no .npy file."""
        number = 0
        for part in parts:
            first = next(part, b"")
            part = itertools.chain([first], part)
            if first[:6] == b"\x93NUMPY":
                array = from_npy(joined(part, _MOST_BYTES, what=name), what=name)
                yield from self.of_arrays(name, iter([array]), now_s)
                continue
            for one in read_tables(name, iter([part]), self._channels):
                if isinstance(one, BadRow):
                    number += 1
                    yield FrameError(one.name, one.error, now_s())
                    continue
                for row in one:
                    number += 1
                    yield Frame(f"{name}#{number:06d}", self._shaped(row), now_s(), "tensor/raw")

    def of_arrays(self, name: str, arrays: Arrays, now_s: Callable[[], float]) -> Iterator[Frame | FrameError]:
        """See Cut. An array of one more axis than the input holds many."""
        number = 0
        for array in arrays:
            if isinstance(array, FrameError):
                yield array
                continue
            for one in array if array.ndim == len(self._shape) + 1 else (array,):
                number += 1
                yield Frame(f"{name}#{number:06d}", one, now_s(), "tensor/raw")

    def _shaped(self, row: Rows) -> Rows:
        return row.reshape(self._shape) if row.size == math.prod(self._shape) else row


class BadRow(msgspec.Struct, frozen=True):
    """A line that is no row of numbers. width: how many numbers it should have held."""

    name: str
    error: EdgeloopError
    width: int


def read_tables(name: str, parts: Parts, channels: tuple[str, ...]) -> Iterator[Rows | BadRow]:
    """The rows of CSV tables that follow one another, some at a time as they come: (rows, columns) float32.

    channels: see `decode_rows`. Raises Corrupt or InvalidInput if a first line does not fit, or there are no rows.
    """
    is_empty = True
    for part in parts:
        for one in _read_table(name, part, channels):
            is_empty = False
            yield one
    if is_empty:
        raise InvalidInput(f"{name} holds no rows; expected a table of numbers with commas between them")


def _read_table(name: str, part: Iterator[bytes], channels: tuple[str, ...]) -> Iterator[Rows | BadRow]:
    table: _Table | None = None
    for lines in _lines(part, name):
        if table is None:
            (_, first), *lines = lines
            table = _Table.begin(name, first, channels)
            if not table.is_header:
                yield table.decode([first])
        yield from table.rows(lines)


def _lines(part: Iterator[bytes], name: str) -> Iterator[list[tuple[int, bytes]]]:
    """The lines that each block completes, with their numbers; empty ones are counted and left out."""
    # Pieces of a line without its end, joined only then: else a long line that comes in small blocks takes for ever.
    held: list[bytes] = []
    held_bytes = number = 0
    for block in itertools.chain(part, [None]):
        if block is None and not held_bytes:
            return
        piece, *others = (b"\n" if block is None else block).split(b"\n")
        held.append(piece)
        held_bytes += len(piece)
        ended: list[bytes] = []
        if others:
            ended = [b"".join(held), *others[:-1]]
            held, held_bytes = others[-1:], len(others[-1])
        if held_bytes > _MOST_LINE_BYTES:
            raise Corrupt(f"{name} has a line of more than {_MOST_LINE_BYTES:,} bytes; expected a CSV table")
        numbered = [(number + index, line.rstrip(b"\r")) for index, line in enumerate(ended, start=1)]
        number += len(ended)
        lines = [(place, line) for place, line in numbered if line]
        if lines:
            yield lines


class _Table(msgspec.Struct, frozen=True):
    """One table, whose first line is known. width: how many columns are picked."""

    name: str
    first: bytes
    channels: tuple[str, ...]
    is_header: bool
    width: int

    @classmethod
    def begin(cls, name: str, first: bytes, channels: tuple[str, ...]) -> "_Table":
        """Find out what the first line is. Raises Corrupt or InvalidInput if it does not fit."""
        try:
            cells = next(csv.reader([first.decode("utf-8-sig")]), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise Corrupt(f"{name} is no CSV table in UTF-8: {error}") from error
        # With a row of zeros below it, a header gives one row, and a row of numbers two.
        probe = decode_rows(first + b"\n" + b",".join([b"0"] * len(cells)), channels=channels, what=name)
        return cls(name, first, channels, len(probe) == 1, probe.shape[1])

    def rows(self, lines: list[tuple[int, bytes]]) -> Iterator[Rows | BadRow]:
        """These lines' rows: all at once if they can be read, else in halves, down to the lines that cannot."""
        if not lines:
            return
        try:
            yield self._below([line for _, line in lines], self.name)
        except (Corrupt, InvalidInput):
            if len(lines) == 1:
                yield self._bad(*lines[0])
                return
            half = len(lines) // 2
            yield from self.rows(lines[:half])
            yield from self.rows(lines[half:])

    def decode(self, lines: list[bytes]) -> Rows:
        """Lines without the first one above them."""
        return decode_rows(b"\n".join(lines), channels=self.channels, what=self.name)

    def _bad(self, number: int, line: bytes) -> BadRow:
        """What is wrong with a line, told with its number."""
        # Empty lines in between make the reader count to it; beyond a bound that would cost too much.
        gap = [b""] * (number - 2) if number <= _MOST_PADDED else []
        what = self.name if gap or number == 2 else f"{self.name} from line {number - 1}"
        try:
            self._below([*gap, line], what)
        except (Corrupt, InvalidInput) as error:
            return BadRow(f"{self.name}#{number}", error, self.width)
        raise AssertionError("what failed to be read was read the second time")

    def _below(self, lines: list[bytes], what: str) -> Rows:
        rows = decode_rows(b"\n".join([self.first, *lines]), channels=self.channels, what=what)
        return rows if self.is_header else rows[1:]
