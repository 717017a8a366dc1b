"""The uplink's five verbs as HTTP, once, over whatever implements the hub's port.

Bodies are MessagePack (contracts.messages), zstd where the sender says so, bounded before and after expansion.
Every failure is answered with an ErrorReply in JSON. Neighbours: `port`, `proof`; `serve` runs the app.
"""

import io
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import structlog
import zstandard
from litestar import MediaType, Request, Response, Router, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.response import Stream

from edgeloop.contracts.codec import from_msgpack, to_json, to_msgpack
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, by_code
from edgeloop.contracts.messages import (
    MAX_BODY_BYTES,
    EnrolRequest,
    ErrorReply,
    InferRequest,
    SendRequest,
    SyncRequest,
)
from edgeloop.hub.port import Hub, Served
from edgeloop.hub.proof import ProofChecker, SignedRequest, StaleSignature, check_possession, read_signed

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]

_log = structlog.get_logger(__name__)
_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
_HTTP_CODES = {400: "invalid_input", 401: "refused", 403: "refused", 404: "not_found", 405: "invalid_input",
               413: "invalid_input", 429: "unavailable", 503: "unavailable"}  # fmt: skip


class _Border:
    """Where requests are read and their senders proven."""

    def __init__(self, hub: Hub, checker: ProofChecker) -> None:
        self._hub = hub
        self._checker = checker

    async def signed(self, request: AnyRequest) -> tuple[SignedRequest, bytes]:
        """The signed parts, not yet checked, and the expanded body."""
        body = await request.body()
        query = request.scope.get("query_string", b"").decode()
        path = request.scope.get("raw_path", request.scope["path"].encode()).decode()
        parts = read_signed(request.method, path, query, body, request.headers.get)
        return parts, _expand(body, request.headers.get("content-encoding"))

    async def proven(self, request: AnyRequest) -> tuple[str, bytes]:
        """The device that sent this, and the expanded body. Raises Refused."""
        parts, body = await self.signed(request)
        return await self.sender(parts), body

    async def sender(self, parts: SignedRequest) -> str:
        """The enrolled device that signed this. Raises Refused."""
        return self._checker.check(parts, await self._hub.public_key(parts.claim.device_id))

    async def check_enrol(self, parts: SignedRequest, message: EnrolRequest) -> None:
        """The key that is enrolled signed for it; the request around is that key's, or an enrolled node's."""
        check_possession(message)
        if message.via is None:
            if parts.claim.device_id != message.device_id:
                raise InvalidInput(f"signed as {parts.claim.device_id!r}, but enrolling {message.device_id!r}")
            self._checker.check(parts, message.public_key)
        elif await self.sender(parts) != message.via:
            raise InvalidInput(f"carried by {parts.claim.device_id!r}, but says via {message.via!r}")


def hub_router(hub: Hub, checker: ProofChecker) -> Router:
    """The routes under /v1 for one hub."""
    border = _Border(hub, checker)
    proven = border.proven

    @post("/enrol", status_code=200)
    async def enrol(request: AnyRequest) -> Response[bytes]:
        """Ask for an identity."""
        parts, body = await border.signed(request)
        message = _message(body, EnrolRequest)
        await border.check_enrol(parts, message)
        return _reply(await hub.enrol(message))

    @post("/sync", status_code=200)
    async def sync(request: AnyRequest) -> Response[bytes]:
        """Report and be told what is desired."""
        device_id, body = await proven(request)
        return _reply(await hub.sync(device_id, _message(body, SyncRequest)))

    @post("/send", status_code=200)
    async def send(request: AnyRequest) -> Response[bytes]:
        """Hand over events."""
        device_id, body = await proven(request)
        return _reply(await hub.send(device_id, _message(body, SendRequest)))

    @post("/infer", status_code=200)
    async def infer(request: AnyRequest) -> Response[bytes]:
        """Ask for a prediction."""
        device_id, body = await proven(request)
        return _reply(await hub.infer(device_id, _message(body, InferRequest)))

    @get("/fetch/{path:path}")
    async def fetch(request: AnyRequest, path: FromPath[str]) -> Response[bytes] | Stream:
        """A file, or a range of it."""
        device_id, _ = await proven(request)
        served = await hub.fetch(device_id, path.lstrip("/"))
        return _file(served, request.headers.get("range"))

    return Router(
        path="/v1",
        route_handlers=[enrol, sync, send, infer, fetch],
        include_in_schema=False,
        request_max_body_size=MAX_BODY_BYTES,
    )


def error_handlers() -> dict[type[Exception] | int, Any]:
    """How any route's failures are answered: always an ErrorReply."""
    return {EdgeloopError: _answer_ours, HTTPException: _answer_http, Exception: _answer_bug}


def _answer_ours(_: AnyRequest, error: EdgeloopError) -> Response[bytes]:
    server_time_s = error.server_time_s if isinstance(error, StaleSignature) else None
    return _error(error.http_status, ErrorReply(code=error.code, message=str(error), server_time_s=server_time_s))


def _answer_http(_: AnyRequest, error: HTTPException) -> Response[bytes]:
    detail = f"{error.detail} {error.extra}" if error.extra else error.detail
    code = _HTTP_CODES.get(error.status_code, "error")
    return _error(error.status_code, ErrorReply(code=code, message=detail))


def _answer_bug(request: AnyRequest, error: Exception) -> Response[bytes]:
    _log.error("request_failed", path=request.url.path, exc_info=error)
    return _error(500, ErrorReply(code=by_code("").code, message="the server failed; its log says why"))


def _error(status: int, reply: ErrorReply) -> Response[bytes]:
    return Response(to_json(reply), status_code=status, media_type=MediaType.JSON)


def _reply(message: object) -> Response[bytes]:
    return Response(to_msgpack(message), status_code=200, media_type="application/msgpack")


def _message(body: bytes, kind: type[T]) -> T:
    return from_msgpack(body, kind, what=f"the request ({kind.__name__})")


def _expand(body: bytes, encoding: str | None) -> bytes:
    if encoding is None or encoding == "identity":
        return body
    if encoding != "zstd":
        raise InvalidInput(f"content-encoding {encoding!r} is not taken; send zstd or none")
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body)) as reader:
            expanded = reader.read(MAX_BODY_BYTES + 1)
    except zstandard.ZstdError as error:
        raise Corrupt(f"the body is not zstd: {error}") from error
    if len(expanded) > MAX_BODY_BYTES:
        raise InvalidInput(f"the body expands beyond {MAX_BODY_BYTES:,} bytes; send smaller batches")
    return expanded


def _file(served: Served, wanted: str | None) -> Response[bytes] | Stream:
    start, stop = _bounds(wanted, served.size_bytes)
    partial = wanted is not None
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(stop - start),
        "cache-control": "public, max-age=31536000, immutable" if served.immutable else "no-cache",
    }
    if partial:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{served.size_bytes}"

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(start, stop, _CHUNK_BYTES):
            yield await served.read(at, min(stop, at + _CHUNK_BYTES))

    return Stream(chunks(), status_code=206 if partial else 200, headers=headers, media_type="application/octet-stream")


def _bounds(wanted: str | None, size_bytes: int) -> tuple[int, int]:
    """First and one-past-last byte. Source: RFC 9110, section 14.1.2, one range only."""
    if wanted is None:
        return 0, size_bytes
    found = _RANGE.fullmatch(wanted)
    if found is None:
        raise InvalidInput(f"range {wanted!r} is not taken; send one range, such as bytes=1000-")
    start = int(found[1])
    stop = min(size_bytes, int(found[2]) + 1) if found[2] else size_bytes
    if start >= stop:
        raise InvalidInput(f"range {wanted!r} lies outside the file of {size_bytes:,} bytes")
    return start, stop
