"""Requests under way: what they hold of memory, how fast they send, and whether whoever asked is still there.

Rules kept here:
- a body is bounded, and so is what all bodies hold together, from their first byte to their answer: who comes when
  there is no room is turned away, at the door where its size is told;
- a body has a time to be here, and a least rate after a moment's grace, so that nobody holds memory or a socket by
  sending slowly;
- whoever hangs up is not answered: what was begun for it is cancelled, and what waits for it is computed no more.

One timer looks after all requests: a timer for each would cost more than many a model. Every request is a task of its
own, as with every ASGI server. Neighbours: `asgi` answers, `routes` asks here for each request.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.runtime.pool import Overloaded
from edgeloop.serve.asgi import Gone, Receive, TooLarge, TooSlow

_SWEEP_S = 0.05
_AGAIN_S = 1.0
"""When to come back to a server whose memory is taken: bodies come and go in seconds."""


@dataclass(frozen=True)
class BodyLimits:
    """What bodies may take. body_bytes: one; held_bytes: all that are here; body_s: the time to be here, sent whole.

    least_bytes_per_s: how fast they must come, on the whole, once grace_s have passed.
    """

    body_bytes: int = 32 * 1024 * 1024
    held_bytes: int = 256 * 1024 * 1024
    body_s: float = 120.0
    least_bytes_per_s: int = 4096
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        if self.held_bytes < self.body_bytes:
            raise InvalidInput(
                f"all bodies together may hold {self.held_bytes:,} bytes, and one may have {self.body_bytes:,}; allow "
                "at least as much for all"
            )


class Askers:
    """All requests under way. Belongs to one event loop."""

    def __init__(self, limits: BodyLimits, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.held_bytes = 0
        self.now_s = now_s
        self._there: dict[Asker, None] = {}
        self._sweeping = False

    def asking(self, receive: Receive) -> "Asker":
        """One request, as a context: what it holds is let go at its end, and inside it ends early if it must.

        Raises Gone from the context if whoever asked hangs up, TooSlow if it sends too slowly.
        """
        return Asker(self, receive)

    def enter(self, asker: "Asker") -> None:
        """Look after a request."""
        self._there[asker] = None
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def leave(self, asker: "Asker") -> None:
        """It is over."""
        del self._there[asker]

    def hold(self, size_bytes: int) -> None:
        """Take room for a part of a body. Raises Overloaded if there is none."""
        self.require_room(size_bytes)
        self.held_bytes += size_bytes

    def require_room(self, size_bytes: int) -> None:
        """Raises Overloaded unless there is room for so much more."""
        if self.held_bytes + size_bytes > self.limits.held_bytes:
            raise Overloaded(
                f"the requests under way hold {self.held_bytes:,} of the {self.limits.held_bytes:,} bytes that bodies "
                f"may take here, and {size_bytes:,} more do not fit; ask again in a moment",
                retry_after_s=_AGAIN_S,
            )

    def _sweep(self) -> None:
        for asker in tuple(self._there):
            asker.look_after()
        self._sweeping = bool(self._there)
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


class Asker:
    """One request under way, and the body that it holds."""

    __slots__ = ("_all", "_began_s", "_cancels", "_got_bytes", "_is_read", "_receive", "_task", "_watching", "_why")

    def __init__(self, askers: Askers, receive: Receive) -> None:
        self._all = askers
        self._receive = receive
        self._got_bytes = 0
        self._is_read = False
        self._why: EdgeloopError | Gone | None = None
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> "Asker":
        task = asyncio.current_task()
        assert task is not None, "an ASGI server runs each request as a task"
        self._task, self._cancels = task, task.cancelling()
        self._began_s = self._all.now_s()
        self._all.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.leave(self)
        self._all.held_bytes -= self._got_bytes
        if self._watching is not None:
            self._watching.cancel()
        # Cancelled from here, and by nobody else beside: then the reason is raised in its place, as asyncio.timeout.
        if self._why is not None and self._task.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            raise self._why from error

    async def body(self, headers: dict[bytes, bytes]) -> bytes:
        """The whole body. Raises Gone if it breaks off, TooLarge or Overloaded: before it is read where its size is
        told, else as soon as it is too much."""
        most_bytes = self._all.limits.body_bytes
        told = headers.get(b"content-length")
        if told is not None:
            told_bytes = _size(told)
            _require_size(told_bytes, most_bytes)
            self._all.require_room(told_bytes)
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part: bytes = message.get("body", b"")
            _require_size(self._got_bytes + len(part), most_bytes)
            self._all.hold(len(part))
            self._got_bytes += len(part)
            if not message.get("more_body", False):
                self._is_read = True
                return b"".join([*parts, part]) if parts else part
            parts.append(part)

    def look_after(self) -> None:
        """Now and then: end it if its body comes too slowly; once it is read, see whether the asker is still there."""
        if not self._is_read:
            slow = self._slowness(self._all.now_s() - self._began_s)
            if slow is not None:
                self._end(slow)
        elif self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def _slowness(self, age_s: float) -> TooSlow | None:
        limits = self._all.limits
        if age_s > limits.body_s:
            return TooSlow(
                f"the body was not here within {limits.body_s:g} s: {self._got_bytes:,} bytes of it were; send less "
                "at a time"
            )
        if self._got_bytes < limits.least_bytes_per_s * (age_s - limits.grace_s):
            return TooSlow(
                f"{self._got_bytes:,} bytes of the body came in {age_s:.0f} s; at least "
                f"{limits.least_bytes_per_s:,} a second must, after the first {limits.grace_s:g}"
            )
        return None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(Gone())

    def _end(self, why: EdgeloopError | Gone) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()


def _size(told: bytes) -> int:
    if not told.isdigit():
        raise InvalidInput(f"Content-Length is {told.decode('latin-1')[:40]!r}; expected a number of bytes")
    return int(told[:19])


def _require_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise TooLarge(f"the body is larger than the {most_bytes:,} bytes that are taken here; send less at a time")
