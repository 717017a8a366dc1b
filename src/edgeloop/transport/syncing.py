"""Keeping in step with the hub above: one sync held open for news, and a quick one whenever there is news here."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Desired, DeviceReport, SyncRequest
from edgeloop.transport.sender import FIRST_WAIT_S, asked_wait_s
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)
_SHORTEST_S = 0.05
_TELL_EVERY_S = 0.1
"""What changes within this time goes up together: of a node's devices, many do at once."""


class SyncLoop:
    """Reports and listens for as long as its task lives.

    reports, known: what the next request says; see SyncRequest. on_failed: told of each sync that was turned down, or
    not answered: what it said may have arrived or not.
    """

    def __init__(
        self,
        uplink: Uplink,
        *,
        reports: Callable[[], tuple[DeviceReport, ...]],
        on_desired: Callable[[Desired], None],
        wait_s: float,
        longest_backoff_s: float,
        known: Callable[[], dict[str, int]] = dict,
        on_failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._uplink = uplink
        self._reports = reports
        self._known = known
        self._on_failed = on_failed
        self._on_desired = on_desired
        self._wait_s = wait_s
        self._longest_backoff_s = longest_backoff_s
        self._changed = asyncio.Event()
        self.is_reachable = False

    def changed(self) -> None:
        """There is something new to report."""
        self._changed.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._listen))
            group.create_task(self._repeat(self._tell))

    async def _listen(self) -> None:
        await self._sync(self._wait_s)
        await asyncio.sleep(_SHORTEST_S)

    async def _tell(self) -> None:
        await self._changed.wait()
        self._changed.clear()
        try:
            await self._sync(0.0)
        except BaseException:
            self._changed.set()
            raise
        await asyncio.sleep(_TELL_EVERY_S)

    async def _sync(self, wait_s: float) -> None:
        reply = await self._uplink.sync(SyncRequest(reports=self._reports(), known=self._known(), wait_s=wait_s))
        self.is_reachable = True
        for one in reply.rejected:
            _log.warning("report_turned_down", device_id=one.device_id, reason=one.reason)
        for desired in reply.desired:
            self._on_desired(desired)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=self._longest_backoff_s)
        while True:
            try:
                await step()
                backoff.succeeded()
            except EdgeloopError as error:
                self._lost(error)
                wait_s = asked_wait_s(error, backoff)
                _log.warning("sync_failed", code=error.code, detail=str(error), retry_in_s=round(wait_s, 2))
                await asyncio.sleep(wait_s)
            except Exception as error:  # noqa: BLE001 - the outer guard: syncing goes on for as long as the process
                self._lost(error)
                wait_s = backoff.failed()
                _log.error("sync_broke", retry_in_s=round(wait_s, 2), exc_info=error)
                await asyncio.sleep(wait_s)

    def _lost(self, error: Exception) -> None:
        self.is_reachable = False
        self._on_failed(error)
