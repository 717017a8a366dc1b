"""CSV tables: a row a sample, a header of column names, numbers in all columns but the label's."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.samples import Samples, named_labels, unlabelled

LABEL_COLUMN = "label"


def read_table(path: Path, *, label_column: str | None = None) -> Samples:
    """A CSV file as (N, columns) float32.

    label_column: the column that names the class; by default the one called "label", and where there is none the
    samples are unlabelled. Raises NotFound if the file or the named column is missing, InvalidInput if it has no
    header, Corrupt naming row and column of a cell that is no finite number.
    """
    header, rows = _rows(path)
    wanted = label_column or LABEL_COLUMN
    if label_column is not None and label_column not in header:
        raise NotFound(f"{path} has no column {label_column!r}; it has {', '.join(header)}")
    place = header.index(wanted) if wanted in header else None
    columns = [index for index in range(len(header)) if index != place]
    if not columns:
        raise InvalidInput(f"{path} has no column but {wanted!r}; expected columns of numbers beside it")
    inputs = _numbers(path, header, rows, columns)
    if place is None:
        return Samples(path.stem, inputs, unlabelled(len(rows)), (), Modality.TENSOR)
    labels, names = named_labels([_label(path, row[place], number) for number, row in enumerate(rows, start=2)])
    return Samples(path.stem, inputs, labels, names, Modality.TENSOR)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Corrupt(f"{path} is no CSV file in UTF-8: {error}") from error
    header = [name.strip() for name in header]
    if len(header) == 1 and ";" in header[0]:
        raise InvalidInput(f"{path} is separated by semicolons; expected commas")
    if not header or all(_is_number(name) for name in header):
        raise InvalidInput(f"{path} has no header; its first line must name the columns, one of them {LABEL_COLUMN!r}")
    if len(set(header)) != len(header):
        raise InvalidInput(f"{path} has two columns of one name in {', '.join(header)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise Corrupt(f"{path}: row {number} has {len(row)} cells; the header has {len(header)}")
    return header, rows


def _numbers(path: Path, header: list[str], rows: list[list[str]], columns: list[int]) -> NDArray[np.float32]:
    cells = [[row[index] for index in columns] for row in rows]
    try:
        wide = np.array(cells, dtype=np.float64).reshape(len(rows), len(columns))
    except ValueError as error:
        row, column = next(
            (r, c) for r, line in enumerate(cells) for c, cell in enumerate(line) if not _is_number(cell)
        )
        raise Corrupt(
            f"{path}: row {row + 2}, column {header[columns[column]]!r} holds {cells[row][column]!r}; expected a "
            "number (the label's column is called 'label', or named as FILE.csv:COLUMN)"
        ) from error
    with np.errstate(over="ignore"):
        numbers = wide.astype(np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        raise Corrupt(
            f"{path}: row {row + 2}, column {header[columns[column]]!r} holds {cells[row][column]!r}, which is not "
            f"finite in float32; {len(bad)} cells in all are not"
        )
    return numbers


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label(path: Path, cell: str, number: int) -> str:
    if not cell.strip():
        raise Corrupt(f"{path}: row {number} has an empty label")
    return cell.strip()
