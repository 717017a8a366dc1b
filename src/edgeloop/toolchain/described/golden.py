"""Golden inputs: real ones from a folder or a file of arrays, as they come before preprocessing, in one array.

Which ones is no accident: 32 of all, evenly spread over their sorted names (and over time within a sound or series).
Neighbours: `canvas` brings images to one size; `runtime.input` reads sounds and tables, and cuts them.
"""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Step
from edgeloop.runtime.input.encoded import IMAGE_SUFFIXES
from edgeloop.runtime.input.images import as_image, read_image
from edgeloop.runtime.input.port import Front
from edgeloop.runtime.input.series import SeriesFront, as_rows
from edgeloop.runtime.input.sound import SoundFront, as_float, as_samples
from edgeloop.runtime.input.windows import windows
from edgeloop.toolchain.described.canvas import to_canvas
from edgeloop.toolchain.draft import FEWEST_GOLDEN_SAMPLES, GOLDEN_SAMPLES

_ARRAYS = (".npy", ".npz")
_INPUTS = "inputs"
_SUFFIXES = {Modality.IMAGE: IMAGE_SUFFIXES, Modality.SOUND: (".wav",), Modality.SERIES: (".csv",)}
_CALLED = {Modality.IMAGE: "images", Modality.SOUND: "sounds", Modality.SERIES: "tables"}


@dataclass(frozen=True)
class GoldenInputs:
    """inputs: (count, ...), count of 16 or more, uint8, int16 or float32. sources: SHA-256 of the files that they come
    from, by name, with that of their folder."""

    inputs: NDArray[Any]
    sources: dict[str, str]


def gather_golden(
    place: Path, spec: InputSpec, steps: tuple[Step, ...], front: Front, *, most: int = GOLDEN_SAMPLES
) -> GoldenInputs:
    """Golden inputs from a folder of files of the input's kind, or from a .npy or .npz file of arrays.

    front: of the manifest; it reads and cuts sounds and series. most: so many of them, evenly spread. Raises NotFound,
    Corrupt or InvalidInput, naming the file; InvalidInput if there are fewer than 16.
    """
    if place.is_file():
        return _from_arrays(place, spec, most)
    if not place.is_dir():
        raise NotFound(f"there is no folder or file {place} with golden inputs; give 16 or more real inputs there")
    if spec.modality is Modality.TENSOR:
        raise InvalidInput(f"{place} is a folder; golden inputs of a tensor are arrays: name a .npy or .npz file")
    chosen = _chosen_files(place, _SUFFIXES[spec.modality], _CALLED[spec.modality], most)
    names = [path.relative_to(place.parent).as_posix() for path in chosen]
    if spec.modality is Modality.IMAGE:
        _require_enough(len(chosen), f"{place} holds {len(chosen)} images")
        inputs: NDArray[Any] = to_canvas([read_image(path) for path in chosen], spec, steps, names=names)
    else:
        inputs = _from_windows(chosen, front, place, most)
    sources = {name: digest(path.read_bytes()) for name, path in zip(names, chosen, strict=True)}
    return GoldenInputs(inputs, sources)


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, or all of them where there are no more, evenly spread from the first on.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    return [index * count // wanted for index in range(wanted)] if count > wanted else list(range(count))


def _chosen_files(folder: Path, suffixes: Sequence[str], called: str, most: int) -> list[Path]:
    found = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not found:
        raise InvalidInput(f"{folder} holds no {called}; expected files ending in {', '.join(suffixes)}")
    return [found[index] for index in spread(len(found), most)]


def _require_enough(count: int, said: str) -> None:
    if count < FEWEST_GOLDEN_SAMPLES:
        raise InvalidInput(
            f"{said}; golden inputs are {FEWEST_GOLDEN_SAMPLES} or more real ones: add "
            f"{FEWEST_GOLDEN_SAMPLES - count} more"
        )


def _from_windows(chosen: Sequence[Path], front: Front, place: Path, most: int) -> NDArray[Any]:
    """What a stream over each file would ask; a file is one question where the manifest does not say how to cut."""
    read: Callable[[Path], NDArray[Any]]
    if isinstance(front, SoundFront):
        read, window, unit = front.samples, front.window, "samples"
    else:
        assert isinstance(front, SeriesFront)
        read, window, unit = front.rows, front.window, "rows"
    cut: list[NDArray[Any]] = []
    for path in chosen:
        whole = _read_named(read, path)
        if window is None:
            cut.append(whole)
            continue
        try:
            made = windows([whole], length=window.length, hop=window.hop, pad=window.pad)
            cut += [part for _, part in made]
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from error
    _require_enough(len(cut), f"{place} holds {len(cut)} windows in {len(chosen)} files")
    picked = [cut[index] for index in spread(len(cut), most)]
    shapes = sorted({part.shape for part in picked})
    if len(shapes) > 1:
        raise InvalidInput(
            f"{place} holds inputs of {shapes[0][0]:,} and of {shapes[-1][0]:,} {unit}; golden inputs are one array: "
            'begin with [[preprocess]] step = "window", or give inputs of one length'
        )
    if len({part.dtype for part in picked}) > 1:
        picked = [as_float(part) for part in picked]
    return np.stack(picked)


def _read_named(read: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any]:
    try:
        return read(path)
    except (Corrupt, InvalidInput) as error:
        raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from error


def _from_arrays(place: Path, spec: InputSpec, most: int) -> GoldenInputs:
    if place.suffix.lower() not in _ARRAYS:
        raise InvalidInput(f"{place} is no folder and does not end in {' or '.join(_ARRAYS)}; name one of these")
    whole = _loaded(place)
    if whole.ndim < 2:
        raise InvalidInput(f"{place} holds an array of {whole.shape}; expected (count, ...), an input a row")
    _require_enough(len(whole), f"{place} holds {len(whole)} inputs")
    picked = np.ascontiguousarray(whole[spread(len(whole), most)])
    inputs = _as_golden(picked, spec, str(place))
    return GoldenInputs(inputs, {place.name: digest(place.read_bytes())})


def _loaded(place: Path) -> NDArray[Any]:
    try:
        with place.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = list(found.files)
            name = _INPUTS if _INPUTS in names else names[0] if len(names) == 1 else None
            chosen = None if name is None else np.asarray(found[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{place} is no array file that can be read: {error}") from error
    if chosen is None:
        raise InvalidInput(f"{place} holds the arrays {', '.join(names)}; call the one with golden inputs {_INPUTS!r}")
    return chosen


def _as_golden(picked: NDArray[Any], spec: InputSpec, what: str) -> NDArray[Any]:
    """Each input as the runtime takes it, in a dtype that golden inputs have."""
    if spec.modality is Modality.IMAGE:
        return np.stack([as_image(one, what=what) for one in picked])
    if spec.modality is Modality.SOUND:
        return np.stack(_each(picked, as_samples, what))
    if spec.modality is Modality.SERIES:
        return np.stack(_each(picked, lambda one: as_rows(one, channels=spec.channels), what))
    if picked.dtype.kind not in "fiub":
        raise InvalidInput(f"{what} holds {picked.dtype}; expected numbers")
    return picked if picked.dtype in (np.uint8, np.int16) else picked.astype(np.float32)


def _each(
    picked: Iterable[NDArray[Any]], taken: Callable[[NDArray[Any]], NDArray[Any]], what: str
) -> list[NDArray[Any]]:
    try:
        return [taken(one) for one in picked]
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from error
