"""The load generator against a server that is wrong now and then."""

import asyncio
import json
import threading
from collections.abc import Iterator
from itertools import count

import pytest

pytest.importorskip("httptools")

from benchmarks.serve_load import Request, Tally, load, main

pytestmark = pytest.mark.anyio

RIGHT = b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"ok":true}'
WRONG = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"ok":false}'
BUSY = b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n"
CLOSING = b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{"ok":true}'


async def _ask(*answers: bytes, clients: int = 2) -> Tally:
    """Load a server that gives these answers in turn, the last one from then on."""
    turn = count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(answers[min(next(turn), len(answers) - 1)])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = Request("127.0.0.1", port, "/predict", body=b"abc", holds=b'"ok":true')
    async with server:
        return await load(request, clients=clients, seconds=0.1)


async def test_right_answers_are_counted_and_timed() -> None:
    told = (await _ask(RIGHT)).report()
    assert told["errors"] == {}
    assert isinstance(told["requests"], int)
    assert told["requests"] > 2
    assert 0 < float(str(told["p50_ms"])) <= float(str(told["p99_ms"])) <= float(str(told["max_ms"]))


async def test_wrong_answers_are_errors_by_what_they_were() -> None:
    tally = await _ask(WRONG, BUSY, BUSY, RIGHT)
    assert tally.errors == {"wrong answer": 1, "status 429": 2}
    assert tally.latencies_ms


@pytest.mark.parametrize(
    ("answer", "told"), [(b"nonsense\r\n\r\n", "not HTTP"), (CLOSING, "closed by the server after an answer")]
)
async def test_connection_that_does_not_go_on_is_an_error(answer: bytes, told: str) -> None:
    tally = await _ask(answer, clients=1)
    assert any(kind.startswith(told) for kind in tally.errors)


@pytest.mark.parametrize("arguments", [["--clients", "0"], ["--clients", "5000"], ["--seconds", "9999"]])
def test_load_is_bounded(arguments: list[str]) -> None:
    assert main(["http://127.0.0.1:1/x", *arguments]) == 2


@pytest.fixture
def right_server() -> Iterator[int]:
    """A server in a thread of its own, as main has its own event loop."""
    ready: list[int] = []
    started, over = threading.Event(), threading.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(RIGHT)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        async with server:
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    yield ready[0]
    over.set()
    thread.join()


def test_command_prints_json(right_server: int, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{right_server}/x?y=1"
    told = ["--holds", "ok", "--clients", "2", "--seconds", "0.1", "--warm-up-seconds", "0.05"]
    assert main([url, *told]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["url"] == url
    assert printed["requests_per_s"] > 0
