"""Where a device's bundles come from: signed words through TUF, bytes by resumed ranges, all over the uplink."""

import asyncio
from pathlib import Path

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.messages import Assignment
from edgeloop.transport.membership import Membership
from edgeloop.transport.trust import Trust
from edgeloop.transport.uplink import Uplink


class HubSupply:
    """Implements update.Supply. Lives on the event loop that made it; TUF's checks run on a thread."""

    def __init__(self, uplink: Uplink, member: Membership, folder: Path) -> None:
        self._uplink = uplink
        self._device_id = member.device_id
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._trust = Trust(
            folder, images_root=member.images_root, director_root=member.director_root, fetch=self._fetch_blocking
        )

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        async with self._lock:
            return await asyncio.to_thread(self._trust.assignment, self._device_id)

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        async with self._lock:
            found = await asyncio.to_thread(self._trust.image, target)
        if found.hashes.get("sha256") != sha256:
            raise Refused(f"{target} is signed with another hash than the {sha256[:12]} that is wanted")
        return int(found.length)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        have_bytes = shelf.part_size_bytes(sha256)
        if have_bytes > size_bytes:
            shelf.discard_part(sha256)
            have_bytes = 0
        if have_bytes < size_bytes:
            left_bytes = size_bytes - have_bytes
            chunks = self._uplink.fetch_from(f"targets/{target}", offset_bytes=have_bytes, max_bytes=left_bytes)
            async for chunk in chunks:
                shelf.append_part(sha256, chunk)
        await asyncio.to_thread(shelf.finish_part, sha256)

    def _fetch_blocking(self, path: str, max_bytes: int) -> bytes:
        """The uplink's fetch for TUF's thread."""
        return asyncio.run_coroutine_threadsafe(self._uplink.fetch(path, max_bytes=max_bytes), self._loop).result()
