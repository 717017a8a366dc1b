"""Downloads over links that break, drip, stall, lie and never end, on real sockets."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.states import Kind
from edgeloop.device.supply import HubSupply
from edgeloop.transport.identity import Identity
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Patience, Uplink
from hostile_link import Drip, Endless, HostileLink, Reply, Request, Reset, file_at, plainly
from small_disk import small_disk

SIZE_BYTES = 4 * 1024 * 1024
FILE = random.Random(1).randbytes(SIZE_BYTES)
SHA256 = digest(FILE)
TARGET = f"files/{SHA256}"
PATH = f"targets/{TARGET}"
SHORT = Patience(window_s=0.2, least_bytes=2_000, quick_s=0.1)
HANGS_S = 60.0
"""What is not given up by then never is."""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "bundles")


@pytest.fixture
def link() -> Iterator[HostileLink]:
    with HostileLink(file_at(FILE)) as made:
        yield made


def _fetch(link: HostileLink, shelf: Shelf, *, tries: int = 1, patience: Patience | None = None) -> None:
    """As the agent does: again after each failure, at most so often."""

    async def fetch() -> None:
        member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=link.url, images_root=b"", director_root=b"")
        identity = Identity("cam", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        async with asyncio.timeout(HANGS_S), httpx.AsyncClient(base_url=link.url) as client:
            supply = HubSupply(Uplink(client, identity, patience=patience), member, shelf.folder)
            for _ in range(tries - 1):
                with suppress(EdgeloopError):
                    await supply.fetch(TARGET, shelf, SHA256, SIZE_BYTES)
            if not shelf.has(SHA256):
                await supply.fetch(TARGET, shelf, SHA256, SIZE_BYTES)

    asyncio.run(fetch())


# ---- cuts


def test_resets_cost_at_most_a_twentieth_more_than_the_file(link: HostileLink, shelf: Shelf, turn: int) -> None:
    link.send = sending = Reset(share=0.03, draw=random.Random(7 + turn))
    _fetch(link, shelf)
    assert digest(shelf.read(SHA256)) == SHA256
    assert sending.resets > 10, "the link was bad"
    assert link.sent_bytes[PATH] <= 1.05 * SIZE_BYTES


def test_control_without_ranges_the_same_link_never_brings_the_file(shelf: Shelf) -> None:
    with HostileLink(file_at(FILE, ranges=False)) as link:
        link.send = Reset(share=0.03)
        with pytest.raises(Unavailable):
            _fetch(link, shelf, tries=60)
        assert link.sent_bytes[PATH] > 1.05 * SIZE_BYTES
    assert not shelf.has(SHA256)


def test_proxy_without_ranges_on_a_good_link_brings_the_file(shelf: Shelf) -> None:
    shelf.append_part(SHA256, FILE[:1000])
    with HostileLink(file_at(FILE, ranges=False)) as link:
        _fetch(link, shelf)
    assert shelf.has(SHA256)


def test_download_goes_on_where_an_earlier_process_broke_off(link: HostileLink, shelf: Shelf) -> None:
    shelf.append_part(SHA256, FILE[:-5000])
    _fetch(link, shelf)
    assert (shelf.has(SHA256), link.sent_bytes[PATH]) == (True, 5000)


def test_hub_that_is_away_is_given_up_after_a_few_tries(shelf: Shelf) -> None:
    with HostileLink(_nobody) as link, pytest.raises(Unavailable):
        _fetch(link, shelf)
    assert 2 <= link.asked[PATH] <= 5


# ---- lies


def test_wrong_bytes_are_thrown_away(link: HostileLink, shelf: Shelf) -> None:
    link.tamper = lambda path, data: b"\0" * len(data)
    with pytest.raises(Unavailable, match="damaged twice"):
        _fetch(link, shelf)
    assert (shelf.has(SHA256), shelf.part_size_bytes(SHA256)) == (False, 0)


def test_torn_beginning_of_an_earlier_process_is_fetched_anew(link: HostileLink, shelf: Shelf) -> None:
    shelf.append_part(SHA256, b"\0" * 100_000)
    _fetch(link, shelf)
    assert digest(shelf.read(SHA256)) == SHA256


def test_data_without_an_end_is_cut_off_at_the_signed_size(link: HostileLink, shelf: Shelf) -> None:
    link.send = Endless("targets/")
    with pytest.raises(Unavailable, match="goes on after"):
        _fetch(link, shelf)
    assert not shelf.has(SHA256)
    assert shelf.part_size_bytes(SHA256) <= SIZE_BYTES


def test_range_from_elsewhere_is_found_out(shelf: Shelf) -> None:
    shelf.append_part(SHA256, FILE[:1000])
    with HostileLink(_from_another_place) as link:
        _fetch(link, shelf)  # the second try asks for all of it
        assert digest(shelf.read(SHA256)) == SHA256


def test_packed_bytes_are_not_taken_for_the_file(shelf: Shelf) -> None:
    with HostileLink(_packed) as link, pytest.raises(Unavailable, match="packed as 'gzip'"):
        _fetch(link, shelf)


# ---- patience


def test_drip_is_given_up_and_what_came_is_kept(link: HostileLink, shelf: Shelf) -> None:
    shelf.append_part(SHA256, FILE[:150_000])
    link.send = Drip(every_s=0.01)
    with pytest.raises(Unavailable, match="drips"):
        _fetch(link, shelf, patience=SHORT)
    kept_bytes = shelf.part_size_bytes(SHA256)
    assert kept_bytes > 150_000
    link.send = plainly
    before_bytes = link.sent_bytes[PATH]
    _fetch(link, shelf)
    assert (shelf.has(SHA256), link.sent_bytes[PATH] - before_bytes) == (True, SIZE_BYTES - kept_bytes)


def test_hub_that_takes_the_connection_and_says_nothing_is_given_up(shelf: Shelf) -> None:
    with HostileLink(_silent) as link, pytest.raises(Unavailable, match="did not begin"):
        _fetch(link, shelf, patience=SHORT)


@pytest.mark.parametrize("said", ["drips", "did not begin"])
def test_slow_try_that_came_to_nothing_is_the_last(shelf: Shelf, said: str) -> None:
    # Four of them would be five minutes: only what fails quickly is tried again at once.
    answer = file_at(FILE) if said == "drips" else _silent
    with HostileLink(answer) as link:
        link.send = Drip(every_s=0.01)
        with pytest.raises(Unavailable, match=said):
            _fetch(link, shelf, patience=SHORT)
        assert link.asked[PATH] == 1


def test_quick_tries_and_a_slow_one_take_less_than_ninety_seconds() -> None:
    # An answer that does not begin, then one that drips in each window and never rests for as long as a timeout.
    patience, timeout_s = Patience(), 15.0
    assert 3 * patience.quick_s + patience.window_s + (patience.window_s + timeout_s) <= 90.0


# ---- room


def test_download_that_does_not_fit_is_not_begun(tmp_path: Path, link: HostileLink) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "ballast").write_bytes(b"\0" * (2 * 1024 * 1024))
        shelf = Shelf(disk / "bundles")
        with pytest.raises(Unavailable, match="no room for a download of 4,194,304 bytes"):
            _fetch(link, shelf)
        assert (link.asked[PATH], [path.name for path in disk.rglob("*")]) == (0, ["ballast"])
        (disk / "ballast").unlink()
        _fetch(link, shelf)
        assert shelf.has(SHA256)


async def _nobody(request: Request) -> Reply:
    raise OSError("away")


async def _from_another_place(request: Request) -> Reply:
    if "range" in request.headers:
        return Reply(206, {"content-range": f"bytes 7-{SIZE_BYTES - 1}/{SIZE_BYTES}"}, FILE[7:])
    return Reply(200, {}, FILE)


async def _packed(request: Request) -> Reply:
    return Reply(200, {"content-encoding": "gzip"}, FILE)


async def _silent(request: Request) -> Reply:
    await asyncio.sleep(60.0)
    raise AssertionError("nobody waits so long")
