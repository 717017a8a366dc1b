import asyncio
from typing import cast

import pytest

pytest.importorskip("httptools")

from edgeloop.serve.protocol import OneWrite


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def one_write(wire: Wire) -> OneWrite:
    return OneWrite(cast(asyncio.Transport, wire))


def test_head_and_body_leave_in_one_write(wire: Wire, one_write: OneWrite) -> None:
    for _ in range(2):
        one_write.write(b"HTTP/1.1 200 OK\r\n\r\n")
        one_write.write(b"body")
    assert wire.writes == [b"HTTP/1.1 200 OK\r\n\r\nbody"] * 2


def test_head_without_a_body_leaves_when_the_connection_is_closed(wire: Wire, one_write: OneWrite) -> None:
    one_write.write(b"HTTP/1.1 500 \r\n\r\n")
    one_write.close()
    assert (wire.writes, wire.closed) == ([b"HTTP/1.1 500 \r\n\r\n"], True)


def test_word_to_go_on_leaves_at_once(wire: Wire, one_write: OneWrite) -> None:
    one_write.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_all_else_is_the_transports_own(one_write: OneWrite) -> None:
    assert one_write.is_closing() is False
