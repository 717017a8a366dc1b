"""The short way: plain requests are read whole before uvicorn sees them; what tiny models answer never gets there.

A scope, a cycle, a task and four messages for each request take uvicorn longer than a tiny model takes to answer, and
each part of a body that it hands on takes a turn of the event loop. So what comes on a connection on which nothing is
under way is read here first.

Rules kept here:
- one whole plain request that has its answer at once (`Routes.at_once`) is answered at once, in one write;
- everything else is uvicorn's, from its first byte on, as if nobody had looked at it: whole, if it is plain and not
  large; else from where it is known to be something else: chunked, several in a row, HTTP/1.0, Expect, Upgrade,
  Connection: close, or no HTTP;
- what is held here is bounded, one request and all together, and so is the time that it may take to come;
- a connection on which nothing happens, a head that does not come to its end, and an answer that nobody fetches end
  with the connection, each after its time. One sweep looks after all: a timer for each request costs as much as
  reading it.

Neighbours: `protocol` is what this is built on, `routes` has the answers, `askers` bounds what goes on to uvicorn,
`app` has `look_after` called.
"""

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
import msgspec

from edgeloop.serve.asgi import AtOnce, Reply, Request
from edgeloop.serve.protocol import OneWriteProtocol

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

Quick = Callable[[str, str, object], AtOnce | None]
"""Who replies at once to a method and a path over a connection, if anybody does: see Routes.at_once."""

MOST_HEAD_BYTES = 16 * 1024
MOST_BODY_BYTES = 256 * 1024
"""The largest body that is read whole here: the pixels of an image as most models take it."""
MOST_HELD_BYTES = 32 * 1024 * 1024
"""What all requests may hold here while they come."""

_PART_S = 5.0
_HEAD_S = 10.0
_IDLE_S = 75.0
_UNFETCHED_S = 30.0
_MOST_KEPT_S = 0.001
_PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}
_END = b"\r\n\r\n"


class Head(msgspec.Struct, frozen=True):
    """The head of a plain request: its bytes, what they say, and how long a body follows."""

    raw: bytes
    method: str
    path: str
    headers: dict[bytes, bytes]
    body_bytes: int


class Other(Enum):
    """What was read, if it is not the head of a plain request."""

    PART = "the beginning of one"
    NOT_PLAIN = "something for uvicorn"


def read(data: bytes, last: Head | None) -> Head | Other:
    """The head that `data` begins with.

    last: the last head of this connection. Most clients send the same one again: it is not parsed twice.
    """
    if last is not None and data.startswith(last.raw):
        return last
    parts = _Parts()
    parser = httptools.HttpRequestParser(parts)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return Other.NOT_PLAIN
    if not parts.is_headed:
        return Other.PART if len(data) <= MOST_HEAD_BYTES else Other.NOT_PLAIN
    end = data.find(_END) + len(_END)
    if parts.begun > 1 or end > MOST_HEAD_BYTES or parser.get_http_version() != "1.1" or not parts.is_plain():
        return Other.NOT_PLAIN
    body_bytes = int(parts.headers.get(b"content-length", b"0"))
    return Head(data[:end], parser.get_method().decode(), parts.url.decode("latin-1"), parts.headers, body_bytes)


class _Parts:
    """What httptools finds in a request."""

    def __init__(self) -> None:
        self.begun = 0
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.is_headed = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.is_headed = True

    def is_plain(self) -> bool:
        """Whether it asks for nothing but an answer, on a connection that stays."""
        headers = self.headers
        return (
            b"transfer-encoding" not in headers
            and b"expect" not in headers
            and b"upgrade" not in headers
            and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
            and int(headers.get(b"content-length", b"0")) <= MOST_BODY_BYTES
            and b"?" not in self.url
            and b"%" not in self.url
        )


def written(reply: Reply) -> bytes:
    """A reply as HTTP/1.1."""
    extra = b"".join(b"%b: %b\r\n" % pair for pair in reply.extra)
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        reply.status,
        _PHRASES[reply.status],
        reply.kind,
        len(reply.body),
        extra,
        reply.body,
    )


class Desk:
    """What the connections of one server share: room for requests as they come, and answers that leave together.

    The first write to a program that sleeps on this machine wakes it, which takes some 30 microseconds of ours; while
    it is awake, a write takes 8. So answers wait for those that are due in the same turn of the event loop, but not
    longer than _MOST_KEPT_S.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.held_bytes = 0
        self.now_s = now_s
        self._answers: list[tuple[asyncio.Transport, bytes]] = []
        self._since_s = 0.0

    def put(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write this answer by the end of this turn."""
        self._answers.append((transport, answer))
        if len(self._answers) == 1:
            self._since_s = self.now_s()
            asyncio.get_running_loop().call_soon(self.send)
        elif self.now_s() - self._since_s > _MOST_KEPT_S:
            self.send()

    def send(self) -> None:
        """Write what is there."""
        answers, self._answers = self._answers, []
        for transport, answer in answers:
            if not transport.is_closing():
                transport.write(answer)


class ShortWayProtocol(OneWriteProtocol):
    """A connection: answered here at once, or by uvicorn. quick: see Routes.at_once. desk: of the whole server."""

    def __init__(
        self,
        quick: Quick,
        desk: Desk,
        *,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._quick = quick
        self._desk = desk
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._head: Head | None = None
        self._last: Head | None = None
        self._is_heading = False
        self._since_s = desk.now_s()
        self._unfetched_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.BaseProtocol."""
        self._wire = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._held:
            self._more(data)
        elif self._is_quiet():
            self._since_s = self._desk.now_s()
            self._begin(data)
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """See httptools.HTTPProtocol: what follows is uvicorn's."""
        super().on_message_begin()
        self._is_heading = True
        self._since_s = self._desk.now_s()

    def on_headers_complete(self) -> None:
        """See httptools.HTTPProtocol."""
        self._is_heading = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """See uvicorn's; its timer is not needed."""
        super().on_response_complete()
        self._unset_keepalive_if_required()
        self._since_s = self._desk.now_s()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._unfetched_since_s = self._desk.now_s()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._unfetched_since_s = 0.0

    def look_after(self) -> None:
        """Now and then: end what takes too long."""
        age_s = self._desk.now_s() - (self._unfetched_since_s or self._since_s)
        if self._unfetched_since_s:
            if age_s > _UNFETCHED_S:
                self._wire.abort()
        elif self._held:
            if age_s > _PART_S:
                self._hand_over()  # a slow body is told so, a head has a little more time
        elif self._is_heading:
            if age_s > _HEAD_S:
                self._wire.abort()
        elif self._is_quiet() and age_s > _IDLE_S:
            self._wire.close()

    def _is_quiet(self) -> bool:
        """Whether nothing of uvicorn's is under way on this connection, nor too much on all of them."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self._is_heading
            and not self._unfetched_since_s
            and not self._wire.is_closing()
            and (self.limit_concurrency is None or len(self.connections) < self.limit_concurrency)
        )

    def _begin(self, data: bytes) -> None:
        found = read(data, self._last)
        if found is Other.NOT_PLAIN:
            super().data_received(data)
        elif isinstance(found, Head) and len(found.raw) + found.body_bytes <= len(data):
            self._decide(found, data)
        elif self._desk.held_bytes + len(data) > MOST_HELD_BYTES:
            super().data_received(data)
        else:
            self._head = found if isinstance(found, Head) else None
            self._hold(data)

    def _more(self, data: bytes) -> None:
        head = self._head
        if head is None:  # the whole beginning once more: heads seldom come in parts
            data = self._taken() + data
            self._begin(data)
            return
        self._hold(data)
        if self._held_bytes >= len(head.raw) + head.body_bytes:
            self._decide(head, self._taken())
        elif self._desk.held_bytes > MOST_HELD_BYTES:
            self._hand_over()

    def _decide(self, head: Head, data: bytes) -> None:
        """With a whole request, and perhaps more after it."""
        reply = None
        if len(data) == len(head.raw) + head.body_bytes:
            at_once = self._quick(head.method, head.path, self.client)
            if at_once is not None:  # else a body of a model's pixels would be copied for nothing
                reply = at_once(Request(head.method, head.path, head.headers, data[len(head.raw) :]))
        self._last = head
        if reply is None:
            super().data_received(data)
        elif len(self.connections) == 1:
            self._wire.write(written(reply))
        else:
            self._desk.put(self._wire, written(reply))

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        self._desk.held_bytes += len(data)

    def _let_go(self) -> None:
        self._desk.held_bytes -= self._held_bytes
        self._held, self._held_bytes, self._head = [], 0, None

    def _taken(self) -> bytes:
        data = b"".join(self._held)
        self._let_go()
        return data

    def _hand_over(self) -> None:
        """What came until now is uvicorn's."""
        super().data_received(self._taken())
