"""A link that means ill, on real sockets: it stands between a device and its hub, sees every path, and may change the
bytes, break off, drip, stall, go on for ever or drop ranges.

with HostileLink(to(hub_url)) as link:        or any other Answer
    link.forge = lambda path: ...             what is answered in the hub's place, None to ask the hub
    link.tamper = lambda path, data: ...      what becomes of the hub's answer
    link.send = Reset(share=0.03)             how it is sent

What comes many files in one answer (`trust`) it forges and tampers with file by file as well, and adds to it what it
would answer at `lies_at`; or it knows of no such question, as an older hub: knows_trust=False.
"""

import asyncio
import fcntl
import random
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import msgspec

from edgeloop.contracts.codec import from_msgpack, to_json, to_msgpack
from edgeloop.contracts.messages import ErrorReply, TrustReply

TRUST = "/v1/trust"


@dataclass(frozen=True)
class Request:
    """What came. target: path and query."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """What is fetched, without the verb; the verb's path otherwise."""
        return self.target.partition("?")[0].removeprefix("/v1/fetch/")


@dataclass(frozen=True)
class Reply:
    """What goes back. headers: beside its length."""

    status: int
    headers: dict[str, str]
    content: bytes


Answer = Callable[[Request], Awaitable[Reply]]
Send = Callable[[asyncio.StreamWriter, str, bytes], Awaitable[int]]
"""Write content to the other side; returns how many bytes were written."""


def to(hub_url: str) -> Answer:
    """Pass on to a hub."""

    async def answer(request: Request) -> Reply:
        kept = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
        async with httpx.AsyncClient(base_url=hub_url, timeout=30.0) as client:
            response = await client.request(request.method, request.target, headers=kept, content=request.body)
        names = ("content-type", "content-range", "cache-control")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        return Reply(response.status_code, headers, response.content)

    return answer


def file_at(content: bytes, *, ranges: bool = True) -> Answer:
    """A hub that has one file, at any path."""

    async def answer(request: Request) -> Reply:
        wanted = request.headers.get("range")
        if not ranges or wanted is None:
            return Reply(200, {}, content)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(content)
        return Reply(206, {"content-range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop])

    return answer


async def plainly(writer: asyncio.StreamWriter, path: str, content: bytes) -> int:
    """All of it."""
    writer.write(content)
    await writer.drain()
    return len(content)


@dataclass
class Reset:
    """Reset the connection after a share of all pieces of everything under `under`; what was sent before arrives."""

    share: float
    under: str = "targets/"
    piece_bytes: int = 4096
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    resets: int = 0

    async def __call__(self, writer: asyncio.StreamWriter, path: str, content: bytes) -> int:
        """See Send."""
        if not path.startswith(self.under):
            return await plainly(writer, path, content)
        for start in range(0, len(content), self.piece_bytes):
            piece = content[start : start + self.piece_bytes]
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            if self.draw.random() < self.share:
                self.resets += 1
                await _arrived(writer)
                reset(writer)
                return start + len(piece)
        return len(content)


@dataclass
class Drip:
    """A byte at a time: never so long without one that a timeout would end it."""

    every_s: float

    async def __call__(self, writer: asyncio.StreamWriter, path: str, content: bytes) -> int:
        """See Send."""
        for at in range(len(content)):
            await plainly(writer, path, content[at : at + 1])
            await asyncio.sleep(self.every_s)
        return len(content)


@dataclass
class Endless:
    """The content of what is under `under`, or any of these, again and again, with no end."""

    under: str | tuple[str, ...]

    async def __call__(self, writer: asyncio.StreamWriter, path: str, content: bytes) -> int:
        """See Send."""
        sent = await plainly(writer, path, content)
        while path.startswith(self.under):
            sent += await plainly(writer, path, content or b"\0" * 4096)
        return sent


async def _arrived(writer: asyncio.StreamWriter) -> None:
    """Wait until the other side's kernel has all that was written: a reset drops what it has not."""
    sock = writer.get_extra_info("socket")
    async with asyncio.timeout(10.0):
        while writer.transport.get_write_buffer_size() or _unacknowledged(sock.fileno()):
            await asyncio.sleep(0.0005)


def _unacknowledged(handle: int) -> int:
    """Bytes in a socket's send queue (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, b"\0" * 4))[0])


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class HostileLink:
    """The link, on a port of loopback, on a thread of its own."""

    def __init__(self, answer: Answer, *, knows_trust: bool = True) -> None:
        self._answer = answer
        self._knows_trust = knows_trust
        self.lies_at: set[str] = set()
        self.answers = 0
        self.forge: Callable[[str], bytes | None] = lambda path: None
        self.tamper: Callable[[str, bytes], bytes] = lambda path, data: data
        self.seen: dict[str, bytes] = {}
        self.send: Send = plainly
        self.asked: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostile-link", daemon=True)

    def __enter__(self) -> "HostileLink":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10.0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self._loop.call_soon_threadsafe(lambda: [reset(writer) for writer in list(self._open)])

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._open.add(writer)
        try:
            request = await _read(reader)
            self.asked[request.path] += 1
            reply, content = await self._reply(request)
            is_long = isinstance(self.send, Endless) and request.path.startswith(self.send.under)
            head = dict(reply.headers)
            if not is_long:
                head["content-length"] = str(len(content))
            lines = [f"HTTP/1.1 {reply.status} -", *(f"{name}: {value}" for name, value in head.items())]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
            self.sent_bytes[request.path] += await self.send(writer, request.path, content)
        except (OSError, EOFError, httpx.HTTPError, asyncio.CancelledError):
            return  # the device or the hub has left, or the test has ended: nothing is owed
        finally:
            self._serving.discard(task)
            self._open.discard(writer)
            writer.close()

    async def _reply(self, request: Request) -> tuple[Reply, bytes]:
        if request.path == TRUST and not self._knows_trust:
            unknown = to_json(ErrorReply(code="not_found", message="there is nothing here"))
            return Reply(404, {"content-type": "application/json"}, unknown), unknown
        self.answers += 1
        forged = self.forge(request.path) if request.method == "GET" else None
        if forged is not None:
            return Reply(200, {}, forged), forged
        reply = await self._answer(request)
        if reply.status != 200:
            return reply, reply.content
        if request.path == TRUST:
            return reply, self._together(reply.content)
        self.seen[request.path] = reply.content
        return reply, self.tamper(request.path, reply.content)

    def _together(self, content: bytes) -> bytes:
        """What becomes of many files in one answer, all in one moment: each as if it had been asked for by itself."""
        said = from_msgpack(content, TrustReply, what="the hub's answer")
        self.seen |= said.metadata
        self.answers += 1
        forged = {path: data for path in self.lies_at | {*said.metadata} if (data := self.forge(path)) is not None}
        metadata = {path: self.tamper(path, data) for path, data in (said.metadata | forged).items()}
        along = {path: self.tamper(path, data) for path, data in said.along.items()}
        return to_msgpack(msgspec.structs.replace(said, metadata=metadata, along=along))


async def _read(reader: asyncio.StreamReader) -> Request:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)
