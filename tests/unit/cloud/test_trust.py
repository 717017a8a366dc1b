"""Changes of keys, as the cloud takes or refuses them, and warnings before anything expires."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root

from builders import make_parts
from edgeloop.cloud import publish as publishing
from edgeloop.cloud import trust
from edgeloop.cloud.repository import check_targets
from edgeloop.cloud.store import registry, restores, roots
from edgeloop.cloud.store.registry import SignedTargets
from edgeloop.contracts.api import KeyChange, KeyRole, KeysView
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused, Unavailable
from edgeloop.contracts.join import Join
from edgeloop.contracts.messages import MAX_TARGETS_BYTES
from edgeloop.toolchain import keys
from edgeloop.toolchain.keys import RoleChange, Signers
from edgeloop.transport.identity import load_or_make_key, read_key
from edgeloop.transport.signing import next_root, next_targets, public_key
from small_cloud import SmallCloud

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0


@pytest.fixture
def new_key(tmp_path: Path) -> Ed25519PrivateKey:
    return load_or_make_key(tmp_path / "new.pem")


def _signers(
    cloud: SmallCloud, *, root: Sequence[Ed25519PrivateKey] = (), targets: Sequence[Ed25519PrivateKey] = ()
) -> Signers:
    return Signers([read_key(cloud.targets_key.with_name("root.pem")), *root], list(targets))


async def _view(cloud: SmallCloud, *, now_s: float | None = None) -> KeysView:
    return await trust.read_view(cloud.stores, now_s=now_s or time.time())


async def _change(cloud: SmallCloud, change: KeyChange) -> KeysView:
    return await trust.change_keys(cloud.stores, change, now_s=time.time())


async def _rotate_targets(cloud: SmallCloud, new: Ed25519PrivateKey) -> KeysView:
    view = await _view(cloud)
    (old,) = _role(view, "images", "targets").key_ids
    role = RoleChange("targets", added=[public_key(new)], dropped=[old])
    made = keys.change_role(view, role, _signers(cloud, targets=[new]), now_s=time.time())
    return await _change(cloud, made)


def _role(view: KeysView, repository: str, role: str) -> KeyRole:
    (found,) = (one for one in view.roles if (one.repository, one.role) == (repository, role))
    return found


# ---- what is taken


async def test_publishing_goes_on_with_the_new_targets_key(
    cloud: SmallCloud, tmp_path: Path, new_key: Ed25519PrivateKey
) -> None:
    await cloud.publish("1.0.0")
    await _rotate_targets(cloud, new_key)
    cloud.targets_key = tmp_path / "new.pem"
    assert (await cloud.publish("1.1.0")).version == "1.1.0"


async def test_publishing_with_the_old_targets_key_is_refused(cloud: SmallCloud, new_key: Ed25519PrivateKey) -> None:
    await _rotate_targets(cloud, new_key)
    with pytest.raises(Refused, match="not signed by the targets key"):
        await cloud.publish("1.0.0")


async def test_online_key_is_replaced_and_its_file_is_gone(cloud: SmallCloud) -> None:
    before = {path.name for path in cloud.config.online_keys.iterdir()}
    made = {one: trust.make_online_key(cloud.stores, one) for one in ("images", "director")}
    after = await _change(cloud, keys.change_online(await _view(cloud), made, _signers(cloud), now_s=time.time()))
    assert _role(after, "director", "targets").key_ids == (made["director"].key_id,)
    assert before.isdisjoint(path.name for path in cloud.config.online_keys.iterdir())
    cloud.enrol("camera-1")
    for place in ("images", "director/camera-1"):
        served = await cloud.hub.fetch("camera-1", f"{place}/metadata/timestamp.json")
        signed = Metadata.from_bytes(await served.read(0, served.size_bytes))
        assert list(signed.signatures) == [made[place.partition("/")[0]].key_id]


async def test_every_root_is_served(cloud: SmallCloud, new_key: Ed25519PrivateKey) -> None:
    cloud.enrol("camera-1")
    await _rotate_targets(cloud, new_key)
    for version in (1, 2):
        served = await cloud.hub.fetch("camera-1", f"images/metadata/{version}.root.json")
        root = Metadata[Root].from_bytes(await served.read(0, served.size_bytes)).signed
        assert (root.version, served.immutable) == (version, True)


async def test_join_token_of_before_brings_the_roots_of_before(cloud: SmallCloud, new_key: Ed25519PrivateKey) -> None:
    before = cloud.roots
    await _rotate_targets(cloud, new_key)
    assert cloud.roots.pair(before.fingerprint()) == before.newest()
    Join("s", before.fingerprint()).check_roots(*cloud.roots.pair(before.fingerprint()))
    assert cloud.roots.pair("unknown") == cloud.roots.newest()
    assert cloud.roots.newest() != before.newest()


async def test_renewing_moves_the_expiry(cloud: SmallCloud) -> None:
    later_s = time.time() + 3 * 365 * DAY_S
    view = await _view(cloud)
    after = await _change(cloud, keys.renew(view, "root", _signers(cloud), now_s=later_s))
    assert _role(after, "director", "root").expires_at_s == int(later_s) + 10 * 365 * DAY_S


# ---- what is refused


async def test_root_by_a_stranger_is_refused_and_nothing_is_changed(
    cloud: SmallCloud, new_key: Ed25519PrivateKey
) -> None:
    view = await _view(cloud)
    forged = keys.renew(view, "root", Signers([new_key]), now_s=time.time())
    with pytest.raises(Refused, match="not signed by enough root keys"):
        await _change(cloud, forged)
    assert await _view(cloud) == view


async def test_new_root_key_must_sign_too(cloud: SmallCloud, new_key: Ed25519PrivateKey) -> None:
    view = await _view(cloud)
    (old,) = _role(view, "images", "root").key_ids
    role = RoleChange("root", added=[public_key(new_key)], dropped=[old])
    with pytest.raises(Refused, match="not signed by enough root keys"):
        await _change(cloud, keys.change_role(view, role, _signers(cloud), now_s=time.time()))
    await _change(cloud, keys.change_role(view, role, _signers(cloud, root=(new_key,)), now_s=time.time()))


async def test_change_that_another_one_overtook_is_refused(cloud: SmallCloud) -> None:
    view = await _view(cloud)
    change = keys.renew(view, "root", _signers(cloud), now_s=time.time())
    await _change(cloud, change)
    with pytest.raises(Refused, match="in between"):
        await _change(cloud, change)


async def test_targets_key_without_the_targets_signed_anew_is_refused(
    cloud: SmallCloud, new_key: Ed25519PrivateKey
) -> None:
    view = await _view(cloud)
    (old,) = _role(view, "images", "targets").key_ids
    role = RoleChange("targets", added=[public_key(new_key)], dropped=[old])
    change = keys.change_role(view, role, _signers(cloud, targets=[new_key]), now_s=time.time())
    with pytest.raises(Refused, match="would not be signed any more"):
        await _change(cloud, KeyChange(images_root=change.images_root))


async def test_root_of_the_other_repository_is_refused(cloud: SmallCloud) -> None:
    change = keys.renew(await _view(cloud), "root", _signers(cloud), now_s=time.time())
    with pytest.raises(Refused, match="not marked as one of images"):
        await _change(cloud, KeyChange(images_root=change.director_root))


async def test_online_key_that_the_server_does_not_hold_is_turned_down(
    cloud: SmallCloud, new_key: Ed25519PrivateKey
) -> None:
    made = {"director": trust.make_online_key(cloud.stores, "director")}
    view = await _view(cloud)
    for path in cloud.config.online_keys.glob("director-*.pem"):
        path.unlink()
    with pytest.raises(InvalidInput, match="one that this server holds"):
        await _change(cloud, keys.change_online(view, made, _signers(cloud), now_s=time.time()))


async def test_targets_key_that_the_server_holds_is_turned_down(cloud: SmallCloud) -> None:
    online = read_key(cloud.config.online_keys / "images.pem")
    with pytest.raises(InvalidInput, match="a key that this server holds"):
        await _rotate_targets(cloud, online)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"signed": {}, "signatures": []}'], ids=repr)
async def test_bytes_that_are_no_root_are_turned_down(cloud: SmallCloud, data: bytes) -> None:
    with pytest.raises((Corrupt, Refused)):
        await _change(cloud, KeyChange(images_root=data))


async def test_nothing_at_all_is_no_change(cloud: SmallCloud) -> None:
    with pytest.raises(InvalidInput, match="nothing is changed"):
        await _change(cloud, KeyChange())


async def test_expired_root_is_refused(cloud: SmallCloud) -> None:
    change = keys.renew(await _view(cloud), "root", _signers(cloud), now_s=time.time() - 11 * 365 * DAY_S)
    with pytest.raises(Refused, match="expired on"):
        await _change(cloud, change)


@pytest.mark.parametrize(("threshold", "added"), [(2, 0), (0, 0), (4, 2)])
async def test_role_that_could_never_be_filled_is_turned_down(cloud: SmallCloud, threshold: int, added: int) -> None:
    joining = [public_key(Ed25519PrivateKey.generate()) for _ in range(added)]
    with pytest.raises(InvalidInput, match=f"want {threshold} signatures"):
        keys.change_role(
            await _view(cloud),
            RoleChange("root", added=joining, threshold=threshold),
            _signers(cloud),
            now_s=time.time(),
        )


# ---- after a restore


async def _lift(cloud: SmallCloud, *, now_s: float | None = None) -> KeysView:
    signers = Signers(targets=[read_key(cloud.targets_key)])
    return await _change(cloud, keys.lift(await _view(cloud), signers, now_s=now_s or time.time()))


def _warning(view: KeysView) -> str:
    return _role(view, "images", "targets").warning


async def test_list_is_lifted_beyond_what_was_signed_and_publishing_goes_on(cloud: SmallCloud) -> None:
    await cloud.publish("1.0.0")
    before = _role(await _view(cloud), "images", "targets").version or 0
    after = _role(await _lift(cloud), "images", "targets").version or 0
    assert before == 2
    assert after > 100_000_000
    assert (await cloud.publish("1.1.0")).version == "1.1.0"
    assert _role(await _view(cloud), "images", "targets").version == after + 1


async def test_list_is_lifted_again_and_again(cloud: SmallCloud) -> None:
    first = _role(await _lift(cloud), "images", "targets").version or 0
    second = _role(await _lift(cloud), "images", "targets").version or 0
    assert second > first


async def test_list_is_not_lifted_out_of_sight(cloud: SmallCloud) -> None:
    """A thief of the targets key would do lasting harm with a version at the end of all numbers."""
    with pytest.raises(Refused, match="the next one is 2"):
        await _lift(cloud, now_s=time.time() + 2 * DAY_S)


async def test_lifted_list_that_lacks_what_was_published_meanwhile_is_refused(cloud: SmallCloud) -> None:
    signers = Signers(targets=[read_key(cloud.targets_key)])
    change = keys.lift(await _view(cloud), signers, now_s=time.time())
    await cloud.publish("1.0.0")
    with pytest.raises(Refused, match="cannot be changed or taken back"):
        await _change(cloud, change)


async def test_publishing_does_not_jump(cloud: SmallCloud) -> None:
    parts = make_parts()
    await cloud.hand_over(parts)
    view = await _view(cloud)
    lifted = keys.lift(view, Signers(targets=[read_key(cloud.targets_key)]), now_s=time.time())
    request = msgspec.structs.replace(cloud.sign(parts), targets_metadata=lifted.targets or b"")
    with pytest.raises(Refused, match="the next one is 2"):
        await publishing.publish(cloud.stores, request, now_s=time.time())


async def test_restored_cloud_warns_until_its_list_is_lifted(cloud: SmallCloud) -> None:
    cloud.clock.now_s = time.time()
    await cloud.publish("1.0.0")
    assert _warning(await _view(cloud)) == ""
    cloud.database.write_now(lambda c: restores.note_restore(c, made_at_s=1.0, now_s=time.time()))
    assert "restored from a backup on 20" in _warning(await _view(cloud))
    cloud.clock.now_s = time.time()
    await cloud.publish("1.1.0")
    assert "'edgeloop keys lift'" in _warning(await _view(cloud)), "one bundle more may be too few"
    assert _warning(await _lift(cloud)) == ""
    cloud.clock.now_s = time.time()
    await cloud.publish("1.2.0")
    assert _warning(await _view(cloud)) == ""


async def test_what_the_server_signs_itself_is_lifted_by_the_restore(cloud: SmallCloud) -> None:
    cloud.enrol("camera-1")

    async def versions() -> list[int]:
        served = [
            await cloud.hub.fetch("camera-1", f"{place}/metadata/timestamp.json")
            for place in ("images", "director/camera-1")
        ]
        return [Metadata.from_bytes(await one.read(0, one.size_bytes)).signed.version for one in served]

    before = await versions()
    cloud.database.write_now(lambda c: restores.note_restore(c, made_at_s=1.0, now_s=time.time()))
    between = await versions()
    await cloud.assign("camera-1")
    after = await versions()
    assert all(low + 10**12 < high for low, high in zip(before, between, strict=True))
    assert (after[0], after[1] > between[1]) == (between[0], True)


async def test_metadata_cannot_be_signed_without_the_online_key_and_says_which(cloud: SmallCloud) -> None:
    cloud.enrol("camera-1")
    (cloud.config.online_keys / "images.pem").unlink()
    with pytest.raises(Unavailable, match="names the online key"):
        await cloud.hub.fetch("camera-1", "images/metadata/timestamp.json")


# ---- several hands


async def test_change_is_signed_in_two_places(cloud: SmallCloud, new_key: Ed25519PrivateKey) -> None:
    mine, view = read_key(cloud.targets_key), await _view(cloud)
    role = RoleChange("targets", added=[public_key(new_key)], threshold=2)
    change = keys.change_role(view, role, _signers(cloud, targets=[mine]), now_s=time.time())
    assert keys.lacking(view, change) == [f"targets: 1 more of the targets keys ({public_key(new_key).keyid[:12]})"]
    with pytest.raises(Refused, match="not signed by the targets key"):
        await _change(cloud, change)
    whole = keys.add_keys_signatures(change, Signers(targets=[new_key]))
    assert keys.lacking(view, whole) == []
    assert _role(await _change(cloud, whole), "images", "targets").threshold == 2


async def test_root_that_names_no_repository_is_refused(cloud: SmallCloud) -> None:
    view = await _view(cloud)
    (signer,) = _signers(cloud).root
    root = next_root(
        view.images_root,
        "images",
        keys=[signer],
        change=lambda root: root.unrecognized_fields.clear(),
        now_s=time.time(),
    )
    with pytest.raises(Refused, match="not marked"):
        await _change(cloud, KeyChange(images_root=root))


# ---- expiry


@pytest.mark.parametrize(
    ("role", "years_to_expiry", "days_before", "is_warned"),
    [("root", 10, 366, False), ("root", 10, 364, True), ("targets", 5, 181, False), ("targets", 5, 179, True)],
)
async def test_expiry_is_warned_of_long_before(
    cloud: SmallCloud, role: str, years_to_expiry: int, days_before: int, is_warned: bool
) -> None:
    founded_s = cloud.database.read_now(registry.newest_targets).published_at_s
    view = await _view(cloud, now_s=founded_s + (years_to_expiry * 365 - days_before) * DAY_S)
    warning = _role(view, "images", role).warning
    assert bool(warning) is is_warned
    assert not is_warned or f"edgeloop keys renew {role}" in warning


async def test_what_is_expired_says_so(cloud: SmallCloud) -> None:
    view = await _view(cloud, now_s=time.time() + 11 * 365 * DAY_S)
    assert "expired on 203" in _role(view, "director", "root").warning


async def test_roots_are_kept_in_order(cloud: SmallCloud) -> None:
    with pytest.raises(EdgeloopError, match="in between"):
        cloud.database.write_now(lambda c: roots.add_root(c, "images", 3, b"", now_s=0.0))


# ---- keys that a crash left behind


async def test_key_that_a_crash_left_after_its_rotation_is_removed_at_the_next_start(cloud: SmallCloud) -> None:
    folder = cloud.config.online_keys
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = {one: trust.make_online_key(cloud.stores, one) for one in ("images", "director")}
    await _change(cloud, keys.change_online(await _view(cloud), made, _signers(cloud), now_s=time.time()))
    newest = {path.name for path in folder.iterdir()}
    for name, data in before.items():  # the process ended between the commit and this
        (folder / name).write_bytes(data)
    pending = trust.make_online_key(cloud.stores, "images").key_id
    trust.forget_retired(cloud.stores)
    assert {path.name for path in folder.iterdir()} == {*newest, f"images-{pending[:12]}.pem"}
    assert cloud.stores.online.has(pending), "it waits for a root that is signed elsewhere, for days perhaps"


# ---- the list of all that is published


def _grown(cloud: SmallCloud, size_bytes: int) -> bytes:
    """The next targets metadata, signed, with so many bundles that it is about so large."""
    key, now_s = read_key(cloud.targets_key), time.time()
    current = cloud.database.read_now(registry.newest_targets).metadata
    one = len(next_targets(current, _bundles(1000), keys=[key], now_s=now_s)) - len(current)
    return next_targets(current, _bundles(1000 * size_bytes // one), keys=[key], now_s=now_s)


def _bundles(count: int) -> dict[str, bytes]:
    return {f"bundles/tiny/1.{number}.0/manifest.json": b"%d" % number for number in range(count)}


async def test_list_beyond_what_devices_take_is_not_published(cloud: SmallCloud) -> None:
    grown = _grown(cloud, MAX_TARGETS_BYTES + 200_000)
    assert len(grown) > MAX_TARGETS_BYTES
    root, _ = cloud.roots.newest()
    current = cloud.database.read_now(registry.newest_targets)
    with pytest.raises(Refused, match=r"devices take at most 8,000,000.*cloud init"):
        check_targets(grown, root=root, current=current.metadata)


async def test_warning_comes_at_half_of_what_devices_take(cloud: SmallCloud) -> None:
    for share, is_warned in ((0.45, False), (0.55, True)):
        grown = _grown(cloud, round(share * MAX_TARGETS_BYTES))
        targets = SignedTargets(version=2, metadata=grown, published_at_s=0.0)
        role = _role(trust.view(cloud.roots, targets, now_s=time.time()), "images", "targets")
        assert ("more bundles" in role.warning) is is_warned
