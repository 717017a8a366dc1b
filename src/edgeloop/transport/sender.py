"""The loop that empties an outbox through an uplink: at least once on the wire, once in effect."""

import asyncio
import random
from collections.abc import Callable

import structlog

from edgeloop.contracts.errors import Corrupt, EdgeloopError
from edgeloop.contracts.messages import SendRequest
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 1_000_000
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 30.0


class Backoff:
    """Exponential waits with full jitter. Source: Brooker 2015, "Exponential Backoff And Jitter", AWS."""

    def __init__(
        self,
        *,
        first_s: float = _FIRST_WAIT_S,
        longest_s: float = _LONGEST_WAIT_S,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure: between half and all of the doubling bound."""
        bound_s = min(self._longest_s, self._first_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, 20)
        return bound_s * (0.5 + 0.5 * self._draw())

    def worked(self) -> None:
        """Start over."""
        self._failures = 0


class Sender:
    """Sends what the outbox holds, batch by batch, for as long as its task lives."""

    def __init__(
        self, outbox: Outbox, uplink: Uplink, *, every_s: float = 0.5, longest_wait_s: float = _LONGEST_WAIT_S
    ) -> None:
        self._outbox = outbox
        self._uplink = uplink
        self._every_s = every_s
        self._backoff = Backoff(longest_s=longest_wait_s)

    async def run(self) -> None:
        """Send until cancelled; a failure is logged, waited out and tried again."""
        while True:
            try:
                sent = await self.send_once()
                self._backoff.worked()
                wait_s = 0.0 if sent else self._every_s
            except EdgeloopError as error:
                wait_s = self._backoff.failed()
                _log.warning("send_failed", code=error.code, detail=str(error), retry_in_s=round(wait_s, 2))
            except Exception as error:  # noqa: BLE001 - the outer guard: sending goes on for as long as the process
                wait_s = self._backoff.failed()
                _log.error("send_broke", retry_in_s=round(wait_s, 2), exc_info=error)
            await asyncio.sleep(wait_s)

    async def send_once(self) -> int:
        """Send one batch and mark what the hub took; returns how many rows that was. Raises what the uplink raises."""
        queued = await asyncio.to_thread(self._outbox.pending, limit=_BATCH_ROWS, max_bytes=_BATCH_BYTES)
        if not queued:
            return 0
        reply = await self._uplink.send(SendRequest(events=tuple(one.event for one in queued)))
        answered = reply.accepted + reply.repeated + len(reply.rejected)
        if answered != len(queued) or any(one.index >= len(queued) for one in reply.rejected):
            raise Corrupt(f"the hub's answer speaks of {answered} events, {len(queued)} were sent; nothing was marked")
        rejected = {queued[one.index].row: one.reason for one in reply.rejected}
        for row, reason in rejected.items():
            _log.error("event_rejected", row=row, reason=reason)
        await asyncio.to_thread(self._outbox.acknowledge, [one.row for one in queued], rejected=rejected)
        return len(queued)
