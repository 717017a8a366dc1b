"""Roots and targets as TUF metadata, made and signed where the offline keys are.

Used where a cloud is founded, where a bundle is published and where keys are changed; the server itself only checks
what comes out (`cloud.trust`). Every root says which repository it is of: both have the same root keys, and a mirror
that handed out one for the other would lock its devices out (see `trust`).
Source: TUF specification 1.0, 4.3, 4.5, 6.1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgeloop.contracts.errors import Corrupt
from edgeloop.transport.identity import read_key

IMAGES = "images"
DIRECTOR = "director"
REPOSITORY = "repository"
"""The root's field that names its repository."""

ROOT_YEARS = 10
TARGETS_YEARS = 5
"""How long a root and signed targets hold. docs/trust.md says when they are warned of."""

_FAR = 1_000_000
_FURTHER = 1_000
_2020_S = 1_577_836_800.0
_2026_S = 1_767_225_600.0


def public_key(key: Ed25519PrivateKey) -> SSlibKey:
    """The key as TUF writes it."""
    return SSlibKey.from_crypto(key.public_key())


def read_public_key(path: Path) -> SSlibKey:
    """The public key in a PEM file, which may hold the private one. Raises NotFound or Corrupt."""
    if path.is_file() and b"PUBLIC KEY" in (data := path.read_bytes()):
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise Corrupt(f"{path} is no public key in PEM form: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise Corrupt(f"{path} holds a {type(key).__name__}; expected an Ed25519 public key")
        return SSlibKey.from_crypto(key)
    return public_key(read_key(path))


def make_root(
    repository: str, *, root_key: Ed25519PrivateKey, keys: Mapping[str, Ed25519PrivateKey], now_s: float
) -> bytes:
    """Version 1 of a repository's root, signed. keys: targets, snapshot and timestamp key."""
    root = Root(version=1, expires=_after_years(ROOT_YEARS, now_s), consistent_snapshot=True)
    root.unrecognized_fields[REPOSITORY] = repository
    for role, key in {"root": root_key, **keys}.items():
        root.add_key(public_key(key), role)
    return sign(Metadata(root), [root_key])


def next_root(
    current: bytes, repository: str, *, keys: Iterable[Ed25519PrivateKey], change: Callable[[Root], None], now_s: float
) -> bytes:
    """The root after `current`, changed and good for another ROOT_YEARS, signed by these keys and no others."""
    root = Metadata[Root].from_bytes(current).signed
    root.version += 1
    root.expires = _after_years(ROOT_YEARS, now_s)
    root.unrecognized_fields[REPOSITORY] = repository
    change(root)
    return sign(Metadata(root), keys)


def make_targets(
    targets: dict[str, TargetFile], *, version: int, keys: Iterable[Ed25519PrivateKey], now_s: float
) -> bytes:
    """A targets role, good for TARGETS_YEARS, signed."""
    expires = _after_years(TARGETS_YEARS, now_s)
    return sign(Metadata(Targets(version=version, expires=expires, targets=targets)), keys)


def version_beyond(known: int, *, now_s: float) -> int:
    """A version beyond all that a cloud can have signed that was lost, where `known` is all that is left of it.

    The seconds since 2020: no cloud signs more often than that for long, so that a later restore is beyond an earlier
    one, also of the same backup. A thousand on where `known` is of this very hour, a million on where the clock cannot
    be right. It fits into 32 bits until 2088.
    """
    return known + _FAR if now_s < _2026_S else max(int(now_s - _2020_S), known + _FURTHER)


def next_targets(
    current: bytes,
    added: Mapping[str, bytes],
    *,
    keys: Sequence[Ed25519PrivateKey],
    now_s: float,
    version: int | None = None,
) -> bytes:
    """The targets after `current`, with these contents by path added, signed by these keys and no others.

    version: the next one unless told.
    """
    targets = Metadata[Targets].from_bytes(current).signed
    known = targets.targets | {path: TargetFile.from_data(path, data, ["sha256"]) for path, data in added.items()}
    return make_targets(known, version=version or targets.version + 1, keys=keys, now_s=now_s)


def add_signatures(data: bytes, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """The same metadata with more signatures."""
    return sign(Metadata.from_bytes(data), keys)


def sign(metadata: "Metadata[Root] | Metadata[Targets]", keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """The metadata as bytes, with these signatures added to those that it has."""
    for key in keys:
        metadata.sign(CryptoSigner(key), append=True)
    return bytes(metadata.to_bytes())


def _after_years(years: int, now_s: float) -> datetime:
    return datetime.fromtimestamp(int(now_s), UTC) + timedelta(days=365 * years)
