"""The connections of a simulated device fail by the names that a real one's failures have."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from edgeloop.simulate.connections import Connections
from edgeloop.transport.membership import CONNECTIONS
from processes import free_port

pytestmark = pytest.mark.anyio

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TLS = ssl.create_default_context()
MADE: dict[str, Callable[[], httpx.AsyncBaseTransport]] = {
    "simulated": lambda: Connections(TLS),
    "real": lambda: httpx.AsyncHTTPTransport(verify=TLS, limits=CONNECTIONS),
}


@asynccontextmanager
async def _client(
    kind: str, answering: Answering | None, *, timeout_s: float = 5.0
) -> AsyncIterator[httpx.AsyncClient]:
    """Of a server that answers so; None for a port where nobody listens."""
    served: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(writer)
        assert answering is not None
        await answering(reader, writer)

    server = None if answering is None else await asyncio.start_server(serve, "127.0.0.1", 0)
    port = free_port() if server is None else server.sockets[0].getsockname()[1]
    transport = MADE[kind]()
    try:
        yield httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=timeout_s)
    finally:
        await transport.aclose()
        for writer in served:
            writer.close()
        if server is not None:
            server.close()


async def _asked(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _asked(reader)
    writer.transport.abort()


async def _is_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await _asked(reader)


async def _breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _asked(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            await _asked(reader)
        except asyncio.IncompleteReadError:
            return
        said = str(writer.get_extra_info("peername")[1]).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
        await writer.drain()


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(
    ("answering", "names"),
    [
        (None, {"ConnectError"}),
        (_resets, {"ReadError", "RemoteProtocolError"}),
        (_breaks_off, {"ReadError", "RemoteProtocolError"}),
        (_is_silent, {"ReadTimeout"}),
    ],
)
async def test_failures_have_their_names(kind: str, answering: Answering | None, names: set[str]) -> None:
    async with _client(kind, answering, timeout_s=0.2 if answering is _is_silent else 5.0) as client:
        with pytest.raises(httpx.HTTPError) as found:
            await client.get("/")
    assert type(found.value).__name__ in names


@pytest.mark.parametrize("kind", MADE)
async def test_connection_serves_the_next_request_and_no_other_device(kind: str) -> None:
    async with _client(kind, _answers) as client:
        ports = [(await client.get("/")).text for _ in range(3)]
        other = MADE[kind]()
        theirs = await httpx.AsyncClient(transport=other, base_url=client.base_url).get("/")
        await other.aclose()
    assert len(set(ports)) == 1
    assert theirs.text not in ports
