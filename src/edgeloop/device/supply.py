"""Where a device's bundles come from: signed words through TUF, bytes by resumed ranges, all over the uplink."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, Refused, Unavailable
from edgeloop.contracts.messages import Assignment
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Uplink

if TYPE_CHECKING:
    from edgeloop.transport.trust import Trust

T = TypeVar("T")


class HubSupply:
    """Implements update.Supply. Lives on the event loop that made it; TUF's checks run on a thread."""

    def __init__(self, uplink: Uplink, member: Membership, folder: Path) -> None:
        self._uplink = uplink
        self._member = member
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        return await self._alone(lambda: self._trust.assignment(self._member.device_id))

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        found = await self._alone(lambda: self._trust.image(target))
        if found.hashes.get("sha256") != sha256:
            raise Refused(f"{target} is signed with another hash than the {sha256[:12]} that is wanted")
        return int(found.length)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch. What came over several tries and a power cut may be torn: it is fetched once more whole."""
        try:
            await self._download(target, shelf, sha256, size_bytes)
        except Corrupt as torn:
            shelf.discard_part(sha256)
            try:
                await self._download(target, shelf, sha256, size_bytes)
            except Corrupt as error:
                raise Unavailable(f"{target} came damaged twice ({error}); it is tried again later") from torn

    @cached_property
    def _trust(self) -> "Trust":
        """Made on its thread when it is first asked: python-tuf takes 70 ms and 3 MB that a waiting agent can spare."""
        from edgeloop.transport.trust import Trust

        return Trust(
            self._folder,
            images_root=self._member.images_root,
            director_root=self._member.director_root,
            fetch=self._fetch_blocking,
        )

    async def _download(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        have_bytes = shelf.part_size_bytes(sha256)
        if have_bytes > size_bytes:
            shelf.discard_part(sha256)
            have_bytes = 0
        if have_bytes < size_bytes:
            left_bytes = size_bytes - have_bytes
            chunks = self._uplink.fetch_from(f"targets/{target}", offset_bytes=have_bytes, max_bytes=left_bytes)
            async for chunk in chunks:
                shelf.append_part(sha256, chunk)
        if shelf.part_size_bytes(sha256) < size_bytes:
            raise Unavailable(f"{target} broke off after {shelf.part_size_bytes(sha256):,} of {size_bytes:,} bytes")
        await asyncio.to_thread(shelf.finish_part, sha256)

    async def _alone(self, work: Callable[[], T]) -> T:
        """Run on a thread, one at a time; a cancelled caller leaves only once its thread is done."""
        async with self._lock:
            running = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise

    def _fetch_blocking(self, path: str, max_bytes: int) -> bytes:
        """The uplink's fetch for TUF's thread."""
        return asyncio.run_coroutine_threadsafe(self._uplink.fetch(path, max_bytes=max_bytes), self._loop).result()
