"""The client side of a hop: its verbs over HTTP, each request proven by the device's own key.

Rules kept here: nothing is retried (the caller knows what is worth repeating), but for one thing: a signature
turned down for its time is made again with the hub's time, since a device's clock may say 1970. Every failure
comes out as one of edgeloop's errors. A download that drips or stalls is given up within 90 s, whatever the other side
does to keep it alive; any other answer is bounded in bytes and in time as a whole. Async, so that one process can hold
thousands of uplinks.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

import httpx
import zstandard

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.contracts.messages import (
    MAX_ALONG_BYTES,
    MAX_BODY_BYTES,
    MAX_TRUST_BYTES,
    EnrolReply,
    EnrolRequest,
    InferReply,
    InferRequest,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustReply,
    TrustRequest,
)
from edgeloop.transport.answers import AS_IT_IS, read_answer, require_unpacked
from edgeloop.transport.identity import Identity
from edgeloop.transport.replies import StaleClock, unreachable

T = TypeVar("T")

_TIMEOUT_S = 15.0
_EARLIEST_S = 0.0
_LATEST_S = 4_102_444_800.0
"""1970 to 2100: what a hub may say that the time is. A node without a clock of its own, and without a cloud, begins in
1970, and its devices must reach it."""
_COMPRESS_FROM_BYTES = 512
_CONTENT_RANGE = re.compile(r"bytes (?P<start>[0-9]+)-(?:[0-9]+/(?P<size>[0-9]{1,18})$)?.*")
_FIRST_BYTE = "bytes=0-0"
_MOST_TRUST_BYTES = MAX_TRUST_BYTES + MAX_ALONG_BYTES + 64 * 1024
"""With what MessagePack and paths take."""


@dataclass(frozen=True)
class Patience:
    """How slow a download may be: an answer begins within window_s, and from then on at least least_bytes come in each
    window_s that is spent waiting, or its end. 200 bytes a second are less than the worst of modems gives. quick_s: a
    try that came to nothing is followed by another at once only if it took less.
    """

    window_s: float = 30.0
    least_bytes: int = 6_000
    quick_s: float = 5.0


class Uplink:
    """One identity's way to the hub above. Safe to use from many tasks of one event loop."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        identity: Identity,
        *,
        clock: Callable[[], float] = time.time,
        patience: Patience | None = None,
    ) -> None:
        self.identity = identity
        self._client = client
        self._clock = clock
        self.patience = patience or Patience()
        self.clock_offset_s = 0.0
        # By verb: httpx takes a tenth of its time for a request to put an address together.
        self._urls: dict[str, httpx.URL] = {}
        # Bodies, by verb: up for all but fetch; also of what did not arrive.
        self.traffic_bytes: Counter[str] = Counter()

    def latest_time_s(self) -> float:
        """Seconds since 1970: by this machine or, if it said something later, by the hub."""
        return self._clock() + max(0.0, self.clock_offset_s)

    def hub_time_s(self) -> float:
        """Seconds since 1970 by the hub, as far as it has said; requests are signed with it."""
        return self._clock() + self.clock_offset_s

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Ask for an identity. Raises Refused if the join token is wrong, used up or expired."""
        return await self._post("enrol", request, EnrolReply)

    async def sync(self, request: SyncRequest) -> SyncReply:
        """Report; returns when something is newer than the reports know of, or after request.wait_s."""
        return await self._post("sync", request, SyncReply, timeout_s=_TIMEOUT_S + request.wait_s)

    async def send(self, request: SendRequest) -> SendReply:
        """Hand over a batch; what the reply counts is committed on the other side."""
        return await self._post("send", request, SendReply)

    async def infer(self, request: InferRequest) -> InferReply:
        """Ask the tier above for a prediction."""
        return await self._post("infer", request, InferReply, timeout_s=1.0 + request.deadline_ms / 1000, spare_s=0.0)

    async def trust(self, request: TrustRequest) -> TrustReply:
        """Signed metadata that is not held, unchecked. Raises NotFound if this hub is older than the question, Corrupt
        if the answer goes on and on."""
        return await self._post("trust", request, TrustReply, max_bytes=_MOST_TRUST_BYTES)

    async def fetch(self, path: str, *, max_bytes: int) -> bytes:
        """A small file whole. Raises NotFound, or Corrupt if it is larger than max_bytes."""
        chunks = [chunk async for chunk in self.fetch_from(path, offset_bytes=0, max_bytes=max_bytes)]
        return b"".join(chunks)

    async def size_bytes(self, path: str) -> int:
        """How large a file is, for the price of its first byte. Raises NotFound, or Corrupt if that is not said."""
        try:
            response = await self._begun(path, _FIRST_BYTE)
            if response.headers.get("content-length") == "1":
                # So that the connection serves the next request.
                first = read_answer(response, path, max_bytes=1)
                await self._in_time(first, self.patience.window_s, f"{path} did not come")
            await response.aclose()
        except httpx.HTTPError as error:
            raise unreachable(error, str(self._client.base_url)) from error
        said = response.headers.get("content-length", "")
        if response.status_code == 206:
            got = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            said = (got["size"] if got is not None else None) or ""
        if not (said.isascii() and said.isdigit()):
            raise Corrupt(f"asked how large {path} is, and was not told; what stands between drops it")
        return int(said)

    async def fetch_from(self, path: str, *, offset_bytes: int, max_bytes: int) -> AsyncIterator[bytes]:
        """A file from an offset on, by HTTP range; max_bytes bounds what is left. Yields what comes as it comes.

        Raises Unavailable if the link breaks, drips or stalls, Corrupt if this is not what was asked for.
        """
        try:
            response = await self._begun(path, f"bytes={offset_bytes}-" if offset_bytes else None)
            try:
                received = 0
                async for chunk in self._paced(response.aiter_bytes(), path):
                    received += len(chunk)
                    self.traffic_bytes["fetch"] += len(chunk)
                    if received > max_bytes:
                        raise Corrupt(f"{path} goes on after the {max_bytes:,} bytes that it should have; given up")
                    yield chunk
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise unreachable(error, str(self._client.base_url)) from error

    async def _paced(self, chunks: AsyncIterator[bytes], path: str) -> AsyncIterator[bytes]:
        """The same chunks; Unavailable when they come too slowly. What the taker of a chunk does costs no patience."""
        waited_s, received = 0.0, 0
        while True:
            begun_s = time.monotonic()
            chunk = await anext(chunks, None)
            if chunk is None:
                return
            waited_s += time.monotonic() - begun_s
            received += len(chunk)
            yield chunk
            if waited_s >= self.patience.window_s:
                if received < self.patience.least_bytes:
                    raise Unavailable(
                        f"{path} drips: {received:,} bytes in {waited_s:.0f} s; given up, what came of it is kept"
                    )
                waited_s, received = 0.0, 0

    async def _begun(self, path: str, wanted: str | None) -> httpx.Response:
        """wanted: a range, None for all of it."""
        return await self._in_time(self._open(path, wanted), self.patience.window_s, f"{path} did not begin")

    async def _in_time(self, answer: Coroutine[object, object, T], within_s: float, late: str) -> T:
        """Raises Unavailable where it takes longer. late: what then did not happen."""
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError as error:
            raise Unavailable(f"{late} within {within_s:.0f} s, although the hub took the connection") from error

    async def _open(self, path: str, wanted: str | None) -> httpx.Response:
        for last in (False, True):
            headers = AS_IT_IS if wanted is None else AS_IT_IS | {"range": wanted}
            request = self._client.build_request("GET", f"/v1/fetch/{path}", headers=headers, timeout=_TIMEOUT_S)
            response = await self._send_signed(request)
            try:
                if not response.is_success:
                    await read_answer(response, path)
                _require_as_asked(response, path, wanted)
            except StaleClock as error:
                await response.aclose()
                if last:
                    raise
                self._adopt(error)
            except BaseException:
                await response.aclose()
                raise
            else:
                return response
        raise AssertionError("unreachable: the loop returns or raises")

    async def _post(
        self,
        verb: str,
        body: object,
        reply: type[T],
        *,
        timeout_s: float = _TIMEOUT_S,
        spare_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> T:
        """timeout_s: for each step of it to go on. spare_s: beyond that for all of it, a window of patience if None.
        max_bytes: of the answer."""
        content = to_msgpack(body)
        headers = {"content-type": "application/msgpack", **AS_IT_IS}
        if len(content) > _COMPRESS_FROM_BYTES:
            content = zstandard.compress(content)
            headers["content-encoding"] = "zstd"
        what = f"the hub's answer to {verb}"
        beyond_s = self.patience.window_s if spare_s is None else spare_s
        try:
            answer = self._post_signed(verb, content, headers, timeout_s, max_bytes)
            said = await self._in_time(answer, timeout_s + beyond_s, f"{what} did not come")
        except httpx.HTTPError as error:
            raise unreachable(error, str(self._client.base_url)) from error
        return from_msgpack(said, reply, what=what)

    async def _post_signed(
        self, verb: str, content: bytes, headers: dict[str, str], timeout_s: float, max_bytes: int
    ) -> bytes:
        for last in (False, True):
            url = self._urls.get(verb, f"/v1/{verb}")
            request = self._client.build_request("POST", url, content=content, headers=headers, timeout=timeout_s)
            self._urls[verb] = request.url
            self.traffic_bytes[verb] += len(content)
            try:
                response = await self._send_signed(request)
                return await read_answer(response, f"the hub's answer to {verb}", max_bytes=max_bytes)
            except StaleClock as error:
                if last:
                    raise
                self._adopt(error)
        raise AssertionError("unreachable: the loop returns or raises")

    async def _send_signed(self, request: httpx.Request) -> httpx.Response:
        """The answer as a stream, to be read within bounds."""
        self.identity.sign(request, created_s=int(self.hub_time_s()))
        return await self._client.send(request, stream=True)

    def _adopt(self, stale: StaleClock) -> None:
        """Sign with the hub's time. Raises what it is given where that time cannot be: a device that signed with it
        would not be understood any more, not even by a hub that says the right time."""
        if not _EARLIEST_S <= stale.server_time_s <= _LATEST_S:
            raise stale
        self.clock_offset_s = stale.server_time_s - self._clock()


def _require_as_asked(response: httpx.Response, path: str, wanted: str | None) -> None:
    """Raise Corrupt if what stands between has dropped or changed the range, or packed the bytes."""
    start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
    if start and response.status_code != 206:
        raise Corrupt(f"asked for {path} from byte {start}, got all of it; a proxy drops ranges")
    got = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if got is not None and int(got["start"]) != start:
        raise Corrupt(f"asked for {path} from byte {start}, got it from byte {got['start']}")
    require_unpacked(response, path)
