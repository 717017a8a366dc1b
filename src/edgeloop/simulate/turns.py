"""Who begins when thousands of simulated devices hear of the same news in the same moment.

Real ones have a processor each. Here all would begin at once on one: each step of each would wait for a step of all
the others, connections would time out that nobody was slow to take, and be made again. So a few begin with each turn
of the event loop, which takes the longer the more is under way: as many are at work as this process can follow, however
long their links take.
"""

import asyncio
from collections import deque

_A_TURN = 16


class Turns:
    """First come, first served. Belongs to one event loop."""

    def __init__(self, *, a_turn: int = _A_TURN) -> None:
        self._a_turn = a_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calling: asyncio.Task[None] | None = None

    async def come(self) -> None:
        """Wait for one's turn."""
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if self._calling is None:
            self._calling = asyncio.create_task(self._call())
        await mine

    async def _call(self) -> None:
        while self._waiting:
            begun = 0
            while self._waiting and begun < self._a_turn:
                one = self._waiting.popleft()
                if not one.done():
                    one.set_result(None)
                    begun += 1
            await asyncio.sleep(0)
        self._calling = None
