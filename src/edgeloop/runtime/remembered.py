"""What was measured here once, kept for the next start: one small file for each question, in the user's cache folder.

An entry is asked for by a key; whatever makes an old answer worthless (the bundle, the machine, a library's version)
is part of the key. Losing the folder costs time and nothing else: an entry that cannot be read counts as not there,
and one that cannot be written is told in the log.
"""

import contextlib
import hashlib
import os
import platform
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeloop import __version__
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.runtime.engines.installed import installed_engines

T = TypeVar("T")


class Key(msgspec.Struct, frozen=True):
    """What an answer holds for. subject: what was measured, as a hash. machine, libraries: on what, with what."""

    subject: str
    machine: str
    libraries: tuple[str, ...]


def key_of(subject: str) -> Key:
    """A key for this machine and these libraries."""
    engines = tuple(f"{name} {version}" for name, version in sorted(installed_engines().items()))
    return Key(subject, _machine(), (f"edgeloop {__version__}", *engines))


def cache_folder() -> Path:
    """Where answers are kept unless told: $XDG_CACHE_HOME/edgeloop, or ~/.cache/edgeloop."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "edgeloop"


def recall(folder: Path, key: Key, kind: type[T]) -> T | None:
    """What was kept by this key, or None."""
    try:
        data = (folder / _name(key)).read_bytes()
        return from_json(data, kind, what=str(folder / _name(key)))
    except (OSError, EdgeloopError):
        return None


def remember(folder: Path, key: Key, value: object) -> None:
    """Keep a value by its key, atomically."""
    path = folder / _name(key)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(to_json(value))
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        import structlog  # it takes longer to import than the rest of a first answer, and is hardly ever needed here

        structlog.get_logger(__name__).warning("not_remembered", folder=str(folder), detail=str(error))


def _name(key: Key) -> str:
    return hashlib.sha256(to_json(key)).hexdigest()[:32] + ".json"


def _machine() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{platform.machine()} {_processor()} {available_cores()}"


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The model of the processor; on Linux platform.processor() knows none."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    wanted = ("model name", "Model", "Hardware", "CPU part", "cpu")
    lines = [line.split(":", 1) for line in info.read_text(errors="replace").splitlines() if ":" in line]
    return " ".join(dict((key.strip(), value.strip()) for key, value in lines if key.strip() in wanted).values())
