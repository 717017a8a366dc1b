"""Files by class: sub-folders are the labels; or a flat folder of files that have none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.data.samples import named_labels, unlabelled


@dataclass(frozen=True)
class Listing:
    """Files in a stable order, with their class indices; label_names is empty for a flat folder."""

    folder: Path
    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]

    def suffixes(self) -> set[str]:
        """Of all files, in small letters."""
        return {path.suffix.lower() for path in self.files}

    def short(self, path: Path) -> str:
        """A file's name inside the folder."""
        return path.relative_to(self.folder).as_posix()


def list_folder(folder: Path) -> Listing:
    """What lies in a folder, hidden files left out. Files beside class folders are left out, too.

    Raises InvalidInput on a class folder that is empty or has folders inside.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        files = _files(folder)
        return Listing(folder, files, unlabelled(len(files)), ())
    found: list[Path] = []
    names: list[str] = []
    for one in classes:
        if any(path.is_dir() and not path.name.startswith(".") for path in one.iterdir()):
            raise InvalidInput(
                f"{one} has folders inside; expected one folder a class with its files straight in it "
                "(give one of the inner folders as the data, if those hold the classes)"
            )
        files = _files(one)
        if not files:
            raise InvalidInput(f"the class folder {one} is empty; add samples or remove it")
        found += files
        names += [one.name] * len(files)
    labels, label_names = named_labels(names)
    return Listing(folder, tuple(found), labels, label_names)


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")))
