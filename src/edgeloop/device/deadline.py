"""A deadline that counts what it is told to count, and not what passes on the clock."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_SHORTEST_LOOK_S = 0.1
"""While the count stands still, it is looked at no more often."""


async def within(limit_s: float, spent_s: Callable[[], float], work: Coroutine[Any, Any, T]) -> T:
    """What work comes to. Raises TimeoutError, with the work ended, once spent_s() has reached limit_s.

    spent_s: goes no faster than the clock; it may stand still, and begin above 0.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            left_s = limit_s - spent_s()
            if left_s <= 0.0:
                raise TimeoutError
            await asyncio.wait([task], timeout=max(left_s, _SHORTEST_LOOK_S))
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
