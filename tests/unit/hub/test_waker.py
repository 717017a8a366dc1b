import asyncio

import pytest

from edgeloop.hub.waker import News, Waker


def test_news_of_a_device_sets_its_event() -> None:
    waker = Waker()
    with waker.listening(["a"]) as event:
        waker.wake(["a"])
        assert event.is_set()


def test_news_of_another_device_does_not() -> None:
    waker = Waker()
    with waker.listening(["a"]) as event:
        waker.wake(["b"])
        assert not event.is_set()


def test_any_of_several_devices_will_do() -> None:
    waker = Waker()
    with waker.listening(["a", "b"]) as event:
        waker.wake(["c", "b"])
        assert event.is_set()


def test_everyone_who_waits_for_a_device_is_woken() -> None:
    waker = Waker()
    with waker.listening(["a"]) as first, waker.listening(["a"]) as second:
        waker.wake(["a"])
        assert (first.is_set(), second.is_set()) == (True, True)


def test_one_who_left_does_not_take_the_other_along() -> None:
    waker = Waker()
    with waker.listening(["a"]) as stays:
        with waker.listening(["a"]):
            pass
        waker.wake(["a"])
        assert stays.is_set()


def test_one_who_left_is_no_longer_woken() -> None:
    waker = Waker()
    with waker.listening(["a"]) as event:
        pass
    waker.wake(["a"])
    assert not event.is_set()


def test_news_from_before_is_not_heard() -> None:
    waker = Waker()
    waker.wake(["a"])
    with waker.listening(["a"]) as event:
        assert not event.is_set()


def test_device_named_twice_is_no_trouble() -> None:
    waker = Waker()
    with waker.listening(["a", "a"]) as event:
        waker.wake(["a"])
    assert event.is_set()


def test_ending_lets_everyone_go() -> None:
    waker = Waker()
    with waker.listening(["a"]) as first, waker.listening(["b"]) as second:
        waker.release()
        assert (first.is_set(), second.is_set()) == (True, True)


def test_nobody_waits_once_it_ends() -> None:
    waker = Waker()
    waker.release()
    with waker.listening(["a"]) as event:
        assert event.is_set()


def test_waiting_ends_with_the_news() -> None:
    async def scenario() -> bool:
        waker = Waker()
        with waker.listening(["a"]) as event:
            waiting = asyncio.create_task(event.wait(30.0))
            await asyncio.sleep(0)
            waker.wake(["a"])
            async with asyncio.timeout(1.0):
                return await waiting

    assert asyncio.run(scenario()) is True


def test_waiting_ends_without_news_after_its_time() -> None:
    assert asyncio.run(News().wait(0.01)) is False


@pytest.mark.parametrize("turns", range(4))
def test_news_at_the_moment_of_being_cancelled_does_not_undo_the_cancelling(turns: int) -> None:
    async def scenario() -> bool:
        event = News()
        waiting = asyncio.create_task(event.wait(30.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked = waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        return waiting.cancelled() or not asked

    assert asyncio.run(scenario())


def test_news_that_was_cleared_is_waited_for_anew() -> None:
    async def scenario() -> list[bool]:
        news = News()
        news.set()
        heard = [await news.wait(30.0)]
        news.clear()
        heard.append(await news.wait(0.01))
        news.set()
        return [*heard, await news.wait(30.0)]

    assert asyncio.run(scenario()) == [True, False, True]


def test_who_was_cancelled_leaves_the_place_to_the_next() -> None:
    async def scenario() -> bool:
        news = News()
        first = asyncio.create_task(news.wait(30.0))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(news.wait(30.0))
        await asyncio.sleep(0)
        news.set()
        return await second

    assert asyncio.run(scenario())
