"""A link as a device feels it: an httpx transport that delays, loses, cuts and counts what passes.

The model is round trip and rate: a request arrives after half a round trip and its bytes' time, the answer likewise. A
lost packet is sent again after a round trip or 200 ms, whichever is longer (TCP's smallest retransmission timeout on
Linux). Below it are real connections, over loopback. Every device has a link of its own; nothing is shared.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar

import httpx

from edgeloop.simulate.plan import Faults, Link
from edgeloop.simulate.tally import Tally

held_s: ContextVar[float] = ContextVar("held_s", default=0.0)
"""How long the request that is about to be made asks to be held open."""

_PACKET_BYTES = 1460
_LOST_S = 0.2
_AWAY_S = 30.0
BUNDLES = "/v1/fetch/targets/"
"""The paths of bundles' files begin so; what else is fetched is signed metadata."""


class Way:
    """One device's link. rng: its own, so that a seed decides what happens to it."""

    def __init__(self, link: Link, faults: Faults, rng: random.Random) -> None:
        self._link = link
        self._faults = faults
        self._rng = rng
        self._is_away = rng.random() < faults.offline
        self._until_s = time.monotonic() + self._stay_s() * rng.random() if faults.offline else float("inf")

    def is_cut(self) -> bool:
        """Whether the request that is made now will be reset."""
        return self._rng.random() < self._faults.resets

    def share(self) -> float:
        """A random share, such as of an answer that gets through."""
        return self._rng.random()

    def leaves_at_s(self) -> float:
        """When the device will be away next, by the monotonic clock. Raises httpx.ConnectError while it is."""
        now_s = time.monotonic()
        while self._until_s <= now_s:
            self._is_away = not self._is_away
            self._until_s += self._stay_s()
        if self._is_away:
            raise httpx.ConnectError("the simulated device is offline")
        return self._until_s

    async def carry_up(self, size_bytes: int) -> None:
        """Wait for as long as a request takes to arrive."""
        await _wait(self._link.up_s(size_bytes) + self._again_s(size_bytes))

    async def carry_down(self, size_bytes: int, *, is_first: bool) -> None:
        """Wait for as long as a part of an answer takes."""
        begin_s = self._link.round_trip_ms / 2000 if is_first else 0.0
        await _wait(begin_s + self._link.down_s(size_bytes) + self._again_s(size_bytes))

    def _again_s(self, size_bytes: int) -> float:
        if not self._faults.loss:
            return 0.0
        packets = 1 + size_bytes // _PACKET_BYTES
        lost = sum(self._rng.random() < self._faults.loss for _ in range(packets))
        return lost * max(_LOST_S, self._link.round_trip_ms / 1000)

    def _stay_s(self) -> float:
        """How long it stays as it is: away for half a minute on average, there for what the share makes of it."""
        there_s = _AWAY_S * (1 - self._faults.offline) / self._faults.offline
        return self._rng.expovariate(1.0 / (_AWAY_S if self._is_away else there_s))


class LinkTransport(httpx.AsyncBaseTransport):
    """httpx's transport behind a simulated link."""

    def __init__(self, inner: httpx.AsyncBaseTransport, way: Way, tally: Tally) -> None:
        self._inner = inner
        self._way = way
        self._tally = tally

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        verb = request.url.path.split("/", 3)[2]
        leaves_at_s = self._way.leaves_at_s()
        size_bytes = _head_bytes(request) + int(request.headers.get("content-length", "0"))
        is_cut = self._way.is_cut()
        self._tally.requested(verb)
        self._tally.up_bytes += size_bytes
        await self._way.carry_up(size_bytes)
        if is_cut and self._way.share() < 0.5:
            raise httpx.WriteError("the simulated link reset the connection")
        try:
            response = await self._answer(request, verb, leaves_at_s)
        except httpx.HTTPError as error:
            self._tally.failed(type(error).__name__)
            raise
        if response.status_code >= 400 and not (verb == "fetch" and response.status_code == 404):
            self._tally.failed(f"HTTP {response.status_code}")  # asking for the next root ends with a 404
        head_bytes = sum(len(name) + len(value) + 4 for name, value in response.headers.raw) + 17
        is_bundle = request.url.path.startswith(BUNDLES)
        arriving = _Arriving(
            response, self._way, self._tally, head_bytes=head_bytes, is_cut=is_cut, is_bundle=is_bundle
        )
        return httpx.Response(
            response.status_code, headers=response.headers, stream=arriving, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _answer(self, request: httpx.Request, verb: str, leaves_at_s: float) -> httpx.Response:
        """The answer, as soon as its head is there."""
        asked_to_hold_s = held_s.get()
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(None if leaves_at_s == float("inf") else leaves_at_s - began_s):
                response = await self._inner.handle_async_request(request)
        except TimeoutError as error:
            raise httpx.ReadError("the simulated device went offline") from error
        took_s = time.monotonic() - began_s
        if response.status_code >= 500 or response.status_code == 429:
            return response  # no answer to what was asked
        if verb == "sync" and took_s < asked_to_hold_s:
            self._tally.news += 1
        else:
            self._tally.answered(verb, took_s - (asked_to_hold_s if verb == "sync" else 0.0))
        return response


class _Arriving(httpx.AsyncByteStream):
    """An answer's body as the link lets it through, to its end or to where it is cut."""

    def __init__(
        self, response: httpx.Response, way: Way, tally: Tally, *, head_bytes: int, is_cut: bool, is_bundle: bool
    ) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._way = way
        self._tally = tally
        self._head_bytes = head_bytes
        self._is_bundle = is_bundle
        body_bytes = int(response.headers.get("content-length", "0"))
        self._left_bytes = int(way.share() * body_bytes) if is_cut else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts."""
        self._tally.down_bytes += self._head_bytes
        await self._way.carry_down(self._head_bytes, is_first=True)
        async for part in self._stream:
            if self._left_bytes is not None and len(part) > self._left_bytes:
                yield part[: self._left_bytes]
                raise httpx.ReadError("the simulated link reset the connection")
            if self._left_bytes is not None:
                self._left_bytes -= len(part)
            self._tally.down_bytes += len(part)
            self._tally.bundle_bytes += len(part) if self._is_bundle else 0
            await self._way.carry_down(len(part), is_first=False)
            yield part
        if self._left_bytes is not None:
            raise httpx.ReadError("the simulated link reset the connection")

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._stream.aclose()


def _head_bytes(request: httpx.Request) -> int:
    line_bytes = len(request.method) + len(request.url.raw_path) + 12
    return line_bytes + sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + 2


async def _wait(wait_s: float) -> None:
    if wait_s > 0.0:
        await asyncio.sleep(wait_s)
