"""Real connections over loopback: a short way that echoes small bodies, and behind it an ASGI app that echoes all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

pytest.importorskip("httptools")

import uvicorn
from uvicorn.server import ServerState

from edgeloop.serve.asgi import AtOnce, Reply, Request
from edgeloop.serve.short import (
    MOST_BODY_BYTES,
    MOST_HEAD_BYTES,
    MOST_HELD_BYTES,
    Desk,
    Head,
    Other,
    ShortWayProtocol,
    read,
)

pytestmark = pytest.mark.anyio

TIMEOUT_S = 30.0
AT_ONCE = b"at once: "
APP = b"by the app: "
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """One that answers "/echo" at once if the body is small, and everything else by its app; time is what is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.desk = Desk(now_s=lambda: self.now_s)
        self.state = ServerState()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked: list[bytes] = []

    @property
    def connections(self) -> list[ShortWayProtocol]:
        return [one for one in self.state.connections if isinstance(one, ShortWayProtocol)]

    def quick(self, method: str, path: str, _: object) -> AtOnce | None:
        return self.at_once if path == "/echo" else None

    def at_once(self, request: Request) -> Reply | None:
        if len(request.body) > 1000:
            return None
        return Reply(AT_ONCE + request.body, extra=((b"x-seen", request.headers.get(b"x-told", b"none")),))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.asked.append(scope["path"].encode())
        await self.may_answer.wait()
        head = [(b"content-length", b"%d" % len(APP + body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": APP + body})

    async def listen(self) -> asyncio.Server:
        config = uvicorn.Config(
            self.app, interface="asgi3", lifespan="off", log_level="critical", limit_concurrency=100
        )
        config.load()
        made = partial(ShortWayProtocol, self.quick, self.desk, config=config, server_state=self.state, app_state={})
        listener = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        return listener


class Asker:
    """A connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, *parts: bytes) -> None:
        """Each part for itself: what was sent before has been seen when the next goes out."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await settled()

    async def answer(self) -> bytes:
        return (await self.whole_answer())[1]

    async def whole_answer(self) -> tuple[bytes, bytes]:
        async with asyncio.timeout(TIMEOUT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return head, await self.reader.readexactly(size)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


async def settled() -> None:
    """Let the event loop look at its sockets a few times: both ends are on it."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listener = await made.listen()
    yield made
    made.may_answer.set()
    listener.close()
    for connection in made.connections:
        connection.transport.close()
    await listener.wait_closed()


@pytest.fixture
async def asker(server: Server) -> AsyncIterator[Asker]:
    made = Asker(*await asyncio.open_connection("127.0.0.1", server.port))
    yield made
    made.writer.close()


def request(body: bytes = b"", path: str = "/echo", *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# ---- what it is


def test_head_of_a_plain_request_says_what_it_says() -> None:
    data = request(b"abc", "/echo", "X-Told: a", "x-told: b")
    head = read(data, None)
    assert isinstance(head, Head)
    assert (head.raw, head.method, head.path, head.body_bytes) == (data[:-3], "POST", "/echo", 3)
    assert head.headers == {b"host": b"x", b"content-length": b"3", b"x-told": b"b"}


def test_every_beginning_of_a_head_is_a_part_of_one_and_every_whole_one_is_the_same() -> None:
    data = request(b"0123456789")
    end = data.index(b"0123")
    assert {read(data[:length], None) for length in range(1, end)} == {Other.PART}
    assert {read(data[:length], None) == read(data, None) for length in range(end, len(data))} == {True}


@pytest.mark.parametrize(
    "data",
    [
        request(version="1.0"),
        request(b"x", "/echo", "Connection: close"),
        request(b"x", "/echo", "Connection: Upgrade", "Upgrade: h2c"),
        request(b"x", "/echo", "Expect: 100-continue"),
        request(b"x", "/echo?a=b"),
        request(b"x", "/e%63ho"),
        request(b"x" * (MOST_BODY_BYTES + 1)),
        request(b"x", "/echo", "X-Long: " + "x" * MOST_HEAD_BYTES),
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        request(b"x") + request(b"y"),
        b"POST /echo HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"x" * (MOST_HEAD_BYTES + 1),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_not_plain_is_not_taken(data: bytes) -> None:
    assert read(data, None) is Other.NOT_PLAIN


def test_same_head_again_is_taken_from_the_last_one() -> None:
    last = read(request(b"abc"), None)
    assert isinstance(last, Head)
    assert read(request(b"xyz"), last) is last
    assert read(request(b"xyzz"), last) == read(request(b"xyzz"), None)


# ---- one connection


async def test_plain_request_is_answered_at_once_wherever_it_is_cut(server: Server, asker: Asker) -> None:
    data = request(b"0123456789", "/echo", "X-Told: me")
    for cut in range(1, len(data)):
        await asker.say(data[:cut], data[cut:])
        head, body = await asker.whole_answer()
        assert (body, b"x-seen: me" in head) == (AT_ONCE + b"0123456789", True)
    assert server.desk.held_bytes == 0
    assert server.asked == []


async def test_requests_of_other_sizes_on_one_connection_get_their_own_answers(asker: Asker) -> None:
    for body in (b"a", b"b", b"", b"cc", b"a"):
        await asker.say(request(body))
        assert await asker.answer() == AT_ONCE + body


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (request(b"x", "/elsewhere"), b"x"),
        (request(b"x" * 5000), b"x" * 5000),
        (request(b"x" * (MOST_BODY_BYTES + 1)), b"x" * (MOST_BODY_BYTES + 1)),
        (request(b"x", "/echo?a=b"), b"x"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"x"),
        (CHUNKED + b"1\r\nx\r\n2\r\nyy\r\n3\r\nzzz\r\n0\r\n\r\n", b"xyyzzz"),
    ],
    ids=["elsewhere", "not so small", "large", "with a query", "chunked", "in several chunks"],
)
async def test_everything_else_is_the_apps_wherever_it_is_cut(
    server: Server, asker: Asker, data: bytes, body: bytes
) -> None:
    for cut in (1, 30, len(data) // 2, len(data) - 1):
        await asker.say(data[:cut], data[cut:])
        assert await asker.answer() == APP + body
    assert server.desk.held_bytes == 0


async def test_several_in_a_row_are_answered_in_order_wherever_they_are_cut(server: Server, asker: Asker) -> None:
    data = request(b"x") + request(b"yy", "/elsewhere") + request(b"zzz")
    for cut in range(1, len(data)):
        await asker.say(data[:cut], data[cut:])
        answers = [await asker.answer() for _ in range(3)]
        assert [one.rpartition(b" ")[2] for one in answers] == [b"x", b"yy", b"zzz"]
    assert server.desk.held_bytes == 0


async def test_after_the_app_has_answered_the_next_is_answered_at_once(asker: Asker) -> None:
    for _ in range(2):
        await asker.say(request(b"x", "/elsewhere"))
        assert await asker.answer() == APP + b"x"
        await asker.say(request(b"y"))
        assert await asker.answer() == AT_ONCE + b"y"


async def test_answers_keep_their_order_while_the_app_has_not_answered(server: Server, asker: Asker) -> None:
    server.may_answer.clear()
    await asker.say(request(b"x", "/elsewhere"), request(b"y"))
    server.may_answer.set()
    assert [await asker.answer(), await asker.answer()] == [APP + b"x", APP + b"y"]


async def test_asker_that_waits_for_leave_to_send_gets_it(asker: Asker) -> None:
    data = request(b"x" * 10, "/echo", "Expect: 100-continue")
    await asker.say(data[:-10])
    async with asyncio.timeout(TIMEOUT_S):
        assert (await asker.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await asker.say(data[-10:])
    assert await asker.answer() == APP + b"x" * 10


# ---- bounds


async def test_whoever_hangs_up_leaves_nothing_behind(server: Server, asker: Asker) -> None:
    await asker.say(request(b"x" * 100)[:-1])
    assert server.desk.held_bytes > 99
    asker.writer.close()
    async with asyncio.timeout(TIMEOUT_S):
        while server.connections:
            await asyncio.sleep(0)
    assert server.desk.held_bytes == 0


async def test_where_no_room_is_left_the_app_has_it(server: Server, asker: Asker) -> None:
    server.desk.held_bytes = MOST_HELD_BYTES
    data = request(b"x" * 100)
    await asker.say(data[:-1], data[-1:])
    assert await asker.answer() == APP + b"x" * 100
    assert server.desk.held_bytes == MOST_HELD_BYTES


async def test_body_that_comes_slowly_goes_to_the_app_which_has_a_bound_for_it(server: Server, asker: Asker) -> None:
    data = request(b"x" * 100)
    await asker.say(data[:-1])
    look_after_all(server, after_s=6.0)
    assert server.desk.held_bytes == 0
    await asker.say(data[-1:])
    assert await asker.answer() == APP + b"x" * 100


async def test_head_that_does_not_end_ends_with_the_connection(server: Server, asker: Asker) -> None:
    await asker.say(request()[:20])
    for _ in range(4):  # dripping on does not help
        look_after_all(server, after_s=6.0)
        with suppress(ConnectionError):
            await asker.say(b"x")
    assert await asker.is_closed()


async def test_idle_connection_ends_and_one_that_is_in_use_does_not(server: Server, asker: Asker) -> None:
    for path, by in (("/echo", AT_ONCE), ("/elsewhere", APP)) * 3:
        await asker.say(request(b"x", path))
        assert await asker.answer() == by + b"x"
        look_after_all(server, after_s=50.0)
    look_after_all(server, after_s=30.0)
    assert await asker.is_closed()


async def test_one_that_waits_for_the_app_is_not_idle(server: Server, asker: Asker) -> None:
    server.may_answer.clear()
    await asker.say(request(b"x", "/elsewhere"))
    look_after_all(server, after_s=500.0)
    server.may_answer.set()
    assert await asker.answer() == APP + b"x"


def look_after_all(server: Server, *, after_s: float) -> None:
    server.now_s += after_s
    for connection in server.connections:
        connection.look_after()
