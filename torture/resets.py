"""A link on loopback that breaks: every piece that comes through it may be the one at which it is reset."""

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 64 * 1024
_END_TIMEOUT_S = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for no time: closing sends RST and throws away what was not sent."""


class BreakingLink:
    """Listens on a port of loopback, forwards to another one, and resets connections. Runs on a thread of its own.

    resets: the share of pieces, requests and answers alike, at which both ends are reset; those lost on the way up
    never arrive, those on the way down leave the other side believing that all is well. is_cut: nothing comes
    through, and who connects is reset at once.
    """

    def __init__(self, port: int, *, resets: float, seed: int = 0, piece_bytes: int = _PIECE_BYTES) -> None:
        self.to_port = port
        self.is_cut = False
        self.pieces = 0
        self.broken = 0
        self._resets = resets
        self._piece_bytes = piece_bytes
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
        self._loop = asyncio.new_event_loop()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name="breaking-link", daemon=True)

    @property
    def url(self) -> str:
        """What to dial instead."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Reset what is open; let nothing through until `mend`."""
        self.is_cut = True
        self._loop.call_soon_threadsafe(self._reset_all)

    def mend(self) -> None:
        """Let it through again."""
        self.is_cut = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._carry, sock=self._listening))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self.cut()
            # Not cancelled: asyncio complains of a cancelled connection. Each ends by itself, now that it is reset.
            self._loop.run_until_complete(self._all_ended())
            self._loop.close()

    def _reset_all(self) -> None:
        for one in self._open:
            _reset(one)

    async def _all_ended(self) -> None:
        async with asyncio.timeout(_END_TIMEOUT_S):
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            _reset(writer)
            return
        ends = {writer, up_writer}
        self._open |= ends
        ways = [
            asyncio.create_task(one) for one in (self._forward(reader, up_writer), self._forward(up_reader, writer))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= ends
            for end in ends:
                _reset(end)
            await asyncio.wait(ways)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Piece by piece, until either end is closed or it breaks."""
        with suppress(OSError):
            while data := await reader.read(self._piece_bytes):
                self.pieces += 1
                if self._rng.random() < self._resets:
                    self.broken += 1
                    return
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    handle = writer.get_extra_info("socket")
    with suppress(OSError):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
