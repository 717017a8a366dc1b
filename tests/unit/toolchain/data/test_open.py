from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import Dataset
from edgeloop.toolchain.data.open import calibration_samples, open_dataset, require_labels_match

TAKEN = TensorSpec("point", (1, 3), "float32")


def _points(folder: Path, count: int, *, offset: float = 0.0) -> str:
    path = folder / "points.npz"
    values = np.random.default_rng(0).normal(size=(count, 3)) + offset
    np.savez(path, inputs=values, labels=np.arange(count) % 2)
    return str(path)


def _data(folder: Path) -> Dataset:
    return open_dataset(_points(folder, 200))


def test_what_is_neither_name_nor_path_is_not_found() -> None:
    with pytest.raises(NotFound, match="no dataset or path 'letters'; data is 'digits', a folder"):
        open_dataset("letters")


def test_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"data\.parquet ends in '\.parquet'"):
        open_dataset(str(tmp_path / "data.parquet"))


def test_folder_without_samples_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no samples"):
        open_dataset(str(tmp_path))


def test_too_few_to_train_with_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"199 samples; at least 200 .*16 are enough to calibrate"):
        open_dataset(_points(tmp_path, 199))


def test_sixteen_are_enough_to_calibrate_with_and_all_are_used(tmp_path: Path) -> None:
    dataset = calibration_samples(_points(tmp_path, 16), TAKEN).dataset
    assert [len(part) for part in (dataset.fit, dataset.validation, dataset.holdout)] == [16, 0, 0]


def test_fifteen_are_too_few_to_calibrate_with(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="15 samples; calibration needs 16 or more"):
        calibration_samples(_points(tmp_path, 15), TAKEN)


def test_calibration_takes_nothing_from_what_judges(tmp_path: Path) -> None:
    where = _points(tmp_path, 300)
    calibrating, judging = calibration_samples(where, TAKEN).dataset, open_dataset(where)
    assert np.array_equal(calibrating.holdout.inputs, judging.holdout.inputs)
    assert np.array_equal(calibrating.fit.inputs, judging.fit.inputs)


def test_hash_is_of_the_content_and_not_of_the_split(tmp_path: Path) -> None:
    where = _points(tmp_path, 200)
    first, other = (open_dataset(where, seed=seed).sha256 for seed in (1, 2))
    assert first == other


def test_other_content_has_another_hash(tmp_path: Path) -> None:
    first, other = (open_dataset(_points(tmp_path, 200, offset=offset)).sha256 for offset in (0.0, 1.0))
    assert first != other


def test_labels_that_match_the_model_pass(tmp_path: Path) -> None:
    require_labels_match(_data(tmp_path), 2)


def test_labels_that_do_not_match_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the model has 10 outputs, points 2 labels \(0, 1\)"):
        require_labels_match(_data(tmp_path), 10)
