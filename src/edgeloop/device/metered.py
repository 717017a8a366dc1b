"""Downloads within the day's budget: what does not fit into what is left of it waits for the next day, and says so."""

from collections.abc import Callable

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.messages import Assignment
from edgeloop.device.downloads import Supply
from edgeloop.transport.budget import Budget
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Uplink


class MeteredSupply:
    """Implements downloads.Supply over another one.

    on_wait: told when a download begins to wait, and when it goes on. The signed words, some kilobytes, never wait.
    """

    def __init__(self, supply: Supply, uplink: Uplink, budget: Budget, *, on_wait: Callable[[], None]) -> None:
        self._supply = supply
        self._uplink = uplink
        self._meter = Meter(budget, on_wait=on_wait)

    @property
    def is_waiting(self) -> bool:
        """Whether a download waits for the next day."""
        return self._meter.is_waiting

    @property
    def waited_s(self) -> float:
        """See Supply.waited_s."""
        return self._meter.waited_s + self._supply.waited_s

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        return await self._supply.assignment()

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        return await self._supply.check(target, sha256)

    def is_at_hand(self, target: str) -> bool:
        """See Supply.is_at_hand."""
        return self._supply.is_at_hand(target)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        await self._meter.leave(target, size_bytes - min(size_bytes, shelf.part_size_bytes(sha256)))
        before_bytes = self._uplink.traffic_bytes["fetch"]
        try:
            await self._supply.fetch(target, shelf, sha256, size_bytes)
        finally:
            await self._meter.spend(target, self._uplink.traffic_bytes["fetch"] - before_bytes)
