"""Samples under lock: AES-256-GCM with keys that lie outside the database.

A sealed value is MAGIC, 4 bytes that name the key (the head of its SHA-256), a nonce of 12 random bytes, and what
AES-GCM makes of it. So each value says which key opens it: after a rotation new values are sealed with the new key, and
old ones still open for as long as the old key is listed. Neighbours: `outbox` seals the samples on a device's or node's
disk, the cloud those in its bucket.
"""

import base64
import binascii
import hashlib
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable

MAGIC = b"\xc1els1"
"""0xc1 begins no MessagePack value, so nothing unsealed looks like this."""

_KEY_BYTES = 32
_ID_BYTES = 4
_NONCE_BYTES = 12
_HEAD_BYTES = len(MAGIC) + _ID_BYTES + _NONCE_BYTES
_COMMAND_TIMEOUT_S = 30.0
_FORM = "32 random bytes in base64, one key a line, the newest first"


class Keyring:
    """Keys of one place. The first one seals; all of them open. Safe to use from many threads.

    >>> ring = Keyring((bytes(32),))
    >>> ring.open(ring.seal(b"pixels", context=b"c"), context=b"c")
    b'pixels'
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise InvalidInput(f"{len(keys)} sample keys, not all of {_KEY_BYTES} bytes; expected {_FORM}")
        self._current = key_id(keys[0])
        self._keys = {key_id(key): AESGCM(key) for key in keys}

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids in hex, the one that seals first."""
        return tuple(one.hex() for one in self._keys)

    def seal(self, data: bytes, *, context: bytes) -> bytes:
        """Data that opens with this key and the same context only; 37 bytes longer."""
        nonce = os.urandom(_NONCE_BYTES)
        head = MAGIC + self._current + nonce
        return head + self._keys[self._current].encrypt(nonce, data, head + context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """What was sealed. Raises Unavailable without its key, Corrupt if it was changed."""
        named = sealed[len(MAGIC) : len(MAGIC) + _ID_BYTES]
        if named not in self._keys:
            raise Unavailable(
                f"this was sealed with the sample key {named.hex()}; here are {', '.join(self.ids)}. Bring that key "
                "back (--sample-key)."
            )
        head, body = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        try:
            return self._keys[named].decrypt(head[-_NONCE_BYTES:], body, head + context)
        except (InvalidTag, ValueError) as error:
            raise Corrupt(f"a sealed sample does not open with its key {named.hex()}: it was changed") from error


def is_sealed(data: bytes) -> bool:
    """Whether this is a sealed value."""
    return data.startswith(MAGIC)


def key_id(key: bytes) -> bytes:
    """What a sealed value calls its key: tells nothing of it."""
    return hashlib.sha256(b"edgeloop sample key" + key).digest()[:_ID_BYTES]


def open_keyring(source: str, environ: Mapping[str, str]) -> Keyring:
    """The keys that `source` names: a file, `env:NAME` or `command:PROGRAM ARGUMENTS`.

    A file must be its owner's alone (mode 0600). A command's words are split as a shell would, but no shell runs.
    Raises NotFound, InvalidInput, or Unavailable if the command fails.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "env":
        if rest not in environ:
            raise NotFound(f"the variable {rest} is not set; it should hold the sample keys, {_FORM}")
        return _parse(environ[rest], source)
    if colon and kind == "command":
        return _parse(_said(rest), source)
    return _parse(_read(Path(source)), source)


def make_keys(path: Path) -> Keyring:
    """A file with a first key. Raises InvalidInput if there is one."""
    if path.exists():
        raise InvalidInput(f"{path} is there already; 'edgeloop sample-key rotate' adds a key to it")
    write_durable(path, _line(os.urandom(_KEY_BYTES)), mode=0o600)
    return open_keyring(str(path), {})


def rotate_keys(path: Path, *, keep: int | None = None) -> Keyring:
    """Put a new key first. keep: how many older ones stay, all unless told; what a dropped key sealed is lost."""
    old = [line for line in _read(path).splitlines() if line.strip()]
    _parse("\n".join(old), str(path))
    kept = old if keep is None else old[:keep]
    write_durable(path, _line(os.urandom(_KEY_BYTES)) + "".join(f"{line}\n" for line in kept).encode(), mode=0o600)
    return open_keyring(str(path), {})


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise InvalidInput(f"others may read the sample keys in {path} (mode {mode:o}); chmod 600 {path}")
        return path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise NotFound(f"there are no sample keys at {path}; 'edgeloop sample-key make {path}' makes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the sample keys in {path}: {error}") from error


def _said(command: str) -> str:
    try:
        words = shlex.split(command)
        if not words:
            raise InvalidInput("command: names no program; write command:PROGRAM ARGUMENTS")
        done = subprocess.run(words, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False)  # noqa: S603 - the administrator's own command, without a shell
    except ValueError as error:
        raise InvalidInput(f"the sample key's command cannot be split into words: {error}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the sample key's command {words[0]!r} did not run: {error}") from error
    if done.returncode != 0:
        raise Unavailable(f"the sample key's command {words[0]!r} ended with {done.returncode}; run it by hand")
    return done.stdout.decode("ascii", errors="replace")


def _parse(text: str, source: str) -> Keyring:
    try:
        keys = tuple(base64.b64decode(line.strip(), validate=True) for line in text.splitlines() if line.strip())
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{source} holds something else than sample keys; expected {_FORM}") from error
    return Keyring(keys)


def _line(key: bytes) -> bytes:
    return base64.b64encode(key) + b"\n"
