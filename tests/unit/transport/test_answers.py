"""Answers of whoever lies to a device, over real sockets: each is given up, within bounds."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.contracts.errors import Corrupt, EdgeloopError, Unavailable
from edgeloop.contracts.messages import Held, InferRequest, SendRequest, SyncRequest, TrustRequest
from edgeloop.transport.identity import Identity
from edgeloop.transport.membership import open_client
from edgeloop.transport.uplink import Patience, Uplink

MIB = 1024 * 1024
ASK = {
    "send": lambda uplink: uplink.send(SendRequest(events=())),
    "sync": lambda uplink: uplink.sync(SyncRequest(reports=())),
    "trust": lambda uplink: uplink.trust(TrustRequest(held={"images": Held(root=1)})),
    "fetch": lambda uplink: uplink.fetch("images/metadata/timestamp.json", max_bytes=16_384),
    "size": lambda uplink: uplink.size_bytes("targets/files/a"),
}


class Liar:
    """Answers every request with the same head and then these chunks, for as long as somebody listens."""

    def __init__(self, head: str, chunks: Callable[[], AsyncIterator[bytes]]) -> None:
        self._head = head
        self._chunks = chunks
        self.sent_bytes = 0
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {self._head}\r\n\r\n".encode())
            async for chunk in self._chunks():
                writer.write(chunk)
                await writer.drain()
                self.sent_bytes += len(chunk)
        except OSError:
            return  # who asked has hung up
        finally:
            self.gone.set()
            writer.transport.abort()


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65_536


async def _endless_chunked() -> AsyncIterator[bytes]:
    while True:
        yield b"10000\r\n" + b"x" * 65_536 + b"\r\n"


async def _bomb() -> AsyncIterator[bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(200):
        yield packer.compress(bytes(MIB))
    yield packer.flush()


async def _dripping() -> AsyncIterator[bytes]:
    while True:
        yield b"x"
        await asyncio.sleep(0.02)


async def _asked(liar: Liar, ask: Callable[[Uplink], Awaitable[object]]) -> None:
    server = await asyncio.start_server(liar, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    identity = Identity("camera-1", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
    async with server, open_client(url) as client:
        try:
            await ask(Uplink(client, identity, patience=Patience(window_s=60.0)))
        finally:
            await liar.gone.wait()


@pytest.mark.parametrize("verb", ["send", "sync", "trust", "fetch"])
def test_endless_answer_is_given_up(verb: str) -> None:
    liar = Liar("200 OK", _endless)
    with pytest.raises(Corrupt, match="goes on"):
        asyncio.run(_asked(liar, ASK[verb]))
    assert liar.sent_bytes < 32 * MIB


@pytest.mark.parametrize("verb", list(ASK))
def test_endless_error_is_what_its_status_says(verb: str) -> None:
    liar = Liar("503 No", _endless)
    with pytest.raises(Unavailable, match="503"):
        asyncio.run(_asked(liar, ASK[verb]))
    assert liar.sent_bytes < 16 * MIB


def test_endless_first_byte_is_given_up() -> None:
    head = "206 Some\r\ncontent-range: bytes 0-0/100\r\ncontent-length: 1\r\ntransfer-encoding: chunked"
    liar = Liar(head, _endless_chunked)
    with pytest.raises(EdgeloopError):
        asyncio.run(_asked(liar, ASK["size"]))
    assert liar.sent_bytes < 16 * MIB


@pytest.mark.parametrize("status", ["200 OK", "503 No"])
@pytest.mark.parametrize("verb", list(ASK))
def test_packed_answer_is_not_unpacked(verb: str, status: str) -> None:
    with pytest.raises((Corrupt, Unavailable), match=r"packed|503"):
        asyncio.run(_asked(Liar(f"{status}\r\ncontent-encoding: gzip", _bomb), ASK[verb]))


def test_answer_that_drips_is_given_up_as_a_whole() -> None:
    """Each byte comes in time, and the last of them never."""
    asking = InferRequest(name="tiny", data=b"", deadline_ms=1)
    with pytest.raises(Unavailable, match="did not come within"):
        asyncio.run(_asked(Liar("200 OK", _dripping), lambda uplink: uplink.infer(asking)))
