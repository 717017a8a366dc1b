import asyncio
import time
from collections.abc import Callable

import pytest

from edgeloop.contracts.errors import EdgeloopError, Refused, Unavailable
from edgeloop.contracts.messages import Desired, DeviceReport, SyncReply, SyncRequest
from edgeloop.transport.syncing import Pace, SyncLoop

NEWS = Desired(device_id="camera-1", generation=7)
PACE = Pace(wait_s=25.0, longest_backoff_s=0.01)


class FakeHub:
    """The uplink's `sync` over a hub in memory: a sync with a wait is held until there is news or `hold` is off."""

    def __init__(self, *, failures: int = 0, error: type[EdgeloopError] = Unavailable) -> None:
        self.requests: list[SyncRequest] = []
        self.news: tuple[Desired, ...] = ()
        self.hold = False
        self.failed = 0
        self._failures = failures
        self._error = error

    def fail_from_now_on(self) -> None:
        """Answer nothing any more."""
        self._failures = 10**9

    @property
    def quick(self) -> list[SyncRequest]:
        """Syncs that did not want to be held open."""
        return [request for request in self.requests if request.wait_s == 0]

    async def sync(self, request: SyncRequest) -> SyncReply:
        """Answer, fail while there are failures left, or hold."""
        self.requests.append(request)
        if self._failures:
            self._failures -= 1
            self.failed += 1
            raise self._error("the hub is away")
        while request.wait_s and self.hold:
            await asyncio.sleep(0.001)
        news, self.news = self.news, ()
        return SyncReply(desired=news)


class Harness:
    """A loop over a fake hub, with what it was told and what it reports."""

    def __init__(self, hub: FakeHub, pace: Pace = PACE) -> None:
        self.hub = hub
        self.told: list[Desired] = []
        self.lost: list[Exception] = []
        self.generation = 0
        self.began_s = time.monotonic()
        self.loop = SyncLoop(
            hub,  # type: ignore[arg-type]
            reports=lambda: (DeviceReport(device_id="camera-1", known_generation=self.generation),),
            on_desired=self.told.extend,
            pace=pace,
            on_failed=self.lost.append,
        )

    async def until(self, done: Callable[[], bool], *, before: Callable[[], None] = lambda: None) -> None:
        """Run until `done`, at most half a minute. before: is done once the first sync is on its way."""
        task = asyncio.create_task(self.loop.run())
        async with asyncio.timeout(30):
            while not self.hub.requests:
                await asyncio.sleep(0)
            before()
            while not done() and not task.done():
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def _run(harness: Harness, done: Callable[[], bool], *, before: Callable[[], None] = lambda: None) -> None:
    asyncio.run(harness.until(done, before=before))


def _has_waited(for_s: float, *, since_s: float) -> bool:
    return time.monotonic() - since_s >= for_s


def test_news_of_the_hub_is_passed_on() -> None:
    harness = Harness(FakeHub())
    harness.hub.news = (NEWS,)
    _run(harness, lambda: bool(harness.told))
    assert harness.told == [NEWS]


def test_listening_is_held_open_by_the_hub() -> None:
    harness = Harness(FakeHub())
    _run(harness, lambda: bool(harness.hub.requests))
    assert harness.hub.requests[0].wait_s == 25.0


def test_listening_goes_on_after_an_answer() -> None:
    harness = Harness(FakeHub())
    _run(harness, lambda: len(harness.hub.requests) >= 3)
    assert {request.wait_s for request in harness.hub.requests} == {25.0}


def test_nothing_is_told_without_a_change() -> None:
    harness = Harness(FakeHub())
    _run(harness, lambda: len(harness.hub.requests) >= 3)
    assert harness.hub.quick == []


def test_change_is_told_while_a_sync_is_held_open() -> None:
    hub = FakeHub()
    hub.hold = True
    harness = Harness(hub)
    _run(harness, lambda: bool(hub.quick), before=harness.loop.changed)
    assert len(hub.quick) == 1


def test_report_is_made_when_it_is_sent() -> None:
    harness = Harness(FakeHub())
    harness.hub.hold = True

    def change() -> None:
        harness.generation = 4
        harness.loop.changed()

    _run(harness, lambda: bool(harness.hub.quick), before=change)
    assert harness.hub.quick[0].reports[0].known_generation == 4


def test_several_changes_are_told_together() -> None:
    harness = Harness(FakeHub())
    harness.hub.hold = True

    def change() -> None:
        for _ in range(5):
            harness.loop.changed()

    _run(harness, lambda: bool(harness.hub.quick) and _has_waited(0.3, since_s=harness.began_s), before=change)
    assert len(harness.hub.quick) == 1


def test_change_rides_on_the_sync_that_goes_next_anyway() -> None:
    harness = Harness(FakeHub())
    harness.generation = 4
    harness.loop.changed()
    _run(harness, lambda: len(harness.hub.requests) >= 3)
    assert harness.hub.quick == []
    assert harness.hub.requests[0].reports[0].known_generation == 4


def test_change_that_rode_on_a_sync_that_failed_is_told_later() -> None:
    harness = Harness(FakeHub(failures=1))
    harness.loop.changed()
    _run(harness, lambda: bool(harness.hub.quick))
    assert harness.hub.failed == 1


def test_change_that_may_wait_goes_with_one_that_may_not() -> None:
    harness = Harness(FakeHub(), Pace(25.0, 0.01, later_s=1000.0))
    harness.hub.hold = True

    def done() -> bool:
        if harness.generation == 0 and _has_waited(0.3, since_s=harness.began_s):
            assert harness.hub.quick == []
            harness.generation = 4
            harness.loop.changed()
        return bool(harness.hub.quick) and _has_waited(0.6, since_s=harness.began_s)

    _run(harness, done, before=lambda: harness.loop.changed(at_once=False))
    assert [request.reports[0].known_generation for request in harness.hub.quick] == [4]


def test_change_that_may_wait_is_told_in_time_though_nothing_else_is() -> None:
    harness = Harness(FakeHub(), Pace(25.0, 0.01, later_s=0.2))
    harness.hub.hold = True
    _run(harness, lambda: bool(harness.hub.quick), before=lambda: harness.loop.changed(at_once=False))
    assert time.monotonic() - harness.began_s >= 0.2


def test_after_news_the_next_sync_says_what_comes_of_it() -> None:
    harness = Harness(FakeHub(), Pace(25.0, 0.01, hold_back_s=1000.0))
    harness.hub.news = (NEWS,)

    def done() -> bool:
        if harness.told and harness.generation == 0 and _has_waited(0.3, since_s=harness.began_s):
            assert len(harness.hub.requests) == 1
            harness.generation = 7
            harness.loop.changed()
        return len(harness.hub.requests) >= 2

    _run(harness, done)
    assert harness.hub.quick == []
    assert harness.hub.requests[1].reports[0].known_generation == 7


def test_after_news_of_which_nothing_comes_listening_goes_on() -> None:
    harness = Harness(FakeHub(), Pace(25.0, 0.01, hold_back_s=0.2))
    harness.hub.news = (NEWS,)
    _run(harness, lambda: len(harness.hub.requests) >= 2)
    assert time.monotonic() - harness.began_s >= 0.2


def test_who_carries_news_on_listens_again_at_once() -> None:
    harness = Harness(FakeHub())
    harness.hub.news = (NEWS,)
    _run(harness, lambda: len(harness.hub.requests) >= 5)
    assert harness.told == [NEWS]


@pytest.mark.parametrize("error", [Unavailable, Refused])
def test_failures_are_waited_out(error: type[EdgeloopError]) -> None:
    harness = Harness(FakeHub(failures=3, error=error))
    harness.hub.news = (NEWS,)
    _run(harness, lambda: bool(harness.told))
    assert len(harness.hub.requests) >= 4


def test_change_that_could_not_be_told_is_told_later() -> None:
    hub = FakeHub(failures=6)
    hub.hold = True
    harness = Harness(hub)

    def done() -> bool:
        return hub.failed == 6 and len(hub.quick) >= 2

    _run(harness, done, before=harness.loop.changed)
    assert len(hub.quick) >= 2


@pytest.mark.parametrize("error", [Unavailable, Refused])
def test_each_sync_that_failed_is_told(error: type[EdgeloopError]) -> None:
    """What it said may have arrived or not: whoever said it must know."""
    harness = Harness(FakeHub(failures=3, error=error))
    harness.hub.news = (NEWS,)
    _run(harness, lambda: bool(harness.told))
    assert [type(one) for one in harness.lost] == [error] * 3


def test_changes_one_after_another_go_up_together() -> None:
    hub = FakeHub()
    hub.hold = True
    harness = Harness(hub)
    began_s = time.monotonic()
    changes = 0

    def done() -> bool:
        nonlocal changes
        changes += 1
        harness.loop.changed()
        return changes > 300

    _run(harness, done)
    assert 1 <= len(hub.quick) <= (time.monotonic() - began_s) / 0.1 + 2


def test_reachability_is_false_at_first() -> None:
    assert not Harness(FakeHub()).loop.is_reachable


def test_reachability_follows_an_answer() -> None:
    harness = Harness(FakeHub())
    _run(harness, lambda: len(harness.hub.requests) >= 2)
    assert harness.loop.is_reachable


def test_reachability_ends_with_a_failure() -> None:
    harness = Harness(FakeHub())

    def lost() -> bool:
        if harness.loop.is_reachable:
            harness.hub.fail_from_now_on()
        return harness.hub.failed > 0 and not harness.loop.is_reachable

    _run(harness, lost)
    assert not harness.loop.is_reachable
