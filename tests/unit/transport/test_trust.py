import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import TargetFile

from edgeloop.bundle.archive import digest
from edgeloop.cloud.repository import Director, Images, make_root, make_targets, parse_metadata_name
from edgeloop.contracts.errors import EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Assignment, WatchBounds
from edgeloop.contracts.names import BundleRef, manifest_target
from edgeloop.transport.trust import Trust, require_not_older

DAY_S = 86_400.0
NOW_S = float(int(time.time()))
REF = BundleRef("tiny", "1.0.0")
MANIFEST = b'{"name": "tiny"}'
TARGET = manifest_target(REF)


def _key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


ROOT, TARGETS, ONLINE, DIRECTOR, THIEF = (_key(seed) for seed in range(1, 6))
IMAGES_ROOT = make_root(
    root_key=ROOT, keys={"targets": TARGETS, "snapshot": ONLINE, "timestamp": ONLINE}, now_s=NOW_S - 30 * DAY_S
)
DIRECTOR_ROOT = make_root(
    root_key=ROOT, keys=dict.fromkeys(("targets", "snapshot", "timestamp"), DIRECTOR), now_s=NOW_S - 30 * DAY_S
)


def _assignment(*, manifest: bytes = MANIFEST, ref: BundleRef = REF, generation: int = 1) -> Assignment:
    return Assignment(
        generation=generation,
        rollout_id="r1",
        bundle=str(ref),
        manifest_sha256=digest(manifest),
        watch=WatchBounds(max_disagreement=0.25, deadline_s=12.5),
    )


class Cloud:
    """Serves both repositories as the real cloud does, from what it is told is published and assigned."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self.since_s = NOW_S
        self.published = {TARGET: MANIFEST}
        self.version = 2
        self.targets_key = TARGETS
        self.director_key = DIRECTOR
        self.assignment: Assignment | None = _assignment()
        self.generation = 1
        self.fetched: list[str] = []
        self.tamper: Callable[[str, bytes], bytes] = lambda path, data: data

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """trust.Fetch over this cloud."""
        self.fetched.append(path)
        data = self.tamper(path, self._metadata(path))
        assert len(data) <= max_bytes
        return data

    def _metadata(self, path: str) -> bytes:
        where, _, file = path.rpartition("/metadata/")
        name = parse_metadata_name(file)
        if where == "images":
            files = {p: TargetFile.from_data(p, d, ["sha256"]) for p, d in self.published.items()}
            targets = make_targets(files, version=self.version, key=self.targets_key, now_s=self.since_s)
            images = Images(root=IMAGES_ROOT, online_key=ONLINE)
            return images.metadata(name, targets=targets, published_at_s=self.since_s, now_s=self.now_s)
        if where != "director/camera-1":
            raise NotFound(f"there is no {path}")
        director = Director(root=DIRECTOR_ROOT, online_key=self.director_key)
        return director.metadata(
            name,
            generation=self.generation,
            assignment=self.assignment,
            assigned_at_s=self.since_s,
            now_s=self.now_s,
        )


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def trust(cloud: Cloud, tmp_path: Path) -> Trust:
    return _trust(cloud, tmp_path)


def _trust(cloud: Cloud, folder: Path) -> Trust:
    return Trust(folder, images_root=IMAGES_ROOT, director_root=DIRECTOR_ROOT, fetch=cloud.fetch)


def test_signed_assignment_is_believed(trust: Trust) -> None:
    assert trust.assignment("camera-1") == _assignment()


def test_no_assignment_is_none(cloud: Cloud, trust: Trust) -> None:
    cloud.assignment = None
    assert trust.assignment("camera-1") is None


def test_newer_assignment_follows(cloud: Cloud, trust: Trust) -> None:
    trust.assignment("camera-1")
    cloud.published["bundles/tiny/1.1.0/manifest.json"] = b"newer"
    cloud.version += 1
    cloud.generation += 1
    cloud.assignment = _assignment(manifest=b"newer", ref=BundleRef("tiny", "1.1.0"), generation=2)
    assert trust.assignment("camera-1") == cloud.assignment


def test_image_states_size_and_hash(trust: Trust) -> None:
    found = trust.image(TARGET)
    assert (found.length, found.hashes["sha256"]) == (len(MANIFEST), digest(MANIFEST))


def test_images_metadata_is_refreshed_once_for_many_files(cloud: Cloud, trust: Trust) -> None:
    trust.assignment("camera-1")
    before = len(cloud.fetched)
    for _ in range(5):
        trust.image(TARGET)
    assert len(cloud.fetched) == before


def test_what_was_never_signed_does_not_exist(trust: Trust) -> None:
    with pytest.raises(Refused, match="never signed files/beef"):
        trust.image("files/beef")


def test_assignment_to_what_was_never_published_is_refused(cloud: Cloud, trust: Trust) -> None:
    cloud.published = {}
    with pytest.raises(Refused, match="never signed"):
        trust.assignment("camera-1")


def test_repositories_that_disagree_on_the_manifest_are_refused(cloud: Cloud, trust: Trust) -> None:
    cloud.assignment = _assignment(manifest=b"another manifest")
    with pytest.raises(Refused, match=digest(b"another manifest")[:12]):
        trust.assignment("camera-1")


def test_stolen_director_key_is_needed_to_assign(cloud: Cloud, trust: Trust) -> None:
    cloud.director_key = THIEF
    with pytest.raises(Refused, match="director metadata does not hold"):
        trust.assignment("camera-1")


def test_server_cannot_invent_a_model(cloud: Cloud, trust: Trust) -> None:
    cloud.targets_key = THIEF
    with pytest.raises(Refused, match="images metadata does not hold"):
        trust.assignment("camera-1")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("repository", ["images", "director/camera-1"])
def test_metadata_changed_on_its_way_is_refused(cloud: Cloud, trust: Trust, repository: str, role: str) -> None:
    def tamper(path: str, data: bytes) -> bytes:
        if not (path.startswith(repository) and f"{role}.json" in path):
            return data
        document = json.loads(data)
        document["signed"]["expires"] = "2099-01-01T00:00:00Z"
        return json.dumps(document).encode()

    cloud.tamper = tamper
    with pytest.raises(Refused):
        trust.assignment("camera-1")


def test_metadata_that_is_no_metadata_is_refused(cloud: Cloud, trust: Trust) -> None:
    cloud.tamper = lambda path, data: b"<html>a captive portal</html>"
    with pytest.raises(EdgeloopError):
        trust.assignment("camera-1")


def test_nothing_is_kept_of_tampered_metadata(cloud: Cloud, trust: Trust) -> None:
    honest, cloud.targets_key = cloud.targets_key, THIEF
    with pytest.raises(Refused):
        trust.assignment("camera-1")
    cloud.targets_key = honest
    assert trust.assignment("camera-1") == _assignment()


def test_older_metadata_than_was_seen_is_refused(cloud: Cloud, trust: Trust) -> None:
    cloud.generation = 5
    trust.assignment("camera-1")
    cloud.generation = 4
    with pytest.raises(Refused, match="director"):
        trust.assignment("camera-1")


def test_older_metadata_is_refused_after_a_restart_too(cloud: Cloud, tmp_path: Path) -> None:
    cloud.generation = 5
    _trust(cloud, tmp_path).assignment("camera-1")
    cloud.generation = 4
    with pytest.raises(Refused, match="director"):
        _trust(cloud, tmp_path).assignment("camera-1")


def test_published_bundles_cannot_be_taken_back(cloud: Cloud, trust: Trust) -> None:
    cloud.version = 7
    trust.assignment("camera-1")
    cloud.version = 6
    with pytest.raises(Refused, match="images"):
        trust.assignment("camera-1")


def test_frozen_metadata_expires(cloud: Cloud, trust: Trust) -> None:
    cloud.since_s = cloud.now_s = NOW_S - 20 * DAY_S
    with pytest.raises(Refused, match=r"expired.*sign it anew"):
        trust.assignment("camera-1")


def test_assignment_made_long_ago_holds_while_the_cloud_lives(cloud: Cloud, trust: Trust) -> None:
    cloud.since_s = NOW_S - 20 * DAY_S
    assert trust.assignment("camera-1") == _assignment()


def test_hub_that_is_away_is_unavailable(cloud: Cloud, tmp_path: Path) -> None:
    def away(path: str, max_bytes: int) -> bytes:
        raise Unavailable("the hub is away")

    trust = Trust(tmp_path, images_root=IMAGES_ROOT, director_root=DIRECTOR_ROOT, fetch=away)
    with pytest.raises(Unavailable, match="the hub is away"):
        trust.assignment("camera-1")


def test_other_device_has_no_metadata_here(trust: Trust) -> None:
    with pytest.raises(EdgeloopError):
        trust.assignment("camera-2")


@pytest.mark.parametrize("seen", [b"", b"{", b"[]", b"{}"])
def test_damaged_local_metadata_is_fetched_anew(cloud: Cloud, tmp_path: Path, seen: bytes) -> None:
    _trust(cloud, tmp_path).assignment("camera-1")
    for path in tmp_path.rglob("timestamp.json"):
        path.write_bytes(seen)
    assert _trust(cloud, tmp_path).assignment("camera-1") == _assignment()


# ---- the floor


@pytest.mark.parametrize(
    ("ref", "floor"),
    [("tiny@1.0.0", None), ("tiny@1.0.0", "tiny@1.0.0"), ("tiny@1.10.0", "tiny@1.9.0"), ("other@0.1.0", "tiny@1.0.0")],
)
def test_version_at_or_above_the_floor_passes(ref: str, floor: str | None) -> None:
    require_not_older(BundleRef.parse(ref), BundleRef.parse(floor) if floor else None)


@pytest.mark.parametrize(("ref", "floor"), [("tiny@0.9.9", "tiny@1.0.0"), ("tiny@1.9.0", "tiny@1.10.0")])
def test_version_below_the_floor_is_refused(ref: str, floor: str) -> None:
    with pytest.raises(Refused, match=rf"{ref} is older than {floor}.*newer version"):
        require_not_older(BundleRef.parse(ref), BundleRef.parse(floor))
