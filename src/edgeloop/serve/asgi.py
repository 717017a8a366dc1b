"""Requests and replies on the bare ASGI interface: every failure as JSON with our text.

A reply to anything that went wrong is {"error": what happened, "code": its code}: `error` is what the Open Inference
Protocol asks for, `code` is that of `contracts.errors`.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from math import ceil
from typing import Any, ClassVar

import msgspec

from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.runtime.pool import Overloaded

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"
BINARY = b"application/octet-stream"


class TooLarge(InvalidInput):
    """More was sent than is taken."""

    http_status: ClassVar[int] = 413


class WrongMethod(InvalidInput):
    """The address exists; it answers to another method."""

    http_status: ClassVar[int] = 405


class WrongType(InvalidInput):
    """The body is of a kind that is not taken here."""

    http_status: ClassVar[int] = 415


class TooSlow(Unavailable):
    """The body was not here in the time that it may take."""

    http_status: ClassVar[int] = 408


class Gone(Exception):
    """Whoever asked closed the connection and wants no answer."""


class Request(msgspec.Struct, frozen=True):
    """A whole request. headers: by name, in lower case; of one that is there twice, the last.

    alone: for the time being nobody else asks.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    alone: bool = False

    def header(self, name: bytes) -> str | None:
        """The value of a header (name in lower case), or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Reply(msgspec.Struct, frozen=True):
    """An answer. extra: headers beside content-type and content-length."""

    body: bytes
    status: int = 200
    kind: bytes = JSON
    extra: tuple[tuple[bytes, bytes], ...] = ()


AtOnce = Callable[[Request], Reply | None]
"""Replies here and now; None if it is to be asked as everything else after all."""


def has_body(headers: dict[bytes, bytes]) -> bool:
    """Whether a request says that it has a body."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def answer(send: Send, reply: Reply, *, close: bool = False) -> None:
    """Send a whole reply. close: and end the connection."""
    headers = [(b"content-type", reply.kind), (b"content-length", b"%d" % len(reply.body)), *reply.extra]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def failure(error: EdgeloopError) -> Reply:
    """What a failure is told as. 429 and when to ask again if too much is asked; 400 for a body that is not what it
    claims to be."""
    status = 400 if isinstance(error, Corrupt) else error.http_status
    extra: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, Overloaded):
        status, extra = 429, ((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))),)
    return Reply(to_json({"error": str(error), "code": error.code}), status, extra=extra)
