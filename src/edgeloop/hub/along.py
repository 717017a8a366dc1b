"""The small files of what is assigned, which come along with what is signed: the manifest, and what every device needs
of it. Devices put them on the shelf by their hashes, as any download.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from edgeloop.bundle.archive import digest, parse_manifest
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import MAX_ALONG_BYTES, Assignment
from edgeloop.contracts.names import file_target, manifest_target

_WITHIN_S = 2.0
_MOST_BUNDLES = 8
"""Whose small files are kept in memory: a rollout's devices all ask for the same ones."""


class SmallFiles:
    """Reads them once for all who ask. read: the file at a path as it could be fetched; raises edgeloop's errors."""

    def __init__(self, read: Callable[[str], Awaitable[bytes]]) -> None:
        self._read = read
        self._known: dict[str, dict[str, bytes]] = {}
        self._reading = asyncio.Lock()

    async def of(self, assigned: Iterable[Assignment], *, most_bytes: int) -> dict[str, bytes]:
        """By path, bundle by bundle while there is room. What is not at hand within moments does not come along."""
        found: dict[str, bytes] = {}
        for assignment in assigned if most_bytes else ():
            small = await self._of(assignment)
            if sum(map(len, small.values())) + sum(map(len, found.values())) <= most_bytes:
                found |= small
        return found

    async def _of(self, assignment: Assignment) -> dict[str, bytes]:
        sha256 = assignment.manifest_sha256
        try:
            # In line for no longer either: what is signed must not wait for those who wait.
            async with asyncio.timeout(_WITHIN_S), self._reading:
                if sha256 not in self._known:
                    found = await self._found(assignment)
                    while len(self._known) >= _MOST_BUNDLES:
                        self._known.pop(next(iter(self._known)))
                    self._known[sha256] = found
                return self._known[sha256]
        except (EdgeloopError, TimeoutError):  # the device is told why when it asks for them
            return {}

    async def _found(self, assignment: Assignment) -> dict[str, bytes]:
        path = f"targets/{manifest_target(assignment.ref)}"
        manifest = await self._read(path)
        if digest(manifest) != assignment.manifest_sha256:
            return {}
        targets = small_targets(manifest, most_bytes=MAX_ALONG_BYTES)
        return {path: manifest} | {f"targets/{target}": await self._read(f"targets/{target}") for target in targets}


def small_targets(manifest_bytes: bytes, *, most_bytes: int) -> tuple[str, ...]:
    """Target paths of the files beside the manifest that fit into the room that it leaves, in order.

    most_bytes: for the manifest and them. Raises Corrupt or InvalidInput if this is no manifest.
    """
    manifest = parse_manifest(manifest_bytes)
    sizes = {entry.sha256: entry.size_bytes for entry in manifest.files}
    left_bytes = most_bytes - len(manifest_bytes)
    found = []
    for sha256 in dict.fromkeys(manifest.shared_files):
        if sizes[sha256] <= left_bytes:
            left_bytes -= sizes[sha256]
            found.append(file_target(sha256))
    return tuple(found)
