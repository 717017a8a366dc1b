"""The client side of a hop: five verbs over HTTP, each request proven by the device's own key.

Rules kept here: nothing is retried (the caller knows what is worth repeating), but for one thing: a signature
turned down for its time is made again with the hub's time, since a device's clock may say 1970. Every failure
comes out as one of edgeloop's errors. A download that drips or stalls is given up within 90 s, whatever the other side
does to keep it alive. Async, so that one process can hold thousands of uplinks.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx
import zstandard

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.contracts.messages import (
    EnrolReply,
    EnrolRequest,
    InferReply,
    InferRequest,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
)
from edgeloop.transport.identity import Identity
from edgeloop.transport.replies import StaleClock, raise_for_reply, unreachable

T = TypeVar("T")

_TIMEOUT_S = 15.0
_COMPRESS_FROM_BYTES = 512
_CONTENT_RANGE = re.compile(r"bytes (?P<start>[0-9]+)-.*")


@dataclass(frozen=True)
class Patience:
    """How slow a download may be: an answer begins within window_s, and from then on at least least_bytes come in each
    window_s that is spent waiting, or its end. 200 bytes a second are less than the worst of modems gives.
    """

    window_s: float = 30.0
    least_bytes: int = 6_000


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
        # Bodies, by verb: up for all but fetch; also of what did not arrive.
        self.traffic_bytes: Counter[str] = Counter()

    def latest_time_s(self) -> float:
        """Seconds since 1970: by this machine or, if it said something later, by the hub."""
        return self._clock() + max(0.0, self.clock_offset_s)

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
        return await self._post("infer", request, InferReply, timeout_s=1.0 + request.deadline_ms / 1000)

    async def fetch(self, path: str, *, max_bytes: int) -> bytes:
        """A small file whole. Raises NotFound, or Corrupt if it is larger than max_bytes."""
        chunks = [chunk async for chunk in self.fetch_from(path, offset_bytes=0, max_bytes=max_bytes)]
        return b"".join(chunks)

    async def fetch_from(self, path: str, *, offset_bytes: int, max_bytes: int) -> AsyncIterator[bytes]:
        """A file from an offset on, by HTTP range; max_bytes bounds what is left. Yields what comes as it comes.

        Raises Unavailable if the link breaks, drips or stalls, Corrupt if this is not what was asked for.
        """
        try:
            response = await self._begun(path, offset_bytes)
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

    async def _begun(self, path: str, offset_bytes: int) -> httpx.Response:
        try:
            async with asyncio.timeout(self.patience.window_s):
                return await self._open(path, offset_bytes)
        except TimeoutError as error:
            raise Unavailable(
                f"{path} did not begin within {self.patience.window_s:.0f} s, although the hub took the connection"
            ) from error

    async def _open(self, path: str, offset_bytes: int) -> httpx.Response:
        for last in (False, True):
            headers = {"accept-encoding": "identity"}  # what stands between may compress, and a range counts bytes
            if offset_bytes:
                headers["range"] = f"bytes={offset_bytes}-"
            request = self._client.build_request("GET", f"/v1/fetch/{path}", headers=headers, timeout=_TIMEOUT_S)
            response = await self._send_signed(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise_for_reply(response)
                _require_as_asked(response, path, offset_bytes)
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

    async def _post(self, verb: str, body: object, reply: type[T], *, timeout_s: float = _TIMEOUT_S) -> T:
        content = to_msgpack(body)
        headers = {"content-type": "application/msgpack"}
        if len(content) > _COMPRESS_FROM_BYTES:
            content = zstandard.compress(content)
            headers["content-encoding"] = "zstd"
        try:
            response = await self._post_signed(verb, content, headers, timeout_s)
        except httpx.HTTPError as error:
            raise unreachable(error, str(self._client.base_url)) from error
        return from_msgpack(response.content, reply, what=f"the hub's answer to {verb}")

    async def _post_signed(
        self, verb: str, content: bytes, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        for last in (False, True):
            request = self._client.build_request(
                "POST", f"/v1/{verb}", content=content, headers=headers, timeout=timeout_s
            )
            self.traffic_bytes[verb] += len(content)
            response = await self._send_signed(request)
            try:
                raise_for_reply(response)
            except StaleClock as error:
                if last:
                    raise
                self._adopt(error)
            else:
                return response
        raise AssertionError("unreachable: the loop returns or raises")

    async def _send_signed(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        self.identity.sign(request, created_s=int(self._clock() + self.clock_offset_s))
        return await self._client.send(request, stream=stream)

    def _adopt(self, stale: StaleClock) -> None:
        self.clock_offset_s = stale.server_time_s - self._clock()


def _require_as_asked(response: httpx.Response, path: str, offset_bytes: int) -> None:
    """Raise Corrupt if what stands between has dropped or changed the range, or packed the bytes."""
    if offset_bytes and response.status_code != 206:
        raise Corrupt(f"asked for {path} from byte {offset_bytes}, got all of it; a proxy drops ranges")
    got = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if got is not None and int(got["start"]) != offset_bytes:
        raise Corrupt(f"asked for {path} from byte {offset_bytes}, got it from byte {got['start']}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Corrupt(f"asked for {path} as it is, got it packed as {encoding!r}; a proxy packs it")
