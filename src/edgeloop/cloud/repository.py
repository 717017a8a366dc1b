"""The cloud's side of trust: TUF metadata for what exists and for who runs what.

*images*: targets are signed wherever the targets key is kept and only checked here; snapshot and timestamp are
signed here. *director*: everything below its root is signed here, one small set of metadata a device, made when
it is asked for. All of it is a function of what is stored and of the day, so several replicas answer alike and
nothing signed needs storing: versions count publications (or generations) and roots, and timestamps the days since.
With each new root every version grows, so what an earlier key signed is nowhere mistaken for the newest; and with each
restore of a backup, so that what devices saw of the cloud that was lost is behind it.
Source: TUF specification 1.0; Uptane Standard 2.1, 5.3 (image and director repositories).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edgeloop.cloud.store.registry import SignedTargets
from edgeloop.cloud.store.roots import SignedRoot
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, NotFound, Refused
from edgeloop.contracts.messages import MAX_TARGETS_BYTES, Assignment, Held
from edgeloop.contracts.names import Name

_S = TypeVar("_S", Snapshot, Timestamp, Targets)

_TIMESTAMP_DAYS = 7
_DAYS_A_VERSION = 100_000
_DAY_S = 86_400

_METADATA = re.compile(r"(?:(?P<version>[1-9][0-9]{0,11})\.)?(?P<role>root|targets|snapshot|timestamp)\.json")

ASSIGNMENT = "assignment"
"""The director's one target for a device."""

DEVICE = "device"
"""The field of the director's metadata that names the device it is for."""

GENERATION = "generation"
"""The field of the director's metadata that says which of the device's assignments it is about."""

SIGNED_AT = "signed_at"
"""The timestamps' field that says since when, in whole days, this is the newest: the devices' floor of time."""

FindKey = Callable[[str], Ed25519PrivateKey]
"""A key id to the online key. Raises Unavailable if this server does not hold it."""


class MetadataName(msgspec.Struct, frozen=True):
    """A parsed metadata file name."""

    role: str
    version: int | None


class Given(msgspec.Struct, frozen=True):
    """What one device was told to run, as its generation-th assignment. floor: see store.restores.FLOOR."""

    device_id: Name
    generation: int
    assignment: Assignment | None
    assigned_at_s: float
    floor: int = 0


def parse_metadata_name(name: str) -> MetadataName:
    """Read "3.targets.json". Raises NotFound on any other name."""
    found = _METADATA.fullmatch(name)
    if found is None:
        raise NotFound(f"there is no metadata {name!r}")
    return MetadataName(found["role"], int(found["version"]) if found["version"] else None)


def check_targets(data: bytes, *, root: bytes, current: bytes, most: int | None = None) -> Targets:
    """Targets metadata from outside: signed by the root's targets keys, one version on, and nothing taken back.

    most: the highest version that may come, where it need not be the next one. Raises Refused, also if it is larger
    than devices take, or Corrupt.
    """
    if len(data) > MAX_TARGETS_BYTES:
        raise Refused(
            f"with this publication the list of all that is published would be {len(data):,} bytes large, and devices "
            f"take at most {MAX_TARGETS_BYTES:,}: none of them would take any update then. Nothing was published. What "
            "is published is never taken back: found another cloud ('edgeloop cloud init') for what comes next, and "
            "enrol the devices there."
        )
    try:
        metadata = Metadata[Targets].from_bytes(data)
        Metadata[Root].from_bytes(root).verify_delegate("targets", metadata)
    except DeserializationError as error:
        raise Corrupt(f"this is no TUF metadata: {error}") from error
    except (RepositoryError, ValueError) as error:
        raise Refused(
            f"the targets metadata is not signed by the targets key of this cloud: {error}. "
            "'edgeloop keys show' lists the keys that count."
        ) from error
    before, after = Metadata[Targets].from_bytes(current).signed, metadata.signed
    if not before.version < after.version <= max(most or 0, before.version + 1):
        raise Refused(
            f"the targets metadata has version {after.version}, the next one is {before.version + 1}: someone "
            "published in between. Publish again."
        )
    for path, target in before.targets.items():
        if path not in after.targets or after.targets[path].hashes != target.hashes:
            raise Refused(f"{path} was published and cannot be changed or taken back; publish a newer version")
    return after


def images_metadata(
    name: MetadataName, *, roots: tuple[SignedRoot, ...], targets: SignedTargets, find_key: FindKey, now_s: float
) -> bytes:
    """The named file of the images repository. roots: all of its roots. Raises NotFound or Unavailable."""
    if name.role == "root":
        return _root(roots, name)
    if name.role == "targets":
        return _versioned(targets.metadata, name, targets.version)
    return _images(roots, targets, find_key).metadata(name, targets_version=targets.version, now_s=now_s)


def newer_images(
    held: Held, *, roots: tuple[SignedRoot, ...], targets: SignedTargets, find_key: FindKey, now_s: float
) -> dict[str, bytes]:
    """All of the images repository that is not held, by file name. Raises Unavailable."""
    online = _images(roots, targets, find_key)
    found = online.newer(held, roots, targets_version=targets.version, now_s=now_s)
    return found if held.targets == targets.version else found | {f"{targets.version}.targets.json": targets.metadata}


def director_metadata(
    name: MetadataName, *, roots: tuple[SignedRoot, ...], given: Given, find_key: FindKey, now_s: float
) -> bytes:
    """The named file of the director for one device. roots: all of its roots. Raises NotFound or Unavailable."""
    if name.role == "root":
        return _root(roots, name)
    online = _director(roots, given, find_key)
    if name.role == "targets":
        return _versioned(online.assignment(given), name, online.version)
    return online.metadata(name, targets_version=online.version, now_s=now_s)


def newer_director(
    held: Held, *, roots: tuple[SignedRoot, ...], given: Given, find_key: FindKey, now_s: float
) -> dict[str, bytes]:
    """All of the director's metadata for one device that is not held, by file name. Raises Unavailable."""
    online = _director(roots, given, find_key)
    found = online.newer(held, roots, targets_version=online.version, now_s=now_s)
    if held.targets != online.version:
        found[f"{online.version}.targets.json"] = online.assignment(given)
    return found


def _images(roots: tuple[SignedRoot, ...], targets: SignedTargets, find_key: FindKey) -> "_Online":
    since_s = max(targets.published_at_s, roots[-1].added_at_s)
    return _Online(roots[-1], find_key, targets.version + targets.floor + roots[-1].version - 1, since_s, {})


def _director(roots: tuple[SignedRoot, ...], given: Given, find_key: FindKey) -> "_Online":
    version = given.generation + given.floor + roots[-1].version
    since_s = max(given.assigned_at_s, roots[-1].added_at_s)
    return _Online(roots[-1], find_key, version, since_s, {DEVICE: given.device_id, GENERATION: given.generation})


class _Online(msgspec.Struct, frozen=True):
    """What is signed here below a root. It expires with that root, timestamps sooner; named: fields that all bear."""

    root: SignedRoot
    find_key: FindKey
    version: int
    since_s: float
    named: dict[str, Any]

    @property
    def root_expires(self) -> datetime:
        return _parsed(self.root.metadata).expires

    def metadata(self, name: MetadataName, *, targets_version: int, now_s: float) -> bytes:
        """Snapshot or timestamp."""
        if name.role == "snapshot":
            if name.version != self.version:
                raise _no_version(name, self.version)
            return self.snapshot(targets_version)
        if name.version is not None:
            raise NotFound("timestamps have no versioned name")
        return self.timestamp(now_s)

    def newer(
        self, held: Held, roots: tuple[SignedRoot, ...], *, targets_version: int, now_s: float
    ) -> dict[str, bytes]:
        """Roots, snapshot and timestamp that are not held, by file name."""
        found = {f"{one.version}.root.json": one.metadata for one in roots if one.version > held.root}
        if held.timestamp != self.timestamp_version(now_s):
            found["timestamp.json"] = self.timestamp(now_s)
        if held.snapshot != self.version:
            found[f"{self.version}.snapshot.json"] = self.snapshot(targets_version)
        return found

    def snapshot(self, targets_version: int) -> bytes:
        """What names the newest targets."""
        meta = {"targets.json": MetaFile(targets_version)}
        return self.sign(Snapshot(version=self.version, expires=self.root_expires, meta=meta))

    def timestamp(self, now_s: float) -> bytes:
        """What names the newest snapshot, for today."""
        signed_at = _utc(self.since_s) + timedelta(days=self._days(now_s))
        timestamp = Timestamp(
            version=self.timestamp_version(now_s),
            expires=signed_at + timedelta(days=_TIMESTAMP_DAYS),
            snapshot_meta=MetaFile(self.version),
        )
        timestamp.unrecognized_fields[SIGNED_AT] = int(signed_at.timestamp())
        return self.sign(timestamp)

    def timestamp_version(self, now_s: float) -> int:
        """Of the one for today."""
        return self.version * _DAYS_A_VERSION + self._days(now_s)

    def _days(self, now_s: float) -> int:
        return max(0, int((now_s - self.since_s) // _DAY_S))

    def assignment(self, given: Given) -> bytes:
        """The director's targets: what the device is to run, or nothing."""
        targets = _assignment_target(given.assignment)
        return self.sign(Targets(version=self.version, expires=self.root_expires, targets=targets))

    def sign(self, signed: _S) -> bytes:
        """By the key that the root names for this role."""
        signed.unrecognized_fields.update(self.named)
        (key_id, *_) = _parsed(self.root.metadata).roles[signed.type].keyids
        metadata = Metadata(signed)
        metadata.sign(CryptoSigner(self.find_key(key_id)))
        return bytes(metadata.to_bytes())


def _assignment_target(assignment: Assignment | None) -> dict[str, TargetFile]:
    if assignment is None:
        return {}
    target = TargetFile.from_data(ASSIGNMENT, assignment.manifest_sha256.encode(), ["sha256"])
    # As text: TUF's canonical JSON knows no floats.
    target.unrecognized_fields["custom"] = {ASSIGNMENT: to_json(assignment).decode()}
    return {ASSIGNMENT: target}


@lru_cache(maxsize=16)
def _parsed(root: bytes) -> Root:
    return Metadata[Root].from_bytes(root).signed


def _root(roots: tuple[SignedRoot, ...], name: MetadataName) -> bytes:
    for one in roots:
        if one.version == name.version:
            return one.metadata
    return _versioned(roots[-1].metadata, name, roots[-1].version)


def _versioned(data: bytes, name: MetadataName, version: int) -> bytes:
    if name.version != version:
        raise _no_version(name, version)
    return data


def _no_version(name: MetadataName, version: int) -> NotFound:
    return NotFound(f"there is no version {name.version} of {name.role} metadata; the newest is {version}")


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
