"""The data of the works: what may be learnt from, and what judges and nothing else.

MNIST and Fashion-MNIST keep their own split: the 10,000 test images judge, and no step of ours or of a peer sees
them. The 60,000 training images are staged in a folder of their own, which is what `edgeloop --data` is given and what
is read here through the same reader, so that the float models train on exactly the part that a search trains on.
"""

import gzip
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.data.dataset import Dataset
from edgeloop.toolchain.data.open import open_dataset

ASSETS_VARIABLE = "EDGELOOP_ASSETS"
"""The environment variable that names the folder of public models and data sets."""

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""

CALIBRATION_SAMPLES = 512
"""Of the fit part, for every tool that calibrates."""

_TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
_KWS_SCALE, _KWS_ZERO_POINT = 0.5847, 83


class Absent(Exception):
    """Data that a work needs is not on this machine; the message says what, and where it was looked for."""


@dataclass(frozen=True)
class Images:
    """Small grey images. learn: a dataset over the training images alone. folder: those as IDX files.

    judge_inputs: (N, 28, 28, 1) float32 in 0..1; judge_labels: (N,) int64.
    """

    name: str
    learn: Dataset
    folder: Path
    judge_inputs: NDArray[np.float32]
    judge_labels: NDArray[np.int64]

    @property
    def calibration(self) -> NDArray[np.float32]:
        """(CALIBRATION_SAMPLES, 28, 28, 1) of the fit part."""
        return as_tensor(self.learn.fit.inputs[:CALIBRATION_SAMPLES])


def assets_folder(given: Path | None) -> Path:
    """The folder of public models and data: as given, else from the environment, else beside the checkout."""
    if given is not None:
        return given
    named = os.environ.get(ASSETS_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "assets"


def require(path: Path) -> Path:
    """The path. Raises Absent if nothing is there."""
    if not path.exists():
        raise Absent(f"{path.name} is not there; looked in {_shown(path.parent)}")
    return path


def mnist(assets: Path, cache: Path) -> Images:
    """MNIST from the IDX files of assets/mnist. Raises Absent."""
    return _images("mnist", assets / "mnist", cache)


def fashion(cache: Path) -> Images:
    """Fashion-MNIST from the Debian package. Raises Absent."""
    if not FASHION_FOLDER.is_dir():
        raise Absent("Fashion-MNIST is not installed; on Debian: apt-get install dataset-fashion-mnist")
    return _images("fashion-mnist", FASHION_FOLDER, cache)


def keyword_clips(assets: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """MLPerf Tiny's MFCC of 1,000 clips of Speech Commands: (1000, 49, 10, 1) float32, and labels (1000,)."""
    with np.load(require(assets / "speech_commands" / "kws01_mfcc_int8.npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    inputs = next(array for array in arrays.values() if array.ndim > 1)
    labels = next(array for array in arrays.values() if array.ndim == 1)
    real = (inputs.reshape(len(inputs), 49, 10, 1).astype(np.float32) - _KWS_ZERO_POINT) * np.float32(_KWS_SCALE)
    return real, labels.astype(np.int64)


def photo_crops(assets: Path, count: int, *, side_px: int, seed: int) -> NDArray[np.uint8]:
    """Random square crops of the photos in assets/mobilenet, shrunk: (count, side, side, 3) RGB."""
    import cv2

    rng = np.random.default_rng(seed)
    photos = [_photo(assets / "mobilenet" / name) for name in ("cat.bmp", "grace_hopper.bmp")]
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(rng.integers(side_px, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        crops.append(cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA)[..., ::-1])
    return np.ascontiguousarray(np.stack(crops))


def as_tensor(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W) bytes as the nets take them: (N, H, W, 1) float32 in 0..1."""
    return images[..., np.newaxis].astype(np.float32) / np.float32(255)


def _images(name: str, source: Path, cache: Path) -> Images:
    folder = cache / f"{name}-train"
    folder.mkdir(parents=True, exist_ok=True)
    for file in _TRAIN:
        shutil.copyfile(require(source / file), folder / file)
    images, labels = (_read_idx(require(source / file)) for file in _TEST)
    return Images(name, open_dataset(str(folder), seed=0), folder, as_tensor(images), labels.astype(np.int64))


def _photo(path: Path) -> NDArray[np.uint8]:
    """Pixels (height, width, 3), blue first."""
    import cv2

    pixels = cv2.imread(str(require(path)))
    if pixels is None:
        raise Absent(f"{path.name} is no image")
    return np.asarray(pixels, np.uint8)


def _read_idx(path: Path) -> NDArray[Any]:
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    return np.frombuffer(data, np.uint8, offset=4 * (1 + axes)).reshape(
        struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    )


def _shown(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
