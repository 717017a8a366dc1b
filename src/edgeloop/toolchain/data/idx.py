"""Folders of IDX files, the form of MNIST and Fashion-MNIST: images and labels, gzipped or not, of any size."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.samples import Samples
from edgeloop.toolchain.unpacking import read_bytes_of

LABEL_NAMES = "labels.txt"
"""A file beside the IDX files that names the labels, one a line."""

_PAIRS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds any of the files that are read here."""
    return any(_find(folder, name) is not None for pair in _PAIRS for name in pair)


def read_idx_folder(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, H, W) and labels (N,) of the pairs train and t10k, as many as there are.

    Raises NotFound if there are none or half a pair, Corrupt if a file is not what it is called,
    Refused if it is too large.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    for image_name, label_name in _PAIRS:
        found, named = _find(folder, image_name), _find(folder, label_name)
        if found is None and named is None:
            continue
        if found is None or named is None:
            raise NotFound(f"{folder} has only one of {image_name} and {label_name}; both are needed")
        pixels, classes = _read(found, axes=3), _read(named, axes=1)
        if len(pixels) != len(classes) or (images and pixels.shape[1:] != images[0].shape[1:]):
            raise Corrupt(
                f"{found.name} is {pixels.shape} and {named.name} {classes.shape}; expected as many images as labels, "
                "all of one size"
            )
        images.append(pixels)
        labels.append(classes)
    if not images:
        raise NotFound(f"{folder} has no IDX files; expected {_PAIRS[0][0]} and {_PAIRS[0][1]}, with or without .gz")
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)


def read_idx_samples(folder: Path) -> Samples:
    """A folder of IDX files with its labels' names: those of labels.txt, else "0", "1", ... Raises as above, or
    InvalidInput if there are more labels than names."""
    images, labels = read_idx_folder(folder)
    highest = int(labels.max(initial=0))
    names = tuple(str(label) for label in range(highest + 1))
    listed = folder / LABEL_NAMES
    if listed.is_file():
        names = tuple(line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
        if len(names) <= highest:
            raise InvalidInput(f"{listed} has {len(names)} names, the labels go up to {highest}; expected one a label")
    return Samples(folder.name, images, labels, names, Modality.IMAGE)


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def _read(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes. Source: the format's description on the MNIST page."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = struct.unpack(f">{1 + axes}I", file.read(4 * (1 + axes)))
            if magic != 0x0800 + axes:
                raise ValueError(f"magic number {magic:#x}, expected {0x0800 + axes:#x}")
            return read_bytes_of(file, tuple(shape), path.name)
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        raise Corrupt(f"{path} is no IDX file of {axes} axes: {error}") from error
