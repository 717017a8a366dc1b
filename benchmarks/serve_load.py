"""Asks a server again and again, and says how soon it answered: one honest, bounded load generator for any server.

One process, one thread; N keep-alive connections, each with one request on its way at a time (closed loop). The bytes
of the request are prepared once. An answer counts only when its status is the wanted one and its body holds the
wanted text; everything else is counted as an error, by what it was. Latency is from before the request is written to
after the whole answer was read. The generator says how much of a core it took itself: near 1.0, it was the bottleneck.

    python -m benchmarks.serve_load http://127.0.0.1:8402/predict --body digit.png \
        --header 'content-type: image/png' --holds '"label":"7"' --clients 8 --seconds 5
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np

MAX_CLIENTS = 1024
MAX_SECONDS = 120.0


@dataclass(frozen=True)
class Request:
    """What is asked, and how a right answer is known. holds: bytes that the answer's body must contain."""

    host: str
    port: int
    target: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    status: int = 200
    holds: bytes = b""

    def encode(self) -> bytes:
        """The request as HTTP/1.1 bytes."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body or self.method in ("POST", "PUT"):
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass
class Tally:
    """What came of it. latencies_ms: of the right answers, in the order in which they came."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def report(self) -> dict[str, float | int | dict[str, int]]:
        """For JSON. Percentiles are of the right answers; 0.0 when there was none."""
        done = np.array(self.latencies_ms or [0.0])
        p50, p90, p99 = (float(value) for value in np.percentile(done, (50, 90, 99)))
        return {
            "requests": len(self.latencies_ms),
            "requests_per_s": round(len(self.latencies_ms) / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": round(p50, 3),
            "p90_ms": round(p90, 3),
            "p99_ms": round(p99, 3),
            "max_ms": round(float(done.max()), 3),
            "errors": dict(self.errors),
            "seconds": round(self.seconds, 3),
            "generator_cores": round(self.cpu_seconds / self.seconds, 2) if self.seconds else 0.0,
        }


class _Client(asyncio.Protocol):
    """One connection: asks, waits for the whole answer, asks again until the time is over."""

    def __init__(self, request: Request, tally: Tally, until_s: float, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._bytes = request.encode()
        self._tally = tally
        self._until_s = until_s
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._asked_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        now_s = time.perf_counter()
        status = self._parser.get_status_code()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if status != self._request.status:
            self._tally.errors[f"status {status}"] += 1
        elif self._request.holds not in body:
            self._tally.errors["wrong answer"] += 1
        else:
            self._tally.latencies_ms.append(1000 * (now_s - self._asked_s))
        self._body.clear()
        if now_s < self._until_s and self._parser.should_keep_alive():
            self._parser = httptools.HttpResponseParser(self)
            self._ask()
        elif now_s < self._until_s:
            self._fail("closed by the server after an answer")
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._tally.errors["connection lost"] += 1
            self._ended.set_result(None)

    def _ask(self) -> None:
        assert self._transport is not None
        self._asked_s = time.perf_counter()
        self._transport.write(self._bytes)

    def _fail(self, why: str) -> None:
        self._tally.errors[why] += 1
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
        assert self._transport is not None
        self._transport.close()


async def load(request: Request, *, clients: int, seconds: float) -> Tally:
    """Ask for this long over so many connections. Raises OSError if the server cannot be reached."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    until_s = started_s + seconds
    for end in ends:
        made = partial(_Client, request, tally, until_s, end)
        await loop.create_connection(made, request.host, request.port)
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*ends)
    tally.seconds = time.perf_counter() - started_s
    tally.cpu_seconds = time.process_time() - started_cpu_s
    return tally


def run(request: Request, *, clients: int, seconds: float) -> Tally:
    """`load` in an event loop of its own: uvloop's where it is installed, so that the generator costs little."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(load(request, clients=clients, seconds=seconds))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(load(request, clients=clients, seconds=seconds))


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="serve_load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--method", default="POST")
    parser.add_argument("--header", action="append", default=[], help="name: value; may be given again")
    parser.add_argument("--body", type=Path, help="a file that holds the request's body")
    parser.add_argument("--status", type=int, default=200, help="the status of a right answer")
    parser.add_argument("--holds", default="", help="text that the body of a right answer contains")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up-seconds", type=float, default=0.5, help="asked before, and not counted")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line: JSON on standard output; 1 if any answer was wrong."""
    given = _parsed(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= given.clients <= MAX_CLIENTS or not 0 < given.seconds <= MAX_SECONDS:
        sys.stderr.write(f"clients must be 1 to {MAX_CLIENTS}, seconds up to {MAX_SECONDS:g}\n")
        return 2
    url = urlsplit(given.url)
    if url.scheme != "http" or url.hostname is None:
        sys.stderr.write(f"{given.url!r} is no http:// address\n")
        return 2
    request = Request(
        host=url.hostname,
        port=url.port or 80,
        target=(url.path or "/") + (f"?{url.query}" if url.query else ""),
        method=given.method,
        headers=tuple((name.strip(), value.strip()) for name, _, value in (one.partition(":") for one in given.header)),
        body=given.body.read_bytes() if given.body else b"",
        status=given.status,
        holds=given.holds.encode(),
    )
    if given.warm_up_seconds > 0:
        run(request, clients=given.clients, seconds=given.warm_up_seconds)
    tally = run(request, clients=given.clients, seconds=given.seconds)
    sys.stdout.write(json.dumps({"url": given.url, "clients": given.clients, **tally.report()}) + "\n")
    return 1 if tally.errors else 0


if __name__ == "__main__":
    sys.exit(main())
