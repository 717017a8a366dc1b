import asyncio
from typing import Any

import pytest

from edgeloop.contracts.errors import Unavailable
from edgeloop.hub.asked import Asked, TooLarge


def _asked(*messages: dict[str, Any], **scope: Any) -> Asked:
    """A request whose body comes in these messages."""
    given = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(given)

    whole = {"type": "http", "method": "POST", "path": "/v1/a b", "headers": [], "client": ("192.0.2.7", 4321)} | scope
    return Asked(whole, receive)  # type: ignore[arg-type]


def _piece(body: bytes, *, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


def _body(asked: Asked, *, max_bytes: int = 100) -> list[bytes]:
    async def pieces() -> list[bytes]:
        return [piece async for piece in asked.body(max_bytes=max_bytes)]

    return asyncio.run(pieces())


def test_the_first_of_several_headers_counts() -> None:
    asked = _asked(headers=[(b"range", b"bytes=1-"), (b"range", b"bytes=2-")])
    assert (asked.header("range"), asked.header("signature")) == ("bytes=1-", None)


def test_header_that_is_no_ascii_is_read_byte_by_byte() -> None:
    assert _asked(headers=[(b"range", b"\xe4")]).header("range") == "ä"


def test_path_and_query_stay_as_they_came() -> None:
    asked = _asked(raw_path=b"/v1/a%20b", query_string=b"c=%20")
    assert (asked.path, asked.query, asked.method) == ("/v1/a%20b", "c=%20", "POST")


def test_where_a_server_keeps_no_raw_path_the_path_will_do() -> None:
    assert (_asked().path, _asked().query) == ("/v1/a b", "")


@pytest.mark.parametrize(("client", "address"), [(("192.0.2.7", 4321), "192.0.2.7"), (None, "unknown")])
def test_address_of_who_asks(client: tuple[str, int] | None, address: str) -> None:
    assert _asked(client=client).address == address


def test_body_comes_in_pieces_and_empty_ones_are_left_out() -> None:
    asked = _asked(
        _piece(b"a", more_body=True), _piece(b"", more_body=True), _piece(b"bc", more_body=True), _piece(b"")
    )
    assert _body(asked) == [b"a", b"bc"]


def test_body_that_is_said_to_be_too_large_is_not_read() -> None:
    with pytest.raises(TooLarge, match=r"101 bytes.*100"):
        _body(_asked(headers=[(b"content-length", b"101")]))


@pytest.mark.parametrize("length", [b"100", b"one", b"-1", b"", b"\xb2"])
def test_any_other_length_is_found_out_by_reading(length: bytes) -> None:
    assert _body(_asked(_piece(b"abc"), headers=[(b"content-length", length)])) == [b"abc"]


def test_length_of_thousands_of_digits_is_too_large_and_no_bug() -> None:
    with pytest.raises(TooLarge):
        _body(_asked(headers=[(b"content-length", b"9" * 5000)]))


def test_sender_that_goes_before_the_end_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="before the end"):
        _body(_asked(_piece(b"a", more_body=True), {"type": "http.disconnect"}))
