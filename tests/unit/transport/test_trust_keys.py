"""Rotation, revocation, thresholds and time, as a device lives through them."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, MetaFile, Root, Timestamp

from edgeloop.contracts.errors import EdgeloopError, Refused
from edgeloop.transport.signing import public_key, sign
from edgeloop.transport.trust import Trust
from signing_cloud import (
    CAMERA,
    DAY_S,
    DIRECTOR,
    DIRECTOR_ROOT,
    IMAGES_ROOT,
    NOW_S,
    ONLINE,
    ROOT,
    TARGETS,
    THIEF,
    YEAR_S,
    SigningCloud,
    an_assignment,
    key,
)

NEW, SECOND, THIRD = key(11), key(12), key(13)
NEW_ROOT = key(14)


class Device:
    """A device whose clock a test sets; its folder is its disk."""

    def __init__(self, cloud: SigningCloud, folder: Path) -> None:
        self._cloud = cloud
        self.folder = folder
        self.now_s = NOW_S

    def ask(self) -> object:
        """What it is to run, after a restart."""
        trust = Trust(
            self.folder,
            images_root=IMAGES_ROOT,
            director_root=DIRECTOR_ROOT,
            fetch=self._cloud.fetch,
            fetch_all=self._cloud.fetch_all if self._cloud.together else None,
            clock=lambda: self.now_s,
        )
        return trust.assignment(CAMERA)


@pytest.fixture(params=[True, False], ids=["in one answer", "one by one"])
def cloud(request: pytest.FixtureRequest) -> SigningCloud:
    return SigningCloud(together=request.param)


@pytest.fixture
def device(cloud: SigningCloud, tmp_path: Path) -> Device:
    return Device(cloud, tmp_path / "trust")


def _replace(role: str, old: Ed25519PrivateKey, new: Ed25519PrivateKey):  # type: ignore[no-untyped-def]
    def change(root: Root) -> None:
        root.revoke_key(public_key(old).keyid, role)
        root.add_key(public_key(new), role)

    return change


def _rotate_targets(cloud: SigningCloud) -> None:
    cloud.rotate("images", _replace("targets", TARGETS, NEW))
    cloud.targets_keys = [NEW]
    cloud.version += 1


def _rotate_online(cloud: SigningCloud) -> None:
    def images(root: Root) -> None:
        for role in ("snapshot", "timestamp"):
            _replace(role, ONLINE, SECOND)(root)

    def director(root: Root) -> None:
        for role in ("targets", "snapshot", "timestamp"):
            _replace(role, DIRECTOR, THIRD)(root)

    cloud.rotate("images", images)
    cloud.rotate("director", director)
    cloud.hold(SECOND, THIRD)


def _rotate_root(cloud: SigningCloud) -> None:
    for repository in ("images", "director"):
        cloud.rotate(repository, _replace("root", ROOT, NEW_ROOT), ROOT, NEW_ROOT)


# ---- rotation


@pytest.mark.parametrize("rotate", [_rotate_targets, _rotate_online, _rotate_root])
@pytest.mark.parametrize("known", [True, False], ids=["known device", "new device"])
def test_device_follows_a_rotation(cloud: SigningCloud, device: Device, rotate, known: bool) -> None:  # type: ignore[no-untyped-def]
    if known:
        device.ask()
    rotate(cloud)
    assert device.ask() == an_assignment()


def test_device_follows_many_rotations_at_once(cloud: SigningCloud, device: Device) -> None:
    device.ask()
    for rotate in (_rotate_targets, _rotate_online, _rotate_root):
        rotate(cloud)
    assert device.ask() == an_assignment()


def test_revoked_targets_key_signs_nothing_any_more(cloud: SigningCloud, device: Device) -> None:
    _rotate_targets(cloud)
    cloud.targets_keys = [TARGETS]
    with pytest.raises(Refused, match="images metadata does not hold"):
        device.ask()


@pytest.mark.parametrize(("repository", "old"), [("images", ONLINE), ("director", DIRECTOR)])
def test_revoked_online_key_signs_nothing_any_more(
    cloud: SigningCloud, device: Device, repository: str, old: Ed25519PrivateKey
) -> None:
    _rotate_online(cloud)
    cloud.stolen[repository] = old
    with pytest.raises(Refused, match=f"{repository} metadata does not hold"):
        device.ask()


def test_revoked_root_key_can_make_no_further_root(cloud: SigningCloud, device: Device) -> None:
    _rotate_root(cloud)
    cloud.rotate("images", lambda root: None, ROOT)
    with pytest.raises(Refused, match="images metadata does not hold"):
        device.ask()


def test_new_root_key_alone_makes_no_root(cloud: SigningCloud, device: Device) -> None:
    cloud.rotate("images", _replace("root", ROOT, THIEF), THIEF)
    with pytest.raises(Refused, match="images metadata does not hold"):
        device.ask()


def test_metadata_names_change_with_the_online_key(cloud: SigningCloud) -> None:
    # A cache that keeps "2.snapshot.json" for ever must not hand out what the old key signed.
    before = Metadata[Timestamp].from_bytes(cloud.serve("images/metadata/timestamp.json")).signed
    _rotate_online(cloud)
    after = Metadata[Timestamp].from_bytes(cloud.serve("images/metadata/timestamp.json")).signed
    assert after.snapshot_meta.version > before.snapshot_meta.version


def test_fast_forward_ends_with_the_stolen_key(cloud: SigningCloud, device: Device) -> None:
    """Source: TUF specification 1.0, 5.3.11."""
    device.ask()
    path = "director/camera-1/metadata/timestamp.json"
    timestamp = Metadata[Timestamp].from_bytes(cloud.serve(path)).signed
    timestamp.version = 2**50
    timestamp.expires = timestamp.expires.replace(year=2200)
    timestamp.unrecognized_fields["signed_at"] = int(NOW_S + 100 * YEAR_S)
    cloud.slipped = {path: sign(Metadata(timestamp), [DIRECTOR])}  # type: ignore[arg-type]
    with pytest.raises(EdgeloopError):
        device.ask()
    cloud.slipped = {}
    with pytest.raises(Refused):
        device.ask()  # as long as the stolen key counts
    _rotate_online(cloud)
    assert device.ask() == an_assignment()


# ---- thresholds


def _two_of_three(cloud: SigningCloud) -> None:
    def change(root: Root) -> None:
        for one in (SECOND, THIRD):
            root.add_key(public_key(one), "targets")
        root.roles["targets"].threshold = 2

    cloud.rotate("images", change)


@pytest.mark.parametrize("signers", [[TARGETS, SECOND], [SECOND, THIRD]])
def test_enough_signatures_are_believed(cloud: SigningCloud, device: Device, signers: list[Ed25519PrivateKey]) -> None:
    _two_of_three(cloud)
    cloud.targets_keys = signers
    assert device.ask() == an_assignment()


@pytest.mark.parametrize("signers", [[TARGETS], [TARGETS, TARGETS], [TARGETS, THIEF], []])
def test_below_the_threshold_nothing_is_believed(
    cloud: SigningCloud, device: Device, signers: list[Ed25519PrivateKey]
) -> None:
    _two_of_three(cloud)
    cloud.targets_keys = signers
    with pytest.raises(Refused, match="images metadata does not hold"):
        device.ask()


# ---- one thing in the place of another


def test_other_devices_assignment_is_refused_and_leaves_no_trace(cloud: SigningCloud, device: Device) -> None:
    cloud.assign(an_assignment(generation=50), device="camera-2", generation=50)
    cloud.tamper = lambda path, data: cloud.serve(path.replace("camera-1", "camera-2")) if "camera-1" in path else data
    with pytest.raises(Refused, match="another device, 'camera-2'"):
        device.ask()
    cloud.tamper = lambda path, data: data
    assert device.ask() == an_assignment()  # its own, although of an older generation


def test_word_that_names_no_device_is_that_of_an_older_cloud(cloud: SigningCloud, device: Device) -> None:
    def unnamed(path: str, data: bytes) -> bytes:
        metadata = Metadata.from_bytes(data)
        if metadata.signed.unrecognized_fields.pop("device", None) is None:
            return data
        metadata.signatures.clear()
        return sign(metadata, [DIRECTOR])

    cloud.tamper = unnamed
    assert device.ask() == an_assignment()


def test_root_of_the_other_repository_is_refused_and_leaves_no_trace(cloud: SigningCloud, device: Device) -> None:
    """Both have the same root key: it would verify, and nothing that the director signs would, ever after."""
    device.ask()
    cloud.rotate("images", lambda root: None)
    cloud.slipped = {"director/camera-1/metadata/2.root.json": cloud.serve("images/metadata/2.root.json")}
    with pytest.raises(Refused, match="is a root of images, not of director"):
        device.ask()
    cloud.slipped = {}
    assert device.ask() == an_assignment()


def test_mixed_versions_are_refused(cloud: SigningCloud, device: Device) -> None:
    """A fresh timestamp over a snapshot that names older targets."""
    device.ask()
    cloud.version += 1
    old = cloud.serve("images/metadata/3.snapshot.json")
    snapshot = Metadata.from_bytes(old)
    snapshot.signed.meta["targets.json"] = MetaFile(2)
    cloud.tamper = lambda path, data: snapshot.to_bytes() if path.endswith("3.snapshot.json") else data
    with pytest.raises(Refused, match="images metadata does not hold"):
        device.ask()


# ---- time


def test_device_that_was_off_for_two_years_comes_back(cloud: SigningCloud, device: Device) -> None:
    device.ask()
    cloud.now_s = device.now_s = NOW_S + 2 * YEAR_S
    for rotate in (_rotate_online, _rotate_root):
        rotate(cloud)
    cloud.since_s = cloud.now_s - 3 * DAY_S
    cloud.assign(an_assignment(generation=7), generation=7)
    assert device.ask() == an_assignment(generation=7)


def test_assignment_and_publication_of_years_ago_are_still_signed_today(cloud: SigningCloud, device: Device) -> None:
    cloud.now_s = device.now_s = NOW_S + 4.5 * YEAR_S
    assert device.ask() == an_assignment()


@pytest.mark.parametrize("clock_s", [0.0, NOW_S - 3 * YEAR_S], ids=["1970", "behind"])
def test_clock_that_goes_back_makes_nothing_expired_good_again(
    cloud: SigningCloud, device: Device, clock_s: float
) -> None:
    frozen = {path: cloud.serve(path) for path in _metadata_of(cloud)}
    cloud.now_s = device.now_s = NOW_S + 8 * DAY_S
    device.ask()
    shutil.rmtree(device.folder / "images")  # as after a disk's damage: python-tuf's own memory is lost
    shutil.rmtree(device.folder / "director")
    device.now_s = clock_s
    cloud.tamper = lambda path, data: frozen.get(path, data)
    with pytest.raises(Refused, match=r"older than what was seen|expired"):
        device.ask()


def test_clock_at_1970_alone_changes_nothing(cloud: SigningCloud, device: Device) -> None:
    device.now_s = 0.0
    assert device.ask() == an_assignment()


def test_clock_at_2040_takes_nothing_until_it_is_set_right(cloud: SigningCloud, device: Device) -> None:
    device.ask()
    device.now_s = NOW_S + 14 * YEAR_S
    with pytest.raises(Refused, match="expired"):
        device.ask()
    device.now_s = NOW_S
    assert device.ask() == an_assignment()


def test_rollback_is_refused_although_everything_but_the_floor_was_lost(cloud: SigningCloud, device: Device) -> None:
    cloud.assign(an_assignment(generation=5), generation=5)
    device.ask()
    shutil.rmtree(device.folder / "director")
    cloud.assign(an_assignment(generation=4), generation=4)
    with pytest.raises(Refused, match="older than what was seen here"):
        device.ask()


def test_timestamps_say_since_when_they_are_the_newest(cloud: SigningCloud) -> None:
    cloud.now_s = NOW_S + 3.5 * DAY_S
    signed = json.loads(cloud.serve("images/metadata/timestamp.json"))["signed"]
    assert signed["signed_at"] == NOW_S + 3 * DAY_S


def _metadata_of(cloud: SigningCloud) -> list[str]:
    cloud.fetched.clear()
    names = ("timestamp.json", "2.snapshot.json", "2.targets.json")
    return [f"{where}/metadata/{name}" for where in ("images", "director/camera-1") for name in names]
