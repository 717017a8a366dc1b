import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, NotFound
from edgeloop.toolchain.data.dataset import split
from edgeloop.toolchain.data.open import open_dataset

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
MORE_IMAGES, MORE_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
COUNT = 400


def _numbered(count: int) -> NDArray[np.uint8]:
    """(count, 28, 28) images that each bear their own number in their first bytes."""
    images = np.zeros((count, 28, 28), np.uint8)
    images.reshape(count, -1)[:, :4] = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)
    return images


def _numbers(images: NDArray[np.uint8]) -> list[int]:
    first = np.ascontiguousarray(images.reshape(len(images), -1)[:, :4])
    return [int(number) for number in first.view(">u4").ravel()]


def _classes(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % 10


def _idx(values: NDArray[np.uint8], *, magic: int | None = None) -> bytes:
    """IDX bytes. Source: the format's description on the MNIST page."""
    header = struct.pack(f">{1 + values.ndim}I", magic if magic is not None else 0x0800 + values.ndim, *values.shape)
    return header + values.tobytes()


def _split(*, seed: int) -> NDArray[np.uint8]:
    """The held-out images, had they never been in files."""
    names = tuple("0123456789")
    images, labels = _numbered(COUNT), _classes(COUNT)
    made: NDArray[np.uint8] = split("d", images, labels, label_names=names, sha256="0" * 64, seed=seed).holdout.inputs
    return made


def _write(
    folder: Path, count: int = COUNT, *, names: tuple[str, str] = (IMAGES, LABELS), zipped: bool = False
) -> None:
    pairs = zip(names, (_numbered(count), _classes(count).astype(np.uint8)), strict=True)
    for name, values in pairs:
        data = _idx(values)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(data) if zipped else data)


# ---- where digits come from


def test_bundled_digits_are_five_thousand_of_ten_classes() -> None:
    data = open_dataset("digits")
    total = sum(len(part) for part in (data.fit, data.validation, data.holdout, data.field))
    assert (total, data.label_names, set(data.fit.labels.tolist())) == (5000, tuple("0123456789"), set(range(10)))


def test_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere; digits come from 'bundled', 'keras' or a folder of IDX files"):
        open_dataset("digits", source=str(tmp_path / "nowhere"))


def test_folder_without_idx_files_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=IMAGES):
        open_dataset("digits", source=str(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_come_back_as_they_were_written(tmp_path: Path, zipped: bool) -> None:
    _write(tmp_path, zipped=zipped)
    data = open_dataset("digits", source=str(tmp_path), seed=5)
    assert _numbers(data.holdout.inputs) == _numbers(_split(seed=5))


def test_zipped_and_plain_files_have_the_same_hash(tmp_path: Path) -> None:
    found = []
    for zipped in (False, True):
        folder = tmp_path / str(zipped)
        folder.mkdir()
        _write(folder, zipped=zipped)
        found.append(open_dataset("digits", source=str(folder)).sha256)
    assert found[0] == found[1]


def test_hash_is_of_the_content_and_not_of_the_split(tmp_path: Path) -> None:
    _write(tmp_path)
    first, other = (open_dataset("digits", source=str(tmp_path), seed=seed).sha256 for seed in (1, 2))
    assert first == other


def test_both_pairs_of_files_are_read(tmp_path: Path) -> None:
    _write(tmp_path)
    _write(tmp_path, 250, names=(MORE_IMAGES, MORE_LABELS))
    data = open_dataset("digits", source=str(tmp_path))
    assert sum(len(part) for part in (data.fit, data.validation, data.holdout, data.field)) == COUNT + 250


# ---- files that are not what they claim


def _corrupt(folder: Path, *, name: str, data: bytes) -> str:
    _write(folder)
    (folder / name).write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        open_dataset("digits", source=str(folder))
    return str(caught.value)


def test_truncated_file_is_corrupt(tmp_path: Path) -> None:
    assert IMAGES in _corrupt(tmp_path, name=IMAGES, data=_idx(_numbered(COUNT))[:-1])


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x00\x00\x08\x03\x00\x00"])
def test_file_cut_in_its_header_is_corrupt(tmp_path: Path, data: bytes) -> None:
    assert IMAGES in _corrupt(tmp_path, name=IMAGES, data=data)


def test_file_that_is_too_long_is_corrupt(tmp_path: Path) -> None:
    assert IMAGES in _corrupt(tmp_path, name=IMAGES, data=_idx(_numbered(COUNT)) + b"x")


def test_wrong_magic_number_is_named(tmp_path: Path) -> None:
    message = _corrupt(tmp_path, name=IMAGES, data=_idx(_numbered(COUNT), magic=0x0D03))
    assert "0xd03, expected 0x803" in message


def test_labels_in_the_place_of_images_are_corrupt(tmp_path: Path) -> None:
    assert IMAGES in _corrupt(tmp_path, name=IMAGES, data=_idx(_classes(COUNT).astype(np.uint8)))


def test_images_without_as_many_labels_are_corrupt(tmp_path: Path) -> None:
    message = _corrupt(tmp_path, name=LABELS, data=_idx(_classes(COUNT - 1).astype(np.uint8)))
    assert "expected as many images as labels" in message


def test_images_of_another_size_are_corrupt(tmp_path: Path) -> None:
    message = _corrupt(tmp_path, name=IMAGES, data=_idx(np.zeros((COUNT, 20, 20), np.uint8)))
    assert "digits are 28x28 with labels 0 to 9" in message


def test_label_that_is_no_digit_is_corrupt(tmp_path: Path) -> None:
    message = _corrupt(tmp_path, name=LABELS, data=_idx(np.full(COUNT, 10, np.uint8)))
    assert "labels 0 to 9" in message


def test_gzip_cut_at_half_is_corrupt(tmp_path: Path) -> None:
    zipped = gzip.compress(_idx(_numbered(COUNT)))
    assert IMAGES in _corrupt(tmp_path, name=f"{IMAGES}.gz", data=zipped[: len(zipped) // 2])


def test_file_that_is_no_gzip_is_corrupt(tmp_path: Path) -> None:
    assert IMAGES in _corrupt(tmp_path, name=f"{IMAGES}.gz", data=b"<html>not found</html>")


def test_gzip_damaged_in_its_middle_is_corrupt(tmp_path: Path) -> None:
    zipped = bytearray(gzip.compress(_idx(_numbered(COUNT))))
    zipped[12:40] = b"\xff" * 28
    assert IMAGES in _corrupt(tmp_path, name=f"{IMAGES}.gz", data=bytes(zipped))


def test_images_without_their_labels_are_not_passed_over(tmp_path: Path) -> None:
    # The other pair is complete: to read it alone would be another data set than the one asked for.
    _write(tmp_path)
    _write(tmp_path, 250, names=(MORE_IMAGES, MORE_LABELS))
    (tmp_path / LABELS).unlink()
    with pytest.raises(NotFound, match=LABELS):
        open_dataset("digits", source=str(tmp_path))
