"""How much an archive may unpack to: a file of a megabyte can hold what no memory does.

Sizes are looked at before anything is unpacked; Python's zipfile never gives more of a part than it declares.
"""

import io
import math
import zipfile

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused

MOST_BYTES = 8 * 1024**3
"""Of one model or one file of data, unpacked: training holds all of it in memory, several times over, and models for
small devices come from sources of megabytes."""


def require_unpackable(archive: zipfile.ZipFile, name: str, *, most_bytes: int = MOST_BYTES) -> None:
    """Raise Refused if all parts together unpack to more than most_bytes."""
    total = sum(part.file_size for part in archive.infolist())
    if total > most_bytes:
        raise Refused(
            f"{name} unpacks to {total:,} bytes, and at most {most_bytes:,} are read; if it is what you think it is, "
            "split the data or take a smaller model"
        )


def read_bytes_of(
    file: io.BufferedIOBase, shape: tuple[int, ...], name: str, *, most_bytes: int = MOST_BYTES
) -> NDArray[np.uint8]:
    """The rest of a file, gzipped or not, as bytes of the shape that its header gives; not read further than that.

    Raises Refused if the shape is of more than most_bytes, ValueError if the file holds less or more.
    """
    size_bytes = math.prod(shape)
    if size_bytes > most_bytes:
        raise Refused(f"{name} gives its shape as {shape}, {size_bytes:,} bytes; at most {most_bytes:,} are read")
    data = file.read(size_bytes + 1)
    if len(data) != size_bytes:
        found = "more" if len(data) > size_bytes else f"{len(data)}"
        raise ValueError(f"its header promises {size_bytes} bytes, it holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)
