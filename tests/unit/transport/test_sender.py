import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.messages import Alert, Event, Rejected, SendReply, SendRequest
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Backoff, Sender

Identity3 = tuple[str, int, int]


class FakeHub:
    """The uplink's `send` over a hub in memory that keeps an event once, however often it comes."""

    def __init__(self, *, failures: int = 0, lose_replies: int = 0) -> None:
        self.kept: dict[Identity3, Event] = {}
        self.calls = 0
        self.reject: Callable[[Event], str | None] = lambda event: None
        self._failures = failures
        self._lose_replies = lose_replies

    async def send(self, request: SendRequest) -> SendReply:
        """Take a batch, unless this call is one of those that are to fail."""
        self.calls += 1
        if self.calls <= self._failures:
            raise Unavailable("the hub is away")
        reply = self._take(request)
        if self.calls <= self._failures + self._lose_replies:
            raise Unavailable("the reply was lost")
        return reply

    def _take(self, request: SendRequest) -> SendReply:
        rejected, accepted = [], 0
        for index, event in enumerate(request.events):
            reason = self.reject(event)
            if reason:
                rejected.append(Rejected(index=index, reason=reason))
                continue
            identity = (event.device_id, event.epoch, event.sequence)
            accepted += identity not in self.kept
            self.kept.setdefault(identity, event)
        repeated = len(request.events) - accepted - len(rejected)
        return SendReply(accepted=accepted, repeated=repeated, rejected=tuple(rejected))


class LyingHub:
    """A hub whose reply does not fit the batch."""

    async def send(self, request: SendRequest) -> SendReply:
        """Reject an event that was never sent."""
        return SendReply(accepted=len(request.events) - 1, repeated=0, rejected=(Rejected(index=99, reason="no"),))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _fill(outbox: Outbox, count: int) -> None:
    outbox.append([Alert(what=str(i), detail="") for i in range(count)], at_ms=0)


def _sender(outbox: Outbox, hub: FakeHub | LyingHub) -> Sender:
    return Sender(outbox, hub, every_s=0.0, longest_wait_s=0.0)  # type: ignore[arg-type]


async def _run_until(sender: Sender, done: Callable[[], bool]) -> None:
    task = asyncio.create_task(sender.run())
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0)  # yields; waits for nothing
            if task.done():
                task.result()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _sequences(hub: FakeHub) -> list[int]:
    return sorted(sequence for _, _, sequence in hub.kept)


def test_batch_is_sent(outbox: Outbox) -> None:
    hub = FakeHub()
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, hub).send_once())
    assert _sequences(hub) == [1, 2, 3]


def test_sent_rows_are_told(outbox: Outbox) -> None:
    _fill(outbox, 3)
    assert asyncio.run(_sender(outbox, FakeHub()).send_once()) == 3


def test_sent_rows_no_longer_wait(outbox: Outbox) -> None:
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, FakeHub()).send_once())
    assert outbox.stats().pending_rows == 0


def test_empty_outbox_calls_nobody(outbox: Outbox) -> None:
    hub = FakeHub()
    assert (asyncio.run(_sender(outbox, hub).send_once()), hub.calls) == (0, 0)


def test_failed_batch_still_waits(outbox: Outbox) -> None:
    _fill(outbox, 3)
    with pytest.raises(Unavailable):
        asyncio.run(_sender(outbox, FakeHub(failures=1)).send_once())
    assert outbox.stats().pending_rows == 3


def test_all_is_sent_once_after_failures(outbox: Outbox) -> None:
    hub = FakeHub(failures=3)
    _fill(outbox, 1200)
    asyncio.run(_run_until(_sender(outbox, hub), lambda: outbox.stats().pending_rows == 0))
    assert (_sequences(hub), hub.calls) == (list(range(1, 1201)), 3 + 3)


def test_lost_reply_costs_a_repeat_and_no_double(outbox: Outbox) -> None:
    hub = FakeHub(lose_replies=2)
    _fill(outbox, 10)
    asyncio.run(_run_until(_sender(outbox, hub), lambda: outbox.stats().pending_rows == 0))
    assert (_sequences(hub), hub.calls) == (list(range(1, 11)), 3)


def test_rejected_event_does_not_block_the_others(outbox: Outbox) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "too old" if event.sequence == 2 else None
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, hub).send_once())
    assert (_sequences(hub), outbox.stats().pending_rows) == ([1, 3], 0)


def test_rejected_event_is_not_sent_again(outbox: Outbox) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "too old"
    _fill(outbox, 3)
    sender = _sender(outbox, hub)
    asyncio.run(sender.send_once())
    assert asyncio.run(sender.send_once()) == 0


def test_reason_of_a_rejected_row_is_kept(outbox: Outbox, tmp_path: Path) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "too old" if event.sequence == 2 else None
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, hub).send_once())
    connection = sqlite3.connect(tmp_path / "outbox.db")
    found = connection.execute("SELECT sequence, rejected FROM events ORDER BY sequence").fetchall()
    connection.close()
    assert found == [(1, None), (2, "too old"), (3, None)]


def test_reply_that_does_not_fit_the_batch_is_an_edgeloop_error(outbox: Outbox) -> None:
    _fill(outbox, 3)
    with pytest.raises(EdgeloopError):
        asyncio.run(_sender(outbox, LyingHub()).send_once())


# ---- backoff


@pytest.mark.parametrize(("draw", "expected"), [(0.0, [0.5, 1.0, 2.0, 4.0, 4.0]), (1.0, [1.0, 2.0, 4.0, 8.0, 8.0])])
def test_waits_double_up_to_the_longest(draw: float, expected: list[float]) -> None:
    backoff = Backoff(first_s=1.0, longest_s=8.0, draw=lambda: draw)
    assert [backoff.failed() for _ in range(5)] == expected


def test_waits_start_over_after_a_success() -> None:
    backoff = Backoff(first_s=1.0, longest_s=8.0, draw=lambda: 1.0)
    backoff.failed()
    backoff.failed()
    backoff.worked()
    assert backoff.failed() == 1.0


def test_waits_stay_bounded_however_often_it_fails() -> None:
    backoff = Backoff(first_s=1.0, longest_s=8.0, draw=lambda: 1.0)
    assert max(backoff.failed() for _ in range(5000)) == 8.0
