import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import httpx
import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from litestar import Litestar

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.join import enrol_statement, fresh_statement
from edgeloop.contracts.messages import (
    MAX_BODY_BYTES,
    MAX_PLACES,
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    Held,
    InferReply,
    InferRequest,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustReply,
    TrustRequest,
)
from edgeloop.contracts.states import Kind
from edgeloop.hub.limits import Limits
from edgeloop.hub.load import Load, answer_by_s
from edgeloop.hub.port import Served
from edgeloop.hub.proof import ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.transport.identity import Identity
from small_cloud import PROFILE, Clock

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
NOW_S = 1_000_000.0
CAMERA = "camera-1"
FILE = bytes(range(256)) * 4000  # larger than one chunk


class FakeHub:
    """The hub's port: knows one device, serves one file, and fails on demand."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, Any]] = []

    async def public_key(self, device_id: str) -> bytes | None:
        return KEY.public_key().public_bytes_raw() if device_id == CAMERA else None

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        self._note(request.device_id, request)
        return EnrolReply(device_id=request.device_id, images_root=b"i", director_root=b"d")

    async def sync(self, device_id: str, request: SyncRequest) -> SyncReply:
        self._note(device_id, request)
        return SyncReply()

    async def fetch(self, device_id: str, path: str) -> Served:
        self._note(device_id, path)
        content = b"" if path == "empty" else FILE

        async def read(start: int, stop: int) -> bytes:
            return content[start:stop]

        return Served(len(content), path.startswith("for/good"), read)

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        self._note(device_id, request)
        return SendReply(accepted=len(request.events), repeated=0)

    async def trust(self, device_id: str, request: TrustRequest) -> TrustReply:
        self._note(device_id, request)
        return TrustReply(whole=("images",), metadata={"images/metadata/timestamp.json": b"t"})

    async def infer(self, device_id: str, request: InferRequest) -> InferReply:
        self._note(device_id, request)
        raise Unavailable("no model here")

    def _note(self, device_id: str, what: Any) -> None:
        self.calls.append((device_id, what))
        if self.failure is not None:
            raise self.failure


class _Parts(httpx.AsyncByteStream):
    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


def _ask(
    hub: FakeHub,
    method: str,
    path: str,
    content: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    identity: Identity | None = None,
    signed: bool = True,
    load: Load | None = None,
    comes: Callable[[bytes], AsyncIterator[bytes]] | None = None,
) -> httpx.Response:
    """One request, signed by the enrolled device unless told otherwise. comes: how its body does, at once if None."""
    app = Litestar(
        route_handlers=[hub_router(hub, ProofChecker(clock=lambda: NOW_S), load=load)],
        exception_handlers=error_handlers(),
        openapi_config=None,
        logging_config=None,
    )

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub.test") as client:
            request = client.build_request(method, path, content=content, headers=headers)
            if signed:
                (identity or Identity(CAMERA, KEY)).sign(request, created_s=int(NOW_S))
            if comes is not None:
                request.stream = _Parts(comes(content))
            return await client.send(request)

    return asyncio.run(exchange())


def _error(response: httpx.Response) -> ErrorReply:
    return msgspec.json.decode(response.content, type=ErrorReply)


SYNC = to_msgpack(SyncRequest(reports=()))


# ---- trust


def test_trust_is_answered_whole() -> None:
    hub = FakeHub()
    asked = TrustRequest(held={"images": Held(root=3)})
    reply = from_msgpack(_ask(hub, "POST", "/v1/trust", to_msgpack(asked)).content, TrustReply, what="the reply")
    assert reply.metadata == {"images/metadata/timestamp.json": b"t"}
    assert hub.calls == [(CAMERA, asked)]


@pytest.mark.parametrize(
    "held",
    [
        {"elsewhere": {}},
        {"director/../cam": {}},
        {"director/Cam": {}},
        {"images": {"root": -1}},
        {f"director/cam-{number}": {} for number in range(MAX_PLACES + 1)},
    ],
    ids=["no place", "a path", "no name", "below zero", "too many"],
)
def test_trust_in_what_there_cannot_be_is_refused(held: dict[str, Any]) -> None:
    hub = FakeHub()
    assert _error(_ask(hub, "POST", "/v1/trust", to_msgpack({"held": held}))).code == "invalid_input"
    assert hub.calls == []


# ---- bodies


def test_message_is_answered_in_kind() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC)
    assert from_msgpack(response.content, SyncReply, what="reply") == SyncReply()


def test_sender_is_who_signed() -> None:
    hub = FakeHub()
    _ask(hub, "POST", "/v1/sync", SYNC)
    assert hub.calls == [(CAMERA, SyncRequest(reports=()))]


@pytest.mark.parametrize("verb", ["sync", "send", "infer", "enrol"])
@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01", b"not msgpack at all"], ids=repr)
def test_bytes_that_are_no_message_are_corrupt(verb: str, body: bytes) -> None:
    response = _ask(FakeHub(), "POST", f"/v1/{verb}", body)
    assert (response.status_code, _error(response).code) in {(422, "corrupt"), (400, "invalid_input")}


@pytest.mark.parametrize(
    "body", [{}, {"reports": 1}, {"reports": [], "wait_s": 61.0}, {"reports": [], "wait_s": -1.0}, [], 5], ids=str
)
def test_message_of_another_shape_is_invalid_input(body: object) -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", to_msgpack(body))
    assert (response.status_code, _error(response).code) == (400, "invalid_input")


def test_message_of_a_newer_schema_is_invalid_input() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", to_msgpack({"reports": [], "schema": 99}))
    assert (response.status_code, "99" in _error(response).message) == (400, True)


def test_refused_body_does_not_reach_the_hub() -> None:
    hub = FakeHub()
    _ask(hub, "POST", "/v1/sync", b"\xc1")
    assert hub.calls == []


def test_compressed_body_is_expanded() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", zstandard.compress(SYNC), {"content-encoding": "zstd"})
    assert response.status_code == 200


@pytest.mark.parametrize("body", [b"", b"not zstd", zstandard.compress(SYNC)[:-3]], ids=["empty", "other", "cut"])
def test_body_that_is_not_what_its_encoding_says_is_corrupt(body: bytes) -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", body, {"content-encoding": "zstd"})
    assert (response.status_code, _error(response).code) == (422, "corrupt")


def test_body_that_asks_for_a_large_window_is_turned_down_though_it_expands_to_little() -> None:
    """A few bytes of a frame can have a decoder set 128 MiB aside before anything is expanded."""
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=26)
    writer = zstandard.ZstdCompressor(compression_params=settings).compressobj()  # which tells no size beforehand
    body = writer.compress(SYNC) + writer.flush()
    assert zstandard.get_frame_parameters(body).window_size == 64 * 1024 * 1024
    response = _ask(FakeHub(), "POST", "/v1/sync", body, {"content-encoding": "zstd"})
    assert (response.status_code, _error(response).code) == (422, "corrupt")


def test_encoding_that_is_not_taken_is_invalid_input() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC, {"content-encoding": "gzip"})
    assert (response.status_code, "gzip" in _error(response).message) == (400, True)


def test_body_that_is_too_large_is_turned_down() -> None:
    response = _ask(FakeHub(), "POST", "/v1/send", bytes(MAX_BODY_BYTES + 1))
    assert (response.status_code, _error(response).code) == (413, "invalid_input")


def test_body_that_turns_out_too_large_is_turned_down_alike_and_counts_as_no_failure() -> None:
    app = _app(Limits(failures_hz=0.01, failures_burst=1))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield bytes(2**20)

    async def exchange() -> list[int]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub.test") as client:
            answers = []
            for content in (pieces(), bytes(MAX_BODY_BYTES + 1), pieces(), None):
                small = client.build_request("POST", "/v1/sync", content=SYNC)
                Identity(CAMERA, KEY).sign(small, created_s=int(NOW_S))
                kept = {name: small.headers[name] for name in ("signature", "signature-input", "content-digest")}
                other = client.build_request("POST", "/v1/sync", content=content, headers=kept)
                answers.append(await client.send(small if content is None else other))
        return [one.status_code for one in answers]

    assert asyncio.run(exchange()) == [413, 413, 413, 200]


def test_body_that_expands_beyond_the_bound_is_turned_down() -> None:
    bomb = zstandard.compress(bytes(64 * 1024 * 1024))
    response = _ask(FakeHub(), "POST", "/v1/send", bomb, {"content-encoding": "zstd"})
    assert (response.status_code, "expands" in _error(response).message) == (400, True)


# ---- proof


def test_request_without_a_signature_is_refused() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC, signed=False)
    assert (response.status_code, _error(response).code) == (403, "refused")


def test_request_of_a_stranger_is_refused() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC, identity=Identity("camera-9", OTHER_KEY))
    assert (response.status_code, "not enrolled" in _error(response).message) == (403, True)


def test_request_signed_by_another_key_is_refused() -> None:
    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC, identity=Identity(CAMERA, OTHER_KEY))
    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/v1/fetch/a/b", "/v1/sync", "/v1/send", "/v1/infer"])
def test_nothing_is_done_for_a_stranger(path: str) -> None:
    hub = FakeHub()
    _ask(hub, "GET" if "fetch" in path else "POST", path, SYNC, identity=Identity("camera-9", OTHER_KEY))
    assert hub.calls == []


def test_signature_of_another_time_is_told_the_time() -> None:
    class Late(Identity):
        def sign(self, request: httpx.Request, *, created_s: int) -> None:
            super().sign(request, created_s=0)

    response = _ask(FakeHub(), "POST", "/v1/sync", SYNC, identity=Late(CAMERA, KEY))
    assert (response.status_code, _error(response).server_time_s) == (403, NOW_S)


# ---- enrol


def _enrolment(
    name: str = "camera-2", *, via: str | None = None, by: Ed25519PrivateKey = OTHER_KEY, about: str = "camera-2"
) -> bytes:
    """The enrolment of OTHER_KEY; `by` signs that it is its own, for the device `about`."""
    public_key = OTHER_KEY.public_key().public_bytes_raw()
    return to_msgpack(
        EnrolRequest(
            device_id=name,
            kind=Kind.DEVICE,
            join_secret="s",
            public_key=public_key,
            profile=PROFILE,
            possession=by.sign(enrol_statement(about, "s", public_key)),
            via=via,
        )
    )


def test_enrolment_is_proven_by_the_key_that_it_brings() -> None:
    response = _ask(FakeHub(), "POST", "/v1/enrol", _enrolment(), identity=Identity("camera-2", OTHER_KEY))
    assert response.status_code == 200


def test_enrolment_signed_by_another_key_is_refused() -> None:
    response = _ask(FakeHub(), "POST", "/v1/enrol", _enrolment(), identity=Identity("camera-2", KEY))
    assert response.status_code == 403


def test_enrolment_under_another_name_is_turned_down() -> None:
    hub = FakeHub()
    response = _ask(hub, "POST", "/v1/enrol", _enrolment(), identity=Identity("camera-3", OTHER_KEY))
    assert (response.status_code, hub.calls) == (400, [])


@pytest.mark.parametrize("via", [None, CAMERA], ids=["straight", "carried"])
@pytest.mark.parametrize("how", [{"by": KEY}, {"about": "camera-3"}], ids=["another key", "another id"])
def test_enrolment_that_its_key_did_not_sign_for_is_refused(via: str | None, how: dict[str, Any]) -> None:
    hub = FakeHub()
    identity = Identity(CAMERA, KEY) if via else Identity("camera-2", OTHER_KEY)
    response = _ask(hub, "POST", "/v1/enrol", _enrolment(via=via, **how), identity=identity)
    assert (response.status_code, hub.calls) == (403, [])


def test_enrolled_node_may_carry_an_enrolment() -> None:
    response = _ask(FakeHub(), "POST", "/v1/enrol", _enrolment(via=CAMERA))
    assert response.status_code == 200


def test_enrolment_carried_by_another_than_it_says_is_turned_down() -> None:
    hub = FakeHub()
    response = _ask(hub, "POST", "/v1/enrol", _enrolment(via="gateway"))
    assert (response.status_code, hub.calls) == (400, [])


def test_stranger_may_not_carry_an_enrolment() -> None:
    hub = FakeHub()
    response = _ask(hub, "POST", "/v1/enrol", _enrolment(via="gateway"), identity=Identity("gateway", OTHER_KEY))
    assert (response.status_code, hub.calls) == (403, [])


def _dated(made_s: float, *, signed_s: float | None = None, by: Ed25519PrivateKey = OTHER_KEY) -> bytes:
    """An enrolment that says when it was made, and that it was made at signed_s by its signature."""
    plain = from_msgpack(_enrolment(), EnrolRequest, what="r")
    signed_ms = int((made_s if signed_s is None else signed_s) * 1000)
    statement = fresh_statement(plain.device_id, plain.join_secret, plain.public_key, signed_ms)
    return to_msgpack(msgspec.structs.replace(plain, made_at_ms=int(made_s * 1000), fresh=by.sign(statement)))


@pytest.mark.parametrize(("age_s", "status"), [(0, 200), (290, 200), (-290, 200), (310, 403), (-310, 403)])
def test_enrolment_that_says_when_it_was_made_is_good_for_minutes(age_s: int, status: int) -> None:
    body, hub = _dated(NOW_S - age_s), FakeHub()
    response = _ask(hub, "POST", "/v1/enrol", body, identity=Identity("camera-2", OTHER_KEY))
    assert (response.status_code, len(hub.calls)) == (status, 1 if status == 200 else 0)
    if status == 403:
        assert _error(response).server_time_s == NOW_S, "so that the device can sign anew"


@pytest.mark.parametrize("how", [{"signed_s": NOW_S - 1}, {"by": KEY}], ids=["another time", "another key"])
def test_enrolment_whose_time_its_key_did_not_sign_is_refused(how: dict[str, Any]) -> None:
    hub = FakeHub()
    response = _ask(hub, "POST", "/v1/enrol", _dated(NOW_S, **how), identity=Identity("camera-2", OTHER_KEY))
    assert (response.status_code, hub.calls) == (403, [])


@pytest.mark.parametrize("size_bytes", [0, 31, 33])
def test_enrolment_with_a_key_of_another_size_is_turned_down(size_bytes: int) -> None:
    hub = FakeHub()
    body = msgspec.structs.replace(from_msgpack(_enrolment(), EnrolRequest, what="r"), public_key=bytes(size_bytes))
    response = _ask(hub, "POST", "/v1/enrol", to_msgpack(body), identity=Identity("camera-2", OTHER_KEY))
    assert (response.status_code, hub.calls) == (400, [])


# ---- fetch


def test_file_is_served_whole() -> None:
    response = _ask(FakeHub(), "GET", "/v1/fetch/a/b")
    assert (response.status_code, response.content) == (200, FILE)


def test_length_of_a_file_is_told() -> None:
    assert _ask(FakeHub(), "GET", "/v1/fetch/a/b").headers["content-length"] == str(len(FILE))


def test_empty_file_is_served() -> None:
    response = _ask(FakeHub(), "GET", "/v1/fetch/empty")
    assert (response.status_code, response.content) == (200, b"")


def test_path_arrives_without_a_leading_slash() -> None:
    hub = FakeHub()
    _ask(hub, "GET", "/v1/fetch/a/b.json")
    assert hub.calls == [(CAMERA, "a/b.json")]


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=300000-", 300_000, len(FILE)),
        ("bytes=5-99999999", 5, len(FILE)),
        (f"bytes={len(FILE) - 1}-", len(FILE) - 1, len(FILE)),
        ("bytes=200000-600000", 200_000, 600_001),
    ],
)
def test_range_brings_exactly_its_bytes(wanted: str, start: int, stop: int) -> None:
    response = _ask(FakeHub(), "GET", "/v1/fetch/a", headers={"range": wanted})
    assert (response.status_code, response.content) == (206, FILE[start:stop])
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(FILE)}"


@pytest.mark.parametrize(
    "wanted",
    ["bytes=-5", "bytes=9-3", f"bytes={len(FILE)}-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=-", "x", ""],
)
def test_range_that_is_not_taken_is_invalid_input(wanted: str) -> None:
    response = _ask(FakeHub(), "GET", "/v1/fetch/a", headers={"range": wanted})
    assert (response.status_code, _error(response).code) == (400, "invalid_input")


@pytest.mark.parametrize(("path", "expected"), [("for/good", "immutable"), ("a/timestamp.json", "no-cache")])
def test_caches_are_told_what_they_may_keep(path: str, expected: str) -> None:
    assert expected in _ask(FakeHub(), "GET", f"/v1/fetch/{path}").headers["cache-control"]


# ---- failures


@pytest.mark.parametrize("kind", [InvalidInput, NotFound, Refused, Unavailable, Corrupt], ids=lambda kind: kind.code)
def test_error_of_the_hub_is_answered_with_its_status_and_code(kind: type[EdgeloopError]) -> None:
    response = _ask(FakeHub(kind("what happened")), "POST", "/v1/sync", SYNC)
    reply = _error(response)
    assert (response.status_code, reply.code, reply.message) == (kind.http_status, kind.code, "what happened")


def test_every_error_has_a_status_of_its_own() -> None:
    kinds = (InvalidInput, NotFound, Refused, Unavailable, Corrupt)
    assert len({kind.http_status for kind in kinds}) == len(kinds)


def test_bug_is_answered_without_its_details() -> None:
    response = _ask(FakeHub(KeyError("the secret of the house")), "POST", "/v1/sync", SYNC)
    assert (response.status_code, _error(response).code, b"secret" in response.content) == (500, "error", False)


def test_bug_while_fetching_is_answered_too() -> None:
    response = _ask(FakeHub(ZeroDivisionError("oops")), "GET", "/v1/fetch/a")
    assert (response.status_code, b"oops" in response.content) == (500, False)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/sync", 405, "invalid_input"),
        ("OPTIONS", "/v1/enrol", 405, "invalid_input"),
        ("POST", "/v1/fetch/a", 405, "invalid_input"),
        ("POST", "/v1/sync/more", 404, "not_found"),
    ],
)
def test_route_that_is_not_there_is_answered_with_an_error(method: str, path: str, status: int, code: str) -> None:
    response = _ask(FakeHub(), method, path)
    assert (response.status_code, _error(response).code) == (status, code)


# ---- limits


def _app(limits: Limits, load: Load | None = None) -> Litestar:
    return Litestar(
        route_handlers=[hub_router(FakeHub(), ProofChecker(clock=lambda: NOW_S), limits, load)],
        exception_handlers=error_handlers(),
        openapi_config=None,
        logging_config=None,
    )


def _burst(requests: int, *, identity: Identity, limits: Limits) -> list[httpx.Response]:
    """Requests one after another at one app, all from one address."""
    app = _app(limits)

    async def exchange() -> list[httpx.Response]:
        answers = []
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub.test") as client:
            for sender in (*[identity] * requests, Identity(CAMERA, KEY)):
                request = client.build_request("POST", "/v1/sync", content=SYNC)
                sender.sign(request, created_s=int(NOW_S))
                answers.append(await client.send(request))
        return answers

    return asyncio.run(exchange())


def test_device_beyond_its_share_is_told_when_to_come_again() -> None:
    *_, last = _burst(3, identity=Identity(CAMERA, KEY), limits=Limits(requests_hz=0.1, requests_burst=3))
    assert (last.status_code, last.headers["retry-after"]) == (429, "10")
    assert (_error(last).code, round(_error(last).retry_after_s or 0)) == ("unavailable", 10)


def test_address_with_too_many_wrong_signatures_is_held_up() -> None:
    limits = Limits(failures_hz=0.01, failures_burst=3)
    answers = _burst(5, identity=Identity(CAMERA, OTHER_KEY), limits=limits)
    assert [one.status_code for one in answers] == [403, 403, 403, 429, 429, 429]


class _Asking(FakeHub):
    """Notes that somebody's key was asked for."""

    async def public_key(self, device_id: str) -> bytes | None:
        self._note(device_id, "key")
        return await super().public_key(device_id)


VERBS = [
    ("POST", "sync"),
    ("POST", "send"),
    ("POST", "trust"),
    ("POST", "infer"),
    ("POST", "enrol"),
    ("GET", "fetch/a"),
]


@pytest.mark.parametrize(("method", "verb"), VERBS)
def test_hub_that_comes_too_late_says_so_before_it_does_anything(method: str, verb: str) -> None:
    hub, load = _Asking(), Load(clock=count(0.0, 11.0).__next__, draw=lambda: 0.5)
    response = _ask(hub, method, f"/v1/{verb}", b"" if method == "GET" else SYNC, load=load)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert (_error(response).code, _error(response).retry_after_s) == ("unavailable", 5.0)
    assert hub.calls == []


@pytest.mark.parametrize(("method", "verb"), VERBS)
def test_hub_whose_disk_comes_too_late_keeps_out_only_what_waits_for_it(method: str, verb: str) -> None:
    response = _ask(FakeHub(), method, f"/v1/{verb}", b"" if method == "GET" else SYNC, load=Load(lambda: 3.0))
    assert (response.status_code == 503) == (verb == "send")


def test_stranger_whose_address_is_held_up_is_told_so_and_not_that_much_is_to_do() -> None:
    load = Load(lambda: 3.0)
    limits = Limits(failures_hz=0.01, failures_burst=1)
    app = _app(limits, load)

    async def exchange() -> list[int]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub.test") as client:
            answers = []
            for path in ("sync", "send", "send"):
                request = client.build_request("POST", f"/v1/{path}", content=SYNC)
                Identity(CAMERA, OTHER_KEY).sign(request, created_s=int(NOW_S))
                answers.append((await client.send(request)).status_code)
            return answers

    assert asyncio.run(exchange()) == [403, 429, 429]


class _Looking(FakeHub):
    """Notes by when its answers are of use."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def _note(self, device_id: str, what: Any) -> None:
        self.seen.append(answer_by_s.get())


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/sync"), ("GET", "/v1/fetch/some")])
def test_hub_is_told_by_when_its_answer_is_of_use(method: str, path: str) -> None:
    hub = _Looking()
    _ask(hub, method, path, SYNC if method == "POST" else b"", load=Load(clock=Clock(7.0)))
    assert hub.seen == [17.0]


def test_body_that_takes_a_minute_takes_nothing_off_the_time_for_its_answer() -> None:
    async def slowly(body: bytes) -> AsyncIterator[bytes]:
        yield body[:5]
        for _ in range(3):  # turns of the event loop, in which nobody comes
            await asyncio.sleep(0)
        clock.now_s += 60.0
        yield body[5:]

    hub, clock = _Looking(), Clock(0.0)
    response = _ask(hub, "POST", "/v1/sync", SYNC, load=Load(clock=clock), comes=slowly)
    assert (response.status_code, hub.seen) == (200, [70.0])


def test_time_that_the_hub_above_asks_for_is_passed_on() -> None:
    failure = Unavailable("much to do above")
    failure.retry_after_s = 7.0
    response = _ask(FakeHub(failure), "POST", "/v1/sync", SYNC)
    assert (response.status_code, response.headers["retry-after"], _error(response).retry_after_s) == (503, "7", 7.0)


def test_body_of_a_stranger_is_not_expanded() -> None:
    bomb = zstandard.compress(bytes(64 * 1024 * 1024))
    stranger = Identity("camera-9", OTHER_KEY)
    response = _ask(FakeHub(), "POST", "/v1/send", bomb, {"content-encoding": "zstd"}, identity=stranger)
    assert (response.status_code, "not enrolled" in _error(response).message) == (403, True)


def test_enrolment_is_small() -> None:
    response = _ask(FakeHub(), "POST", "/v1/enrol", bytes(70_000))
    assert (response.status_code, "65,536" in _error(response).message) == (400, True)
