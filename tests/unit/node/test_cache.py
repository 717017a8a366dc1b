import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.hub.limits import TooMany
from edgeloop.hub.port import Served
from edgeloop.node.cache import Cache
from edgeloop.transport.budget import Budget
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Patience

pytestmark = pytest.mark.anyio

FILE = b"a model" * 1000
BY_HASH = f"targets/files/{digest(FILE)}"
VERSIONED = "images/metadata/3.targets.json"
TIMESTAMP = "images/metadata/timestamp.json"
MANIFEST = "targets/bundles/tiny/1.0.0/manifest.json"


class FakeUplink:
    """The uplink's way to files: serves a dict, counts, and goes away on demand."""

    patience = Patience()

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.is_away = False
        self.go: asyncio.Event | None = None

    async def size_bytes(self, path: str) -> int:
        return len(self._find(path))

    async def fetch(self, path: str, *, max_bytes: int) -> bytes:
        self.asked.append(path)
        if self.go is not None:
            await self.go.wait()
        return self._find(path)

    async def fetch_from(self, path: str, *, offset_bytes: int, max_bytes: int) -> AsyncIterator[bytes]:
        yield (await self.fetch(path, max_bytes=max_bytes))[offset_bytes:]

    def _find(self, path: str) -> bytes:
        if self.is_away:
            raise Unavailable("the cloud is away")
        if path not in self.files:
            raise NotFound(path)
        return self.files[path]


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink({BY_HASH: FILE, VERSIONED: b"v3", TIMESTAMP: b"one", MANIFEST: b"{}"})


@pytest.fixture
def meter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meter]:
    keep = Keep(tmp_path_factory.mktemp("keep") / "node.db")
    yield Meter(Budget(keep), on_wait=lambda: None)
    keep.close()


@pytest.fixture
def cache(tmp_path: Path, uplink: FakeUplink, meter: Meter) -> Cache:
    return Cache(tmp_path / "cache", uplink, meter, clock_s=lambda: 0.0)  # type: ignore[arg-type]


async def _whole(served: Served) -> bytes:
    return await served.read(0, served.size_bytes)


@pytest.mark.parametrize("path", [BY_HASH, VERSIONED, TIMESTAMP, MANIFEST])
async def test_file_from_above_is_served(cache: Cache, uplink: FakeUplink, path: str) -> None:
    assert await _whole(await cache.get(path)) == uplink.files[path]


async def test_part_of_a_file_is_read(cache: Cache) -> None:
    served = await cache.get(BY_HASH)
    assert await served.read(5, 12) == FILE[5:12]


@pytest.mark.parametrize(
    ("path", "immutable"), [(BY_HASH, True), (VERSIONED, True), (MANIFEST, True), (TIMESTAMP, False)]
)
async def test_what_never_changes_is_marked_so(cache: Cache, path: str, immutable: bool) -> None:
    assert (await cache.get(path)).immutable is immutable


@pytest.mark.parametrize("path", [BY_HASH, VERSIONED, MANIFEST])
async def test_what_never_changes_is_fetched_once(cache: Cache, uplink: FakeUplink, path: str) -> None:
    for _ in range(3):
        await cache.get(path)
    assert uplink.asked == [path]


async def test_hundred_devices_at_once_cost_one_download(cache: Cache, uplink: FakeUplink) -> None:
    uplink.go = asyncio.Event()
    asking = [asyncio.create_task(cache.get(BY_HASH)) for _ in range(100)]
    await asyncio.sleep(0)
    uplink.go.set()
    contents = {await _whole(served) for served in await asyncio.gather(*asking)}
    assert (contents, uplink.asked) == ({FILE}, [BY_HASH])


async def test_slow_download_does_not_hold_up_another_file(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(VERSIONED)
    uplink.go = asyncio.Event()
    slow = asyncio.create_task(cache.get(BY_HASH))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await _whole(await cache.get(VERSIONED)) == b"v3"
    uplink.go.set()
    await slow


async def test_what_was_fetched_outlives_a_restart(
    tmp_path: Path, cache: Cache, uplink: FakeUplink, meter: Meter
) -> None:
    await cache.get(BY_HASH)
    again = Cache(tmp_path / "cache", uplink, meter)  # type: ignore[arg-type]
    await again.get(BY_HASH)
    assert uplink.asked == [BY_HASH]


async def test_what_changes_is_asked_for_each_time(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(TIMESTAMP)
    uplink.files[TIMESTAMP] = b"two"
    assert await _whole(await cache.get(TIMESTAMP)) == b"two"


async def test_answer_that_was_begun_is_not_mixed_with_the_next(cache: Cache, uplink: FakeUplink) -> None:
    begun = await cache.get(TIMESTAMP)
    uplink.files[TIMESTAMP] = b"another and longer"
    await cache.get(TIMESTAMP)
    assert (begun.size_bytes, await _whole(begun)) == (3, b"one")


async def test_last_copy_stands_in_while_the_cloud_is_away(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(TIMESTAMP)
    uplink.is_away = True
    assert await _whole(await cache.get(TIMESTAMP)) == b"one"


@pytest.mark.parametrize("path", [BY_HASH, TIMESTAMP])
async def test_what_was_never_fetched_is_unavailable_while_the_cloud_is_away(
    cache: Cache, uplink: FakeUplink, path: str
) -> None:
    uplink.is_away = True
    with pytest.raises(Unavailable):
        await cache.get(path)


async def test_what_is_gone_above_is_not_found_though_it_was_here(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(TIMESTAMP)
    del uplink.files[TIMESTAMP]
    with pytest.raises(NotFound):
        await cache.get(TIMESTAMP)


async def test_content_of_another_hash_is_not_passed_on(cache: Cache, uplink: FakeUplink) -> None:
    uplink.files[BY_HASH] = FILE[:-1] + b"x"
    with pytest.raises(Unavailable, match=r"damaged twice.*another hash"):
        await cache.get(BY_HASH)


async def test_content_of_another_hash_is_not_kept(tmp_path: Path, cache: Cache, uplink: FakeUplink) -> None:
    uplink.files[BY_HASH] = b"damaged"
    with pytest.raises(Unavailable):
        await cache.get(BY_HASH)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    uplink.files[BY_HASH] = FILE
    assert await _whole(await cache.get(BY_HASH)) == FILE


async def test_file_without_a_byte_is_served(cache: Cache, uplink: FakeUplink) -> None:
    """Of which none can be asked for by a range."""
    assert await _whole(await cache.get(f"targets/files/{digest(b'')}")) == b""


async def test_failed_fetch_leaves_nothing_behind(tmp_path: Path, cache: Cache, uplink: FakeUplink) -> None:
    uplink.is_away = True
    with pytest.raises(Unavailable):
        await cache.get(BY_HASH)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_device_that_gave_up_does_not_spoil_the_file_for_others(cache: Cache, uplink: FakeUplink) -> None:
    uplink.go = asyncio.Event()
    gave_up, stayed = asyncio.create_task(cache.get(BY_HASH)), asyncio.create_task(cache.get(BY_HASH))
    await asyncio.sleep(0)
    gave_up.cancel()
    await asyncio.sleep(0)
    uplink.go.set()
    assert await _whole(await stayed) == FILE


# ---- what the node itself answers from


def _entry(data: bytes) -> FileEntry:
    return FileEntry(digest(data), len(data))


async def test_file_is_read_exactly_and_fetched_once(cache: Cache, uplink: FakeUplink) -> None:
    contents = {await cache.get_exactly(MANIFEST, _entry(b"{}")) for _ in range(3)}
    assert (contents, uplink.asked) == ({b"{}"}, [MANIFEST])


async def test_file_that_a_device_fetched_is_not_fetched_again(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(BY_HASH)
    assert await cache.get_exactly(BY_HASH, _entry(FILE)) == FILE
    assert uplink.asked == [BY_HASH]


@pytest.mark.parametrize("damaged", [FILE[:-1] + b"x", FILE[:-1], FILE + b"x", b""], ids=len)
async def test_damaged_copy_is_fetched_anew_and_mended(
    tmp_path: Path, cache: Cache, uplink: FakeUplink, damaged: bytes
) -> None:
    await cache.get(BY_HASH)
    (tmp_path / "cache" / BY_HASH).write_bytes(damaged)
    assert await cache.get_exactly(BY_HASH, _entry(FILE)) == FILE
    assert await _whole(await cache.get(BY_HASH)) == FILE
    assert uplink.asked == [BY_HASH, BY_HASH]


async def test_damaged_copy_is_not_read_while_the_cloud_is_away(
    tmp_path: Path, cache: Cache, uplink: FakeUplink
) -> None:
    await cache.get(BY_HASH)
    (tmp_path / "cache" / BY_HASH).write_bytes(FILE[:-1] + b"x")
    uplink.is_away = True
    with pytest.raises(Unavailable):
        await cache.get_exactly(BY_HASH, _entry(FILE))


async def test_content_from_above_that_is_not_exactly_it_is_corrupt_and_not_kept(
    tmp_path: Path, cache: Cache, uplink: FakeUplink
) -> None:
    with pytest.raises(Corrupt, match="hash"):
        await cache.get_exactly(MANIFEST, _entry(b"[]"))
    assert not (tmp_path / "cache" / MANIFEST).exists()


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "targets/../../secret",
        "targets/files/..",
        f"{BY_HASH}.part",
        f"{BY_HASH}/x",
        "targets/files/abc",
        "/etc/passwd",
        "targets//etc/passwd",
        "targets/.hidden",
        "targets/files/a\0b",
        "targets/files/a\n",
        "targets\\files",
        "~/x/y",
        "targets/" + "a/" * 10 + "b",
        "alone",
        "",
    ],
    ids=repr,
)
async def test_path_tricks_are_not_found_and_not_asked_for(cache: Cache, uplink: FakeUplink, path: str) -> None:
    with pytest.raises(NotFound):
        await cache.get(path)
    assert uplink.asked == []


@pytest.mark.parametrize("segment", ["a" * 300, "a" * 5000])
async def test_name_too_long_for_a_disk_is_an_edgeloop_error(cache: Cache, uplink: FakeUplink, segment: str) -> None:
    with pytest.raises(EdgeloopError):
        await cache.get(f"targets/files/{segment}")


@pytest.mark.parametrize("kind", [Refused, NotFound, Corrupt])
async def test_last_copy_does_not_hide_what_the_cloud_says(
    tmp_path: Path, uplink: FakeUplink, meter: Meter, kind: Callable[[str], EdgeloopError]
) -> None:
    class Saying(FakeUplink):
        async def fetch(self, path: str, *, max_bytes: int) -> bytes:
            if self.is_away:
                raise kind("no")
            return await super().fetch(path, max_bytes=max_bytes)

    above = Saying(uplink.files)
    cache = Cache(tmp_path / "cache", above, meter)  # type: ignore[arg-type]
    await cache.get(TIMESTAMP)
    above.is_away = True
    with pytest.raises(EdgeloopError, match="no"):
        await cache.get(TIMESTAMP)


@pytest.mark.parametrize("path", [TIMESTAMP, "images/metadata/2.root.json"])
async def test_those_who_ask_at_once_share_an_answer_that_is_newer_than_their_question(
    cache: Cache, uplink: FakeUplink, path: str
) -> None:
    uplink.go = asyncio.Event()
    first = asyncio.create_task(_outcome(cache, path))
    while not uplink.asked:
        await asyncio.sleep(0)
    later = [asyncio.create_task(_outcome(cache, path)) for _ in range(20)]
    await asyncio.sleep(0)
    uplink.files[TIMESTAMP] = b"two"
    uplink.go.set()
    await first
    expected = b"two" if path == TIMESTAMP else None
    assert [await one for one in later] == [expected] * 20
    assert len(uplink.asked) == 2
    await _outcome(cache, path)
    assert len(uplink.asked) == 3


async def _outcome(cache: Cache, path: str) -> bytes | None:
    try:
        return await _whole(await cache.get(path))
    except NotFound:
        return None


async def test_nothing_is_remembered_of_paths_that_nobody_asks_for_any_more(cache: Cache, uplink: FakeUplink) -> None:
    uplink.go = asyncio.Event()
    asking = [asyncio.create_task(_outcome(cache, f"images/metadata/{n}.root.json")) for n in range(50)]
    gave_up = asyncio.create_task(_outcome(cache, TIMESTAMP))
    while len(uplink.asked) < 51:
        await asyncio.sleep(0)
    assert cache.asked_now == 51
    gave_up.cancel()
    uplink.go.set()
    await asyncio.wait([*asking, gave_up])
    assert cache.asked_now == 0


# ---- shares


async def test_device_that_asks_for_much_uses_up_its_own_share_alone(cache: Cache, uplink: FakeUplink) -> None:
    await cache.get(VERSIONED, asker="greedy")
    paths = [f"targets/bundles/tiny/2.0.{n}/manifest.json" for n in range(100)]
    paths += [f"targets/files/{n:064x}" for n in range(1000)]
    told = [await _failure(cache, path, asker="greedy") for path in paths]
    assert [type(error) for error in told] == [NotFound] * 199 + [TooMany] * 901, "one share was used before"
    assert isinstance(told[-1], TooMany)
    assert told[-1].retry_after_s == 0.2
    assert await _whole(await cache.get(VERSIONED, asker="greedy")) == b"v3", "it is here"
    assert await _whole(await cache.get(TIMESTAMP, asker="another")) == b"one"
    assert isinstance(await _failure(cache, paths[-1], asker=None), NotFound), "the node itself has no bound"


async def _failure(cache: Cache, path: str, *, asker: str | None) -> EdgeloopError | None:
    try:
        await cache.get(path, asker=asker)
    except EdgeloopError as error:
        return error
    return None


@pytest.mark.parametrize("path", [TIMESTAMP, "images/metadata/2.root.json"])
async def test_hub_above_that_is_asked_for_too_much_is_not_away(
    tmp_path: Path, uplink: FakeUplink, meter: Meter, path: str
) -> None:
    class Busy(FakeUplink):
        async def fetch(self, path: str, *, max_bytes: int) -> bytes:
            if self.is_away:
                raise again
            return await super().fetch(path, max_bytes=max_bytes)

    again = Unavailable("too many requests")
    again.retry_after_s = 7.0
    above = Busy(uplink.files)
    cache = Cache(tmp_path / "cache", above, meter)  # type: ignore[arg-type]
    await cache.get(TIMESTAMP)
    above.is_away = True
    with pytest.raises(TooMany, match="too many requests") as told:
        await cache.get(path)
    assert told.value.retry_after_s == 7.0
