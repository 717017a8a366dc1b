"""The cloud's TUF metadata, judged by python-tuf's own client."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeloop.cloud.repository import (
    Given,
    MetadataName,
    check_targets,
    director_metadata,
    images_metadata,
    parse_metadata_name,
)
from edgeloop.cloud.store.registry import SignedTargets
from edgeloop.cloud.store.roots import SignedRoot
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, NotFound, Refused
from edgeloop.contracts.messages import Assignment
from edgeloop.transport.signing import make_root, make_targets

DAY_S = 86_400.0
FILE = b"a file"


def _key(letter: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(letter * 32)


ROOT, TARGETS, ONLINE, OTHER = _key(b"r"), _key(b"t"), _key(b"o"), _key(b"x")


def _now_s() -> float:
    return datetime.now(UTC).timestamp()


def _root(targets_key: Ed25519PrivateKey = TARGETS) -> bytes:
    keys = {"targets": targets_key, "snapshot": ONLINE, "timestamp": ONLINE}
    return make_root("images", root_key=ROOT, keys=keys, now_s=_now_s())


def _files(*names: str, content: bytes = FILE) -> dict[str, TargetFile]:
    return {name: TargetFile.from_data(name, content, ["sha256"]) for name in names}


def _targets(*names: str, version: int = 1, key: Ed25519PrivateKey = TARGETS, content: bytes = FILE) -> bytes:
    return make_targets(_files(*names, content=content), version=version, keys=[key], now_s=_now_s())


Answer = Callable[[MetadataName], bytes]


class FakeFetcher(FetcherInterface):
    """TUF's network port over the repository's own functions."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter([self.answer(parse_metadata_name(url.rpartition("/")[2]))])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error


@dataclass
class ImagesServer:
    """What an images repository serves now."""

    targets: bytes
    published_at_s: float = field(default_factory=_now_s)
    now_s: float = field(default_factory=_now_s)
    root: bytes = field(default_factory=_root)
    online: Ed25519PrivateKey = ONLINE

    def __call__(self, name: MetadataName) -> bytes:
        version = Metadata.from_bytes(self.targets).signed.version
        return images_metadata(
            name,
            roots=(SignedRoot(1, self.root, 0.0),),
            targets=SignedTargets(version, self.targets, self.published_at_s),
            find_key=lambda _: self.online,
            now_s=self.now_s,
        )


@dataclass
class DirectorServer:
    """What a director serves one device now."""

    generation: int = 0
    assignment: Assignment | None = None
    assigned_at_s: float = field(default_factory=_now_s)
    now_s: float = field(default_factory=_now_s)
    root: bytes = field(
        default_factory=lambda: make_root(
            "director", root_key=ROOT, keys={"targets": ONLINE, "snapshot": ONLINE, "timestamp": ONLINE}, now_s=_now_s()
        )
    )

    def __call__(self, name: MetadataName) -> bytes:
        return director_metadata(
            name,
            roots=(SignedRoot(1, self.root, 0.0),),
            given=Given("camera-1", self.generation, self.assignment, self.assigned_at_s),
            find_key=lambda _: ONLINE,
            now_s=self.now_s,
        )


def _client(folder: Path, server: ImagesServer | DirectorServer) -> Updater:
    """A device's updater; the same folder is the same device."""
    config = UpdaterConfig(prefix_targets_with_hash=False)
    folder.mkdir(parents=True, exist_ok=True)
    return Updater(
        str(folder), "http://hub.test/metadata/", fetcher=FakeFetcher(server), config=config, bootstrap=server.root
    )


ASSIGNMENT = Assignment(generation=3, rollout_id="r1", bundle="tiny@1.0.0", manifest_sha256="a" * 64)


# ---- images


def test_client_finds_what_was_signed(tmp_path: Path) -> None:
    found = _client(tmp_path, ImagesServer(_targets("files/a"))).get_targetinfo("files/a")
    assert found is not None
    found.verify_length_and_hashes(FILE)


def test_client_does_not_find_what_was_not_signed(tmp_path: Path) -> None:
    assert _client(tmp_path, ImagesServer(_targets("files/a"))).get_targetinfo("files/b") is None


def test_client_follows_to_the_next_version(tmp_path: Path) -> None:
    _client(tmp_path, ImagesServer(_targets("files/a"))).refresh()
    server = ImagesServer(_targets("files/a", "files/b", version=2))
    assert _client(tmp_path, server).get_targetinfo("files/b") is not None


def test_client_refreshes_the_same_version_day_after_day(tmp_path: Path) -> None:
    published_at_s = _now_s() - 30 * DAY_S
    targets = _targets("files/a")
    for days in (28, 29, 30):
        updater = _client(tmp_path, ImagesServer(targets, published_at_s, published_at_s + days * DAY_S))
        updater.refresh()
    assert updater.get_targetinfo("files/a") is not None


def test_client_refuses_targets_of_another_signer(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        _client(tmp_path, ImagesServer(_targets("files/a", key=OTHER))).refresh()


def test_stolen_online_key_can_sign_no_targets(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        _client(tmp_path, ImagesServer(_targets("files/a", key=ONLINE))).refresh()


def test_client_refuses_a_timestamp_of_another_signer(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        _client(tmp_path, ImagesServer(_targets("files/a"), online=OTHER)).refresh()


def test_client_refuses_to_go_back_to_an_older_version(tmp_path: Path) -> None:
    _client(tmp_path, ImagesServer(_targets("files/a", "files/b", version=2))).refresh()
    with pytest.raises(RepositoryError):
        _client(tmp_path, ImagesServer(_targets("files/a", version=1))).refresh()


def test_client_refuses_a_timestamp_from_before(tmp_path: Path) -> None:
    now_s = _now_s()
    targets, published_at_s = _targets("files/a"), now_s - 3 * DAY_S
    _client(tmp_path, ImagesServer(targets, published_at_s, now_s)).refresh()
    with pytest.raises(RepositoryError):
        _client(tmp_path, ImagesServer(targets, published_at_s, now_s - 2 * DAY_S)).refresh()


def test_client_refuses_metadata_of_a_server_that_stood_still(tmp_path: Path) -> None:
    long_ago_s = _now_s() - 30 * DAY_S
    with pytest.raises(ExpiredMetadataError):
        _client(tmp_path, ImagesServer(_targets("files/a"), long_ago_s, long_ago_s)).refresh()


def test_timestamp_lasts_a_week(tmp_path: Path) -> None:
    six_days_ago_s = _now_s() - 6 * DAY_S
    server = ImagesServer(_targets("files/a"), six_days_ago_s, six_days_ago_s)
    assert _client(tmp_path, server).get_targetinfo("files/a") is not None


def test_same_question_has_the_same_answer() -> None:
    server = ImagesServer(_targets("files/a"))
    for name in ("timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"):
        assert server(parse_metadata_name(name)) == server(parse_metadata_name(name))


def test_version_of_a_timestamp_grows_with_days_and_publications() -> None:
    start_s = _now_s()
    first, second = _targets(), _targets(version=2)
    served = [
        ImagesServer(first, start_s, start_s),
        ImagesServer(first, start_s, start_s + DAY_S),
        ImagesServer(first, start_s, start_s + 400 * DAY_S),
        ImagesServer(second, start_s, start_s),
    ]
    versions = [Metadata.from_bytes(one(MetadataName("timestamp", None))).signed.version for one in served]
    assert versions == sorted(set(versions))


# ---- director


def test_client_finds_its_assignment(tmp_path: Path) -> None:
    found = _client(tmp_path, DirectorServer(3, ASSIGNMENT)).get_targetinfo("assignment")
    assert found is not None
    text = found.unrecognized_fields["custom"]["assignment"]
    assert from_json(text.encode(), Assignment, what="assignment") == ASSIGNMENT


def test_assignment_is_tied_to_the_manifests_hash(tmp_path: Path) -> None:
    found = _client(tmp_path, DirectorServer(3, ASSIGNMENT)).get_targetinfo("assignment")
    assert found is not None
    found.verify_length_and_hashes(ASSIGNMENT.manifest_sha256.encode())


@pytest.mark.parametrize("generation", [0, 5], ids=["never assigned", "taken back"])
def test_device_without_an_assignment_finds_none(tmp_path: Path, generation: int) -> None:
    assert _client(tmp_path, DirectorServer(generation)).get_targetinfo("assignment") is None


def test_client_follows_to_the_next_assignment(tmp_path: Path) -> None:
    _client(tmp_path, DirectorServer(0)).refresh()
    assert _client(tmp_path, DirectorServer(1, ASSIGNMENT)).get_targetinfo("assignment") is not None


def test_client_refuses_to_go_back_to_an_older_assignment(tmp_path: Path) -> None:
    _client(tmp_path, DirectorServer(4, ASSIGNMENT)).refresh()
    with pytest.raises(RepositoryError):
        _client(tmp_path, DirectorServer(3, ASSIGNMENT)).refresh()


def test_old_assignment_is_still_fresh_when_asked_for_today(tmp_path: Path) -> None:
    server = DirectorServer(3, ASSIGNMENT, assigned_at_s=_now_s() - 300 * DAY_S)
    assert _client(tmp_path, server).get_targetinfo("assignment") is not None


# ---- names


@pytest.mark.parametrize(
    ("name", "role", "version"),
    [("1.root.json", "root", 1), ("12.targets.json", "targets", 12), ("timestamp.json", "timestamp", None)],
)
def test_metadata_name_is_read(name: str, role: str, version: int | None) -> None:
    assert parse_metadata_name(name) == MetadataName(role, version)


@pytest.mark.parametrize(
    "name",
    ["", "root", "0.root.json", "01.root.json", "-1.root.json", "1.evil.json", "1.root.json.bak", "../root.json"],
)
def test_other_names_are_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        parse_metadata_name(name)


@pytest.mark.parametrize(
    "name", ["root.json", "2.root.json", "targets.json", "2.targets.json", "snapshot.json", "2.snapshot.json",
             "1.timestamp.json"],
)  # fmt: skip
def test_metadata_that_there_is_not_is_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        ImagesServer(_targets())(parse_metadata_name(name))


# ---- targets from outside


def _check(data: bytes, current: bytes) -> Targets:
    return check_targets(data, root=_root(), current=current)


def test_next_version_with_one_file_more_is_taken() -> None:
    taken = _check(_targets("a", "b", version=2), _targets("a"))
    assert set(taken.targets) == {"a", "b"}


@pytest.mark.parametrize("key", [OTHER, ONLINE, ROOT], ids=["other", "online", "root"])
def test_targets_of_another_signer_are_refused(key: Ed25519PrivateKey) -> None:
    with pytest.raises(Refused, match="not signed"):
        _check(_targets("a", version=2, key=key), _targets("a"))


def test_targets_that_were_changed_after_signing_are_refused() -> None:
    with pytest.raises(Refused, match="not signed"):
        _check(_targets("a", version=2).replace(b'"a"', b'"z"'), _targets("a"))


def test_unsigned_targets_are_refused() -> None:
    unsigned = Metadata(Targets(version=2, expires=datetime.now(UTC) + timedelta(days=1), targets=_files("a")))
    with pytest.raises(Refused, match="not signed"):
        _check(unsigned.to_bytes(), _targets("a"))


@pytest.mark.parametrize("version", [1, 3, 4])
def test_any_but_the_next_version_is_refused(version: int) -> None:
    with pytest.raises(Refused, match="the next one is 3" if version != 3 else "version 3"):
        _check(_targets("a", version=version), _targets("a", version=2 if version != 3 else 1))


def test_taking_back_what_was_published_is_refused() -> None:
    with pytest.raises(Refused, match="taken back"):
        _check(_targets("b", version=2), _targets("a"))


def test_changing_what_was_published_is_refused() -> None:
    with pytest.raises(Refused, match="a was published"):
        _check(_targets("a", version=2, content=b"other"), _targets("a"))


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"signed": {}, "signatures": []}', b"\xff"], ids=repr)
def test_bytes_that_are_no_metadata_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        _check(data, _targets())


def test_metadata_of_another_role_is_turned_down() -> None:
    with pytest.raises((Corrupt, Refused)):
        _check(_root(), _targets())


def test_signature_by_a_second_key_does_no_harm() -> None:
    metadata = Metadata[Targets].from_bytes(_targets("a", version=2))
    metadata.sign(CryptoSigner(OTHER), append=True)
    assert _check(metadata.to_bytes(), _targets("a")).version == 2
