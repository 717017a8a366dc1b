"""How a node carries a bundle's files down, over real sockets that break, drip and lie, onto real disks."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.hub.port import Served
from edgeloop.node.cache import Cache
from edgeloop.transport.budget import DOWNLOAD, Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Patience, Uplink
from evening import Evening
from hostile_link import Drip, HostileLink, Reply, Request, Reset, file_at, plainly
from small_cloud import key_of, until
from small_disk import small_disk

pytestmark = pytest.mark.anyio

SIZE_BYTES = 2 * 1024 * 1024
FILE = random.Random(2).randbytes(SIZE_BYTES)
SHA256 = digest(FILE)
PATH = f"targets/files/{SHA256}"
SHORT = Patience(window_s=0.2, least_bytes=2_000)


@pytest.fixture
def link() -> Iterator[HostileLink]:
    with HostileLink(file_at(FILE)) as made:
        yield made


@asynccontextmanager
async def _node(
    folder: Path,
    link: HostileLink,
    *,
    patience: Patience | None = None,
    day_bytes: int = 0,
    day_ends_in_s: float = 3600.0,
    longest_answer_s: float = 30.0,
) -> AsyncIterator[tuple[Cache, Budget]]:
    """A node's cache, as it is after a start on this folder."""
    clock = Evening(ends_in_s=day_ends_in_s)
    keep = Keep(folder / "node.db")
    budget = Budget(keep, limit_bytes=day_bytes, clock=clock)
    async with httpx.AsyncClient(base_url=link.url) as client:
        uplink = Uplink(client, Identity("gateway", key_of("gateway")), patience=patience)
        meter = Meter(budget, on_wait=clock.go)
        cache = Cache(folder / "cache", uplink, meter, longest_answer_s=longest_answer_s)
        yield cache, budget
        await cache.close()
    budget.close()
    keep.close()


def _part(folder: Path) -> Path:
    return folder / "cache" / "targets" / "files" / f"{SHA256}.part"


async def _whole(served: Served) -> bytes:
    return await served.read(0, served.size_bytes)


async def test_resets_cost_at_most_a_twentieth_more_than_the_file(tmp_path: Path, link: HostileLink) -> None:
    link.send = sending = Reset(share=0.03)
    async with _node(tmp_path, link) as (cache, _):
        assert digest(await _whole(await cache.get(PATH))) == SHA256
    assert sending.resets > 5, "the link was bad"
    assert link.sent_bytes[PATH] <= 1.05 * SIZE_BYTES


async def test_download_goes_on_where_the_node_was_when_it_ended(tmp_path: Path, link: HostileLink) -> None:
    link.send = Drip(every_s=0.001)
    async with _node(tmp_path, link) as (cache, _):
        asking = asyncio.create_task(cache.get(PATH))

        async def has_begun() -> bool:
            return _part(tmp_path).is_file() and _part(tmp_path).stat().st_size > 10

        await until(has_begun, "a beginning")
    with pytest.raises(Unavailable, match="ending"):
        await asking
    kept_bytes = _part(tmp_path).stat().st_size
    link.send = plainly
    before_bytes = link.sent_bytes[PATH]
    async with _node(tmp_path, link) as (cache, _):
        assert digest(await _whole(await cache.get(PATH))) == SHA256
    assert link.sent_bytes[PATH] - before_bytes == SIZE_BYTES - kept_bytes + 1, "the rest, and a byte to learn the size"


async def test_drip_is_given_up_and_what_came_is_kept(tmp_path: Path, link: HostileLink) -> None:
    link.send = Drip(every_s=0.01)
    async with _node(tmp_path, link, patience=SHORT) as (cache, _):
        with pytest.raises(Unavailable, match="drips"):
            await cache.get(PATH)
    assert _part(tmp_path).stat().st_size > 0


async def test_file_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    large = random.Random(3).randbytes(4 * 1024 * 1024)
    path = f"targets/files/{digest(large)}"
    with HostileLink(file_at(large)) as link, small_disk(tmp_path / "disk") as disk:
        (disk / "ballast").write_bytes(b"\0" * (2 * 1024 * 1024))
        async with _node(disk, link) as (cache, _):
            with pytest.raises(Unavailable, match="no room for a download of 4,194,304 bytes"):
                await cache.get(path)
            assert link.sent_bytes[path] == 1, "no more than its size was asked for"
            (disk / "ballast").unlink()
            assert await _whole(await cache.get(path)) == large


async def test_all_who_ask_at_once_are_told_of_the_same_failure(tmp_path: Path) -> None:
    with HostileLink(_nobody) as link:
        async with _node(tmp_path, link) as (cache, _):
            told = await asyncio.gather(*(cache.get(PATH) for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in told} == {Unavailable}
    assert link.asked[PATH] == 1


async def test_who_asks_for_what_takes_long_is_told_how_far_it_is(tmp_path: Path, link: HostileLink) -> None:
    link.send = Drip(every_s=0.001)
    async with _node(tmp_path, link, longest_answer_s=0.3) as (cache, _):
        with pytest.raises(Unavailable, match=f"{SHA256[:12]} is on its way to this node, .* it goes on, ask again"):
            await cache.get(PATH)
        asked = link.asked[PATH]
        with pytest.raises(Unavailable, match="on its way"):
            await cache.get(PATH)
        assert link.asked[PATH] == asked, "it was the same download"


async def test_what_a_download_has_brought_so_far_is_not_served(tmp_path: Path, link: HostileLink) -> None:
    _part(tmp_path).parent.mkdir(parents=True)
    _part(tmp_path).write_bytes(FILE[:1000])
    async with _node(tmp_path, link) as (cache, _):
        with pytest.raises(NotFound):
            await cache.get(f"{PATH}.part")


async def test_torn_beginning_is_found_out_and_fetched_anew(tmp_path: Path, link: HostileLink) -> None:
    _part(tmp_path).parent.mkdir(parents=True)
    _part(tmp_path).write_bytes(b"\0" * 100_000)
    async with _node(tmp_path, link) as (cache, _):
        assert await _whole(await cache.get(PATH)) == FILE


async def test_hub_that_says_no_size_is_found_out(tmp_path: Path) -> None:
    with HostileLink(_without_size) as link:
        async with _node(tmp_path, link) as (cache, _):
            with pytest.raises(Exception, match="how large"):
                await cache.get(PATH)


async def test_disk_of_the_node_that_fails_is_told_as_that(tmp_path: Path, link: HostileLink) -> None:
    """A real EIO: a process' memory has nothing at address 0."""
    _part(tmp_path).parent.mkdir(parents=True)
    _part(tmp_path).with_suffix("").symlink_to("/proc/self/mem")
    async with _node(tmp_path, link) as (cache, _):
        served = await cache.get(PATH)
        with pytest.raises(Unavailable, match="the disk failed"):
            await served.read(0, 10)


async def test_damaged_file_that_the_node_mends_is_asked_for_again(tmp_path: Path, link: HostileLink) -> None:
    async with _node(tmp_path, link) as (cache, _):
        served = await cache.get(PATH)
        _part(tmp_path).with_suffix("").unlink()  # as it is when the node finds its own copy damaged
        with pytest.raises(Unavailable, match="is fetched anew; ask again"):
            await served.read(0, 10)


# ---- a day's bytes


async def test_file_is_spent_of_the_day(tmp_path: Path, link: HostileLink) -> None:
    async with _node(tmp_path, link, day_bytes=10 * SIZE_BYTES) as (cache, budget):
        await cache.get(PATH)
        assert budget.today().spent == {DOWNLOAD: {f"files/{SHA256}": SIZE_BYTES}}


async def test_file_that_does_not_fit_into_the_day_waits_and_says_so(tmp_path: Path, link: HostileLink) -> None:
    async with _node(tmp_path, link, day_bytes=2 * SIZE_BYTES, longest_answer_s=0.2) as (cache, budget):
        budget.spend("reading", {"tiny@1.0.0": 2 * SIZE_BYTES - 1})
        with pytest.raises(Unavailable, match="waits for the day's bytes"):
            await cache.get(PATH)
    assert link.sent_bytes[PATH] == 1, "no more than its size was asked for"


async def test_file_that_waited_comes_with_the_next_day(tmp_path: Path, link: HostileLink) -> None:
    async with _node(tmp_path, link, day_bytes=2 * SIZE_BYTES, day_ends_in_s=1.0) as (cache, budget):
        budget.spend("reading", {"tiny@1.0.0": 2 * SIZE_BYTES - 1})
        assert await _whole(await cache.get(PATH)) == FILE


async def _nobody(request: Request) -> Reply:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):  # so that all ask while the first answer is on its way
            await asyncio.Event().wait()
    raise OSError("away")


async def _without_size(request: Request) -> Reply:
    return Reply(206, {"content-range": "bytes 0-0/*"}, FILE[:1])
