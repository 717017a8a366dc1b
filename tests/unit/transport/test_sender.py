import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.messages import Alert, Event, Rejected, SendReply, SendRequest
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Sender, asked_wait_s

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
    assert _sequences(hub) == [1, 3]


def test_rejected_event_is_not_sent_again(outbox: Outbox) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "too old" if event.sequence <= 3 else None
    _fill(outbox, 3)
    asyncio.run(_run_until(_sender(outbox, hub), lambda: outbox.stats().pending_rows == 0))
    # The alert that tells of it is all that came after.
    assert (_sequences(hub), outbox.stats().aside_rows) == ([4], 3)


def test_reason_of_a_rejected_row_is_kept(outbox: Outbox) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "too old" if event.sequence == 2 else None
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, hub).send_once())
    assert [(one.sequence, one.reason) for one in outbox.aside()] == [(2, "too old")]


def test_reply_that_does_not_fit_the_batch_is_an_edgeloop_error(outbox: Outbox) -> None:
    _fill(outbox, 3)
    with pytest.raises(EdgeloopError):
        asyncio.run(_sender(outbox, LyingHub()).send_once())


# ---- what a hub turns down whole


class PickyHub(FakeHub):
    """Turns a whole batch down if it holds one of these, as a hub does that cannot read it."""

    def __init__(self, *poison: int, takes_nothing: bool = False) -> None:
        super().__init__()
        self._poison = set(poison)
        self._takes_nothing = takes_nothing

    async def send(self, request: SendRequest) -> SendReply:
        """Take a batch without poison."""
        if self._takes_nothing or self._poison & {event.sequence for event in request.events}:
            self.calls += 1
            raise InvalidInput("the request (SendRequest) does not have the expected form")
        return await super().send(request)


@pytest.mark.parametrize("poison", [(1,), (250,), (500,), (3, 4, 400)])
def test_event_that_spoils_its_batch_is_set_aside_and_the_others_arrive(
    outbox: Outbox, poison: tuple[int, ...]
) -> None:
    hub = PickyHub(*poison)
    _fill(outbox, 500)
    asyncio.run(_run_until(_sender(outbox, hub), lambda: outbox.stats().pending_rows == 0))
    assert [one.sequence for one in outbox.aside()] == list(poison)
    assert set(range(1, 501)) - set(poison) <= set(_sequences(hub))


def test_hub_that_turns_down_everything_costs_no_event(outbox: Outbox) -> None:
    _fill(outbox, 50)
    with pytest.raises(Unavailable, match="turns down whatever it is sent"):
        asyncio.run(_sender(outbox, PickyHub(takes_nothing=True)).send_once())
    assert (outbox.stats().pending_rows, outbox.aside()) == (50, [])


# ---- the disk, while the hub is there


class FullDisk:
    """An outbox that cannot write down what the hub took, for so many tries."""

    def __init__(self, outbox: Outbox, failures: int) -> None:
        self._outbox = outbox
        self._failures = failures

    def __getattr__(self, name: str) -> object:
        return getattr(self._outbox, name)

    def acknowledge(self, rows: list[int], *, rejected: dict[int, str]) -> None:
        """See Outbox.acknowledge."""
        self._failures -= 1
        if self._failures >= 0:
            raise Unavailable("the outbox cannot write: database or disk is full")
        self._outbox.acknowledge(rows, rejected=rejected)


def test_what_the_hub_has_is_not_sent_again_while_the_disk_is_full(outbox: Outbox) -> None:
    hub = FakeHub()
    _fill(outbox, 10)
    sender = _sender(FullDisk(outbox, failures=3), hub)  # type: ignore[arg-type]
    asyncio.run(_run_until(sender, lambda: outbox.stats().pending_rows == 0))
    assert (hub.calls, _sequences(hub)) == (1, list(range(1, 11)))


def test_hub_that_asks_for_patience_gets_it() -> None:
    busy = Unavailable("too much was asked for")
    busy.retry_after_s = 7.0
    backoff = Backoff(first_s=0.1, longest_s=1.0)
    assert asked_wait_s(busy, backoff) == 7.0
    assert asked_wait_s(Unavailable("away"), backoff) <= 0.2
