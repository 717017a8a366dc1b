"""Archives that would unpack to more than memory holds are refused before anything of them is unpacked."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt, Refused
from edgeloop.toolchain.data.arrays import read_arrays
from edgeloop.toolchain.data.idx import read_idx_folder
from edgeloop.toolchain.source.keras import load_keras
from edgeloop.toolchain.source.sklearn import load_sklearn
from edgeloop.toolchain.source.torch import load_torch
from edgeloop.toolchain.unpacking import MOST_BYTES, read_bytes_of, require_unpackable


def _zip_that_promises(size_bytes: int) -> bytes:
    """Two small parts whose directory entries give half of size_bytes each as their length."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("model/archive_format", "model/data"):
            archive.writestr(name, b"pt2")
        for part in archive.infolist():
            part.file_size = size_bytes // 2
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.keras", load_keras),
        ("model.skops", load_sklearn),
        ("model.pt2", load_torch),
        ("data.npz", read_arrays),
    ],
)
def test_archive_beyond_the_bound_is_refused_by_its_size(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    (tmp_path / name).write_bytes(_zip_that_promises(2 * MOST_BYTES))
    with pytest.raises(Refused, match=rf"{name} unpacks to 17,179,869,184 bytes, and at most 8,589,934,592"):
        read(tmp_path / name)


def test_archive_at_the_bound_passes() -> None:
    with zipfile.ZipFile(io.BytesIO(_zip_that_promises(100))) as archive:
        require_unpackable(archive, "at.zip", most_bytes=100)
        with pytest.raises(Refused):
            require_unpackable(archive, "over.zip", most_bytes=99)


def test_gzip_is_read_no_further_than_its_header_promises(tmp_path: Path) -> None:
    header = struct.pack(">2I", 0x0801, 4)
    path = tmp_path / "packed.gz"
    path.write_bytes(gzip.compress(header + bytes(10_000_000)))
    with gzip.open(path) as file:
        file.read(len(header))
        with pytest.raises(ValueError, match="promises 4 bytes, it holds more"):
            read_bytes_of(file, (4,), "packed.gz")
        assert file.tell() == len(header) + 5


def test_idx_of_an_impossible_shape_is_refused_by_its_header(tmp_path: Path) -> None:
    images, labels = struct.pack(">4I", 0x0803, 2**20, 2**10, 2**10), struct.pack(">2I", 0x0801, 1)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels + bytes(1))
    with pytest.raises(Refused, match=r"shape as \(1048576, 1024, 1024\)"):
        read_idx_folder(tmp_path)


def test_idx_with_more_than_its_header_says_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x0803, 1, 2, 2) + bytes(5))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, 1) + bytes(1))
    with pytest.raises(Corrupt, match="promises 4 bytes, it holds more"):
        read_idx_folder(tmp_path)


def test_bytes_keep_their_order_and_shape() -> None:
    made = read_bytes_of(io.BytesIO(bytes(range(6))), (2, 3), "six")
    assert np.array_equal(made, np.arange(6).reshape(2, 3))
