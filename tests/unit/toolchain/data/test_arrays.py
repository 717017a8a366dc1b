from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.arrays import read_arrays
from edgeloop.toolchain.data.open import open_dataset


def _write(folder: Path, **arrays: Any) -> Path:
    path = folder / "made.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("inputs", "labels"), [("inputs", "labels"), ("x", "y"), ("X", "Y")])
def test_both_pairs_of_names_are_known(tmp_path: Path, inputs: str, labels: str) -> None:
    path = _write(tmp_path, **{inputs: np.eye(240, 4), labels: np.arange(240) % 3})
    data = open_dataset(str(path))
    assert (data.label_names, data.fit.inputs.dtype, data.modality) == (("0", "1", "2"), np.float32, Modality.TENSOR)


@pytest.mark.parametrize(("shape", "kept"), [((9, 5, 4), (5, 4)), ((9, 5, 4, 1), (5, 4)), ((9, 5, 4, 3), (5, 4, 3))])
def test_bytes_in_the_shape_of_images_are_images(tmp_path: Path, shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    samples = read_arrays(_write(tmp_path, inputs=np.zeros(shape, np.uint8)))
    assert (samples.modality, samples.inputs.shape[1:], samples.label_names) == (Modality.IMAGE, kept, ())


def test_other_numbers_are_arrays(tmp_path: Path) -> None:
    samples = read_arrays(_write(tmp_path, inputs=np.full((9, 5, 4, 1), -3, np.int8)))
    assert (samples.modality, samples.inputs.dtype, samples.inputs[0, 0, 0, 0]) == (Modality.TENSOR, np.float32, -3.0)


def test_labels_may_be_names(tmp_path: Path) -> None:
    samples = read_arrays(_write(tmp_path, x=np.eye(3), y=np.array(["dog", "cat", "dog"])))
    assert (samples.labels.tolist(), samples.label_names) == ([1, 0, 1], ("cat", "dog"))


def test_names_beside_numbers_are_theirs(tmp_path: Path) -> None:
    samples = read_arrays(_write(tmp_path, x=np.eye(2), y=np.array([1, -1]), label_names=np.array(["cat", "dog"])))
    assert (samples.labels.tolist(), samples.label_names) == ([1, -1], ("cat", "dog"))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"z": np.eye(3)}, "holds z; expected an array 'inputs'"),
        ({"x": np.zeros(3)}, r"inputs are float64 \(3,\)"),
        ({"x": np.eye(3), "y": np.zeros(2, int)}, r"3 inputs and labels \(2,\)"),
        ({"x": np.eye(3), "y": np.zeros(3)}, "labels are float64; expected whole numbers or names"),
        (
            {"x": np.eye(2), "y": np.array([0, 2]), "label_names": np.array(["a", "b"])},
            "go from 0 to 2 and there are 2",
        ),
        ({"x": np.eye(2), "y": np.array([0, -2])}, "go from -2 to 0"),
    ],
    ids=["no inputs", "one axis", "labels short", "labels float", "names short", "labels negative"],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        read_arrays(_write(tmp_path, **arrays))


def test_nan_is_refused_with_the_first_sample_that_holds_it(tmp_path: Path) -> None:
    values = np.eye(5)
    values[2:, 1] = np.nan
    with pytest.raises(Corrupt, match="3 of 5 inputs hold NaN or infinity, the first is 2"):
        read_arrays(_write(tmp_path, x=values))


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_what_is_no_archive_is_corrupt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "made.npz"
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="no NPZ archive of plain arrays"):
        read_arrays(path)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Corrupt, match="no NPZ archive of plain arrays"):
        read_arrays(path)
