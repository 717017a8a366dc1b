import json
from pathlib import Path

import pytest

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import EdgeloopError, Refused, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.contracts.names import BundleRef
from edgeloop.transport.signing import version_beyond
from edgeloop.transport.trust import Trust, require_not_older
from signing_cloud import (
    CAMERA,
    DAY_S,
    DIRECTOR_ROOT,
    IMAGES_ROOT,
    MANIFEST,
    NOW_S,
    TARGET,
    TARGETS,
    THIEF,
    SigningCloud,
    an_assignment,
)


@pytest.fixture(params=[True, False], ids=["in one answer", "one by one"])
def cloud(request: pytest.FixtureRequest) -> SigningCloud:
    return SigningCloud(together=request.param)


@pytest.fixture
def trust(cloud: SigningCloud, tmp_path: Path) -> Trust:
    return _trust(cloud, tmp_path)


def _trust(cloud: SigningCloud, folder: Path) -> Trust:
    return Trust(
        folder,
        images_root=IMAGES_ROOT,
        director_root=DIRECTOR_ROOT,
        fetch=cloud.fetch,
        fetch_all=cloud.fetch_all if cloud.together else None,
    )


def test_signed_assignment_is_believed(trust: Trust) -> None:
    assert trust.assignment(CAMERA) == an_assignment()


def test_no_assignment_is_none(cloud: SigningCloud, trust: Trust) -> None:
    cloud.assign(None)
    assert trust.assignment(CAMERA) is None


def test_newer_assignment_follows(cloud: SigningCloud, trust: Trust) -> None:
    trust.assignment(CAMERA)
    cloud.published["bundles/tiny/1.1.0/manifest.json"] = b"newer"
    cloud.version += 1
    newer = an_assignment(manifest=b"newer", ref=BundleRef("tiny", "1.1.0"), generation=2)
    cloud.assign(newer, generation=2)
    assert trust.assignment(CAMERA) == newer


def test_image_states_size_and_hash(trust: Trust) -> None:
    found = trust.image(TARGET)
    assert (found.length, found.hashes["sha256"]) == (len(MANIFEST), digest(MANIFEST))


def test_images_metadata_is_refreshed_once_for_many_files(cloud: SigningCloud, trust: Trust) -> None:
    trust.assignment(CAMERA)
    before = len(cloud.fetched)
    for _ in range(5):
        trust.image(TARGET)
    assert len(cloud.fetched) == before


def test_what_was_never_signed_does_not_exist(trust: Trust) -> None:
    with pytest.raises(Refused, match="never signed files/beef"):
        trust.image("files/beef")


def test_assignment_to_what_was_never_published_is_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.published = {}
    with pytest.raises(Refused, match="never signed"):
        trust.assignment(CAMERA)


def test_repositories_that_disagree_on_the_manifest_are_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.assign(an_assignment(manifest=b"another manifest"))
    with pytest.raises(Refused, match=digest(b"another manifest")[:12]):
        trust.assignment(CAMERA)


def test_stolen_director_key_is_needed_to_assign(cloud: SigningCloud, trust: Trust) -> None:
    cloud.stolen["director"] = THIEF
    with pytest.raises(Refused, match="director metadata does not hold"):
        trust.assignment(CAMERA)


def test_server_cannot_invent_a_model(cloud: SigningCloud, trust: Trust) -> None:
    cloud.targets_keys = [THIEF]
    with pytest.raises(Refused, match="images metadata does not hold"):
        trust.assignment(CAMERA)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("repository", ["images", "director/camera-1"])
def test_metadata_changed_on_its_way_is_refused(cloud: SigningCloud, trust: Trust, repository: str, role: str) -> None:
    def tamper(path: str, data: bytes) -> bytes:
        if not (path.startswith(repository) and f"{role}.json" in path):
            return data
        document = json.loads(data)
        document["signed"]["expires"] = "2099-01-01T00:00:00Z"
        return json.dumps(document).encode()

    cloud.tamper = tamper
    with pytest.raises(Refused):
        trust.assignment(CAMERA)


def test_metadata_that_is_no_metadata_is_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.tamper = lambda path, data: b"<html>a captive portal</html>"
    with pytest.raises(EdgeloopError):
        trust.assignment(CAMERA)


def test_nothing_is_kept_of_tampered_metadata(cloud: SigningCloud, trust: Trust) -> None:
    cloud.targets_keys = [THIEF]
    with pytest.raises(Refused):
        trust.assignment(CAMERA)
    cloud.targets_keys = [TARGETS]
    assert trust.assignment(CAMERA) == an_assignment()


def test_older_metadata_than_was_seen_is_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.assign(an_assignment(), generation=5)
    trust.assignment(CAMERA)
    cloud.assign(an_assignment(), generation=4)
    with pytest.raises(Refused, match="director"):
        trust.assignment(CAMERA)


def test_older_metadata_is_refused_after_a_restart_too(cloud: SigningCloud, tmp_path: Path) -> None:
    cloud.assign(an_assignment(), generation=5)
    _trust(cloud, tmp_path).assignment(CAMERA)
    cloud.assign(an_assignment(), generation=4)
    with pytest.raises(Refused, match="director"):
        _trust(cloud, tmp_path).assignment(CAMERA)


def test_published_bundles_cannot_be_taken_back(cloud: SigningCloud, trust: Trust) -> None:
    cloud.version = 7
    trust.assignment(CAMERA)
    cloud.version = 6
    with pytest.raises(Refused, match="images"):
        trust.assignment(CAMERA)


def test_frozen_metadata_expires(cloud: SigningCloud, trust: Trust) -> None:
    cloud.since_s = cloud.now_s = NOW_S - 20 * DAY_S
    with pytest.raises(Refused, match=r"expired.*sign it anew"):
        trust.assignment(CAMERA)


def test_assignment_made_long_ago_holds_while_the_cloud_lives(cloud: SigningCloud, trust: Trust) -> None:
    cloud.since_s = NOW_S - 20 * DAY_S
    assert trust.assignment(CAMERA) == an_assignment()


def test_hub_that_is_away_is_unavailable(cloud: SigningCloud, tmp_path: Path) -> None:
    def away(path: str, max_bytes: int) -> bytes:
        raise Unavailable("the hub is away")

    trust = Trust(tmp_path, images_root=IMAGES_ROOT, director_root=DIRECTOR_ROOT, fetch=away)
    with pytest.raises(Unavailable, match="the hub is away"):
        trust.assignment(CAMERA)


def test_other_device_has_no_metadata_here(trust: Trust) -> None:
    with pytest.raises(EdgeloopError):
        trust.assignment("camera-2")


@pytest.mark.parametrize("seen", [b"", b"{", b"[]", b"{}"])
def test_damaged_local_metadata_is_fetched_anew(cloud: SigningCloud, tmp_path: Path, seen: bytes) -> None:
    _trust(cloud, tmp_path).assignment(CAMERA)
    for path in tmp_path.rglob("timestamp.json"):
        path.write_bytes(seen)
    assert _trust(cloud, tmp_path).assignment(CAMERA) == an_assignment()


# ---- all that is signed


def test_signed_names_everything_with_size_and_hash(cloud: SigningCloud, trust: Trust) -> None:
    cloud.published["files/beef"] = b"a model"
    assert trust.signed().targets == {
        TARGET: FileEntry(digest(MANIFEST), len(MANIFEST)),
        "files/beef": FileEntry(digest(b"a model"), 7),
    }


def test_signed_is_asked_for_anew_each_time(cloud: SigningCloud, trust: Trust) -> None:
    trust.signed()
    cloud.published["files/beef"] = b"a model"
    cloud.version += 1
    assert "files/beef" in trust.signed().targets


def test_signed_is_good_until_the_first_of_its_metadata_expires(trust: Trust) -> None:
    # A timestamp that was signed just now is good for seven days, all else for years.
    assert trust.signed().expires_at_s == NOW_S + 7 * DAY_S


def test_signed_of_another_key_is_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.targets_keys = [THIEF]
    with pytest.raises(Refused, match="images metadata does not hold"):
        trust.signed()


def test_signed_that_is_expired_is_refused(cloud: SigningCloud, trust: Trust) -> None:
    cloud.since_s = cloud.now_s = NOW_S - 20 * DAY_S
    with pytest.raises(Refused, match="expired"):
        trust.signed()


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


# ---- a cloud that was lost, and restored from a backup that knows less than the device saw


def _lose(cloud: SigningCloud, *, floor: int) -> None:
    """Back to the first assignment and the first list."""
    cloud.version, cloud.floor = 2, floor
    cloud.assign(an_assignment(), generation=1)


@pytest.fixture
def ahead(cloud: SigningCloud, trust: Trust) -> Trust:
    """A device that has seen the fifth assignment and the fourth list."""
    cloud.version = 5
    cloud.assign(an_assignment(generation=5), generation=5)
    trust.assignment(CAMERA)
    return trust


def test_control_without_a_floor_the_director_of_a_restored_cloud_is_refused(cloud: SigningCloud, ahead: Trust) -> None:
    _lose(cloud, floor=0)
    with pytest.raises(Refused, match="director metadata does not hold"):
        ahead.assignment(CAMERA)


def test_list_that_is_behind_is_refused_until_it_is_lifted_and_the_rest_is_lifted_by_itself(
    cloud: SigningCloud, ahead: Trust
) -> None:
    _lose(cloud, floor=version_beyond(1, now_s=NOW_S))
    with pytest.raises(Refused, match="images metadata does not hold"):
        ahead.assignment(CAMERA)
    cloud.version = version_beyond(2, now_s=NOW_S)
    assert ahead.assignment(CAMERA) == an_assignment()


def test_new_device_takes_what_a_restored_cloud_signs(cloud: SigningCloud, trust: Trust) -> None:
    _lose(cloud, floor=version_beyond(1, now_s=NOW_S))
    assert trust.assignment(CAMERA) == an_assignment()
    cloud.assign(an_assignment(generation=cloud.floor + 1), generation=cloud.floor + 1)
    assert trust.assignment(CAMERA) == an_assignment(generation=cloud.floor + 1)


@pytest.mark.parametrize("known", [0, 7, version_beyond(7, now_s=NOW_S) + 100])
def test_each_restore_of_one_backup_is_beyond_the_one_before(known: int) -> None:
    first, second = (version_beyond(known, now_s=NOW_S + after_s) for after_s in (0.0, DAY_S))
    assert known < first
    assert first + 1000 < second


def test_clock_that_knows_no_time_lifts_by_a_million() -> None:
    assert version_beyond(7, now_s=0.0) == 1_000_007


def test_versions_fit_into_the_databases_for_many_years() -> None:
    assert version_beyond(7, now_s=NOW_S + 50 * 365 * DAY_S) < 2**31
