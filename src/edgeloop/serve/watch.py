"""A folder of bundles: what is there, and what is new since the last look.

Only plain files directly in the folder count; one that is not a sound bundle (yet) is looked at again once it changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from edgeloop.bundle.archive import SUFFIX, open_bundle
from edgeloop.contracts.errors import EdgeloopError, NotFound
from edgeloop.contracts.names import BundleRef, version_key

_log = structlog.get_logger(__name__)

_Stamp = tuple[int, int, int]
"""A file's inode, size and time of change: another content has another stamp."""


@dataclass(frozen=True)
class Found:
    """A bundle in the folder."""

    path: Path
    ref: BundleRef


class Watch:
    """Looks at a folder. Not thread-safe: one look at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[_Stamp, Found | None]] = {}
        self._told: dict[Path, _Stamp] = {}

    def newest(self, *, everything: bool = False) -> list[Found]:
        """The newest version of each name, of what is new since this was asked last, or of everything that is there.

        Raises NotFound if there is no such folder.
        """
        self._look()
        told = {} if everything else self._told
        self._told = {path: stamp for path, (stamp, _) in self._known.items()}
        fresh = [found for path, (stamp, found) in self._known.items() if found and told.get(path) != stamp]
        return list({found.ref.name: found for found in _ordered(fresh)}.values())

    def list(self) -> list[Found]:
        """All sound bundles that are there, by name and version. Raises NotFound if there is no such folder."""
        self._look()
        return _ordered(found for _, found in self._known.values() if found is not None)

    def find(self, name: str, version: str | None = None) -> Found:
        """The bundle of this name, the newest unless a version is told. Raises NotFound."""
        there = self.list()
        same = [one for one in there if one.ref.name == name and version in (None, one.ref.version)]
        if not same:
            wanted = name if version is None else f"{name}@{version}"
            held = ", ".join(str(one.ref) for one in there) or "no bundle"
            raise NotFound(f"{self._folder} holds no {wanted}; it holds {held}")
        return same[-1]

    def _look(self) -> None:
        """Open what is new; what was opened before and has not changed is not opened again."""
        seen: dict[Path, tuple[_Stamp, Found | None]] = {}
        if not self._folder.is_dir():
            raise NotFound(f"there is no folder {self._folder} to watch; make it, or name another")
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                status = path.stat()
            except OSError:  # gone since it was listed
                continue
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(path)
            seen[path] = known if known is not None and known[0] == stamp else (stamp, _open(path))
        self._known = seen


def _open(path: Path) -> Found | None:
    try:
        return Found(path, open_bundle(path).manifest.ref)
    except EdgeloopError as error:
        _log.warning("not_a_bundle", path=str(path), reason=str(error))
        return None


def _ordered(found: Iterable[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (one.ref.name, version_key(one.ref.version)))
