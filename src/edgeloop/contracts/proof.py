"""How a device proves a request: the exact bytes that it signs.

A fixed profile of HTTP Message Signatures (RFC 9421) with Content-Digest (RFC 9530): components "@method",
"@path", "@query" and "content-digest"; parameters created, nonce, keyid and alg="ed25519"; label "edgeloop".
So any conforming library can make or check one. Pure: keys and clocks stay with `transport.identity` and
`hub.proof`.
"""

import base64
import hashlib
import re

import msgspec

from edgeloop.contracts.errors import Refused

LABEL = "edgeloop"
MAX_AGE_S = 300
"""A signature is good for this long, and a nonce is remembered for as long."""

_PARAMS = re.compile(
    r'^edgeloop=(?P<params>\("@method" "@path" "@query" "content-digest"\)'
    r';created=(?P<created>[0-9]{1,11});nonce="(?P<nonce>[A-Za-z0-9_-]{16,64})"'
    r';keyid="(?P<keyid>[a-z0-9-]{1,63})";alg="ed25519")$'
)
_SIGNATURE = re.compile(r"^edgeloop=:(?P<signature>[A-Za-z0-9+/]{86}==):$")


class Claim(msgspec.Struct, frozen=True):
    """What a signed request claims, before anyone has checked the signature."""

    device_id: str
    created_s: int
    nonce: str
    params: str
    signature: bytes


def content_digest(body: bytes) -> str:
    """The Content-Digest header's value. Source: RFC 9530, section 2."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def signature_params(*, device_id: str, created_s: int, nonce: str) -> str:
    """The signature parameters. Source: RFC 9421, section 2.3."""
    return (
        f'("@method" "@path" "@query" "content-digest");created={created_s};nonce="{nonce}"'
        f';keyid="{device_id}";alg="ed25519"'
    )


def signature_base(*, method: str, path: str, query: str, digest: str, params: str) -> bytes:
    """The bytes to sign. path and query as sent, percent-encoded; query without its "?".

    Source: RFC 9421, section 2.5.
    """
    lines = (
        f'"@method": {method.upper()}',
        f'"@path": {path}',
        f'"@query": ?{query}',
        f'"content-digest": {digest}',
        f'"@signature-params": {params}',
    )
    return "\n".join(lines).encode()


def proof_headers(*, digest: str, params: str, signature: bytes) -> dict[str, str]:
    """The three headers that carry a proof."""
    return {
        "content-digest": digest,
        "signature-input": f"{LABEL}={params}",
        "signature": f"{LABEL}=:{base64.b64encode(signature).decode()}:",
    }


def parse_claim(signature_input: str | None, signature: str | None) -> Claim:
    """Read the headers of a signed request. Raises Refused when they are missing or of another profile."""
    params = _PARAMS.match(signature_input or "")
    sealed = _SIGNATURE.match(signature or "")
    if params is None or sealed is None:
        raise Refused(
            "the request is not signed as edgeloop signs; expected the headers Signature-Input and Signature "
            "with label 'edgeloop' (docs/wire.md). Use an enrolled device's key."
        )
    return Claim(
        device_id=params["keyid"],
        created_s=int(params["created"]),
        nonce=params["nonce"],
        params=params["params"],
        signature=base64.b64decode(sealed["signature"]),
    )
