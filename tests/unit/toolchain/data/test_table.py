from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.data.table import read_table


def _write(folder: Path, *lines: str) -> Path:
    path = folder / "points.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_columns_of_numbers_are_samples_and_the_label_column_their_class(tmp_path: Path) -> None:
    samples = read_table(_write(tmp_path, "x,label,y", "1,b,2.5", "-3,a,1e3"))
    assert samples.inputs.tolist() == [[1.0, 2.5], [-3.0, 1000.0]]
    assert (samples.labels.tolist(), samples.label_names, samples.modality) == ([1, 0], ("a", "b"), Modality.TENSOR)


def test_label_column_can_be_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "x,kind", *(f"{index},{index % 3}" for index in range(240)))
    data = open_dataset(f"{path}:kind")
    assert (data.label_names, data.fit.inputs.dtype) == (("0", "1", "2"), np.float32)
    assert np.array_equal(data.fit.inputs[:, 0] % 3, data.fit.labels)


def test_without_a_label_column_samples_are_unlabelled(tmp_path: Path) -> None:
    path = _write(tmp_path, "x,y", *("1,2" for _ in range(200)))
    assert not open_dataset(str(path)).is_labelled


def test_quoted_cells_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    samples = read_table(_write(tmp_path, "\ufeffx,label", '"1","a, b"', "2,c"))
    assert (samples.inputs.tolist(), samples.label_names) == ([[1.0], [2.0]], ("a, b", "c"))


@pytest.mark.parametrize("cell", ["three", "", "1,5"])
def test_cell_that_is_no_number_is_named_by_row_and_column(tmp_path: Path, cell: str) -> None:
    with pytest.raises(Corrupt, match="row 3, column 'y' holds"):
        read_table(_write(tmp_path, "x,y,label", "1,2,a", f'3,"{cell}",b'))


@pytest.mark.parametrize("cell", ["nan", "inf", "1e60"])
def test_cell_that_is_not_finite_is_named_by_row_and_column(tmp_path: Path, cell: str) -> None:
    with pytest.raises(Corrupt, match=rf"row 2, column 'x' holds '{cell}', which is not finite"):
        read_table(_write(tmp_path, "x,label", f"{cell},a", "1,b"))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("x,y", "1,2", "1,2,3"), "row 3 has 3 cells; the header has 2"),
        (("x,label", "1, "), "row 2 has an empty label"),
    ],
    ids=["ragged", "no label"],
)
def test_damaged_rows_are_named(tmp_path: Path, lines: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        read_table(_write(tmp_path, *lines))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("1,2", "3,4"), "has no header"),
        (("x;y", "1;2"), "separated by semicolons"),
        (("x,x", "1,2"), "two columns of one name"),
        (("label", "a"), "no column but 'label'"),
    ],
    ids=["no header", "semicolons", "doubled", "label alone"],
)
def test_tables_of_another_form_are_refused(tmp_path: Path, lines: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        read_table(_write(tmp_path, *lines))


def test_missing_label_column_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no column 'kind'; it has x, y"):
        open_dataset(f"{_write(tmp_path, 'x,y', '1,2')}:kind")


def test_file_that_is_not_text_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(b"x,\xff\xfe\n1,2\n")
    with pytest.raises(Corrupt, match="no CSV file in UTF-8"):
        read_table(path)
