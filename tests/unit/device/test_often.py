import asyncio

import pytest

from edgeloop.contracts.errors import Unavailable
from edgeloop.device.often import often
from edgeloop.transport.sqlite import Damaged

pytestmark = pytest.mark.anyio
_SHORT_S = 0.001


class Looks:
    """Fails as it is told, look after look; the last look ends the test."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)
        self.is_over = asyncio.Event()

    async def look(self) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.is_over.set()


async def test_look_that_fails_is_taken_again() -> None:
    looks = Looks(Unavailable("the disk failed"), OSError(5, "Input/output error"), RuntimeError("a bug"))
    task = asyncio.create_task(often(looks.look, every_s=_SHORT_S, longest_wait_s=_SHORT_S))
    await asyncio.wait([task, asyncio.create_task(looks.is_over.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert (looks.is_over.is_set(), task.done()) == (True, False)
    task.cancel()


async def test_damaged_record_ends_it_for_the_next_start_to_begin_anew() -> None:
    with pytest.raises(Damaged):
        await often(Looks(Damaged("device.db is damaged")).look, every_s=_SHORT_S, longest_wait_s=_SHORT_S)
