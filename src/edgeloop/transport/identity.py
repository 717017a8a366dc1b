"""Who a device is: its own Ed25519 key, made on the device, and the signature on each request."""

import secrets
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Corrupt, NotFound
from edgeloop.contracts.proof import content_digest, proof_headers, signature_base, signature_params


class Identity:
    """A device's name and key."""

    def __init__(self, device_id: str, key: Ed25519PrivateKey) -> None:
        self.device_id = device_id
        self._key = key

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign_statement(self, statement: bytes) -> bytes:
        """64 raw bytes: this device's signature over a statement (contracts.join.enrol_statement)."""
        return self._key.sign(statement)

    def sign(self, request: httpx.Request, *, created_s: int) -> None:
        """Add the proof's headers to a request whose body is final. Source: RFC 9421, see contracts.proof."""
        path, _, query = request.url.raw_path.decode().partition("?")
        digest = content_digest(request.content)
        params = signature_params(device_id=self.device_id, created_s=created_s, nonce=secrets.token_urlsafe(16))
        base = signature_base(method=request.method, path=path, query=query, digest=digest, params=params)
        request.headers.update(proof_headers(digest=digest, params=params, signature=self._key.sign(base)))


def load_or_make_key(path: Path) -> Ed25519PrivateKey:
    """The key at `path`, made with mode 0600 if there is none. Raises Corrupt if the file holds something else."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_durable(path, private_pem(key), mode=0o600)
        return key
    return read_key(path)


def read_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key from a PEM file. Raises NotFound without the file, Corrupt if it is none."""
    if not path.is_file():
        raise NotFound(f"there is no private key at {path}; restore it from a backup, or enrol again in a new folder")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{path} is no private key in PEM form: {error}. Restore it from a backup.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Corrupt(f"{path} holds a {type(key).__name__}; expected an Ed25519 private key")
    return key


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """The key as unencrypted PKCS 8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
