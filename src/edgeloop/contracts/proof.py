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

_COMPONENTS = '("@method" "@path" "@query" "content-digest")'
_FIELDS = {
    # Any integer that RFC 8941 allows: whose clock is wrong, however wrong, is to be told the time.
    "created": re.compile(r"-?[0-9]{1,15}"),
    "nonce": re.compile(r'"[A-Za-z0-9_-]{16,64}"'),
    "keyid": re.compile(r'"[a-z0-9-]{1,63}"'),
    "alg": re.compile(r'"ed25519"'),
}
_SIGNATURE = re.compile(r"^edgeloop=:(?P<signature>[A-Za-z0-9+/]{86}==):\Z")


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
    return f'{_COMPONENTS};created={created_s};nonce="{nonce}";keyid="{device_id}";alg="ed25519"'


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
    params = (signature_input or "").removeprefix(f"{LABEL}=")
    fields = _fields(params)
    sealed = _SIGNATURE.match(signature or "")
    if fields is None or sealed is None or params == signature_input:
        raise Refused(
            "the request is not signed as edgeloop signs; expected the headers Signature-Input and Signature "
            "with label 'edgeloop' (docs/wire.md). Use an enrolled device's key."
        )
    return Claim(
        device_id=fields["keyid"],
        created_s=int(fields["created"]),
        nonce=fields["nonce"],
        params=params,
        signature=base64.b64decode(sealed["signature"]),
    )


def _fields(params: str) -> dict[str, str] | None:
    """The four parameters, in whatever order they come; None if they are not exactly these, well-formed."""
    components, *pairs = params.split(";")
    fields = dict(pair.partition("=")[::2] for pair in pairs)
    if components != _COMPONENTS or len(pairs) != len(_FIELDS) or fields.keys() != _FIELDS.keys():
        return None
    if not all(pattern.fullmatch(fields[name]) for name, pattern in _FIELDS.items()):
        return None
    return {name: value.strip('"') for name, value in fields.items()}
