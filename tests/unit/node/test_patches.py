"""Patches that pass through a node, on real sockets."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from edgeloop.bundle.archive import digest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import ErrorReply, PatchOffer
from edgeloop.contracts.names import PatchName
from edgeloop.hub.port import Served
from edgeloop.node.cache import Cache
from edgeloop.node.patches import PassedPatches
from edgeloop.transport.budget import Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Uplink
from hostile_link import HostileLink, Reply, Request
from small_cloud import key_of

pytestmark = pytest.mark.anyio

PATCH = random.Random(1).randbytes(100_000)
NAME = PatchName("a" * 64, "b" * 64)
FILE = f"targets/files/{digest(PATCH)}"
OFFER = to_json(PatchOffer(sha256=digest(PATCH), size_bytes=len(PATCH)))


async def _hub(request: Request) -> Reply:
    content = {NAME.offer_path: OFFER, FILE: PATCH}.get(request.path)
    if content is None:
        return Reply(404, {}, to_json(ErrorReply(code="not_found", message="no such patch")))
    if request.headers.get("range") == "bytes=0-0":
        return Reply(206, {"content-range": f"bytes 0-0/{len(content)}"}, content[:1])
    return Reply(200, {}, content)


@pytest.fixture
def link() -> Iterator[HostileLink]:
    with HostileLink(_hub) as made:
        yield made


@asynccontextmanager
async def _cache(folder: Path, url: str) -> AsyncIterator[Cache]:
    keep = Keep(folder / "node.db")
    budget = Budget(keep)
    async with httpx.AsyncClient(base_url=url) as client:
        uplink = Uplink(client, Identity("gateway", key_of("gateway")))
        cache = Cache(folder / "cache", uplink, Meter(budget, on_wait=lambda: None))
        yield cache
        await cache.close()
    budget.close()
    keep.close()


async def _whole(served: Served) -> bytes:
    return await served.read(0, served.size_bytes)


async def test_hundred_devices_cost_one_patch(tmp_path: Path, link: HostileLink) -> None:
    async def as_a_device() -> bytes:
        assert await _whole(await cache.get(NAME.offer_path)) == OFFER
        return await _whole(await cache.get(FILE))

    async with _cache(tmp_path, link.url) as cache:
        assert set(await asyncio.gather(*(as_a_device() for _ in range(100)))) == {PATCH}
    assert link.sent_bytes[FILE] == len(PATCH) + 1, "all of it once, and a byte to learn the size"


async def test_no_patch_above_is_no_patch_here(tmp_path: Path, link: HostileLink) -> None:
    async with _cache(tmp_path, link.url) as cache:
        with pytest.raises(NotFound):
            await cache.get(PatchName("c" * 64, "b" * 64).offer_path)


async def test_what_passed_serves_on_while_the_cloud_is_away(tmp_path: Path) -> None:
    with HostileLink(_hub) as link:
        url = link.url
        async with _cache(tmp_path, url) as cache:
            await cache.get(NAME.offer_path)
            await cache.get(FILE)
    async with _cache(tmp_path, url) as cache:
        assert await _whole(await cache.get(NAME.offer_path)) == OFFER
        assert await _whole(await cache.get(FILE)) == PATCH


# ---- bounds


class Folder:
    """A cache's folder with offers and patches in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, number: int, *, size_bytes: int = 1000) -> PatchName:
        """An offer and its patch, as they were cached just now."""
        name = PatchName(f"{number:064x}", "b" * 64)
        sha256 = digest(f"{number}".encode())
        self._write(self.path / name.offer_path, to_json(PatchOffer(sha256=sha256, size_bytes=size_bytes)))
        self._write(self.path / "targets" / "files" / sha256, bytes(size_bytes))
        return name

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def numbers(self, upto: int) -> list[int]:
        """Of the patches that are there, each with its offer."""
        there = []
        for number in range(upto):
            offer = self.path / PatchName(f"{number:064x}", "b" * 64).offer_path
            patch = self.path / "targets" / "files" / digest(f"{number}".encode())
            assert offer.is_file() == patch.is_file()
            if patch.is_file():
                there.append(number)
        return there


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cache")


@pytest.mark.parametrize("bound", [{"most_count": 3}, {"most_bytes": 3_500}])
async def test_oldest_patches_give_way_and_bundles_files_stay(folder: Folder, bound: dict[str, int]) -> None:
    passed = PassedPatches(folder.path, **bound)
    model = folder.path / "targets" / "files" / ("f" * 64)
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(1_000_000))
    for number in range(6):
        await passed.note(folder.take(number))
    assert folder.numbers(6) == [3, 4, 5]
    assert model.is_file()


async def test_patches_of_the_process_before_count(folder: Folder) -> None:
    before = PassedPatches(folder.path)
    for number in range(5):
        await before.note(folder.take(number))
        await asyncio.sleep(0.02)  # so that one is older than the next, also on disks that count coarsely
    await PassedPatches(folder.path, most_count=3).note(folder.take(5))
    assert folder.numbers(6) == [3, 4, 5]


async def test_offer_that_is_none_is_passed_over(folder: Folder) -> None:
    passed = PassedPatches(folder.path, most_count=1)
    name = folder.take(0)
    (folder.path / name.offer_path).write_bytes(b"not an offer")
    await passed.note(name)
    await passed.note(folder.take(1))
    assert (folder.path / "targets" / "files" / digest(b"1")).is_file()
