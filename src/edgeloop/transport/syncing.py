"""Keeping in step with the hub above: one sync held open for news, and a quick one whenever there is news here.

Each sync says all there is to say, so what changed rides on whichever goes next. Right after news from above the next
one is held back for a moment, since what comes of the news is about to be said.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Desired, DeviceReport, SyncReply, SyncRequest
from edgeloop.transport.again import FIRST_WAIT_S, asked_wait_s
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)
_SHORTEST_S = 0.05
_NEVER = math.inf
HOLD_BACK_S = 5.0
"""For devices: in this time after news most updates have their files and begin to try them."""


@dataclass(frozen=True)
class Pace:
    """When to sync. wait_s: how long one asks to be held open. longest_backoff_s: between tries, after failures.
    tell_every_s: what changes within this time goes up together. later_s: what need not be told at once waits no longer
    than this for another sync. hold_back_s: after news, the next sync waits so long for something to be told at once; 0
    for who carries the news on.
    """

    wait_s: float
    longest_backoff_s: float
    tell_every_s: float = 0.1
    later_s: float = 5.0
    hold_back_s: float = 0.0


class SyncLoop:
    """Reports and listens for as long as its task lives.

    reports, known: what the next request says; see SyncRequest. on_desired: told of all that an answer brings, at once.
    on_failed: told of each sync that was turned down, or not answered: what it said may have arrived or not.
    """

    def __init__(
        self,
        uplink: Uplink,
        *,
        reports: Callable[[], tuple[DeviceReport, ...]],
        on_desired: Callable[[tuple[Desired, ...]], None],
        pace: Pace,
        known: Callable[[], dict[str, int]] = dict,
        on_failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._uplink = uplink
        self._reports = reports
        self._known = known
        self._on_failed = on_failed
        self._on_desired = on_desired
        self._pace = pace
        self._noted = asyncio.Event()
        self._due_at_s = _NEVER
        self._is_holding_back = False
        self.is_reachable = False

    def changed(self, *, at_once: bool = True) -> None:
        """There is something new to report. Unless at once: with the next sync, or within `Pace.later_s`."""
        self._due_at_s = min(self._due_at_s, time.monotonic() + (0.0 if at_once else self._pace.later_s))
        self._noted.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._listen))
            group.create_task(self._repeat(self._tell))

    async def _listen(self) -> None:
        reply = await self._sync(self._pace.wait_s)
        await asyncio.sleep(_SHORTEST_S)
        if reply.desired and self._pace.hold_back_s:
            await self._hold_back()

    async def _hold_back(self) -> None:
        """Until there is something to tell at once, or for a moment; whatever it is goes with the next sync then."""
        self._is_holding_back = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.hold_back_s):
                while self._due_at_s > time.monotonic():
                    await self._note()
        self._is_holding_back = False
        self._noted.set()

    async def _tell(self) -> None:
        while (wait_s := self._due_at_s - time.monotonic()) > 0.0 or self._is_holding_back:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if 0.0 < wait_s < _NEVER else None):
                    await self._note()
        await self._sync(0.0)
        await asyncio.sleep(self._pace.tell_every_s)

    async def _note(self) -> None:
        await self._noted.wait()
        self._noted.clear()

    async def _sync(self, wait_s: float) -> SyncReply:
        due_at_s, self._due_at_s = self._due_at_s, _NEVER
        try:
            request = SyncRequest(reports=self._reports(), known=self._known(), wait_s=wait_s)
            reply = await self._uplink.sync(request)
        except BaseException:
            self._due_at_s = min(self._due_at_s, due_at_s)
            raise
        self.is_reachable = True
        for one in reply.rejected:
            _log.warning("report_turned_down", device_id=one.device_id, reason=one.reason)
        if reply.desired:
            self._on_desired(reply.desired)
        return reply

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=self._pace.longest_backoff_s)
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
