"""Downloads within the day's budget: what does not fit into what is left of it waits for the next day, and says so."""

import asyncio
from collections.abc import Callable

import structlog

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.messages import Assignment
from edgeloop.device.update import Supply
from edgeloop.transport.budget import DOWNLOAD, Budget
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 60.0


class MeteredSupply:
    """Implements update.Supply over another one.

    on_wait: told when a download begins to wait, and when it goes on. The signed words, some kilobytes, never wait.
    """

    def __init__(self, supply: Supply, uplink: Uplink, budget: Budget, *, on_wait: Callable[[], None]) -> None:
        self._supply = supply
        self._uplink = uplink
        self._budget = budget
        self._on_wait = on_wait
        self.is_waiting = False

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        return await self._supply.assignment()

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        return await self._supply.check(target, sha256)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        await self._wait(target, size_bytes - min(size_bytes, shelf.part_size_bytes(sha256)))
        before_bytes = self._uplink.traffic_bytes["fetch"]
        try:
            await self._supply.fetch(target, shelf, sha256, size_bytes)
        finally:
            came_bytes = self._uplink.traffic_bytes["fetch"] - before_bytes
            await asyncio.to_thread(self._budget.spend, DOWNLOAD, {target: came_bytes})

    async def _wait(self, target: str, size_bytes: int) -> None:
        try:
            while not self._budget.may_download(size_bytes):
                if not self.is_waiting:
                    self.is_waiting = True
                    left = self._budget.left_bytes(DOWNLOAD)
                    _log.warning("download_waits", target=target, size_bytes=size_bytes, left_bytes=left)
                    self._on_wait()
                await asyncio.sleep(min(_LOOK_EVERY_S, self._budget.until_next_s()))
        finally:
            if self.is_waiting:
                self.is_waiting = False
                self._on_wait()
