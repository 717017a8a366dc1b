"""A deadline whose count may stand still."""

import asyncio
from contextlib import suppress

import pytest

from edgeloop.device.deadline import within

pytestmark = pytest.mark.anyio


class Work:
    """Ends when it is told to; notes how."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.has_begun = False
        self.was_ended = False

    async def __call__(self) -> str:
        """The work."""
        self.has_begun = True
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.was_ended = True
            raise
        return "done"


async def test_work_that_ends_in_time_comes_to_what_it_comes_to() -> None:
    work = Work()
    work.go.set()
    assert await within(60.0, lambda: 0.0, work()) == "done"


async def test_work_goes_on_for_as_long_as_the_count_stands_still() -> None:
    work = Work()
    looks = 0

    def spent_s() -> float:
        nonlocal looks
        looks += 1
        if looks == 4:
            work.go.set()
        return 0.01

    assert await within(0.02, spent_s, work()) == "done"
    assert looks == 4, "it waited for longer than the limit, and looked at the count instead"


async def test_work_is_ended_when_the_limit_is_spent() -> None:
    work = Work()
    counts = iter([0.0, 0.03, 0.06])
    with pytest.raises(TimeoutError):
        await within(0.05, lambda: next(counts), work())
    assert work.was_ended


async def test_nothing_is_begun_where_all_is_spent_before() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        await within(5.0, lambda: 5.0, work())
    assert not work.has_begun


async def test_what_work_raises_comes_out() -> None:
    async def fail() -> None:
        raise ValueError("so it is")

    with pytest.raises(ValueError, match="so it is"):
        await within(60.0, lambda: 0.0, fail())


async def test_work_ends_with_who_wants_it() -> None:
    work = Work()
    waiting = asyncio.create_task(within(60.0, lambda: 0.0, work()))
    while not work.has_begun:
        await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert work.was_ended
