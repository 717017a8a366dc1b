"""What a hub holds of requests that are still under way, driven below HTTP: bodies that stop, answers nobody reads."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from litestar import Litestar

from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.messages import EnrolReply, InferReply, SendReply, SyncReply, SyncRequest, TrustReply
from edgeloop.hub.limits import Limits
from edgeloop.hub.port import Served
from edgeloop.hub.proof import OwnNonces, ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.transport.identity import Identity
from small_cloud import key_of, public_key_of

pytestmark = pytest.mark.anyio

NOW_S = 1_000_000
CAMERA, OTHER = "camera-1", "camera-2"
FILE = bytes(2_000_000)
SYNC = to_msgpack(SyncRequest(reports=()))
LARGE = SYNC + bytes(800)
"""No message, but the signature holds: what comes of it is 422."""


class FakeHub:
    """The hub's port: knows two devices, and has one file."""

    async def public_key(self, device_id: str) -> bytes | None:
        return public_key_of(device_id) if device_id in (CAMERA, OTHER) else None

    async def enrol(self, request: Any) -> EnrolReply:
        return EnrolReply(device_id=request.device_id, images_root=b"", director_root=b"")

    async def sync(self, device_id: str, request: Any) -> SyncReply:
        return SyncReply()

    async def fetch(self, device_id: str, path: str) -> Served:
        async def read(start: int, stop: int) -> bytes:
            return FILE[start:stop]

        return Served(len(FILE), True, read)

    async def send(self, device_id: str, request: Any) -> SendReply:
        return SendReply(accepted=0, repeated=0)

    async def trust(self, device_id: str, request: Any) -> TrustReply:
        raise NotImplementedError

    async def infer(self, device_id: str, request: Any) -> InferReply:
        raise NotImplementedError


@dataclass
class Asked:
    """One request at the app: its body comes when the test says, its answer goes on when the test says."""

    app: Litestar
    method: str = "POST"
    path: str = "/v1/send"
    body: bytes = LARGE
    name: str = CAMERA
    key: Ed25519PrivateKey | None = None
    address: str = "10.0.0.1"
    created_s: int = NOW_S
    status: int = 0
    sent_bytes: int = 0
    reads: int = 0
    coming: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.may_go_on.set()

    def start(self) -> "Asked":
        request = httpx.Request(self.method, f"http://hub.test{self.path}", content=self.body)
        Identity(self.name, self.key or key_of(self.name)).sign(request, created_s=self.created_s)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": (self.address, 1),
            "server": ("hub.test", 80),
        }
        self.task = asyncio.create_task(self.app(scope, self._receive, self._send))  # type: ignore[arg-type]
        return self

    async def _receive(self) -> dict[str, Any]:
        self.reads += 1
        return await self.coming.get()

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began.set()
            return
        self.sent_bytes += len(message.get("body", b""))
        await self.may_go_on.wait()
        if not message.get("more_body", False):
            self.coming.put_nowait({"type": "http.disconnect"})  # as uvicorn says once the answer is out

    def come(self, data: bytes, *, more: bool) -> "Asked":
        self.coming.put_nowait({"type": "http.request", "body": data, "more_body": more})
        return self

    async def answered(self) -> int:
        """The status, once the answer is out."""
        assert self.task is not None
        async with asyncio.timeout(60):
            await self.task
        return self.status

    async def whole(self) -> int:
        return await self.start().come(self.body, more=False).answered()

    async def gone(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def _app(limits: Limits, *, nonces: OwnNonces | None = None) -> Litestar:
    checker = ProofChecker(clock=lambda: float(NOW_S), nonces=nonces)
    return Litestar(
        route_handlers=[hub_router(FakeHub(), checker, limits)],
        exception_handlers=error_handlers(),
        openapi_config=None,
        logging_config=None,
    )


async def _taken_in(asked: Asked) -> None:
    """The app has read what came, and waits for more."""
    async with asyncio.timeout(60):
        while asked.reads < 2:
            await asyncio.sleep(0)


@pytest.mark.parametrize("came", [b"", LARGE[:-1]], ids=["nothing", "all but a byte"])
async def test_body_that_stops_is_given_up(came: bytes) -> None:
    asked = Asked(_app(Limits(body_window_s=0.05))).start()
    if came:
        asked.come(came, more=True)
    assert await asked.answered() == 503


async def test_body_that_comes_slowly_but_comes_is_taken() -> None:
    """Each window of it has its bytes, though the whole takes longer than one: the windows are as long as the test."""
    asked = Asked(_app(Limits(body_window_s=60.0, body_least_bytes=1)), body=SYNC, path="/v1/sync").start()
    for one in SYNC[:-1]:
        asked.come(bytes([one]), more=True)
    assert await asked.come(SYNC[-1:], more=False).answered() == 200


async def test_bodies_of_one_address_are_bounded_until_their_senders_are_known() -> None:
    app = _app(Limits(unproven_bytes_an_address=1000))
    held = Asked(app).start().come(LARGE[:-1], more=True)
    await _taken_in(held)
    assert await Asked(app).whole() == 429
    assert await Asked(app, address="10.0.0.2").whole() == 422, "another address has room of its own"
    held.come(LARGE[-1:], more=False)
    assert await held.answered() == 422
    assert await Asked(app).whole() == 422


async def test_strangers_cannot_take_the_room_of_those_who_are_known() -> None:
    app = _app(Limits(unproven_bytes=1000))
    assert await Asked(app, path="/v1/sync", body=SYNC).whole() == 200
    held = Asked(app, address="6.6.6.6").start().come(LARGE[:-1], more=True)
    await _taken_in(held)
    assert await Asked(app, name=OTHER).whole() == 429
    assert await Asked(app).whole() == 422
    await held.gone()
    assert await Asked(app, name=OTHER).whole() == 422, "what a connection that broke had held is free again"


async def test_nothing_is_read_of_a_body_that_a_get_brings() -> None:
    asked = Asked(_app(Limits()), "GET", "/v1/fetch/a", body=b"").start()
    assert (await asked.answered(), asked.sent_bytes) == (200, len(FILE))
    bodied = Asked(_app(Limits()), "GET", "/v1/fetch/a", body=LARGE).start()
    assert (await bodied.answered(), bodied.reads) == (403, 0)


async def test_body_of_a_request_from_another_time_is_not_read() -> None:
    asked = Asked(_app(Limits()), created_s=NOW_S - 400).start()
    assert (await asked.answered(), asked.reads) == (403, 0)


# ---- answers


async def test_download_has_its_share_until_its_last_byte_is_out() -> None:
    app = _app(Limits(most_at_once=1))
    slow = Asked(app, "GET", "/v1/fetch/a", body=b"")
    slow.may_go_on.clear()
    slow.start()
    await slow.began.wait()
    assert await Asked(app, "GET", "/v1/fetch/a", body=b"").start().answered() == 429
    assert await Asked(app, "GET", "/v1/fetch/a", body=b"", name=OTHER).start().answered() == 200
    slow.may_go_on.set()
    assert (await slow.answered(), slow.sent_bytes) == (200, len(FILE))
    assert await Asked(app, "GET", "/v1/fetch/a", body=b"").start().answered() == 200


@pytest.mark.parametrize("how", ["cancelled", "hung up"])
async def test_download_that_is_broken_off_gives_its_share_back(how: str) -> None:
    app = _app(Limits(most_at_once=1))
    slow = Asked(app, "GET", "/v1/fetch/a", body=b"")
    slow.may_go_on.clear()
    slow.start()
    await slow.began.wait()
    if how == "cancelled":
        await slow.gone()
    else:
        slow.coming.put_nowait({"type": "http.disconnect"})
        await _ended(slow.task)
    assert await Asked(app, "GET", "/v1/fetch/a", body=b"").start().answered() == 200


async def _ended(task: Awaitable[None] | None) -> None:
    assert task is not None
    async with asyncio.timeout(60):
        await asyncio.gather(task, return_exceptions=True)


# ---- what is remembered


async def test_nonces_beyond_a_devices_share_are_not_remembered() -> None:
    nonces = OwnNonces(clock=lambda: float(NOW_S))
    app = _app(Limits(requests_hz=0.001, requests_burst=2), nonces=nonces)
    assert [await Asked(app, path="/v1/sync", body=SYNC).whole() for _ in range(5)] == [200, 200, 429, 429, 429]
    assert len(nonces._until_s) == 2


async def test_failures_in_a_known_name_are_counted_too() -> None:
    """Whoever shares an address with a device and knows its name."""
    app = _app(Limits(failures_hz=0.001, failures_burst=3))
    assert await Asked(app, path="/v1/sync", body=SYNC).whole() == 200
    forged = [await Asked(app, key=key_of("evil")).whole() for _ in range(5)]
    assert forged == [403, 403, 403, 429, 429]
