"""What a process leaves behind when a fatal error ends it, for the next one to read.

Python's faulthandler writes it from the signal's handler: a crash of an engine's native code is told from a kill and a
power cut, which leave nothing.
"""

import faulthandler
from pathlib import Path

from edgeloop.bundle.durable import translated

_FILE = "crash.txt"
_FATAL = "Fatal Python error: "
_MOST_BYTES = 64 * 1024


def arm(folder: Path) -> str:
    """Say of which fatal error the process before this one ended, "" if of none, and have this one's written down.

    The file stays open as long as the process lives. Raises Unavailable if it cannot be written.
    """
    path = folder / _FILE
    with translated(path, doing="write"):
        with path.open("ab+") as file:
            file.seek(0)
            said = file.read(_MOST_BYTES).decode(errors="replace")
        faulthandler.enable(path.open("wb"), all_threads=False)
    return _named(said)


def _named(said: str) -> str:
    """ "Segmentation fault" and the innermost line of Python, if there is one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    name = next((line.removeprefix(_FATAL) for line in lines if line.startswith(_FATAL)), "")
    where = next((line for line in lines if line.startswith("File ")), "")
    if not where:
        return name or (lines[0] if lines else "")
    _, _, rest = where.partition('"')
    path, _, line = rest.partition('"')
    return f"{name} in {'/'.join(Path(path).parts[-3:])}{line}"
