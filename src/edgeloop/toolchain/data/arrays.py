"""NPZ archives: one array of samples, one of labels, and names for them if there are any."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.dataset import UNLABELLED
from edgeloop.toolchain.data.samples import Samples, named_labels, unlabelled
from edgeloop.toolchain.unpacking import require_unpackable

_INPUTS, _LABELS, _NAMES = ("inputs", "x"), ("labels", "y"), "label_names"


def read_arrays(path: Path) -> Samples:
    """Arrays "inputs" (or "x") and, where samples are labelled, "labels" (or "y"), and "label_names".

    uint8 of (N, H, W) or (N, H, W, 1 or 3) are images; any other numbers are taken as float32 arrays. labels: whole
    numbers, -1 for none, or names. Raises NotFound, Corrupt if the file is no such archive or holds NaN, InvalidInput
    if the arrays do not fit one another, Refused if they are too large.
    """
    found = _load(path)
    inputs = _first(found, _INPUTS)
    if inputs is None:
        raise InvalidInput(f"{path} holds {', '.join(found) or 'nothing'}; expected an array 'inputs' (or 'x')")
    labels = _first(found, _LABELS)
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiub":
        raise InvalidInput(f"{path}: inputs are {inputs.dtype} {inputs.shape}; expected numbers (N, ...)")
    if labels is not None and labels.size != len(inputs):
        raise InvalidInput(f"{path}: {len(inputs)} inputs and labels {labels.shape}; expected one label an input")
    classes, names = _labels(path, labels, found.get(_NAMES), len(inputs))
    if inputs.dtype == np.uint8 and (inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[3] in (1, 3))):
        images = inputs[..., 0] if inputs.ndim == 4 and inputs.shape[3] == 1 else inputs
        return Samples(path.stem, images, classes, names, Modality.IMAGE)
    with np.errstate(over="ignore"):
        numbers = inputs.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1))
    if len(bad):
        raise Corrupt(f"{path}: {len(bad)} of {len(numbers)} inputs hold NaN or infinity, the first is {int(bad[0])}")
    return Samples(path.stem, numbers, classes, names, Modality.TENSOR)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        # NumPy leaves a file open that it opened itself and that is no archive.
        with zipfile.ZipFile(path) as packed:
            require_unpackable(packed, path.name)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name.lower(): archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise Corrupt(f"{path} is no NPZ archive of plain arrays: {error}") from error


def _first(found: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((found[name] for name in names if name in found), None)


def _labels(
    path: Path, labels: NDArray[Any] | None, given: NDArray[Any] | None, count: int
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels is None:
        return unlabelled(count), ()
    if labels.dtype.kind == "U":
        return named_labels([str(name) for name in labels.ravel()])
    if labels.dtype.kind not in "iu":
        raise InvalidInput(f"{path}: labels are {labels.dtype}; expected whole numbers or names")
    classes = labels.ravel().astype(np.int64)
    lowest, highest = int(classes.min(initial=0)), int(classes.max(initial=UNLABELLED))
    names = tuple(str(name) for name in (range(highest + 1) if given is None else given.ravel()))
    if lowest < UNLABELLED or highest >= len(names):
        raise InvalidInput(
            f"{path}: labels go from {lowest} to {highest} and there are {len(names)} label_names; expected 0 to "
            f"{len(names) - 1}, or {UNLABELLED} for none"
        )
    return classes, names
