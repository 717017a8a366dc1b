"""A thread that reads ahead, so that a read which blocks blocks nobody else.

Rules kept here: what the thread found is handed over in order; a consumer never waits longer than it said; a pump
that is ended never puts anything more, whatever its thread is blocked in; and neither a consumer nor the end of the
process waits for such a thread for long.
"""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_S = 0.05
"""How long a consumer sleeps at most before it looks whether it should stop."""


class Pump(Generic[T]):
    """Runs `fill(pump)` on a thread; `fill` puts items until there are none or `is_ended`.

    room: how many items wait at most. newest_wins: when there is no room the oldest gives way; else `put` waits.
    join_s: for how long the thread is waited for when the pump is ended; at the end of the process, twice as long.
    """

    def __init__(
        self,
        fill: Callable[["Pump[T]"], None],
        *,
        name: str,
        room: int = 1,
        newest_wins: bool = False,
        join_s: float = 0.5,
    ) -> None:
        self._fill = fill
        self._room = room
        self._newest_wins = newest_wins
        self._join_s = join_s
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._is_done = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        # A thread that comes back from OpenCV's C++ while the interpreter shuts down aborts the process: measured on
        # Python 3.11, 6 of 6 that ended while frames came.
        atexit.register(self._end, 2 * self._join_s)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Hand over; from the pump's own thread. False if nobody wants it any more."""
        with self._changed:
            while not self._newest_wins and len(self._items) >= self._room and not self.is_ended:
                self._changed.wait()
            if self.is_ended:
                return False
            if len(self._items) >= self._room:
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep on the pump's own thread; True, at once, if it is ended."""
        return self._ended.wait(seconds)

    def take(self, timeout_s: float = POLL_S) -> T | None:
        """The next item; None if none came in time. Raises what the thread raised."""
        with self._changed:
            if not self._items and not self._is_done:
                self._changed.wait(timeout_s)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return None

    def items(self, stop: threading.Event) -> Iterator[T]:
        """Start, hand over one item after another until there are no more or `stop` is set, and end."""
        self.start()
        try:
            while not stop.is_set():
                item = self.take()
                if item is not None:
                    yield item
                elif self.is_over:
                    return
        finally:
            self.end()

    def end(self, *, join_s: float | None = None) -> None:
        """Nothing more is wanted; waits for the thread, but not for long."""
        atexit.unregister(self._end)
        self._end(self._join_s if join_s is None else join_s)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more is wanted."""
        return self._ended.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs, though perhaps in a read that never returns."""
        return self._thread.is_alive()

    @property
    def is_over(self) -> bool:
        """Whether the thread came to its end and all it found was taken."""
        return self._is_done and not self._items and self._failure is None

    def _end(self, join_s: float) -> None:
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(join_s)

    def _run(self) -> None:
        try:
            self._fill(self)
        except Exception as error:  # noqa: BLE001 - the thread's one guard: its consumer raises this
            self._failure = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()
