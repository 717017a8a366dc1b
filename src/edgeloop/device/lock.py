"""One agent a folder: a lock that the system lets go of when the process ends, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgeloop.bundle.durable import translated
from edgeloop.contracts.errors import Refused

if os.name == "posix":
    import fcntl

_FILE = "agent.lock"


@contextmanager
def only_agent(folder: Path) -> Iterator[None]:
    """For as long as this lasts, no other agent is at work in the folder. Raises Refused if one is.

    On Windows nothing is locked.
    """
    with translated(folder / _FILE, doing="write"):
        file = (folder / _FILE).open("ab")
    with file:
        if not _locked(file):
            raise Refused(f"an agent is at work in {folder} already; two would spoil what it keeps")
        yield


def is_at_work(folder: Path) -> bool:
    """Whether an agent is. On Windows, where that is not known: True."""
    path = folder / _FILE
    if os.name == "posix" and not path.exists():
        return False
    with path.open("ab") as file:
        return os.name != "posix" or not _locked(file)


def _locked(file: IO[bytes]) -> bool:
    """Take the lock if it is free; it goes with the file."""
    if os.name == "posix":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
