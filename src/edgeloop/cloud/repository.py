"""The cloud's side of trust: TUF metadata for what exists and for who runs what.

*images*: targets are signed wherever the targets key is kept and only checked here; snapshot and timestamp are
signed here. *director*: everything below its root is signed here, one small set of metadata a device, made when
it is asked for. All of it is a function of what is stored and of the day, so several replicas answer alike and
nothing signed needs storing: versions count publications (or generations), and timestamps the days since.
Source: TUF specification 1.0; Uptane Standard 2.1, 5.3 (image and director repositories).
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, NotFound, Refused
from edgeloop.contracts.messages import Assignment

_TIMESTAMP_DAYS = 7
_ONLINE_YEARS = 5
_ROOT_YEARS = 10
_DAYS_A_VERSION = 100_000
_DAY_S = 86_400

_METADATA = re.compile(r"(?:(?P<version>[1-9][0-9]{0,11})\.)?(?P<role>root|targets|snapshot|timestamp)\.json")

ASSIGNMENT = "assignment"
"""The director's one target for a device."""


class MetadataName(msgspec.Struct, frozen=True):
    """A parsed metadata file name."""

    role: str
    version: int | None


def parse_metadata_name(name: str) -> MetadataName:
    """Read "3.targets.json". Raises NotFound on any other name."""
    found = _METADATA.fullmatch(name)
    if found is None:
        raise NotFound(f"there is no metadata {name!r}")
    return MetadataName(found["role"], int(found["version"]) if found["version"] else None)


def make_root(*, root_key: Ed25519PrivateKey, keys: dict[str, Ed25519PrivateKey], now_s: float) -> bytes:
    """Version 1 of a repository's root, signed. keys: targets, snapshot and timestamp key."""
    root = Root(version=1, expires=_utc(now_s) + timedelta(days=365 * _ROOT_YEARS), consistent_snapshot=True)
    for role, key in {"root": root_key, **keys}.items():
        root.add_key(public_key(key), role)
    metadata = Metadata(root)
    metadata.sign(CryptoSigner(root_key))
    return bytes(metadata.to_bytes())


def make_targets(targets: dict[str, TargetFile], *, version: int, key: Ed25519PrivateKey, now_s: float) -> bytes:
    """A targets role, signed."""
    expires = _utc(now_s) + timedelta(days=365 * _ONLINE_YEARS)
    metadata = Metadata(Targets(version=version, expires=expires, targets=targets))
    metadata.sign(CryptoSigner(key))
    return bytes(metadata.to_bytes())


def public_key(key: Ed25519PrivateKey) -> SSlibKey:
    """The key as TUF writes it."""
    return SSlibKey.from_crypto(key.public_key())


def check_targets(data: bytes, *, root: bytes, current: bytes) -> Targets:
    """Targets metadata from outside: signed by the root's targets key, one version on, and nothing taken back.

    Raises Refused or Corrupt.
    """
    try:
        metadata = Metadata[Targets].from_bytes(data)
        Metadata[Root].from_bytes(root).verify_delegate("targets", metadata)
    except DeserializationError as error:
        raise Corrupt(f"this is no TUF metadata: {error}") from error
    except (RepositoryError, ValueError) as error:
        raise Refused(f"the targets metadata is not signed by the targets key of this cloud: {error}") from error
    before, after = Metadata[Targets].from_bytes(current).signed, metadata.signed
    if after.version != before.version + 1:
        raise Refused(
            f"the targets metadata has version {after.version}, the next one is {before.version + 1}: someone "
            "published in between. Publish again."
        )
    for path, target in before.targets.items():
        if path not in after.targets or after.targets[path].hashes != target.hashes:
            raise Refused(f"{path} was published and cannot be changed or taken back; publish a newer version")
    return after


class Images:
    """Answers for the images repository's metadata."""

    def __init__(self, *, root: bytes, online_key: Ed25519PrivateKey) -> None:
        self.root = root
        self._online_key = online_key

    def metadata(self, name: MetadataName, *, targets: bytes, published_at_s: float, now_s: float) -> bytes:
        """The named file, given the newest signed targets. Raises NotFound."""
        if name.role == "root":
            return _root(self.root, name)
        version = Metadata.from_bytes(targets).signed.version
        if name.role == "targets":
            return _versioned(targets, name, version)
        return _online(name, self._online_key, version=version, since_s=published_at_s, now_s=now_s)


class Director:
    """Answers for the director's metadata of any device."""

    def __init__(self, *, root: bytes, online_key: Ed25519PrivateKey) -> None:
        self.root = root
        self._online_key = online_key

    def metadata(
        self, name: MetadataName, *, generation: int, assignment: Assignment | None, assigned_at_s: float, now_s: float
    ) -> bytes:
        """The named file for a device that was given `assignment` as its `generation`-th. Raises NotFound."""
        if name.role == "root":
            return _root(self.root, name)
        version = generation + 1
        if name.role == "targets":
            targets = _assignment_target(assignment)
            data = make_targets(targets, version=version, key=self._online_key, now_s=assigned_at_s)
            return _versioned(data, name, version)
        return _online(name, self._online_key, version=version, since_s=assigned_at_s, now_s=now_s)


def _assignment_target(assignment: Assignment | None) -> dict[str, TargetFile]:
    if assignment is None:
        return {}
    target = TargetFile.from_data(ASSIGNMENT, assignment.manifest_sha256.encode(), ["sha256"])
    # As text: TUF's canonical JSON knows no floats.
    target.unrecognized_fields["custom"] = {ASSIGNMENT: to_json(assignment).decode()}
    return {ASSIGNMENT: target}


def _online(name: MetadataName, key: Ed25519PrivateKey, *, version: int, since_s: float, now_s: float) -> bytes:
    """Snapshot or timestamp over targets `version`."""
    if name.role == "snapshot":
        expires = _utc(since_s) + timedelta(days=365 * _ONLINE_YEARS)
        snapshot = Metadata(Snapshot(version=version, expires=expires, meta={"targets.json": MetaFile(version)}))
        snapshot.sign(CryptoSigner(key))
        return _versioned(bytes(snapshot.to_bytes()), name, version)
    if name.version is not None:
        raise NotFound("timestamps have no versioned name")
    days = max(0, int((now_s - since_s) // _DAY_S))
    expires = _utc(since_s) + timedelta(days=days + _TIMESTAMP_DAYS)
    timestamp = Metadata(
        Timestamp(version=version * _DAYS_A_VERSION + days, expires=expires, snapshot_meta=MetaFile(version))
    )
    timestamp.sign(CryptoSigner(key))
    return bytes(timestamp.to_bytes())


def _root(data: bytes, name: MetadataName) -> bytes:
    return _versioned(data, name, 1)


def _versioned(data: bytes, name: MetadataName, version: int) -> bytes:
    if name.version != version:
        raise NotFound(f"there is no version {name.version} of {name.role} metadata; the newest is {version}")
    return data


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def read_roots(folder: Path) -> tuple[bytes, bytes]:
    """Images and director root of a founded cloud. Raises NotFound."""
    try:
        return (folder / "images.root.json").read_bytes(), (folder / "director.root.json").read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no cloud in {folder.parent}: {error.filename} is missing. Make one with 'edgeloop cloud init'."
        ) from error
