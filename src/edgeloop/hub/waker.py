"""Who waits for news: how a held-open sync is answered within moments."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Waker:
    """Events by device id; used from one event loop."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._released = False

    @contextmanager
    def listening(self, device_ids: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set at the next news of any of these devices."""
        event = asyncio.Event()
        if self._released:
            event.set()
        ids = tuple(device_ids)
        for device_id in ids:
            self._waiting[device_id].add(event)
        try:
            yield event
        finally:
            for device_id in ids:
                self._waiting[device_id].discard(event)
                if not self._waiting[device_id]:
                    del self._waiting[device_id]

    def wake(self, device_ids: Iterable[str]) -> None:
        """There is news of these devices."""
        for device_id in device_ids:
            for event in self._waiting.get(device_id, ()):
                event.set()

    def wake_all(self) -> None:
        """There may be news of anybody."""
        self.wake(list(self._waiting))

    def release(self) -> None:
        """The process ends: let everyone go, now and from here on."""
        self._released = True
        self.wake_all()


async def wait_for_news(event: asyncio.Event, wait_s: float) -> bool:
    """True when the event was set within wait_s."""
    try:
        # Not wait_for: on Python 3.11 it can swallow a cancellation that comes together with the event.
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
