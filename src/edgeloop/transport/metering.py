"""Leave for downloads to begin, within a day's budget: what does not fit into what is left waits for the next day.

Neighbours: `budget` keeps account of the day, `download` brings what was given leave.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from edgeloop.transport.budget import DOWNLOAD, Budget

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 60.0
"""At the clock: it may be set meanwhile."""


class Meter:
    """The downloads of one device or node. Belongs to one event loop.

    on_wait: told when the first begins to wait, and when none waits any more.
    """

    def __init__(self, budget: Budget, *, on_wait: Callable[[], None]) -> None:
        self._budget = budget
        self._on_wait = on_wait
        self._waiting = 0
        self._waited_s = 0.0
        self._since_s = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether a download waits for the next day."""
        return self._waiting > 0

    @property
    def waited_s(self) -> float:
        """For how long downloads have waited, the one that waits now included; two that wait at once wait once."""
        return self._waited_s + (time.monotonic() - self._since_s if self._waiting else 0.0)

    async def leave(self, target: str, size_bytes: int) -> None:
        """Wait until so many bytes may be fetched."""
        if self._budget.may_download(size_bytes):
            return
        _log.warning(
            "download_waits", target=target, size_bytes=size_bytes, left_bytes=self._budget.left_bytes(DOWNLOAD)
        )
        self._begin()
        try:
            while not self._budget.may_download(size_bytes):
                await asyncio.sleep(min(_LOOK_EVERY_S, self._budget.until_next_s()))
        finally:
            self._end()

    async def spend(self, target: str, size_bytes: int) -> None:
        """So many bytes came."""
        await asyncio.to_thread(self._budget.spend, DOWNLOAD, {target: size_bytes})

    def _begin(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._since_s = time.monotonic()
            self._on_wait()

    def _end(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._waited_s += time.monotonic() - self._since_s
            self._on_wait()
