"""The uplink's verbs as HTTP, once, over whatever implements the hub's port.

Bodies are MessagePack (contracts.messages), zstd where the sender says so, bounded before and after expansion. What
nobody has proven yet costs little: a body is read once the sender is known by name and the signature of this time, and
expanded once the signature holds; where more is asked than can be answered, that is said before any of it. Every
failure is answered with an ErrorReply in JSON. Neighbours: `port`, `proof`, `limits`, `load`, `bodies`; `serve` runs
the app.
"""

import io
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
import zstandard
from litestar import MediaType, Request, Response, Router, asgi, get
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath
from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

from edgeloop.contracts.codec import from_msgpack, to_json, to_msgpack
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused, Unavailable, by_code
from edgeloop.contracts.messages import (
    MAX_BODY_BYTES,
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    InferRequest,
    SendRequest,
    SyncRequest,
    TrustRequest,
)
from edgeloop.contracts.proof import Claim
from edgeloop.hub.asked import Asked, TooLarge
from edgeloop.hub.bodies import Bodies, Held
from edgeloop.hub.limits import Failures, Limits, Share, Shares
from edgeloop.hub.load import Load
from edgeloop.hub.port import Hub, Served
from edgeloop.hub.proof import ProofChecker, SignedRequest, StaleSignature, read_claim

T = TypeVar("T")
_Answer = Callable[[Asked], Awaitable[object]]

_log = structlog.get_logger(__name__)
_CHUNK_BYTES = 256 * 1024
_MAX_ENROL_BYTES = 64 * 1024
_MAX_WINDOW_BYTES = 32 * 1024 * 1024
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
_HTTP_CODES = {400: "invalid_input", 401: "refused", 403: "refused", 404: "not_found", 405: "invalid_input",
               413: "invalid_input", 429: "unavailable", 503: "unavailable"}  # fmt: skip


M = TypeVar("M", bound=msgspec.Struct)


@dataclass
class _Asker:
    """Where a request comes from, and who it says it is, once that is read."""

    address: str
    claimed: str = ""


class _Proven(NamedTuple):
    """A request whose sender is known; the body as it came."""

    device_id: str
    claim: Claim
    body: bytes


class _Border:
    """Where requests are read, their senders proven, and both held to the limits."""

    def __init__(self, hub: Hub, checker: ProofChecker, limits: Limits, load: Load) -> None:
        self._hub = hub
        self._load = load
        self._checker = checker
        self._shares = Shares(limits)
        self._failures = Failures(limits)
        self._bodies = Bodies(limits)

    async def proven(self, asked: Asked, *, writes: bool = False) -> _Proven:
        """Who sent this. writes: see Load.let_in. Raises Refused or TooMany."""
        with self._answering_for(asked) as asker, self._bodies_of(asked, asker, writes=writes) as (claim, held):
            key = await self._hub.public_key(claim.device_id)
            # A stranger's is not worth reading, and a GET has none.
            is_read = key is not None and asked.method != "GET"
            body = await held.read(asked.body(max_bytes=MAX_BODY_BYTES), max_bytes=MAX_BODY_BYTES) if is_read else b""
            device_id = self._checker.check_sender(_signed(asked, body, claim), key)
        self._failures.note_proven(asker.address, device_id)
        self._load.let_in(writes=writes)  # once more: its body may have been on the way for minutes
        return _Proven(device_id, claim, body)

    def share_of(self, sender: _Proven) -> Share:
        """Its share, while it is answered. Raises TooMany."""
        return self._shares.taking(sender.device_id, len(sender.body))

    async def take_in(self, asked: Asked, sender: _Proven) -> bytes:
        """The expanded body, of a request that comes for the first time. Raises Refused.

        After the share is taken: what is remembered of a device's requests is bounded by how many it may send.
        """
        with self._answering_for(asked, sender.device_id):
            await self._checker.use_nonce(sender.claim)
        return _expand(sender.body, asked.header("content-encoding"), MAX_BODY_BYTES)

    async def enrolment(self, asked: Asked) -> EnrolRequest:
        """Who asks to be let in: the key that is enrolled signed for it; the request around is that key's, or an
        enrolled node's. Raises Refused or TooMany.
        """
        with self._answering_for(asked) as asker, self._bodies_of(asked, asker) as (claim, held):
            body = await held.read(asked.body(max_bytes=MAX_BODY_BYTES), max_bytes=_MAX_ENROL_BYTES)
            message = _message(_expand(body, asked.header("content-encoding"), _MAX_ENROL_BYTES), EnrolRequest)
            self._checker.check_possession(message)
            is_carried = message.via is not None
            key = await self._hub.public_key(claim.device_id) if is_carried else message.public_key
            await self._checker.check(_signed(asked, body, claim), key)
            if claim.device_id != (message.via or message.device_id):
                raise InvalidInput(
                    f"signed as {claim.device_id!r}, but enrolling {message.device_id!r} via {message.via!r}"
                )
        return message

    @contextmanager
    def admitting(self, asked: Asked) -> Iterator[None]:
        """Around the decision on an enrolment: a wrong join token counts against the address."""
        with self._answering_for(asked):
            yield

    @contextmanager
    def _answering_for(self, asked: Asked, claimed: str = "") -> Iterator[_Asker]:
        asker = _Asker(asked.address, claimed)
        try:
            yield asker
        except (StaleSignature, TooLarge):
            raise  # a wrong clock, too long a batch: of devices that mean well
        except (Refused, InvalidInput, Corrupt):
            self._failures.note_failure(asker.address, asker.claimed)
            raise

    @contextmanager
    def _bodies_of(self, asked: Asked, asker: _Asker, *, writes: bool = False) -> Iterator[tuple[Claim, Held]]:
        """What is looked at before the body: who this says it is, whether they may ask now and would be answered in
        time, and when it is from.
        """
        claim = read_claim(asked.header)
        asker.claimed = claim.device_id
        self._failures.check(asker.address, claim.device_id)
        is_known = self._failures.is_known(asker.address, claim.device_id)
        self._load.let_in(writes=writes, is_known=is_known)
        self._checker.check_time(claim)
        with self._bodies.of(asker.address, is_known=is_known) as held:
            yield claim, held


def hub_router(hub: Hub, checker: ProofChecker, limits: Limits | None = None, load: Load | None = None) -> Router:
    """The routes under /v1 for one hub. load: the hub's, where it has one."""
    border = _Border(hub, checker, limits or Limits(), load or Load())

    async def enrol(asked: Asked) -> EnrolReply:
        message = await border.enrolment(asked)
        with border.admitting(asked):
            return await hub.enrol(message)

    def proven(kind: type[M], verb: Callable[[str, M], Awaitable[object]], *, writes: bool = False) -> _Answer:
        """A verb for those who have proven who they are."""

        async def answer(asked: Asked) -> object:
            sender = await border.proven(asked, writes=writes)
            with border.share_of(sender):
                message = _message(await border.take_in(asked, sender), kind)
                answering = verb(sender.device_id, message)
                del sender, message  # ten thousand may wait here for news
                return await answering

        return answer

    @get("/fetch/{path:path}", middleware=[_answered_to_the_end])
    async def fetch(request: Request[Any, Any, Any], path: FromPath[str]) -> Response[bytes] | Stream:
        """A file, or a range of it. It has its share until the last byte is on its way."""
        asked = Asked(request.scope, request.receive)
        sender = await border.proven(asked)
        request.state.until_answered.enter_context(border.share_of(sender))
        await border.take_in(asked, sender)
        served = await hub.fetch(sender.device_id, path.lstrip("/"))
        return await _file(served, asked.header("range"))

    verbs = {
        "/enrol": enrol,
        "/sync": proven(SyncRequest, hub.sync),
        "/send": proven(SendRequest, hub.send, writes=True),
        "/infer": proven(InferRequest, hub.infer),
        "/trust": proven(TrustRequest, hub.trust),
    }

    return Router(
        path="/v1",
        route_handlers=[fetch, *(_posted(path, answer) for path, answer in verbs.items())],
        include_in_schema=False,
    )


def _posted(path: str, answer: _Answer) -> ASGIRouteHandler:
    """A route for POST alone, without what Litestar makes of a request: see `asked`."""

    @asgi(path, copy_scope=False)
    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            raise NotFoundException("there are no web sockets here")
        asked = Asked(scope, receive)
        if asked.method != "POST":
            raise MethodNotAllowedException(f"{asked.method} is not taken here; send a POST")
        body = to_msgpack(await answer(asked))
        headers = [(b"content-type", b"application/msgpack"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return answering


def _answered_to_the_end(app: ASGIApp) -> ASGIApp:
    """What a route enters into `request.state.until_answered` is left when its answer is out, or the asker gone."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            Request[Any, Any, Any](scope).state.until_answered = stack
            await app(scope, receive, send)

    return answering


def error_handlers() -> dict[type[Exception] | int, Any]:
    """How any route's failures are answered: always an ErrorReply."""
    return {EdgeloopError: _answer_ours, HTTPException: _answer_http, Exception: _answer_bug}


def _answer_ours(_: Request[Any, Any, Any], error: EdgeloopError) -> Response[bytes]:
    reply = ErrorReply(
        code=error.code,
        message=str(error),
        server_time_s=error.server_time_s if isinstance(error, StaleSignature) else None,
        retry_after_s=(error.retry_after_s or None) if isinstance(error, Unavailable) else None,
    )
    answer = _error(error.http_status, reply)
    if reply.retry_after_s is not None:
        answer.set_header("retry-after", str(math.ceil(reply.retry_after_s)))
    return answer


def _answer_http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    detail = f"{error.detail} {error.extra}" if error.extra else error.detail
    code = _HTTP_CODES.get(error.status_code, "error")
    return _error(error.status_code, ErrorReply(code=code, message=detail))


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("request_failed", path=request.url.path, exc_info=error)
    return _error(500, ErrorReply(code=by_code("").code, message="the server failed; its log says why"))


def _error(status: int, reply: ErrorReply) -> Response[bytes]:
    return Response(to_json(reply), status_code=status, media_type=MediaType.JSON)


def _message(body: bytes, kind: type[T]) -> T:
    return from_msgpack(body, kind, what=f"the request ({kind.__name__})")


def _signed(asked: Asked, body: bytes, claim: Claim) -> SignedRequest:
    return SignedRequest(asked.method, asked.path, asked.query, body, asked.header("content-digest"), claim)


def _expand(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    if encoding is None or encoding == "identity":
        return body
    if encoding != "zstd":
        raise InvalidInput(f"content-encoding {encoding!r} is not taken; send zstd or none")
    expander = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        if 0 < zstandard.frame_content_size(body) <= max_bytes:  # it says how large it is, and gets no more room
            return expander.decompress(body, allow_extra_data=False)
        with expander.stream_reader(io.BytesIO(body)) as reader:
            expanded = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise Corrupt(f"the body is not zstd: {error}") from error
    if len(expanded) > max_bytes:
        raise InvalidInput(f"the body expands beyond {max_bytes:,} bytes; send smaller batches")
    return expanded


async def _file(served: Served, wanted: str | None) -> Response[bytes] | Stream:
    start, stop = _bounds(wanted, served.size_bytes)
    partial = wanted is not None
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(stop - start),
        "cache-control": "public, max-age=31536000, immutable" if served.immutable else "no-cache",
    }
    if partial:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{served.size_bytes}"
    status, media = 206 if partial else 200, "application/octet-stream"
    if stop - start <= _CHUNK_BYTES:  # one part needs no stream, which costs two tasks
        return Response(await served.read(start, stop), status_code=status, headers=headers, media_type=media)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(start, stop, _CHUNK_BYTES):
            yield await served.read(at, min(stop, at + _CHUNK_BYTES))

    return Stream(chunks(), status_code=status, headers=headers, media_type=media)


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
