"""Join tokens: a secret that admits a device, and a fingerprint by which the device knows the right cloud.

The token is handed over by a person, out of band; so the roots of trust that enrolment brings are not taken on
faith: their fingerprint must be the token's. Where the cloud has a private certificate authority the token carries its
certificate, too, so that the first connection is verified like all others, and nobody copies files.
"""

import base64
import hashlib
import hmac
import re
import textwrap

import msgspec

from edgeloop.contracts.errors import InvalidInput, Refused

_PLAIN = r"(?P<secret>[A-Za-z0-9_-]{43})\.(?P<fingerprint>[0-9a-f]{32})"
_FORMS = (re.compile(rf"el1\.{_PLAIN}"), re.compile(rf"el2\.{_PLAIN}\.(?P<ca>[A-Za-z0-9_-]{{100,4000}})"))


class Join(msgspec.Struct, frozen=True):
    """A parsed token. secret: 256 bits, base64url. ca: a private authority's certificate (DER), if there is one."""

    secret: str
    fingerprint: str
    ca: bytes = b""

    def __str__(self) -> str:
        """The token as a person copies it."""
        if not self.ca:
            return f"el1.{self.secret}.{self.fingerprint}"
        return f"el2.{self.secret}.{self.fingerprint}.{base64.urlsafe_b64encode(self.ca).decode().rstrip('=')}"

    @property
    def ca_pem(self) -> str:
        """The authority's certificate as a PEM file holds it. Source: RFC 7468, section 5."""
        body = "\n".join(textwrap.wrap(base64.b64encode(self.ca).decode(), 64))
        return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"

    def check_roots(self, images_root: bytes, director_root: bytes) -> None:
        """Raise Refused unless these are the roots that the token was made for."""
        got = roots_fingerprint(images_root, director_root)
        if not hmac.compare_digest(got, self.fingerprint):
            raise Refused(
                f"the server's roots of trust have the fingerprint {got}, the join token says {self.fingerprint}: "
                "this is not the cloud that made the token. Check the address, or get a new token."
            )


def parse_join_token(text: str) -> Join:
    """Read a token. Raises InvalidInput if it is none."""
    found = next((found for form in _FORMS if (found := form.fullmatch(text.strip()))), None)
    if found is None:
        raise InvalidInput(
            f"this is no join token (it has {len(text.strip())} characters); expected el1.SECRET.FINGERPRINT or "
            "el2.SECRET.FINGERPRINT.AUTHORITY as 'edgeloop fleet token' prints it"
        )
    ca = found.groupdict().get("ca") or ""
    try:
        return Join(found["secret"], found["fingerprint"], base64.urlsafe_b64decode(ca + "=" * (-len(ca) % 4)))
    except ValueError as error:
        raise InvalidInput("the join token's last part was cut or changed on the way; copy it again") from error


def roots_fingerprint(images_root: bytes, director_root: bytes) -> str:
    """128 bits in hex that stand for both roots of trust."""
    digests = hashlib.sha256(images_root).digest() + hashlib.sha256(director_root).digest()
    return hashlib.sha256(digests).hexdigest()[:32]


def fresh_statement(device_id: str, join_secret: str, public_key: bytes, made_at_ms: int) -> bytes:
    """The same as `enrol_statement` with the time, in milliseconds since 1970: it is good for minutes, and once."""
    said = (b"edgeloop enrol 2", device_id.encode(), secret_hash(join_secret).encode(), str(made_at_ms).encode())
    return b"\n".join((*said, public_key))


def enrol_statement(device_id: str, join_secret: str, public_key: bytes) -> bytes:
    """What a device signs to show that the key it enrols is its own, whoever carries the request. It does not say
    when: whoever carried it once could show it again, so it lets in devices that are new, and moves nobody.
    """
    return b"\n".join((b"edgeloop enrol 1", device_id.encode(), secret_hash(join_secret).encode(), public_key))


def secret_hash(secret: str) -> str:
    """What a cloud keeps of a secret: SHA-256 is enough, the secret is random and long."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_id(hashed: str) -> str:
    """What people call a join token without knowing its secret: the first letters of its `secret_hash`."""
    return hashed[:12]
