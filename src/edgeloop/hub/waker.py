"""Who waits for news: how a held-open sync is answered within moments.

Ten thousand wait at once, so what waits is small: a future and a timer, no task and no event with room for many.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType


class News:
    """Whether there was any. One waits for it at a time; used from one event loop."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: asyncio.Future[bool] | None = None

    def is_set(self) -> bool:
        """True once there was any, until `clear`."""
        return self._is_set

    def set(self) -> None:
        """There is some."""
        self._is_set = True
        if self._waiting is not None:
            _settle(self._waiting, True)

    def clear(self) -> None:
        """What there was is known."""
        self._is_set = False

    async def wait(self, wait_s: float) -> bool:
        """True when there is some within wait_s."""
        assert self._waiting is None
        if self._is_set:
            return True
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(wait_s, _settle, self._waiting, False)
        try:
            return await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


def _settle(waiting: "asyncio.Future[bool]", is_news: bool) -> None:
    if not waiting.done():
        waiting.set_result(is_news)


class Waker:
    """Who waits, by device id; used from one event loop."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[News]] = defaultdict(set)
        self._released = False

    def listening(self, device_ids: Iterable[str]) -> "Listening":
        """The next news of any of these devices, while the context lasts."""
        return Listening(self, tuple(device_ids))

    def wake(self, device_ids: Iterable[str]) -> None:
        """There is news of these devices."""
        for device_id in device_ids:
            for news in self._waiting.get(device_id, ()):
                news.set()

    def wake_all(self) -> None:
        """There may be news of anybody."""
        self.wake(list(self._waiting))

    def release(self) -> None:
        """The process ends: let everyone go, now and from here on."""
        self._released = True
        self.wake_all()

    def add(self, device_ids: Iterable[str], news: News) -> None:
        """Tell of these devices from now on."""
        if self._released:
            news.set()
        for device_id in device_ids:
            self._waiting[device_id].add(news)

    def remove(self, device_ids: Iterable[str], news: News) -> None:
        """Tell no more."""
        for device_id in device_ids:
            self._waiting[device_id].discard(news)
            if not self._waiting[device_id]:
                del self._waiting[device_id]


class Listening:
    """A context: see `Waker.listening`."""

    __slots__ = ("_device_ids", "_news", "_waker")

    def __init__(self, waker: Waker, device_ids: tuple[str, ...]) -> None:
        self._waker = waker
        self._device_ids = device_ids
        self._news = News()

    def __enter__(self) -> News:
        """What is set from here on."""
        self._waker.add(self._device_ids, self._news)
        return self._news

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nobody listens here any more."""
        self._waker.remove(self._device_ids, self._news)
