"""Bodies of requests whose senders nobody has proven yet: how many bytes of them are held, and for how long.

A signature covers the body, so it must be read before it is known who sent it. Rules kept here: what is held of all
such bodies together is bounded, and of one address, too; senders who proved themselves from their address before have
room of their own, so that strangers cannot take it; a body that does not come on is given up. Neighbour: `limits`.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.proof import MAX_AGE_S
from edgeloop.hub.limits import Limits, TooMany

_RETRY_AFTER_S = 2.0


class Bodies:
    """What is held now. One a process, used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._rooms = {is_known: _Room(limits) for is_known in (False, True)}

    def of(self, address: str, *, is_known: bool) -> "Held":
        """A body to come from this address, as a context at whose end it counts no more: its sender is proven by then,
        or turned down.

        is_known: who it says it is proved itself from this address before.
        """
        return Held(self._rooms[is_known], self.limits, address)


class _Room:
    """Bytes by address, and in all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()
        self._bytes = 0

    def take(self, address: str, size_bytes: int) -> None:
        """Raises TooMany."""
        is_full = self._bytes + size_bytes > self._limits.unproven_bytes
        if is_full or self._of[address] + size_bytes > self._limits.unproven_bytes_an_address:
            who = "all senders" if is_full else f"senders at {address}"
            raise TooMany(f"too many bodies of {who} are under way; send fewer at once", _RETRY_AFTER_S)
        self._of[address] += size_bytes
        self._bytes += size_bytes

    def give_back(self, address: str, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._of[address] -= size_bytes
        if not self._of[address]:
            del self._of[address]


class Held:
    """One body under way. See `Bodies.of`."""

    def __init__(self, room: _Room, limits: Limits, address: str) -> None:
        self._room = room
        self._limits = limits
        self._address = address
        self._bytes = 0

    def __enter__(self) -> "Held":
        """Nothing is held yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It counts no more."""
        if self._bytes:
            self._room.give_back(self._address, self._bytes)

    async def read(self, chunks: AsyncIterator[bytes], *, max_bytes: int) -> bytes:
        """All of it. Raises InvalidInput as soon as it is larger than max_bytes, TooMany where there is no room for
        it, Unavailable if it comes too slowly.

        Each least_bytes of it, or its end, must come within window_s, and the whole within the longest life that a
        signature can have.
        """
        body, noted = bytearray(), 0
        now_s = asyncio.get_running_loop().time
        end_s = now_s() + 2 * MAX_AGE_S
        try:
            async with asyncio.timeout(self._limits.body_window_s) as deadline:
                async for chunk in chunks:
                    self._room.take(self._address, len(chunk))
                    self._bytes += len(chunk)
                    body += chunk
                    if len(body) > max_bytes:
                        raise InvalidInput(f"the body is larger than {max_bytes:,} bytes")
                    if len(body) - noted >= self._limits.body_least_bytes:
                        noted = len(body)
                        deadline.reschedule(min(end_s, now_s() + self._limits.body_window_s))
        except TimeoutError as error:
            raise Unavailable(
                f"{len(body):,} bytes of the body came, and then less than {self._limits.body_least_bytes:,} more in "
                f"{self._limits.body_window_s:g} s; given up. Send smaller batches, or from a better link."
            ) from error
        return bytes(body)
