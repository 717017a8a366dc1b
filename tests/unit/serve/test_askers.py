"""Requests under way, with bodies that come when a test says so."""

import asyncio
from typing import Any

import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.pool import Overloaded
from edgeloop.serve.asgi import Gone, TooLarge, TooSlow
from edgeloop.serve.askers import Asker, Askers, BodyLimits

pytestmark = pytest.mark.anyio

LIMITS = BodyLimits(body_bytes=100, held_bytes=150, body_s=60.0, least_bytes_per_s=10, grace_s=5.0)


class Sender:
    """Whoever asks: sends these parts, and then nothing until it hangs up."""

    def __init__(self, *parts: bytes, more: bool = False) -> None:
        self._parts = list(parts)
        self._more = more
        self._hung_up = asyncio.Event()
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts) or self._more}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        self._hung_up.set()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> float:
        return self.s


def told(size: int) -> dict[bytes, bytes]:
    return {b"content-length": b"%d" % size}


async def body_of(askers: Askers, sender: Sender, headers: dict[bytes, bytes] | None = None) -> bytes:
    with askers.asking(sender.receive) as asker:
        return await asker.body(headers or {})


# ---- what bodies hold


async def test_body_in_parts_is_put_together_and_let_go_at_the_end() -> None:
    askers = Askers(LIMITS)
    with askers.asking(Sender(b"a" * 40, b"", b"b" * 20).receive) as asker:
        assert await asker.body({}) == b"a" * 40 + b"b" * 20
        assert askers.held_bytes == 60
    assert askers.held_bytes == 0


async def test_body_that_is_told_to_be_too_large_is_not_read() -> None:
    sender = Sender(b"never read")
    with pytest.raises(TooLarge, match="100 bytes"):
        await body_of(Askers(LIMITS), sender, told(101))
    assert sender.asked == 0


async def test_body_without_a_told_length_is_bounded_as_it_comes() -> None:
    askers, sender = Askers(LIMITS), Sender(b"x" * 60, b"x" * 60, b"never read")
    with pytest.raises(TooLarge):
        await body_of(askers, sender)
    assert (sender.asked, askers.held_bytes) == (2, 0)


@pytest.mark.parametrize("length", [b"-5", b"many", b"", b"\xb2"])
async def test_length_that_is_no_number_is_refused(length: bytes) -> None:
    with pytest.raises(InvalidInput, match="Content-Length"):
        await body_of(Askers(LIMITS), Sender(b"x"), {b"content-length": length})


async def test_bodies_that_hold_too_much_together_are_turned_away_until_there_is_room() -> None:
    askers = Askers(LIMITS)
    with askers.asking(Sender(b"x" * 100).receive) as first:
        await first.body(told(100))
        at_the_door, as_it_comes = Sender(b"x" * 60), Sender(b"x" * 40, b"x" * 20, b"never read")
        with pytest.raises(Overloaded, match="100 of the 150 bytes") as turned_away:
            await body_of(askers, at_the_door, told(60))
        assert (turned_away.value.retry_after_s, at_the_door.asked) == (1.0, 0)
        with pytest.raises(Overloaded, match="140 of the 150 bytes"):
            await body_of(askers, as_it_comes)
        assert (as_it_comes.asked, askers.held_bytes) == (2, 100)
        assert await body_of(askers, Sender(b"x" * 50), told(50)) == b"x" * 50
    assert await body_of(askers, Sender(b"x" * 60), told(60)) == b"x" * 60
    assert askers.held_bytes == 0


def test_all_bodies_together_may_hold_at_least_one() -> None:
    with pytest.raises(InvalidInput, match="at least as much for all"):
        BodyLimits(body_bytes=2, held_bytes=1)


# ---- how fast they come


SLOW = [
    (5.1, [], "0 bytes of the body came in 5 s"),  # the grace is over, and nothing came
    (12.0, [b"x" * 60], "60 bytes of the body came in 12 s"),  # 70 were due
    (60.1, [b"x" * 90], "not here within 60 s"),
]


@pytest.mark.parametrize(("after_s", "parts", "reason"), SLOW)
async def test_body_that_comes_too_slowly_is_given_up(after_s: float, parts: list[bytes], reason: str) -> None:
    clock = Clock()
    askers = Askers(LIMITS, now_s=clock.now)
    reading = asyncio.ensure_future(body_of(askers, Sender(*parts, more=True)))
    await asyncio.sleep(0)
    clock.s = after_s
    with pytest.raises(TooSlow, match=reason) as slow:
        await reading
    assert (slow.value.http_status, askers.held_bytes) == (408, 0)


async def test_body_that_comes_fast_enough_is_waited_for_and_then_has_all_the_time() -> None:
    clock = Clock()
    askers = Askers(LIMITS, now_s=clock.now)
    sender = Sender(b"x" * 80, more=True)
    with askers.asking(sender.receive) as asker:
        clock.s = 12.0
        reading = asyncio.ensure_future(asker.body({}))
        await looked_after(askers)
        assert not reading.done()
        reading.cancel()
    with askers.asking(Sender(b"x").receive) as asker:
        await asker.body({})
        clock.s = 1000.0
        await looked_after(askers)


# ---- whether they are still there


async def test_what_is_begun_for_an_asker_who_hangs_up_is_cancelled() -> None:
    askers, sender = Askers(LIMITS), Sender(b"x" * 50)
    cancelled = asyncio.Event()

    async def ask() -> None:
        with askers.asking(sender.receive) as asker:
            await asker.body({})
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    sender.hang_up()
    with pytest.raises(Gone):
        await asking
    assert cancelled.is_set()
    assert askers.held_bytes == 0


async def test_cancellation_from_elsewhere_stays_one() -> None:
    askers, sender = Askers(LIMITS), Sender(b"x", more=True)
    asking = asyncio.ensure_future(body_of(askers, sender))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert askers.held_bytes == 0


async def test_body_that_breaks_off_is_gone() -> None:
    sender = Sender(b"x", more=True)
    sender.hang_up()
    with pytest.raises(Gone):
        await body_of(Askers(LIMITS), sender)


async def test_nothing_is_left_behind_by_askers_who_were_watched() -> None:
    askers = Askers(LIMITS)
    before = asyncio.all_tasks()
    with askers.asking(Sender(b"x").receive) as asker:
        await asker.body({})
        while asyncio.all_tasks() == before:  # until it is watched
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def looked_after(askers: Askers) -> None:
    """Until each that is there has been looked after once more: the timer has gone round."""
    seen = Seen(askers)
    with seen:
        while not seen.looked:
            await asyncio.sleep(0.001)


class Seen(Asker):
    """One more, who tells when it was looked after; those before it were by then."""

    def __init__(self, askers: Askers) -> None:
        super().__init__(askers, Sender(b"x").receive)
        self.looked = 0

    def look_after(self) -> None:
        self.looked += 1
