"""A file that holds one input, whole: bounded before it is read."""

import os
from pathlib import Path

from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable


def read_bounded(source: str | os.PathLike[str], *, what: str, most_bytes: int) -> bytes:
    """The bytes of a file. what: "image", "sound", "table", for errors.

    Raises NotFound if there is no such file, InvalidInput if it has more than most_bytes, Unavailable if it cannot be
    read.
    """
    path = Path(source)
    if not path.is_file():
        raise NotFound(f"no {what} at {path}")
    try:
        size_bytes = path.stat().st_size
        if size_bytes > most_bytes:
            raise InvalidInput(f"{path} has {size_bytes:,} bytes; the file of one {what} has at most {most_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"the {what} {path} cannot be read: {error}") from error
