"""From a CSV table to the rows of a series.

Commas, UTF-8; the first line may name the columns. Source: RFC 4180. Neighbour: `series` prepares the rows.
"""

import csv
import io
import os
from array import array

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.runtime.input.files import read_bounded

MAX_CELLS = 2**22
"""Of one table: 3.8 hours of six channels at 50 Hz."""

_MOST_BYTES = 2**26

Cells = list[str]


def read_rows(source: str | os.PathLike[str], *, channels: tuple[str, ...] = ()) -> NDArray[np.float32]:
    """Read a CSV file. Raises what `read_bounded` and `decode_rows` raise."""
    data = read_bounded(source, what="table", most_bytes=_MOST_BYTES)
    return decode_rows(data, channels=channels, what=str(source))


def decode_rows(data: bytes, *, channels: tuple[str, ...] = (), what: str = "input") -> NDArray[np.float32]:
    """The bytes of a CSV table as (rows, columns) float32; an empty cell or "nan" is NaN. Blank lines are left out.

    The first line is a header if it names all of `channels`, or has no number in it. channels: which columns, in
    this order; all if empty. Without a header there must be as many columns as channels. Raises Corrupt naming line
    and column if a row is of another length or a cell that is asked for is no finite number; InvalidInput if there
    are no rows, too many, or not those columns.
    """
    _check_size(data, what)
    try:
        text = data.decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        first = next((row for row in lines if row), [])
        if not first:
            raise InvalidInput(f"{what} is an empty table; expected rows of numbers with commas between them")
        header = _header(first, channels)
        columns = _columns(first, header, channels, what)
        table = _Numbers(columns, width=len(first), what=what)
        if not header:
            table.add(first, lines.line_num)
        for row in lines:
            if row:
                table.add(row, lines.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Corrupt(f"{what} is no CSV table in UTF-8: {error}") from error
    return table.rows()


def encode_rows(rows: NDArray[np.float32], *, channels: tuple[str, ...] = ()) -> bytes:
    """A CSV table of (rows, columns) with a header of the channels, if there are any; `decode_rows` gives them back.

    Each number is the shortest decimal that float32 reads as itself.
    """
    made = io.StringIO(newline="")
    table = csv.writer(made, lineterminator="\n")
    if channels:
        table.writerow(channels)
    table.writerows(rows.astype(np.float32, copy=False).astype(str))
    return made.getvalue().encode()


class _Numbers:
    """Rows of numbers as they come in. columns: place and name of each that is asked for."""

    def __init__(self, columns: list[tuple[int, str]], *, width: int, what: str) -> None:
        self._columns = columns
        self._width = width
        self._what = what
        self._values = array("d")
        self._lines = array("L")

    def add(self, row: Cells, line: int) -> None:
        if len(row) != self._width:
            raise Corrupt(f"{self._what}, line {line}: {len(row)} cells where the first line has {self._width}")
        cells = [row[place] for place, _ in self._columns]
        try:
            values = [float(cell) if cell else np.nan for cell in cells]
        except ValueError:
            values = [self._number(cell, line, at) for at, cell in enumerate(cells)]
        if "_" in "".join(cells):  # Python reads 1_000 as a number; nobody else does
            values = [self._number(cell, line, at) for at, cell in enumerate(cells)]
        self._values.fromlist(values)
        self._lines.append(line)

    def rows(self) -> NDArray[np.float32]:
        if not self._lines:
            raise InvalidInput(f"{self._what} has a header and no rows; expected rows of numbers")
        wide = np.frombuffer(self._values, np.float64).reshape(len(self._lines), len(self._columns))
        with np.errstate(over="ignore"):
            rows = wide.astype(np.float32)
        endless = np.argwhere(np.isinf(rows))
        if len(endless):
            row, at = map(int, endless[0])
            raise Corrupt(
                f"{self._what}, line {self._lines[row]}, column {self._columns[at][1]!r}: {wide[row, at]}; expected a "
                "number that float32 can hold"
            )
        return rows

    def _number(self, cell: str, line: int, at: int) -> float:
        if not cell.strip():
            return np.nan
        if not _is_number(cell):
            raise Corrupt(
                f"{self._what}, line {line}, column {self._columns[at][1]!r}: {cell[:40]!r}; expected a number"
            )
        return float(cell)


def _check_size(data: bytes, what: str) -> None:
    if len(data) > _MOST_BYTES:
        raise InvalidInput(f"{what} has {len(data):,} bytes; a table has at most {_MOST_BYTES:,}: cut it into parts")
    # Before a cell is made: each ends in one of these.
    cells = data.count(b",") + data.count(b"\n") + data.count(b"\r")
    if cells > 2 * MAX_CELLS:
        raise InvalidInput(f"{what} has about {cells:,} cells; at most {MAX_CELLS:,} are taken: cut it into parts")


def _header(first: Cells, channels: tuple[str, ...]) -> Cells:
    """The names of the columns, or nothing if the first line already holds numbers."""
    names = [cell.strip() for cell in first]
    named = bool(channels) and set(channels) <= set(names)
    return names if named or (not any(_is_number(name) for name in names) and any(names)) else []


def _columns(first: Cells, header: Cells, channels: tuple[str, ...], what: str) -> list[tuple[int, str]]:
    """Place and name of the columns that are asked for; without a header, their numbers are their names."""
    names = header or [str(place + 1) for place in range(len(first))]
    if not channels or not header:
        if channels and len(first) != len(channels):
            raise InvalidInput(
                f"{what} has {len(first)} columns and no header; expected the {len(channels)} channels "
                f"{', '.join(channels)}, or a first line that names them"
            )
        return list(enumerate(names))
    for name in channels:
        if header.count(name) != 1:
            raise InvalidInput(
                f"{what} has {header.count(name)} columns called {name!r}; expected one. It has {_shown(header)}"
            )
    return [(header.index(name), name) for name in channels]


def _shown(header: Cells) -> str:
    """The first names, for people and their terminals."""
    names = ", ".join(repr(name[:40]) for name in header[:8])
    return f"{names} and more" if len(header) > 8 else names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
