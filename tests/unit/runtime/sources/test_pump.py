import itertools
import threading
import time

import pytest

from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.sources.pump import Pump


def test_all_items_come_in_order(stop: threading.Event) -> None:
    pump = Pump[int](lambda pump: [pump.put(number) for number in range(100)] and None, name="test", room=3)
    assert list(pump.items(stop)) == list(range(100))


def test_newest_wins_when_there_is_no_room() -> None:
    is_done = threading.Event()

    def fill(pump: Pump[int]) -> None:
        for number in range(10):
            pump.put(number)
        is_done.set()

    pump = Pump[int](fill, name="test", newest_wins=True)
    pump.start()
    assert is_done.wait(5)
    assert pump.take() == 9
    pump.end()


def test_no_more_than_the_room_is_read_ahead() -> None:
    put: list[int] = []
    is_full = threading.Event()

    def fill(pump: Pump[int]) -> None:
        for number in itertools.count():
            if len(put) == 2:
                is_full.set()
            if not pump.put(number):
                return
            put.append(number)

    pump = Pump[int](fill, name="test", room=2)
    pump.start()
    assert is_full.wait(5)
    assert pump.take(timeout_s=5.0) == 0
    pump.end()
    assert len(put) <= 3


def test_end_wakes_a_thread_that_waits_for_room() -> None:
    pump = Pump[int](lambda pump: all(pump.put(1) for _ in itertools.count()) and None, name="test", room=1)
    pump.start()
    assert pump.take(timeout_s=5.0) == 1
    pump.end()
    assert not pump.is_alive


def test_what_the_thread_raised_is_raised_after_what_it_found(stop: threading.Event) -> None:
    def fill(pump: Pump[int]) -> None:
        pump.put(1)
        raise Unavailable("the disk is gone")

    items = Pump[int](fill, name="test", room=2).items(stop)
    assert next(items) == 1
    with pytest.raises(Unavailable, match="disk is gone"):
        next(items)


def test_end_does_not_wait_for_a_thread_that_hangs() -> None:
    let_go = threading.Event()
    pump = Pump[int](lambda pump: let_go.wait() and None, name="test")
    pump.start()
    began_s = time.monotonic()
    pump.end()
    took_s = time.monotonic() - began_s
    assert pump.is_alive
    let_go.set()
    assert took_s < 10.0


def test_nothing_is_put_after_the_end() -> None:
    let_go, was_put = threading.Event(), []

    def fill(pump: Pump[int]) -> None:
        let_go.wait()
        was_put.append(pump.put(1))

    pump = Pump[int](fill, name="test")
    pump.start()
    pump.end(join_s=0.0)
    let_go.set()
    pump.end()
    assert (was_put, pump.take(0.0)) == ([False], None)


def test_end_of_the_thread_is_seen_at_once(stop: threading.Event) -> None:
    began_s = time.monotonic()
    assert list(Pump[int](lambda pump: None, name="test").items(stop)) == []
    assert time.monotonic() - began_s < 0.5
