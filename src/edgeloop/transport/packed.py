"""Many files of signed metadata in one answer: what is held, and where python-tuf's single questions find theirs.

Rules kept here: nothing is believed for coming in this way: python-tuf checks each file as it does one that was fetched
by itself. What an answer does not say anything about is asked for singly. To say that a file did not change, or that
there is no newer root, is worth no more than to hand out the old one, or to answer 404, which every mirror can.
Neighbours: `trust` checks; contracts.messages has the form.
"""

import json
from pathlib import Path

from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import Held, TrustReply

_MOST = 2**63 - 1


class Kept:
    """What a folder of python-tuf's has of one repository. least_root: the version that trust began with."""

    def __init__(self, folder: Path, *, least_root: int) -> None:
        found = {role: _read(folder / f"{role}.json") for role in ("root", "timestamp", "snapshot", "targets")}
        self.timestamp = found["timestamp"]
        versions = {role: version_of(data) for role, data in found.items()}
        self.held = Held(**versions | {"root": max(least_root, versions["root"])})


class Packed:
    """An answer, beside what was held when it was asked for. kept: by place."""

    def __init__(self, reply: TrustReply, kept: dict[str, Kept]) -> None:
        self._reply = reply
        self._kept = kept

    def find(self, path: str, *, place: str, role: str, version: int | None) -> bytes | None:
        """The file at `path`; None if it must be asked for by itself. Raises NotFound if there is no such root."""
        data = self._reply.metadata.get(path)
        kept = self._kept.get(place)
        if data is not None or kept is None or place not in self._reply.whole:
            return data
        if role == "root" and version is not None and version > kept.held.root:
            raise NotFound(f"there is no newer root than those that came: {path}")
        return kept.timestamp if role == "timestamp" else None


def version_of(data: bytes | None) -> int:
    """The version that metadata states, unchecked; 0 if there is none."""
    try:
        version = json.loads(data or b"")["signed"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) and 0 < version <= _MOST else 0


def _read(path: Path) -> bytes | None:
    """None also of what the disk does not give back: it is fetched anew then."""
    try:
        return path.read_bytes()
    except OSError:
        return None
