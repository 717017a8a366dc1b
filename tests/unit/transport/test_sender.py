import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.messages import Alert, Event, Rejected, SendReply, SendRequest
from edgeloop.transport.outbox import LONGEST_REASON, Outbox
from edgeloop.transport.sender import Sender

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


class FailingHub(FakeHub):
    """Fails at each batch that holds one of these, as a hub does with a bug; is_down: at every one with anything in."""

    def __init__(self, error: EdgeloopError, *poison: int, is_down: bool = False) -> None:
        super().__init__()
        self._error = error
        self._poison = set(poison)
        self.is_down = is_down

    async def send(self, request: SendRequest) -> SendReply:
        """Take a batch without poison."""
        if (self.is_down and request.events) or self._poison & {event.sequence for event in request.events}:
            self.calls += 1
            raise self._error
        return await super().send(request)


async def _work(sender: Sender, done: Callable[[], bool], *, turns: int, before: Callable[[], None]) -> None:
    """Turn after turn, as `run` does, but for the waiting."""
    for _ in range(turns):
        if done():
            return
        before()
        with suppress(EdgeloopError):
            await sender.send_once()


@pytest.mark.parametrize("error", [EdgeloopError("the server failed"), Corrupt("no zstd")], ids=lambda e: e.code)
@pytest.mark.parametrize("poison", [(1,), (700,), (1200,), (3, 4, 900)])
def test_event_that_a_hub_always_fails_at_is_set_aside_and_the_others_arrive(
    outbox: Outbox, error: EdgeloopError, poison: tuple[int, ...]
) -> None:
    hub = FailingHub(error, *poison)
    _fill(outbox, 1200)
    done = lambda: outbox.stats().aside_rows == len(poison) and outbox.stats().pending_rows <= 1  # noqa: E731
    asyncio.run(_work(_sender(outbox, hub), done, turns=400, before=lambda: _fill(outbox, 1)))
    assert {one.sequence for one in outbox.aside()} == set(poison)
    assert all("fails at it" in one.reason for one in outbox.aside())
    assert set(range(1, 1201)) - set(poison) <= set(_sequences(hub))


def test_hub_that_fails_at_everything_costs_no_event_and_gets_all_when_it_is_mended(outbox: Outbox) -> None:
    hub = FailingHub(EdgeloopError("the server failed"), is_down=True)
    _fill(outbox, 50)
    sender = _sender(outbox, hub)
    asyncio.run(_work(sender, lambda: False, turns=100, before=lambda: None))
    assert (outbox.stats().pending_rows, outbox.aside(), hub.kept) == (50, [], {})
    hub.is_down = False
    asyncio.run(_work(sender, lambda: outbox.stats().pending_rows == 0, turns=100, before=lambda: None))
    assert (_sequences(hub), outbox.aside()) == (list(range(1, 51)), [])


def test_failure_that_passes_costs_no_event(outbox: Outbox) -> None:
    hub = FailingHub(EdgeloopError("the server failed"), 7)
    _fill(outbox, 20)
    sender = _sender(outbox, hub)
    asyncio.run(_work(sender, lambda: len(hub.kept) == 19, turns=20, before=lambda: None))
    hub._poison.clear()
    asyncio.run(_work(sender, lambda: outbox.stats().pending_rows == 0, turns=20, before=lambda: None))
    assert (_sequences(hub), outbox.aside()) == (list(range(1, 21)), [])


# ---- a disk that went back


class RememberingHub(FakeHub):
    """Tells an event from another of the same identity, as hubs do."""

    def _take(self, request: SendRequest) -> SendReply:
        others = [
            index
            for index, one in enumerate(request.events)
            if self.kept.get((one.device_id, one.epoch, one.sequence), one) != one
        ]
        reply = super()._take(request)
        rejected = tuple(Rejected(index=index, reason="another is here", reused=True) for index in others)
        return SendReply(accepted=reply.accepted, repeated=reply.repeated - len(others), rejected=rejected)


def _life(path: Path, hub: FakeHub, name: str, *, at_ms: int) -> list[str]:
    """A device works for a while and sends all that it has; returns what it alerted of beside."""
    outbox = Outbox(path, "camera-1")
    outbox.append([Alert(what=f"{name}-{i}", detail="") for i in range(5)], at_ms=at_ms)
    asyncio.run(_run_until(_sender(outbox, hub), lambda: outbox.stats().pending_rows == 0))
    accounts = outbox.stats().accounts["alert"]
    assert (accounts.acknowledged, accounts.rejected.rows) == (accounts.appended, 0)
    told = [event.body.detail for event in outbox.events() if isinstance(event.body, Alert) and event.body.detail]
    outbox.close()
    return told


def test_what_is_seen_after_a_disk_went_back_arrives_as_well(tmp_path: Path) -> None:
    """A card's image is written back, twice; each time the device counts on from the same number."""
    hub, path = RememberingHub(), tmp_path / "device" / "outbox.db"
    _life(path, hub, "first", at_ms=1)
    shutil.copytree(path.parent, tmp_path / "image")
    told = [_life(path, hub, "second", at_ms=2)]
    for number, name in enumerate(["third", "fourth"]):
        shutil.rmtree(path.parent)
        shutil.copytree(tmp_path / "image", path.parent)
        told.append(_life(path, hub, name, at_ms=3 + number))
    seen = Counter(event.body.what for event in hub.kept.values() if isinstance(event.body, Alert))
    assert seen - Counter(identity=2) == {
        f"{name}-{i}": 1 for name in ("first", "second", "third", "fourth") for i in range(5)
    }
    assert [len(one) for one in told] == [0, 1, 1]
    assert "its disk went back to an earlier state" in told[1][0]


def test_event_of_another_device_is_set_aside_where_its_number_is_used(outbox: Outbox) -> None:
    """A node may give no numbers to what its devices saw."""
    hub = RememberingHub()
    hub.kept["sensor-7", 3, 1] = Event(
        device_id="sensor-7", epoch=3, sequence=1, at_ms=0, body=Alert(what="", detail="")
    )
    body = Alert(what="drift", detail="")
    outbox.accept([Event(device_id="sensor-7", epoch=3, sequence=1, at_ms=9, body=body)])
    asyncio.run(_sender(outbox, hub).send_once())
    assert [(one.device_id, one.reason) for one in outbox.aside()] == [("sensor-7", "another is here")]


class DenyingHub(FakeHub):
    """Says of every event that another one has its number."""

    def _take(self, request: SendRequest) -> SendReply:
        taken = [Rejected(index=index, reason="another is here", reused=True) for index in range(len(request.events))]
        return SendReply(accepted=0, repeated=0, rejected=tuple(taken))


def test_batch_that_is_numbered_anew_as_a_whole_is_waited_out_as_a_failure_is(outbox: Outbox) -> None:
    _fill(outbox, 3)
    before = outbox.epoch
    with pytest.raises(Unavailable, match="under the numbers of all 3 events"):
        asyncio.run(_sender(outbox, DenyingHub()).send_once())
    assert outbox.epoch != before
    assert {one.event.epoch for one in outbox.pending(limit=10, max_bytes=10**6)} == {outbox.epoch}


def test_hub_that_denies_every_number_gets_each_event_twice_and_fills_nothing(outbox: Outbox) -> None:
    sender = _sender(outbox, DenyingHub())
    asyncio.run(_work(sender, lambda: False, turns=100, before=lambda: _fill(outbox, 1)))
    asyncio.run(_work(sender, lambda: outbox.stats().pending_rows == 0, turns=100, before=lambda: None))
    account = outbox.stats().accounts["alert"]
    assert account.rejected == account.appended, "nothing waits, and nothing is lost"
    assert account.appended.rows < 100 + 2 * 10, "it is told at doublings"
    assert all("takes it under none" in one.reason for one in outbox.aside())


# ---- what a hub says of an event


def test_reason_of_a_hub_is_kept_up_to_a_length(outbox: Outbox) -> None:
    hub = FakeHub()
    hub.reject = lambda event: "no" * 100_000
    _fill(outbox, 3)
    asyncio.run(_sender(outbox, hub).send_once())
    assert [len(one.reason) for one in outbox.aside()] == [LONGEST_REASON] * 3


# ---- the disk, while the hub is there


class FullDisk:
    """An outbox that cannot write down what the hub took, for so many tries."""

    def __init__(self, outbox: Outbox, failures: int, error: EdgeloopError | None = None) -> None:
        self._outbox = outbox
        self._failures = failures
        self._error = error or Unavailable("the outbox cannot write: database or disk is full")

    def __getattr__(self, name: str) -> object:
        return getattr(self._outbox, name)

    def acknowledge(self, rows: list[int], *, rejected: dict[int, str], reused: frozenset[int]) -> None:
        """See Outbox.acknowledge."""
        self._failures -= 1
        if self._failures >= 0:
            raise self._error
        self._outbox.acknowledge(rows, rejected=rejected, reused=reused)


def test_what_the_hub_has_is_not_sent_again_while_the_disk_is_full(outbox: Outbox) -> None:
    hub = FakeHub()
    _fill(outbox, 10)
    sender = _sender(FullDisk(outbox, failures=3), hub)  # type: ignore[arg-type]
    asyncio.run(_run_until(sender, lambda: outbox.stats().pending_rows == 0))
    assert (hub.calls, _sequences(hub)) == (1, list(range(1, 11)))


def test_what_cannot_be_marked_for_another_reason_goes_up_once_more(outbox: Outbox) -> None:
    hub = FakeHub()
    _fill(outbox, 10)
    disk = FullDisk(outbox, failures=1, error=EdgeloopError("a fault of edgeloop's"))
    asyncio.run(_run_until(_sender(disk, hub), lambda: outbox.stats().pending_rows == 0))  # type: ignore[arg-type]
    assert (hub.calls, _sequences(hub)) == (2, list(range(1, 11)))
