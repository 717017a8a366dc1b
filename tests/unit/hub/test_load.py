"""What a hub lets in. Time is the tests' own; turns of the event loop are real."""

import asyncio
import heapq
import random
from collections import deque
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import Unavailable
from edgeloop.hub.load import Busy, Load, answer_by_s
from edgeloop.transport.again import FIRST_WAIT_S, asked_wait_s
from small_cloud import Clock

pytestmark = pytest.mark.anyio


def _is_let_in(load: Load, *, writes: bool = False) -> bool:
    try:
        load.let_in(writes=writes)
    except Busy:
        return False
    return True


@pytest.mark.parametrize(("waits_s", "is_in"), [(0.0, True), (1.9, True), (2.1, False)])
async def test_what_waits_to_be_written_keeps_out_who_would_have_to_wait_for_it_and_nobody_else(
    waits_s: float, is_in: bool
) -> None:
    load = Load(lambda: waits_s, clock=Clock())
    assert _is_let_in(load, writes=True) is is_in
    assert _is_let_in(load)


async def test_long_turn_of_the_event_loop_is_a_queue_too_and_ends_two_turns_later() -> None:
    clock = Clock()
    load = Load(clock=clock)
    assert _is_let_in(load)
    clock.now_s += 9.9
    assert _is_let_in(load)
    clock.now_s += 0.2
    assert not _is_let_in(load)
    await asyncio.sleep(0)
    assert not _is_let_in(load), "who is looked at in this turn came in the last one"
    await asyncio.sleep(0)
    assert _is_let_in(load)


async def test_idle_hour_is_no_long_turn() -> None:
    clock = Clock()
    load = Load(clock=clock)
    assert _is_let_in(load)
    for _ in range(3):
        await asyncio.sleep(0)
    clock.now_s += 3600
    assert _is_let_in(load)


async def test_what_was_waited_for_already_is_taken_off_the_time_that_is_left() -> None:
    clock = Clock()
    load = Load(clock=clock)
    began_s = clock.now_s
    load.let_in(writes=False)
    assert answer_by_s.get() == began_s + 10.0
    clock.now_s += 4.0
    load.let_in(writes=False)
    assert answer_by_s.get() == began_s + 10.0
    await asyncio.sleep(0)
    clock.now_s += 1.0
    load.let_in(writes=False)
    assert answer_by_s.get() == began_s + 10.0


def test_busy_is_unavailable_and_says_when_to_come_again() -> None:
    busy = Load(clock=Clock(), draw=lambda: 0.75).busy()
    assert (busy.code, busy.http_status, busy.retry_after_s) == ("unavailable", 503, 1.5)
    assert "come again in 1.5 s" in str(busy)


def _spread_s(load: Load) -> float:
    """Over how long those who come now are spread."""
    times_s = [load.busy().retry_after_s for _ in range(200)]
    assert min(times_s) < 0.1 * max(times_s)
    return max(times_s)


def test_those_who_are_turned_away_are_spread_over_ever_longer_as_long_as_that_does_not_help() -> None:
    clock = Clock()
    load = Load(clock=clock, draw=random.Random(1).random)
    seen_s = []
    for _ in range(80):
        seen_s.append(_spread_s(load))
        clock.now_s += 1.9
    assert seen_s[0] == pytest.approx(2.0, rel=0.05)
    assert all(later >= 0.9 * earlier for earlier, later in pairwise(seen_s))
    assert seen_s[-1] == pytest.approx(60.0, rel=0.05)


def test_spread_gets_shorter_again_once_nobody_was_turned_away_after_it() -> None:
    clock = Clock()
    load = Load(clock=clock, draw=random.Random(1).random)
    for _ in range(80):
        load.busy()
        clock.now_s += 1.9
    clock.now_s += 61
    assert _spread_s(load) == pytest.approx(30.0, rel=0.05)
    clock.now_s += 31
    assert _spread_s(load) == pytest.approx(15.0, rel=0.05)
    clock.now_s += 121
    assert _spread_s(load) == pytest.approx(2.0, rel=0.05)


def test_strangers_come_within_ten_seconds_and_keep_nobody_else_away() -> None:
    clock = Clock()
    load = Load(clock=clock, draw=random.Random(1).random)
    for _ in range(1000):
        assert load.busy(is_known=False).retry_after_s <= 10.0
        clock.now_s += 0.1
    assert _spread_s(load) == pytest.approx(2.0, rel=0.05)


def test_it_is_told_once_in_ten_seconds_and_how_many_it_were() -> None:
    clock = Clock()
    load = Load(lambda: 3.0, clock=clock)
    with capture_logs() as logs:
        for _ in range(100):
            load.busy()
            clock.now_s += 0.15
    told = [(log["event"], log["turned_away"], log["queue_s"]) for log in logs]
    assert told == [("asked_for_more_than_can_be_done", 1, 3.0), ("asked_for_more_than_can_be_done", 67, 3.0)]


class _Hub:
    """Answers one after another, each in service_s. takes_all: as one that knows no bounds."""

    def __init__(self, clock: Clock, *, service_s: float, takes_all: bool) -> None:
        self._clock = clock
        self._service_s = service_s
        self._takes_all = takes_all
        self._free_s = clock.now_s
        self.queue: deque[tuple[float, int]] = deque()
        self.load = Load(self._queue_s, clock=clock, draw=random.Random(2).random)

    def _queue_s(self) -> float:
        return self._clock.now_s - self.queue[0][0] if self.queue else 0.0

    def come(self, device: int) -> None:
        """Raises Busy."""
        if not self._takes_all:
            self.load.let_in(writes=True)
        if not self.queue:
            self._free_s = max(self._free_s, self._clock.now_s)
        self.queue.append((self._clock.now_s, device))

    def next_s(self) -> float:
        return self._free_s + self._service_s if self.queue else float("inf")

    def answer(self) -> tuple[int, float]:
        """Whom, and how long it waited."""
        self._free_s = self._clock.now_s
        came_s, device = self.queue.popleft()
        return device, self._clock.now_s - came_s


@pytest.mark.parametrize(("takes_all", "least", "most"), [(False, 0.9, 1.0), (True, 0.0, 0.3)])
async def test_hub_that_is_asked_for_three_times_what_it_can_do_still_does_what_it_can(
    takes_all: bool, least: float, most: float
) -> None:
    """Three thousand devices want an answer every 20 s of a hub that gives 50 a second, and give up after 15. So much
    of what it could do is of use; one that takes all answers those who are gone, and are in its queue once more.
    """
    clock, rng = Clock(), random.Random(1)
    every_s, patience_s, service_s, until_s = 20.0, 15.0, 0.02, 400.0
    hub = _Hub(clock, service_s=service_s, takes_all=takes_all)
    backoffs = [Backoff(first_s=FIRST_WAIT_S, longest_s=30.0, draw=rng.random) for _ in range(3000)]
    began_s = clock.now_s
    comes = [(began_s + every_s * rng.random(), device, 0) for device in range(len(backoffs))]
    heapq.heapify(comes)
    waits_for = dict.fromkeys(range(len(backoffs)), 0)  # which of its requests a device still waits for
    useful = 0
    while clock.now_s < began_s + until_s:
        if hub.next_s() <= comes[0][0]:
            clock.now_s = hub.next_s()
            device, waited_s = hub.answer()
            if waited_s <= patience_s:
                backoffs[device].succeeded()
                waits_for[device] += 1
                heapq.heappush(comes, (clock.now_s + every_s, device, waits_for[device]))
                useful += clock.now_s > began_s + until_s / 2
            continue
        clock.now_s, device, number = heapq.heappop(comes)
        if number != waits_for[device]:
            continue  # it was answered in time, and does not ask again for now
        await asyncio.sleep(0)  # a turn of the event loop for each
        waits_for[device] += 1
        try:
            hub.come(device)
            wait_s = patience_s + asked_wait_s(Unavailable("no answer"), backoffs[device])
        except Busy as busy:
            wait_s = asked_wait_s(busy, backoffs[device])
        heapq.heappush(comes, (clock.now_s + wait_s, device, waits_for[device]))
    assert least <= useful * service_s / (until_s / 2) <= most
