import asyncio
import contextlib
from collections.abc import Callable

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.proof import MAX_AGE_S, content_digest
from edgeloop.hub.limits import TooMany
from edgeloop.hub.proof import OwnNonces, ProofChecker, SignedRequest, StaleSignature, read_claim
from edgeloop.transport.identity import Identity

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
START_S = 1_000_000.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checker(clock: Clock) -> ProofChecker:
    return ProofChecker(clock=clock)


def _headers(*, at_s: float = START_S, key: Ed25519PrivateKey = KEY) -> Callable[[str], str | None]:
    request = httpx.Request("POST", "http://hub.test/v1/send?a=1", content=b"body")
    Identity("camera-1", key).sign(request, created_s=int(at_s))
    return request.headers.get


def _signed(
    *,
    method: str = "POST",
    path: str = "/v1/send",
    query: str = "a=1",
    body: bytes = b"body",
    at_s: float = START_S,
    key: Ed25519PrivateKey = KEY,
) -> SignedRequest:
    """A request as it was received; by default the one that was signed."""
    headers = _headers(at_s=at_s, key=key)
    return SignedRequest(method, path, query, body, headers("content-digest"), read_claim(headers))


def _check(checker: ProofChecker, request: SignedRequest, public_key: bytes | None) -> str:
    return asyncio.run(checker.check(request, public_key))


def test_request_of_an_enrolled_device_is_taken(checker: ProofChecker) -> None:
    assert _check(checker, _signed(), PUBLIC) == "camera-1"


def test_device_that_is_not_enrolled_is_refused(checker: ProofChecker) -> None:
    with pytest.raises(Refused, match="not enrolled"):
        _check(checker, _signed(), None)


def test_replayed_request_is_refused(checker: ProofChecker) -> None:
    request = _signed()
    _check(checker, request, PUBLIC)
    with pytest.raises(Refused, match="nonce"):
        _check(checker, request, PUBLIC)


def test_replayed_request_is_refused_for_as_long_as_its_signature_is_good(checker: ProofChecker, clock: Clock) -> None:
    request = _signed(at_s=START_S + MAX_AGE_S)  # signed by a device whose clock is ahead
    _check(checker, request, PUBLIC)
    clock.now_s += 2 * MAX_AGE_S
    with pytest.raises(Refused, match="nonce"):
        _check(checker, request, PUBLIC)


def test_nonces_are_remembered_apart_from_one_another(checker: ProofChecker) -> None:
    first, second = _signed(), _signed()
    _check(checker, first, PUBLIC)
    _check(checker, second, PUBLIC)
    with pytest.raises(Refused, match="nonce"):
        _check(checker, first, PUBLIC)


def test_refused_signature_does_not_use_up_the_nonce(checker: ProofChecker) -> None:
    honest = _signed()
    forged = SignedRequest("GET", honest.path, honest.query, honest.body, honest.digest, honest.claim)
    with pytest.raises(Refused):
        _check(checker, forged, PUBLIC)
    assert _check(checker, honest, PUBLIC) == "camera-1"


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/v1/sync"},
        {"path": "/v1/Send"},
        {"path": "/v1/send/"},
        {"query": ""},
        {"query": "a=2"},
        {"body": b"Body"},
        {"body": b""},
    ],
    ids=str,
)
def test_request_that_was_changed_on_the_way_is_refused(checker: ProofChecker, changed: dict[str, str]) -> None:
    with pytest.raises(Refused):
        _check(checker, _signed(**changed), PUBLIC)  # type: ignore[arg-type]


def test_changed_body_with_a_digest_to_match_is_refused(checker: ProofChecker) -> None:
    honest = _signed()
    changed = SignedRequest("POST", honest.path, honest.query, b"evil", content_digest(b"evil"), honest.claim)
    with pytest.raises(Refused, match="signature"):
        _check(checker, changed, PUBLIC)


@pytest.mark.parametrize("digest", [None, "", "sha-256=::", "sha-512=:AAAA:", "é"], ids=repr)
def test_request_without_the_digest_of_its_body_is_refused(checker: ProofChecker, digest: str | None) -> None:
    honest = _signed()
    changed = SignedRequest("POST", honest.path, honest.query, honest.body, digest, honest.claim)
    with pytest.raises(Refused, match="Content-Digest"):
        _check(checker, changed, PUBLIC)


def test_signature_of_another_key_is_refused(checker: ProofChecker) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"q" * 32)
    with pytest.raises(Refused, match="key"):
        _check(checker, _signed(key=other), PUBLIC)


@pytest.mark.parametrize("size_bytes", [0, 31, 33])
def test_public_key_of_another_size_is_invalid_input(checker: ProofChecker, size_bytes: int) -> None:
    with pytest.raises(InvalidInput, match="32"):
        _check(checker, _signed(), bytes(size_bytes))


# ---- time


@pytest.mark.parametrize("age_s", [0, MAX_AGE_S, -MAX_AGE_S])
def test_signature_within_its_time_is_taken(checker: ProofChecker, clock: Clock, age_s: int) -> None:
    clock.now_s += 10 * MAX_AGE_S
    assert _check(checker, _signed(at_s=clock.now_s - age_s), PUBLIC) == "camera-1"


@pytest.mark.parametrize("age_s", [MAX_AGE_S + 1, -MAX_AGE_S - 1, int(START_S)])
def test_signature_of_another_time_is_stale(checker: ProofChecker, clock: Clock, age_s: int) -> None:
    clock.now_s += 10 * MAX_AGE_S
    with pytest.raises(StaleSignature):
        _check(checker, _signed(at_s=clock.now_s - age_s), PUBLIC)


def test_stale_signature_tells_what_time_it_is_here(checker: ProofChecker, clock: Clock) -> None:
    clock.now_s += 10 * MAX_AGE_S + 0.5
    with pytest.raises(StaleSignature) as caught:
        _check(checker, _signed(at_s=0), PUBLIC)
    assert caught.value.server_time_s == clock.now_s


def test_forged_signature_is_not_told_the_time(checker: ProofChecker) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"q" * 32)
    with pytest.raises(Refused) as caught:
        _check(checker, _signed(at_s=0, key=other), PUBLIC)
    assert not isinstance(caught.value, StaleSignature)


def test_signature_from_before_the_start_is_refused_as_its_nonce_may_be_used(checker: ProofChecker) -> None:
    with pytest.raises(StaleSignature, match="before this server started"):
        _check(checker, _signed(at_s=START_S - 1), PUBLIC)


def test_request_without_a_proof_is_refused() -> None:
    with pytest.raises(Refused, match="not signed"):
        read_claim({}.get)


def test_memory_of_nonces_is_bounded_by_those_who_send_most(clock: Clock) -> None:
    nonces = OwnNonces(clock=clock, most=10, few=2)

    def use(name: str, times: int) -> int:
        """How many were taken."""
        taken = 0
        for number in range(times):
            with contextlib.suppress(TooMany):
                taken += asyncio.run(nonces.use(name, f"{taken}.{number}", until_s=clock.now_s + 600))
        return taken

    assert (use("greedy", 50), use("quiet", 50), use("another", 50)) == (10, 2, 2)
    clock.now_s += 601
    assert use("greedy", 50) == 10, "what was forgotten makes room"
