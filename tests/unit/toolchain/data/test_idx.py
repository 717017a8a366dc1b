import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.open import open_dataset

COUNT = 240


def _write(path: Path, values: NDArray[np.uint8], *, zipped: bool = False) -> None:
    data = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(data) if zipped else data)


def _pair(folder: Path, kind: str = "train", *, classes: int = 12, height_px: int = 9, zipped: bool = False) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(COUNT, height_px, 7), dtype=np.uint8)
    _write(folder / f"{kind}-images-idx3-ubyte", images, zipped=zipped)
    _write(folder / f"{kind}-labels-idx1-ubyte", np.arange(COUNT).astype(np.uint8) % classes, zipped=zipped)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_of_any_size_and_any_number_of_classes_are_read(tmp_path: Path, zipped: bool) -> None:
    _pair(tmp_path, zipped=zipped)
    data = open_dataset(str(tmp_path))
    assert (data.fit.inputs.shape[1:], data.fit.inputs.dtype, data.modality) == ((9, 7), np.uint8, Modality.IMAGE)
    assert data.label_names == tuple(str(label) for label in range(12))


def test_both_pairs_are_read_and_all_but_what_judges_trains(tmp_path: Path) -> None:
    _pair(tmp_path)
    _pair(tmp_path, "t10k")
    data = open_dataset(str(tmp_path))
    judges = len(data.validation) + len(data.holdout)
    assert (len(data.fit), len(data.field)) == (2 * COUNT - judges, 0)


def test_names_are_taken_from_the_file_beside_them(tmp_path: Path) -> None:
    _pair(tmp_path, classes=2)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert open_dataset(str(tmp_path)).label_names == ("cat", "dog")


def test_fewer_names_than_labels_are_refused(tmp_path: Path) -> None:
    _pair(tmp_path, classes=3)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(InvalidInput, match=r"labels\.txt has 2 names, the labels go up to 2"):
        open_dataset(str(tmp_path))


def test_pairs_of_two_sizes_are_refused(tmp_path: Path) -> None:
    _pair(tmp_path)
    _pair(tmp_path, "t10k", height_px=10)
    with pytest.raises(Corrupt, match="all of one size"):
        open_dataset(str(tmp_path))


def test_half_a_pair_is_not_found(tmp_path: Path) -> None:
    _pair(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(NotFound, match="only one of"):
        open_dataset(str(tmp_path))
