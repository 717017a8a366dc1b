"""The signature profile against an independent implementation of RFC 9421 and RFC 9530 (pyauth's)."""

import asyncio
import datetime
import time

import httpx
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import ED25519

from edgeloop.contracts.errors import Refused
from edgeloop.contracts.proof import LABEL, Claim, content_digest, parse_claim, proof_headers, signature_params
from edgeloop.hub.proof import ProofChecker, SignedRequest, read_claim
from edgeloop.transport.identity import Identity

COMPONENTS = ("@method", "@path", "@query", "content-digest")
NONCE = "n" * 22

REQUESTS = [
    ("GET", "http://hub.test/v1/fetch/images/metadata/root.json", b""),
    ("POST", "http://hub.test/v1/send", b"body"),
    ("POST", "http://hub.test/", b""),
    ("GET", "http://hub.test", b""),
    ("GET", "http://hub.test/v1/a%20b%2Fc?x=1&y=%C3%A9", b""),
    ("GET", "http://hub.test/v1/x?", b""),
    ("PUT", "http://hub.test:8400/v1//x/?a=b?c", bytes(range(256))),
]


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def _their_verifier(key: Ed25519PrivateKey) -> HTTPMessageVerifier:
    keys = MappingKeyResolver(public_keys={"camera-1": key.public_key()}, private_keys={})
    return HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=keys)


def _signed_by_us(key: Ed25519PrivateKey, method: str, url: str, body: bytes) -> httpx.Request:
    request = httpx.Request(method, url, content=body)
    Identity("camera-1", key).sign(request, created_s=int(time.time()))
    return request


@pytest.mark.parametrize(("method", "url", "body"), REQUESTS)
def test_independent_library_accepts_our_signature(key: Ed25519PrivateKey, method: str, url: str, body: bytes) -> None:
    request = _signed_by_us(key, method, url, body)
    (result,) = _their_verifier(key).verify(request, body=body, require_components=COMPONENTS)
    assert result.label == LABEL


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [("GET", REQUESTS[1][1], b"body"), ("POST", "http://hub.test/v1/sync", b"body"), ("POST", REQUESTS[1][1], b"bodY")],
    ids=["method", "path", "body"],
)
def test_independent_library_refuses_our_signature_on_another_request(
    key: Ed25519PrivateKey, method: str, url: str, body: bytes
) -> None:
    ours = _signed_by_us(key, *REQUESTS[1])
    moved = httpx.Request(method, url, content=body, headers={name: ours.headers[name] for name in proof_headers(
        digest="", params="", signature=b"")})  # fmt: skip
    with pytest.raises(InvalidSignature):
        _their_verifier(key).verify(moved, body=body, require_components=COMPONENTS)


def test_hub_accepts_a_signature_made_by_an_independent_library(key: Ed25519PrivateKey) -> None:
    request = requests.Request("POST", "http://hub.test/v1/send?a=1", data=b"body").prepare()
    keys = MappingKeyResolver(public_keys={}, private_keys={"camera-1": key})
    HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys).sign(
        request,
        key_id="camera-1",
        created=datetime.datetime.fromtimestamp(1000, datetime.UTC),
        nonce=NONCE,
        label=LABEL,
        covered_component_ids=COMPONENTS,
        body=b"body",
    )
    headers = request.headers.get
    signed = SignedRequest("POST", "/v1/send", "a=1", b"body", headers("content-digest"), read_claim(headers))
    checker = ProofChecker(clock=lambda: 1000.0)
    assert asyncio.run(checker.check(signed, key.public_key().public_bytes_raw())) == "camera-1"


def test_content_digest_is_that_of_the_standard() -> None:
    # RFC 9530, appendix D: the digest of this body, as the RFC prints it.
    assert content_digest(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def _headers(**changes: str) -> dict[str, str]:
    params = signature_params(device_id="camera-1", created_s=1000, nonce=NONCE)
    return proof_headers(digest=content_digest(b""), params=params, signature=b"x" * 64) | changes


def test_claim_gives_back_what_was_put_into_the_headers() -> None:
    headers = _headers()
    claim = parse_claim(headers["signature-input"], headers["signature"])
    params = signature_params(device_id="camera-1", created_s=1000, nonce=NONCE)
    assert claim == Claim("camera-1", 1000, NONCE, params, b"x" * 64)


@pytest.mark.parametrize("created", [-5_000_000, 300_000_000_000])
def test_time_that_cannot_be_is_read_so_that_it_can_be_answered(created: int) -> None:
    headers = _headers()
    claim = parse_claim(headers["signature-input"].replace("1000", str(created)), headers["signature"])
    assert claim.created_s == created


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        'edgeloop=("@method");created=1000;nonce="nnnnnnnnnnnnnnnn";keyid="camera-1";alg="ed25519"',
        _headers()["signature-input"].replace("ed25519", "hmac-sha256"),
        _headers()["signature-input"].replace("edgeloop=", "other="),
        _headers()["signature-input"].replace("camera-1", "../camera"),
        _headers()["signature-input"].replace(NONCE, "short"),
        _headers()["signature-input"].replace("1000", "1.5"),
        _headers()["signature-input"].replace("1000", "1" * 16),
        _headers()["signature-input"] + ";expires=1",
    ],
)
def test_signature_input_of_another_profile_is_refused(wrong: str) -> None:
    with pytest.raises(Refused, match="not signed as edgeloop signs"):
        parse_claim(wrong, _headers()["signature"])


@pytest.mark.parametrize("wrong", ["", "edgeloop=::", "other=:AAAA:", "edgeloop=:" + "A" * 88 + ":", "edgeloop=:é:"])
def test_signature_of_another_form_is_refused(wrong: str) -> None:
    with pytest.raises(Refused, match="not signed as edgeloop signs"):
        parse_claim(_headers()["signature-input"], wrong)


@pytest.mark.parametrize("missing", ["signature-input", "signature"])
def test_unsigned_request_is_refused(missing: str) -> None:
    headers = _headers()
    del headers[missing]
    with pytest.raises(Refused, match="not signed as edgeloop signs"):
        parse_claim(headers.get("signature-input"), headers.get("signature"))
