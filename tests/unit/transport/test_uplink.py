import asyncio
from collections.abc import Callable

import httpx
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.contracts.codec import from_msgpack, to_json, to_msgpack
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Alert, ErrorReply, Event, SendReply, SendRequest, SyncReply, SyncRequest
from edgeloop.contracts.proof import parse_claim
from edgeloop.hub.proof import ProofChecker, SignedRequest, StaleSignature, read_claim
from edgeloop.transport.identity import Identity
from edgeloop.transport.replies import StaleClock
from edgeloop.transport.uplink import Uplink

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
FILE = bytes(range(256)) * 1000

Answer = Callable[[httpx.Request], httpx.Response]


def _error(error: EdgeloopError, *, server_time_s: float | None = None) -> httpx.Response:
    reply = ErrorReply(code=error.code, message=str(error), server_time_s=server_time_s)
    return httpx.Response(error.http_status, content=to_json(reply))


class Server:
    """A hub in memory: checks proofs as the real one does, with its own clock."""

    def __init__(self, *, now_s: float = 1_000_000.0, answer: Answer | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._now_s = now_s
        self._checker = ProofChecker(clock=lambda: now_s)
        self._answer = answer or (lambda request: httpx.Response(200, content=to_msgpack(SyncReply())))

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        self.requests.append(request)
        path, _, query = request.url.raw_path.decode().partition("?")
        headers = request.headers.get
        claim = read_claim(headers)
        signed = SignedRequest(request.method, path, query, request.content, headers("content-digest"), claim)
        try:
            await self._checker.check(signed, KEY.public_key().public_bytes_raw())
        except StaleSignature as error:
            return _error(error, server_time_s=error.server_time_s)
        return self._answer(request)


def _uplink(server: "Answer | Server", *, now_s: float = 1_000_000.0) -> Uplink:
    client = httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://hub.test")
    return Uplink(client, Identity("camera-1", KEY), clock=lambda: now_s)


async def _fetched(uplink: Uplink, *, offset_bytes: int = 0, max_bytes: int = 10**6) -> bytes:
    chunks = uplink.fetch_from("files/a", offset_bytes=offset_bytes, max_bytes=max_bytes)
    return b"".join([chunk async for chunk in chunks])


def _ranges(request: httpx.Request) -> httpx.Response:
    wanted = request.headers.get("range")
    if wanted is None:
        return httpx.Response(200, content=FILE)
    return httpx.Response(206, content=FILE[int(wanted.removeprefix("bytes=").rstrip("-")) :])


# ---- clock


@pytest.mark.parametrize("device_s", [0.0, 999_000.0, 2_000_000.0], ids=["1970", "behind", "ahead"])
def test_device_with_a_wrong_clock_is_heard(device_s: float) -> None:
    uplink = _uplink(Server(), now_s=device_s)
    assert asyncio.run(uplink.sync(SyncRequest(reports=()))) == SyncReply()


def test_corrected_clock_is_kept_for_the_next_request() -> None:
    server = Server()
    uplink = _uplink(server, now_s=0.0)

    async def twice() -> None:
        await uplink.sync(SyncRequest(reports=()))
        await uplink.sync(SyncRequest(reports=()))

    asyncio.run(twice())
    assert len(server.requests) == 3


def test_offset_is_the_servers_time_minus_ours() -> None:
    uplink = _uplink(Server(now_s=1_000_000.0), now_s=250.0)
    asyncio.run(uplink.sync(SyncRequest(reports=())))
    assert uplink.clock_offset_s == 999_750.0


def test_fetch_corrects_the_clock_too() -> None:
    assert asyncio.run(_fetched(_uplink(Server(answer=_ranges), now_s=0.0))) == FILE


def test_hub_that_never_likes_the_time_is_asked_twice_at_most() -> None:
    calls: list[httpx.Request] = []

    def never(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return _error(Refused("stale"), server_time_s=5.0)

    with pytest.raises(StaleClock):
        asyncio.run(_uplink(never).sync(SyncRequest(reports=())))
    assert len(calls) == 2


def test_request_that_is_signed_again_has_a_new_nonce() -> None:
    server = Server()
    asyncio.run(_uplink(server, now_s=0.0).sync(SyncRequest(reports=())))
    nonces = {parse_claim(r.headers["signature-input"], r.headers["signature"]).nonce for r in server.requests}
    assert len(nonces) == 2


@pytest.mark.parametrize("lie_s", [-5e6, 4.2e9, 1e11, 1e308])
def test_time_that_cannot_be_is_not_taken_over(lie_s: float) -> None:
    server, lies = Server(), [lie_s]

    async def between(request: httpx.Request) -> httpx.Response:
        return _error(Refused("stale"), server_time_s=lies.pop()) if lies else await server(request)

    uplink = _uplink(between)
    with pytest.raises(Refused):
        asyncio.run(uplink.sync(SyncRequest(reports=())))
    assert uplink.clock_offset_s == 0.0
    assert asyncio.run(uplink.sync(SyncRequest(reports=()))) == SyncReply()


@pytest.mark.parametrize("lie_s", [0.0, 3e9, 4.1e9])
def test_lie_about_the_time_ends_with_the_truth(lie_s: float) -> None:
    server, lies = Server(), [lie_s, lie_s]

    async def between(request: httpx.Request) -> httpx.Response:
        return _error(Refused("stale"), server_time_s=lies.pop()) if lies else await server(request)

    uplink = _uplink(between)
    with pytest.raises(Refused):
        asyncio.run(uplink.sync(SyncRequest(reports=())))
    assert asyncio.run(uplink.sync(SyncRequest(reports=()))) == SyncReply()


@pytest.mark.parametrize("device_s", [-5e6, 3e11, 1e14])
def test_device_whose_own_clock_cannot_be_is_told_the_time(device_s: float) -> None:
    assert asyncio.run(_uplink(Server(), now_s=device_s).sync(SyncRequest(reports=()))) == SyncReply()


# ---- verbs


def _batch(count: int) -> SendRequest:
    alert = Alert(what="w", detail="d")
    return SendRequest(
        events=tuple(Event(device_id="camera-1", epoch=1, sequence=i + 1, at_ms=0, body=alert) for i in range(count))
    )


@pytest.mark.parametrize("count", [1, 200], ids=["plain", "compressed"])
def test_batch_arrives_as_it_was(count: int) -> None:
    arrived: list[SendRequest] = []

    def take(request: httpx.Request) -> httpx.Response:
        body = request.content
        if request.headers.get("content-encoding") == "zstd":
            body = zstandard.decompress(body)
        arrived.append(from_msgpack(body, SendRequest, what="m"))
        return httpx.Response(200, content=to_msgpack(SendReply(accepted=count, repeated=0)))

    asyncio.run(_uplink(Server(answer=take)).send(_batch(count)))
    assert arrived == [_batch(count)]


def test_large_batch_is_compressed() -> None:
    server = Server(answer=lambda request: httpx.Response(200, content=to_msgpack(SendReply(accepted=1, repeated=0))))
    asyncio.run(_uplink(server).send(_batch(200)))
    assert len(server.requests[0].content) < len(to_msgpack(_batch(200))) / 4


@pytest.mark.parametrize("error", [Refused("revoked"), Unavailable("later"), NotFound("gone")], ids=lambda e: e.code)
def test_error_of_the_hub_comes_out_as_itself(error: EdgeloopError) -> None:
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(_uplink(Server(answer=lambda request: _error(error))).sync(SyncRequest(reports=())))


@pytest.mark.parametrize("content", [b"", b"<html>hello</html>", b"\xc1"])
def test_answer_that_is_no_message_is_an_edgeloop_error(content: bytes) -> None:
    with pytest.raises(EdgeloopError):
        asyncio.run(_uplink(lambda request: httpx.Response(200, content=content)).sync(SyncRequest(reports=())))


def test_hub_that_cannot_be_reached_is_unavailable() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(Unavailable, match=r"hub\.test"):
        asyncio.run(_uplink(away).sync(SyncRequest(reports=())))


def test_failure_is_not_tried_again() -> None:
    server = Server(answer=lambda request: _error(Unavailable("later")))
    with pytest.raises(Unavailable):
        asyncio.run(_uplink(server).sync(SyncRequest(reports=())))
    assert len(server.requests) == 1


# ---- fetch


def test_file_is_fetched_whole() -> None:
    assert asyncio.run(_uplink(Server(answer=_ranges)).fetch("files/a", max_bytes=len(FILE))) == FILE


def test_download_goes_on_from_an_offset() -> None:
    assert asyncio.run(_fetched(_uplink(Server(answer=_ranges)), offset_bytes=1000)) == FILE[1000:]


def test_file_that_goes_on_for_too_long_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="goes on"):
        asyncio.run(_uplink(Server(answer=_ranges)).fetch("files/a", max_bytes=len(FILE) - 1))


def test_proxy_that_drops_ranges_is_found_out() -> None:
    whole = Server(answer=lambda request: httpx.Response(200, content=FILE))
    with pytest.raises(Corrupt, match="drops ranges"):
        asyncio.run(_fetched(_uplink(whole), offset_bytes=1000))


def test_absent_file_is_not_found() -> None:
    with pytest.raises(NotFound, match="gone"):
        asyncio.run(_fetched(_uplink(Server(answer=lambda request: _error(NotFound("gone"))))))


def test_download_that_breaks_off_is_unavailable() -> None:
    async def broken() -> bytes:
        async def half() -> object:
            yield FILE[:1000]
            raise httpx.ReadError("cut")

        return await _fetched(_uplink(Server(answer=lambda request: httpx.Response(200, content=half()))))  # type: ignore[arg-type]

    with pytest.raises(Unavailable):
        asyncio.run(broken())
