"""Patches that a cloud makes when the first device asks, over real blobs and a real database."""

import asyncio
import io
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore

from builders import make_parts
from edgeloop.bundle.archive import digest
from edgeloop.bundle.patch import apply_patch
from edgeloop.cloud.patches import PatchBounds, Patches
from edgeloop.cloud.store import registry
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import PatchOffer
from edgeloop.contracts.names import NOTHING, PatchName
from small_cloud import Clock, SmallCloud

pytestmark = pytest.mark.anyio

SIZE_BYTES = 200_000


class CountingBlobs(Blobs):
    """Blobs in a folder, and which keys were read and kept. go: readers wait for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(folder, mkdir=True), folder=folder)
        self.read: list[str] = []
        self.kept: list[str] = []
        self.go: asyncio.Event | None = None

    async def put(self, key: str, data: bytes) -> None:
        self.kept.append(key)
        await super().put(key, data)

    async def get(self, key: str, *, start: int | None = None, stop: int | None = None) -> bytes:
        self.read.append(key)
        if self.go is not None:
            await self.go.wait()
        return await super().get(key, start=start, stop=stop)


class World:
    """A cloud's patches, and files that are published."""

    def __init__(self, cloud: SmallCloud, folder: Path) -> None:
        self.cloud = cloud
        self.blobs = CountingBlobs(folder)

    def patches(self, *, clock: Callable[[], float] = time.time, **bounds: Any) -> Patches:
        """As of a process that starts now."""
        return Patches(self.cloud.database, self.blobs, bounds=PatchBounds(**bounds), clock=clock)

    async def publish(self, data: bytes) -> str:
        """A file; its hash."""
        await self.blobs.put(registry.file_key(digest(data)), data)
        return digest(data)

    async def pair(self, *, seed: int = 1, size_bytes: int = SIZE_BYTES) -> PatchName:
        """Two files of which one has a new end."""
        base = random.Random(seed).randbytes(size_bytes)
        want = base[:-1000] + random.Random(seed + 100).randbytes(1000)
        return PatchName(await self.publish(want), await self.publish(base))

    async def content(self, sha256: str) -> bytes:
        """What lies under this hash."""
        return await self.blobs.get(registry.file_key(sha256))

    async def made(self, patches: Patches, offer: PatchOffer, name: PatchName) -> bytes:
        """What the offered patch makes."""
        patch = await self.blobs.get(await patches.key_of(offer.sha256))
        assert (len(patch), digest(patch)) == (offer.size_bytes, offer.sha256)
        base = None if name.base == NOTHING else io.BytesIO(await self.content(name.base))
        want = await self.content(name.want)
        parts: list[bytes] = []
        apply_patch(io.BytesIO(patch), base, parts.append, result_bytes=len(want))
        return b"".join(parts)


@pytest.fixture
def world(cloud: SmallCloud, tmp_path: Path) -> World:
    return World(cloud, tmp_path / "blobs")


async def _offer(patches: Patches, name: PatchName) -> PatchOffer:
    return from_json(await patches.offer(name), PatchOffer, what="an offer")


def _patches_kept(world: World) -> list[str]:
    return [key for key in world.blobs.kept if key.startswith("patches/")]


async def test_first_who_asks_has_it_made_and_the_next_are_given_the_same(world: World) -> None:
    patches, name = world.patches(), await world.pair()
    offers = [await _offer(patches, name) for _ in range(3)]
    assert len({offer.sha256 for offer in offers}) == len(_patches_kept(world)) == 1
    assert offers[0].size_bytes < 0.01 * SIZE_BYTES
    assert await world.made(patches, offers[0], name) == await world.content(name.want)
    await patches.close()


async def test_many_who_ask_at_once_have_it_made_once(world: World) -> None:
    patches, name = world.patches(), await world.pair()
    offers = await asyncio.gather(*(_offer(patches, name) for _ in range(50)))
    assert len(set(offers)) == len(_patches_kept(world)) == 1
    await patches.close()


async def test_what_was_made_outlives_a_restart_and_serves_other_replicas(world: World) -> None:
    first, name = world.patches(), await world.pair()
    offer = await _offer(first, name)
    await first.close()
    second = world.patches()
    assert await second.key_of(offer.sha256) == _patches_kept(world)[0]
    third = world.patches()
    assert (await _offer(third, name), len(_patches_kept(world))) == (offer, 1)
    await second.close()
    await third.close()


async def test_file_is_packed_where_the_device_has_nothing_like_it(world: World) -> None:
    patches = world.patches()
    want = b'{"label": "cat"},' * 10_000
    name = PatchName(await world.publish(want), NOTHING)
    offer = await _offer(patches, name)
    assert offer.size_bytes < 0.02 * len(want)
    assert await world.made(patches, offer, name) == want
    await patches.close()


async def test_manifest_is_patched_by_the_one_before(world: World, cloud: SmallCloud) -> None:
    patches = world.patches()
    manifests = []
    for version in ("1.0.0", "1.1.0"):
        await cloud.publish(version)
        manifests.append(to_json(make_parts(version=version).manifest))
    old, new = manifests
    offer = await _offer(patches, PatchName(digest(new), digest(old)))
    assert offer.size_bytes < 0.25 * len(new)
    parts: list[bytes] = []
    patch = await world.blobs.get(await patches.key_of(offer.sha256))
    apply_patch(io.BytesIO(patch), io.BytesIO(old), parts.append, result_bytes=len(new))
    assert b"".join(parts) == new
    await patches.close()


# ---- what is not made


async def test_patch_that_is_hardly_smaller_is_not_kept_and_not_tried_again(world: World) -> None:
    patches = world.patches()
    want, base = random.Random(1).randbytes(SIZE_BYTES), random.Random(2).randbytes(SIZE_BYTES)
    name = PatchName(await world.publish(want), await world.publish(base))
    for _ in range(2):
        with pytest.raises(NotFound, match="worth it"):
            await patches.offer(name)
    assert (_patches_kept(world), world.blobs.read.count(registry.file_key(name.want))) == ([], 1)
    await patches.close()


@pytest.mark.parametrize("size_bytes", [2047, 300_001])
async def test_of_files_beyond_the_bounds_none_are_made(world: World, size_bytes: int) -> None:
    patches, name = world.patches(max_file_bytes=300_000), await world.pair(size_bytes=size_bytes)
    with pytest.raises(NotFound):
        await patches.offer(name)
    assert world.blobs.read == []
    await patches.close()


async def test_what_was_never_published_has_no_patches(world: World) -> None:
    patches, name = world.patches(), await world.pair()
    for one in (PatchName(digest(b"never"), name.base), PatchName(name.want, digest(b"never"))):
        with pytest.raises(NotFound, match="nothing with hash"):
            await patches.offer(one)
    with pytest.raises(NotFound):
        await patches.key_of(digest(b"never"))
    await patches.close()


async def test_who_asks_does_not_wait_for_long_and_has_it_later(world: World) -> None:
    patches, name = world.patches(wait_s=0.05), await world.pair()
    world.blobs.go = asyncio.Event()
    with pytest.raises(NotFound, match="is being made"):
        await patches.offer(name)
    world.blobs.go.set()
    async with asyncio.timeout(60):
        while True:
            try:
                offer = await _offer(patches, name)
            except NotFound:
                await asyncio.sleep(0.02)
            else:
                break
    assert offer.size_bytes < SIZE_BYTES
    assert len(_patches_kept(world)) == 1
    await patches.close()


async def test_more_than_so_many_at_a_time_are_turned_away(world: World) -> None:
    patches = world.patches(wait_s=0.05, max_waiting=2)
    world.blobs.go = asyncio.Event()
    names = [await world.pair(seed=seed) for seed in (1, 2, 3)]
    for name, answer in zip(names, ("is being made", "is being made", "2 patches are being made"), strict=True):
        with pytest.raises(NotFound, match=answer):
            await patches.offer(name)
    await patches.close()
    assert _patches_kept(world) == []


# ---- bounds


async def _keys(world: World) -> set[str]:
    return {one.key for one in await world.blobs.listed("patches")}


async def test_oldest_give_way_when_there_are_too_many_and_are_made_again_when_asked_for(world: World) -> None:
    patches = world.patches(max_count=2)
    names = [await world.pair(seed=seed) for seed in (1, 2, 3)]
    for name in names:
        await patches.offer(name)
        await asyncio.sleep(0.02)  # so that one is older than the next, also on disks that count coarsely
    made = _patches_kept(world)
    assert await _keys(world) == set(made[1:])
    await patches.offer(names[0])
    assert made[0] in await _keys(world)
    assert len(await _keys(world)) == 2
    await patches.close()


async def test_all_together_have_a_bound_in_bytes(world: World) -> None:
    patches = world.patches(max_bytes=2_500)
    for seed in (1, 2, 3):
        await patches.offer(await world.pair(seed=seed))
        await asyncio.sleep(0.02)
    assert await _keys(world) == set(_patches_kept(world)[1:])
    await patches.close()


async def test_what_is_old_goes_when_the_next_is_made(world: World) -> None:
    clock = Clock()
    patches = world.patches(max_age_s=3600.0, clock=clock)
    await patches.offer(await world.pair(seed=1))
    clock.now_s = (await world.blobs.listed("patches"))[0].kept_at_s + 3601.0
    await patches.offer(await world.pair(seed=2))
    assert await _keys(world) == {_patches_kept(world)[1]}
    await patches.close()


async def test_offer_of_what_another_replica_let_go_is_made_anew(world: World) -> None:
    patches, name = world.patches(), await world.pair()
    offer = await _offer(patches, name)
    await world.blobs.remove(list(await _keys(world)))
    assert await _offer(patches, name) == offer
    assert len(_patches_kept(world)) == 2
    await patches.close()
