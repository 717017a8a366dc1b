import time
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from builders import Parts, as_bundle, make_bundle, make_parts
from edgeloop.bundle.archive import Bundle, digest, open_bundle
from edgeloop.cloud.repository import check_targets
from edgeloop.contracts.api import BundleView, PublishRequest
from edgeloop.contracts.errors import Corrupt, NotFound, Refused
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.toolchain.publish import publish, sign_targets
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.signing import make_root, make_targets

NOW_S = time.time()


class Keys:
    """A cloud's keys: the targets key in a file, and the root that names it."""

    def __init__(self, folder: Path) -> None:
        self.targets_pem = folder / "targets.pem"
        targets = load_or_make_key(self.targets_pem)
        root, online = load_or_make_key(folder / "root.pem"), load_or_make_key(folder / "online.pem")
        roles = {"targets": targets, "snapshot": online, "timestamp": online}
        self.root = make_root("images", root_key=root, keys=roles, now_s=NOW_S)
        self.first = make_targets({}, version=1, keys=[targets], now_s=NOW_S)


class FakeCloud:
    """CloudApi's part that publishing uses, over a cloud in memory that checks signatures."""

    def __init__(self, keys: Keys) -> None:
        self._root = keys.root
        self.targets = keys.first
        self.files: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.published: list[PublishRequest] = []

    def signed_targets(self) -> bytes:
        """See CloudApi.signed_targets."""
        return self.targets

    def missing_files(self, sha256s: list[str]) -> list[str]:
        """See CloudApi.missing_files."""
        return [one for one in sha256s if one not in self.files]

    def put_file(self, sha256: str, data: bytes) -> None:
        """See CloudApi.put_file."""
        self.puts.append(sha256)
        self.files[sha256] = data

    def publish(self, request: PublishRequest) -> BundleView:
        """See CloudApi.publish."""
        check_targets(request.targets_metadata, root=self._root, current=self.targets)
        self.targets = request.targets_metadata
        self.published.append(request)
        manifest = Bundle(make_parts().manifest, as_bundle(make_parts()), manifest_bytes=b"").manifest
        return BundleView(
            name=manifest.name,
            version=manifest.version,
            manifest_sha256=digest(request.manifest),
            published_at_s=NOW_S,
            manifest=manifest,
        )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def cloud(keys: Keys) -> FakeCloud:
    return FakeCloud(keys)


def _publish(archive: Path, cloud: FakeCloud, key: Path) -> BundleView:
    return publish(archive, cloud, targets_key=key)  # type: ignore[arg-type]


def test_signature_holds_against_the_root(keys: Keys) -> None:
    signed = Metadata[Targets].from_bytes(sign_targets(keys.first, as_bundle(make_parts()), keys.targets_pem))
    # Raises UnsignedMetadataError if it does not.
    Metadata[Root].from_bytes(keys.root).verify_delegate("targets", signed)
    assert signed.signed.version == 2


def test_manifest_and_every_file_are_signed(keys: Keys) -> None:
    bundle = as_bundle(make_parts())
    signed = Metadata[Targets].from_bytes(sign_targets(keys.first, bundle, keys.targets_pem)).signed.targets
    expected = {manifest_target(bundle.manifest.ref): digest(bundle.manifest_bytes)}
    expected |= {file_target(entry.sha256): entry.sha256 for entry in bundle.manifest.files}
    assert {path: target.hashes["sha256"] for path, target in signed.items()} == expected


def test_sizes_are_signed(keys: Keys) -> None:
    bundle = as_bundle(make_parts())
    signed = Metadata[Targets].from_bytes(sign_targets(keys.first, bundle, keys.targets_pem)).signed.targets
    assert {signed[file_target(e.sha256)].length for e in bundle.manifest.files} == {
        e.size_bytes for e in bundle.manifest.files
    }


def test_what_was_signed_before_stays(keys: Keys) -> None:
    once = sign_targets(keys.first, as_bundle(make_parts()), keys.targets_pem)
    twice = sign_targets(once, as_bundle(make_parts(version="1.1.0")), keys.targets_pem)
    # Raises Refused if anything was taken back or the version is not the next.
    after = check_targets(twice, root=keys.root, current=once)
    assert {f"bundles/tiny/{v}/manifest.json" for v in ("1.0.0", "1.1.0")} <= set(after.targets)


def test_other_key_does_not_sign_for_this_cloud(keys: Keys, tmp_path: Path) -> None:
    load_or_make_key(tmp_path / "thief.pem")
    signed = sign_targets(keys.first, as_bundle(make_parts()), tmp_path / "thief.pem")
    with pytest.raises(Refused, match="not signed by the targets key"):
        check_targets(signed, root=keys.root, current=keys.first)


def test_changed_metadata_does_not_verify(keys: Keys) -> None:
    signed = sign_targets(keys.first, as_bundle(make_parts()), keys.targets_pem)
    tampered = signed.replace(b'"length":', b'"length":1', 1)
    assert tampered != signed
    with pytest.raises(Refused):
        check_targets(tampered, root=keys.root, current=keys.first)


def test_published_bundle_is_signed_and_handed_over(keys: Keys, cloud: FakeCloud, tmp_path: Path) -> None:
    archive = make_bundle(tmp_path)
    _publish(archive, cloud, keys.targets_pem)
    bundle = open_bundle(archive)
    assert (cloud.published[0].manifest, set(cloud.files)) == (
        bundle.manifest_bytes,
        {entry.sha256 for entry in bundle.manifest.files},
    )


def test_files_that_the_cloud_has_are_not_sent_again(keys: Keys, cloud: FakeCloud, tmp_path: Path) -> None:
    parts: Parts = make_parts()
    golden = parts.manifest.golden.inputs
    cloud.files[golden] = parts.files[golden]
    _publish(make_bundle(tmp_path), cloud, keys.targets_pem)
    assert golden not in cloud.puts


def test_missing_key_is_not_found_before_anything_is_sent(cloud: FakeCloud, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no targets key at .*nowhere\.pem.*--key"):
        _publish(make_bundle(tmp_path), cloud, tmp_path / "nowhere.pem")
    assert (cloud.puts, cloud.published) == ([], [])


def test_damaged_bundle_is_corrupt_before_anything_is_sent(keys: Keys, cloud: FakeCloud, tmp_path: Path) -> None:
    archive = make_bundle(tmp_path)
    data = archive.read_bytes()
    golden = make_parts().files[make_parts().manifest.golden.inputs]
    archive.write_bytes(data.replace(golden, golden[:-1] + bytes([golden[-1] ^ 1])))
    with pytest.raises(Corrupt):
        _publish(archive, cloud, keys.targets_pem)
    assert (cloud.puts, cloud.published) == ([], [])
