from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from builders import make_parts, quadrant_weights
from edgeloop.bundle.archive import digest
from edgeloop.cloud.publish import missing_files, publish, take_file
from edgeloop.cloud.store import registry
from edgeloop.contracts.api import PublishRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.names import BundleRef, file_target, manifest_target
from edgeloop.transport.identity import load_or_make_key, read_key
from edgeloop.transport.signing import make_targets
from small_cloud import START_S, SmallCloud

pytestmark = pytest.mark.anyio

REF = BundleRef("tiny", "1.0.0")


async def _publish(cloud: SmallCloud, request: PublishRequest) -> None:
    await publish(cloud.stores, request, now_s=START_S)


def _listed(cloud: SmallCloud) -> list[str]:
    return [f"{view.name}@{view.version}" for view in cloud.database.read_now(registry.list_bundles)]


async def test_bundle_that_was_signed_and_handed_over_is_listed(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    view = await publish(cloud.stores, cloud.sign(parts), now_s=START_S)
    assert (view.manifest, view.manifest_sha256) == (parts.manifest, digest(to_json(parts.manifest)))


async def test_published_targets_are_the_signed_ones(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    request = cloud.sign(parts)
    await _publish(cloud, request)
    newest = cloud.database.read_now(registry.newest_targets)
    assert (newest.version, newest.metadata) == (2, request.targets_metadata)


async def test_second_version_is_published_after_the_first(cloud: SmallCloud) -> None:
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    assert _listed(cloud) == ["tiny@1.0.0", "tiny@1.1.0"]


async def test_bundle_that_the_metadata_does_not_sign_is_refused(cloud: SmallCloud) -> None:
    parts, other = make_parts(), make_parts(version="2.0.0")
    await cloud.hand_over(parts)
    request = msgspec.structs.replace(cloud.sign(other), manifest=to_json(parts.manifest))
    with pytest.raises(Refused, match="does not sign"):
        await _publish(cloud, request)


async def test_manifest_that_was_changed_after_signing_is_refused(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    evil = to_json(parts.manifest).replace(b"top_left", b"top_lift")
    with pytest.raises(Refused, match="does not sign"):
        await _publish(cloud, msgspec.structs.replace(cloud.sign(parts), manifest=evil))


async def test_bundle_signed_by_another_key_is_refused(cloud: SmallCloud, tmp_path: Path) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    load_or_make_key(tmp_path / "other.pem")
    with pytest.raises(Refused, match="not signed by the targets key"):
        await _publish(cloud, cloud.sign(parts, key=tmp_path / "other.pem"))


@pytest.mark.parametrize("name", ["images.pem", "director.pem"])
async def test_bundle_signed_by_a_key_of_the_server_is_refused(cloud: SmallCloud, name: str) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    with pytest.raises(Refused, match="not signed by the targets key"):
        await _publish(cloud, cloud.sign(parts, key=cloud.config.online_keys / name))


async def test_file_that_was_not_handed_over_is_invalid_input(cloud: SmallCloud) -> None:
    parts = make_parts()
    *given, withheld = parts.files.items()
    for sha256, data in given:
        await take_file(cloud.stores, sha256, data)
    with pytest.raises(InvalidInput, match=f"1 files.*{withheld[0][:12]}"):
        await _publish(cloud, cloud.sign(parts))


async def test_file_that_is_not_what_it_is_called_is_invalid_input(cloud: SmallCloud) -> None:
    with pytest.raises(InvalidInput, match="hash"):
        await take_file(cloud.stores, digest(b"a"), b"b")


async def test_file_that_is_not_what_it_is_called_is_not_kept(cloud: SmallCloud) -> None:
    with pytest.raises(InvalidInput):
        await take_file(cloud.stores, digest(b"a"), b"b")
    assert await missing_files(cloud.stores, [digest(b"a")]) == [digest(b"a")]


async def test_files_that_were_handed_over_are_not_missing(cloud: SmallCloud) -> None:
    await take_file(cloud.stores, digest(b"a"), b"a")
    assert await missing_files(cloud.stores, [digest(b"a"), digest(b"b")]) == [digest(b"b")]


async def test_same_version_again_is_refused(cloud: SmallCloud) -> None:
    await cloud.publish()
    with pytest.raises(Refused, match="newer version"):
        await cloud.publish()


async def test_other_content_under_a_published_version_is_refused(cloud: SmallCloud) -> None:
    await cloud.publish()
    parts = make_parts(weights=quadrant_weights(sharpness=5.0))
    await cloud.hand_over(parts)
    with pytest.raises(Refused, match="newer version"):
        await _publish(cloud, cloud.sign(parts))


async def test_publication_that_another_one_overtook_is_refused(cloud: SmallCloud) -> None:
    late = make_parts(version="1.1.0")
    await cloud.hand_over(late)
    request = cloud.sign(late)
    await cloud.publish("1.0.0")
    with pytest.raises(Refused, match="in between"):
        await _publish(cloud, request)


async def test_publication_that_another_one_overtook_works_when_signed_again(cloud: SmallCloud) -> None:
    await cloud.publish("1.0.0")
    late = make_parts(version="1.1.0")
    await cloud.hand_over(late)
    await _publish(cloud, cloud.sign(late))
    assert _listed(cloud) == ["tiny@1.0.0", "tiny@1.1.0"]


async def test_refused_publication_changes_nothing(cloud: SmallCloud) -> None:
    await cloud.publish()
    with pytest.raises(Refused):
        await cloud.publish()
    assert (_listed(cloud), cloud.database.read_now(registry.newest_targets).version) == (["tiny@1.0.0"], 2)


@pytest.mark.parametrize("manifest", [b"", b"{}", b"not json"], ids=repr)
async def test_manifest_that_is_none_is_turned_down(cloud: SmallCloud, manifest: bytes) -> None:
    request = msgspec.structs.replace(cloud.sign(make_parts()), manifest=manifest)
    with pytest.raises((Corrupt, InvalidInput)):
        await _publish(cloud, request)


@pytest.mark.parametrize("name", ["files", "patches"])
async def test_bundle_that_is_named_like_a_folder_of_devices_is_turned_down(cloud: SmallCloud, name: str) -> None:
    parts = make_parts(name=name)
    await cloud.hand_over(parts)
    with pytest.raises(InvalidInput, match=f"{name}-model"):
        await _publish(cloud, cloud.sign(parts))


async def test_metadata_that_is_expired_already_is_turned_down(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    request = cloud.sign(parts)
    targets = Metadata[Targets].from_bytes(request.targets_metadata).signed
    six_years_ago_s = START_S - 6 * 365 * 86_400
    stale = make_targets(targets.targets, version=2, keys=[read_key(cloud.targets_key)], now_s=six_years_ago_s)
    with pytest.raises(EdgeloopError, match="expire"):
        await _publish(cloud, msgspec.structs.replace(request, targets_metadata=stale))


async def test_signed_length_that_is_not_the_files_is_turned_down(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    data = to_json(parts.manifest)
    targets = {file_target(sha256): TargetFile.from_data("", file, ["sha256"]) for sha256, file in parts.files.items()}
    targets[manifest_target(REF)] = TargetFile(len(data) + 1, {"sha256": digest(data)}, manifest_target(REF))
    for path, target in targets.items():
        target.path = path
    signed = make_targets(targets, version=2, keys=[read_key(cloud.targets_key)], now_s=START_S)
    with pytest.raises(EdgeloopError):  # no device could ever take it
        await _publish(cloud, PublishRequest(manifest=data, targets_metadata=signed))
