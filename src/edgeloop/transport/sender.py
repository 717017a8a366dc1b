"""The loop that empties an outbox through an uplink: at least once on the wire, once in effect.

Rules kept here: what is fresh overtakes the backlog, and the backlog drains: alerts go first, then the newest, but
every fourth batch takes the oldest; a batch that a hub turns down whole, or fails at again and again, is halved until
the event for whose sake it does stands alone, and that one is set aside if the hub takes others (`suspects`); a day's
budget is kept.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.messages import SendReply, SendRequest
from edgeloop.transport.again import FIRST_WAIT_S, asked_wait_s
from edgeloop.transport.batch import Queued
from edgeloop.transport.budget import Budget
from edgeloop.transport.outbox import LONGEST_REASON, Outbox
from edgeloop.transport.suspects import Suspects
from edgeloop.transport.uplink import Uplink
from edgeloop.transport.worth import worth

_log = structlog.get_logger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 1_000_000
BACKLOG_EVERY = 4
"""One batch in so many takes the oldest rows: the backlog's share."""
_LONGEST_WAIT_S = 30.0
_REPEATS = 2
"""Of failures in a row, before a batch is suspected and not the hub."""


class Sender:
    """Sends what the outbox holds, batch by batch, for as long as its task lives."""

    def __init__(
        self,
        outbox: Outbox,
        uplink: Uplink,
        *,
        every_s: float = 0.5,
        longest_wait_s: float = _LONGEST_WAIT_S,
        budget: Budget | None = None,
    ) -> None:
        self._outbox = outbox
        self._uplink = uplink
        self._every_s = every_s
        self._backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=longest_wait_s)
        self._budget = budget
        self._limit_rows = _BATCH_ROWS
        self._turn = 0
        self._failures = 0
        self._suspects = Suspects()
        # What the hub has, and the disk was too full to write down: not to be sent again.
        self._unmarked: Callable[[], None] | None = None

    async def run(self) -> None:
        """Send until cancelled; a failure is logged, waited out and tried again."""
        while True:
            try:
                sent = await self.send_once()
                self._backoff.succeeded()
                wait_s = 0.0 if sent else self._every_s
            except EdgeloopError as error:
                wait_s = asked_wait_s(error, self._backoff)
                _log.warning("send_failed", code=error.code, detail=str(error), retry_in_s=round(wait_s, 2))
            except Exception as error:  # noqa: BLE001 - the outer guard: sending goes on for as long as the process
                wait_s = self._backoff.failed()
                _log.error("send_broke", retry_in_s=round(wait_s, 2), exc_info=error)
            await asyncio.sleep(wait_s)

    async def send_once(self) -> int:
        """Send one batch and mark what the hub took, or set aside the one event that it never will; returns how many
        rows that was. Raises what the uplink raises, and Unavailable if the disk is full or all must go up again."""
        await self._mark()
        queued = await asyncio.to_thread(self._next)
        while queued:
            try:
                reply = await self._send(queued)
            except InvalidInput as error:
                if len(queued) == 1:
                    await self._put_aside(queued[0], error)
                    break
                queued = self._half(queued)
            except EdgeloopError as error:
                if not await self._is_suspect(queued, error):
                    raise
                queued = self._half(queued)
            else:
                await self._passed(queued, reply)
                break
        return len(queued)

    def _half(self, queued: list[Queued]) -> list[Queued]:
        self._limit_rows = max(1, len(queued) // 2)
        return queued[: self._limit_rows]

    async def _passed(self, queued: list[Queued], reply: SendReply) -> None:
        self._limit_rows = min(_BATCH_ROWS, self._limit_rows * 2)
        self._failures = 0
        for one in queued:
            self._suspects.clear(one.row)
        self._suspects.others_passed()
        await self._take(queued, reply)

    async def _is_suspect(self, queued: list[Queued], error: EdgeloopError) -> bool:
        """Whether a batch that failed is to be halved: the hub failed at it again, and takes a batch of none. One that
        cannot be is remembered, and others go first. Raises what that other batch raises."""
        if not (isinstance(error, Corrupt) or type(error) is EdgeloopError):
            return False  # away, or not to be spoken to: of no one event's making
        self._failures += 1
        if self._failures < _REPEATS:
            return False
        await self._uplink.send(SendRequest(events=()))
        if len(queued) > 1:
            return True
        self._suspects.failed(queued[0].row, f"the hub fails at it, each time that it is sent alone: {error}")
        self._limit_rows = 1
        _log.warning("event_suspected", row=queued[0].row, code=error.code, detail=str(error))
        return False

    def _next(self) -> list[Queued]:
        self._outbox.expire()
        self._put_guilty_aside()
        due = self._suspects.due()
        if due is not None and (alone := self._alone(due)):
            return alone
        self._turn += 1
        queued = self._outbox.pending(
            limit=self._limit_rows,
            max_bytes=_BATCH_BYTES,
            oldest_first=self._turn % BACKLOG_EVERY == 0,
            allowed_bytes=self._budget.allowed_bytes() if self._budget else None,
            but=self._suspects.rows,
        )
        if queued or not self._suspects.rows:
            return queued
        return self._alone(next(iter(self._suspects.rows)))

    def _put_guilty_aside(self) -> None:
        guilty = self._suspects.guilty()
        if guilty:
            _log.error("events_set_aside", reasons=guilty)
            self._outbox.set_aside(guilty)
            for row in guilty:
                self._suspects.clear(row)

    def _alone(self, suspect: int) -> list[Queued]:
        """A batch of this row; empty if it does not wait any more."""
        found = self._outbox.look(suspect)
        if found is None:
            self._suspects.clear(suspect)
        return [found] if found is not None else []

    async def _send(self, queued: list[Queued]) -> SendReply:
        request = SendRequest(events=tuple(one.event for one in queued))
        if self._budget is None:
            return await self._uplink.send(request)
        before_bytes = self._uplink.traffic_bytes["send"]
        try:
            return await self._uplink.send(request)
        finally:
            # Also of a batch that did not arrive: its bytes went over the link, and that is what is paid for.
            await asyncio.to_thread(self._spend, queued, self._uplink.traffic_bytes["send"] - before_bytes)

    def _spend(self, queued: list[Queued], wire_bytes: int) -> None:
        """A batch travels compressed as a whole; each event pays by its size in the queue."""
        assert self._budget is not None
        queued_bytes = sum(one.size_bytes for one in queued)
        spent: dict[str, Counter[str]] = {}
        for one in queued:
            found = worth(one.event.body)
            spent.setdefault(found.kind, Counter())[found.what] += one.size_bytes
        for kind, reasons in spent.items():
            self._budget.spend(
                kind, {reason: -(-size_bytes * wire_bytes // queued_bytes) for reason, size_bytes in reasons.items()}
            )

    async def _take(self, queued: list[Queued], reply: SendReply) -> None:
        answered = reply.accepted + reply.repeated + len(reply.rejected)
        if answered != len(queued) or any(one.index >= len(queued) for one in reply.rejected):
            raise Corrupt(f"the hub's answer speaks of {answered} events, {len(queued)} were sent; nothing was marked")
        reused = {one.index for one in reply.rejected if one.reused and self._is_own(queued[one.index])}
        others = [one for one in reply.rejected if one.index not in reused]
        rejected = {queued[one.index].row: one.reason[:LONGEST_REASON] for one in others}
        for row, reason in rejected.items():
            _log.error("event_rejected", row=row, reason=reason)
        rows = [one.row for one in queued]
        anew = frozenset(queued[index].row for index in reused)
        self._unmarked = lambda: self._outbox.acknowledge(rows, rejected=rejected, reused=anew)
        await self._mark()
        if len(anew) == len(queued):  # nothing is done: a hub that says so to all must not be asked without end
            raise Unavailable(f"the hub has others under the numbers of all {len(queued)} events; they get new ones")

    def _is_own(self, queued: Queued) -> bool:
        """Whether it may be numbered anew here: another device's number is that device's to give."""
        return queued.event.device_id == self._outbox.device_id

    async def _mark(self) -> None:
        """Write down what the hub took. Raises Unavailable where the disk is full, and keeps it in mind; what fails
        otherwise would fail again, and goes up once more instead."""
        mark, self._unmarked = self._unmarked, None
        if mark is None:
            return
        try:
            await asyncio.to_thread(mark)
        except Unavailable:
            self._unmarked = mark
            raise

    async def _put_aside(self, one: Queued, error: InvalidInput) -> None:
        """Only if the hub takes a batch without it. Raises Unavailable otherwise: it is then not this event's fault."""
        try:
            await self._uplink.send(SendRequest(events=()))
        except InvalidInput as other:
            raise Unavailable(f"the hub turns down whatever it is sent: {other}") from error
        reason = str(error)[:LONGEST_REASON]
        _log.error("event_set_aside", row=one.row, reason=reason)
        await asyncio.to_thread(self._outbox.set_aside, {one.row: reason})
        self._suspects.clear(one.row)
