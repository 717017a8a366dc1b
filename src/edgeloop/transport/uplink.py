"""The client side of a hop: five verbs over HTTP, each request proven by the device's own key.

Rules kept here: nothing is retried (the caller knows what is worth repeating), but for one thing: a signature
turned down for its time is made again with the hub's time, since a device's clock may say 1970. Every failure
comes out as one of edgeloop's errors. Async, so that one process can hold thousands of uplinks.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import httpx
import zstandard

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Corrupt
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
_CHUNK_BYTES = 64 * 1024


class Uplink:
    """One identity's way to the hub above. Safe to use from many tasks of one event loop."""

    def __init__(
        self, client: httpx.AsyncClient, identity: Identity, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.identity = identity
        self._client = client
        self._clock = clock
        self.clock_offset_s = 0.0

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
        """A file from an offset on, by HTTP range; max_bytes bounds what is left. Yields chunks as they come."""
        try:
            response = await self._open(path, offset_bytes)
            try:
                received = 0
                async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                    received += len(chunk)
                    if received > max_bytes:
                        raise Corrupt(f"{path} goes on after the {max_bytes:,} bytes that it should have; given up")
                    yield chunk
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise unreachable(error, str(self._client.base_url)) from error

    async def _open(self, path: str, offset_bytes: int) -> httpx.Response:
        for last in (False, True):
            headers = {"range": f"bytes={offset_bytes}-"} if offset_bytes else {}
            request = self._client.build_request("GET", f"/v1/fetch/{path}", headers=headers, timeout=_TIMEOUT_S)
            response = await self._send_signed(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise_for_reply(response)
                if offset_bytes and response.status_code != 206:
                    raise Corrupt(f"asked for {path} from byte {offset_bytes}, got all of it; a proxy drops ranges")
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
