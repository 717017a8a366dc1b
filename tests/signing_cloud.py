"""A cloud's trust without the rest of it: both repositories as the real cloud makes them, from keys that a test holds.

Everything about it can be set between two questions of a device: what is published and assigned, the time, the keys.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Root, TargetFile

from edgeloop.bundle.archive import digest
from edgeloop.cloud.repository import (
    Given,
    director_metadata,
    images_metadata,
    newer_director,
    newer_images,
    parse_metadata_name,
)
from edgeloop.cloud.store.registry import SignedTargets
from edgeloop.cloud.store.roots import SignedRoot
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import Assignment, TrustReply, TrustRequest, WatchBounds
from edgeloop.contracts.names import BundleRef, manifest_target
from edgeloop.hub.together import IMAGES, Together, device_of
from edgeloop.transport.signing import make_root, make_targets, next_root, public_key

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
NOW_S = float(int(time.time()))
REF = BundleRef("tiny", "1.0.0")
MANIFEST = b'{"name": "tiny"}'
TARGET = manifest_target(REF)
CAMERA = "camera-1"


def key(seed: int) -> Ed25519PrivateKey:
    """A key, the same each time."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


ROOT, TARGETS, ONLINE, DIRECTOR, THIEF = (key(seed) for seed in range(1, 6))
IMAGES_ROLES = {"targets": TARGETS, "snapshot": ONLINE, "timestamp": ONLINE}
DIRECTOR_ROLES = dict.fromkeys(("targets", "snapshot", "timestamp"), DIRECTOR)
FOUNDED_S = NOW_S - 30 * DAY_S
IMAGES_ROOT = make_root("images", root_key=ROOT, keys=IMAGES_ROLES, now_s=FOUNDED_S)
DIRECTOR_ROOT = make_root("director", root_key=ROOT, keys=DIRECTOR_ROLES, now_s=FOUNDED_S)


def an_assignment(*, manifest: bytes = MANIFEST, ref: BundleRef = REF, generation: int = 1) -> Assignment:
    """What a device may be told to run."""
    return Assignment(
        generation=generation,
        rollout_id="r1",
        bundle=str(ref),
        manifest_sha256=digest(manifest),
        watch=WatchBounds(max_disagreement=0.25, deadline_s=12.5),
    )


class SigningCloud:
    """Serves both repositories as the real cloud does, from what it is told is published and assigned.

    stolen: keys that sign in place of those that a root names, by repository. tamper: what a mirror makes of a file.
    slipped: files that it adds, or
    has in place of the cloud's. together: whether devices are to ask for many files in one answer.
    """

    def __init__(self, *, together: bool = False) -> None:
        self.together = together
        self.now_s = NOW_S
        self.since_s = NOW_S
        self.published = {TARGET: MANIFEST}
        self.version = 2
        self.floor = 0
        self.targets_keys = [TARGETS]
        self.keys = {public_key(one).keyid: one for one in (ONLINE, DIRECTOR)}
        self.stolen: dict[str, Ed25519PrivateKey] = {}
        self.roots = {
            "images": [SignedRoot(1, IMAGES_ROOT, FOUNDED_S)],
            "director": [SignedRoot(1, DIRECTOR_ROOT, FOUNDED_S)],
        }
        self.assigned: dict[str, tuple[int, Assignment | None]] = {}
        self.assign(an_assignment())
        self.fetched: list[str] = []
        self.slipped: dict[str, bytes] = {}
        self.tamper: Callable[[str, bytes], bytes] = lambda path, data: data

    def assign(self, assignment: Assignment | None, *, device: str = CAMERA, generation: int = 1) -> None:
        """Tell a device what to run."""
        self.assigned[device] = (generation, assignment)

    def rotate(self, repository: str, change: Callable[[Root], None], *keys: Ed25519PrivateKey) -> None:
        """The next root of a repository, signed by these keys or by the first root key."""
        known = self.roots[repository]
        root = next_root(known[-1].metadata, repository, keys=keys or (ROOT,), change=change, now_s=self.now_s)
        known.append(SignedRoot(len(known) + 1, root, self.now_s))

    def hold(self, *keys: Ed25519PrivateKey) -> None:
        """Online keys that this cloud has."""
        self.keys |= {public_key(one).keyid: one for one in keys}

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """trust.Fetch over this cloud and a mirror before it."""
        self.fetched.append(path)
        data = self.slipped.get(path) or self.tamper(path, self.serve(path))
        assert len(data) <= max_bytes
        return data

    def fetch_all(self, request: TrustRequest) -> TrustReply:
        """trust.FetchAll over this cloud and that mirror."""
        self.fetched.append("trust")
        answer = Together()
        for place, held in request.held.items():
            if place == IMAGES:
                answer.add(place, newer_images(held, **self._images()))
            elif device_of(place) in self.assigned:
                answer.add(place, newer_director(held, **self._director(device_of(place))))
        reply = answer.reply()
        metadata = {path: self.tamper(path, data) for path, data in reply.metadata.items()}
        return msgspec.structs.replace(reply, metadata=metadata | self.slipped)

    def serve(self, path: str) -> bytes:
        """What the cloud itself answers. Raises NotFound."""
        where, _, file = path.rpartition("/metadata/")
        name = parse_metadata_name(file)
        if where == IMAGES:
            return images_metadata(name, **self._images())
        device = where.removeprefix("director/")
        if device not in self.assigned:
            raise NotFound(f"there is no {path}")
        return director_metadata(name, **self._director(device))

    def _images(self) -> dict[str, Any]:
        files = {p: TargetFile.from_data(p, d, ["sha256"]) for p, d in self.published.items()}
        targets = make_targets(files, version=self.version, keys=self.targets_keys, now_s=self.since_s)
        return {
            "roots": tuple(self.roots["images"]),
            "targets": SignedTargets(self.version, targets, self.since_s, self.floor),
            "find_key": lambda one: self.stolen.get("images") or self.keys[one],
            "now_s": self.now_s,
        }

    def _director(self, device: str) -> dict[str, Any]:
        return {
            "roots": tuple(self.roots["director"]),
            "given": Given(device, *self.assigned[device], self.since_s, self.floor),
            "find_key": lambda one: self.stolen.get("director") or self.keys[one],
            "now_s": self.now_s,
        }
