"""What a device's supply makes of signed words: health, generations, and what comes along with them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.messages import TrustReply, TrustRequest
from edgeloop.contracts.states import Kind
from edgeloop.device.supply import HubSupply
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Patience
from signing_cloud import (
    CAMERA,
    DAY_S,
    DIRECTOR_ROOT,
    IMAGES_ROOT,
    MANIFEST,
    NOW_S,
    TARGET,
    THIEF,
    SigningCloud,
    an_assignment,
)


class FakeUplink:
    """The part of an uplink that signed words need, over a cloud in memory."""

    def __init__(self, cloud: SigningCloud) -> None:
        self._cloud = cloud
        self.now_s = time.time()
        self.patience = Patience()
        self.along: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.traffic_bytes: Counter[str] = Counter()

    def latest_time_s(self) -> float:
        """See Uplink.latest_time_s."""
        return self.now_s

    async def fetch(self, path: str, *, max_bytes: int) -> bytes:
        """See Uplink.fetch."""
        return self._cloud.fetch(path, max_bytes)

    async def trust(self, request: TrustRequest) -> TrustReply:
        """See Uplink.trust."""
        along = dict(self.along) if request.along_bytes else {}
        return msgspec.structs.replace(self._cloud.fetch_all(request), along=along)

    async def fetch_from(self, path: str, *, offset_bytes: int, max_bytes: int) -> AsyncIterator[bytes]:
        """See Uplink.fetch_from."""
        self.fetched.append(path)
        yield MANIFEST[offset_bytes:]


@pytest.fixture
def cloud() -> SigningCloud:
    return SigningCloud()


@pytest.fixture
def uplink(cloud: SigningCloud) -> FakeUplink:
    return FakeUplink(cloud)


@pytest.fixture
def supply(uplink: FakeUplink, tmp_path: Path) -> HubSupply:
    member = Membership(
        device_id=CAMERA, kind=Kind.DEVICE, hub_url="", images_root=IMAGES_ROOT, director_root=DIRECTOR_ROOT
    )
    return HubSupply(uplink, member, tmp_path)  # type: ignore[arg-type]


def test_word_older_than_the_hub_told_of_is_asked_for_again(cloud: SigningCloud, supply: HubSupply) -> None:
    async def ask() -> None:
        await supply.assignment()
        supply.require_generation(1)
        with pytest.raises(Unavailable, match="told of assignment 2"):
            supply.require_generation(2)
        cloud.assign(None, generation=2)
        await supply.assignment()
        supply.require_generation(2)

    asyncio.run(ask())
    assert an_assignment().generation == 1


# ---- what comes along


def _manifest_on(shelf: Shelf, supply: HubSupply) -> bytes:
    """After an assignment."""
    sha256 = digest(MANIFEST)

    async def bring() -> None:
        await supply.assignment()
        await supply.fetch(TARGET, shelf, sha256, await supply.check(TARGET, sha256))

    asyncio.run(bring())
    return shelf.read(sha256)


def test_what_came_along_is_not_fetched_and_counts_as_downloaded(
    supply: HubSupply, uplink: FakeUplink, tmp_path: Path
) -> None:
    uplink.along = {f"targets/{TARGET}": MANIFEST}
    assert _manifest_on(Shelf(tmp_path / "bundles"), supply) == MANIFEST
    assert uplink.fetched == []
    assert uplink.traffic_bytes["fetch"] == len(MANIFEST)


@pytest.mark.parametrize("came", [MANIFEST[:-1] + b"x", MANIFEST + b" ", b""], ids=["changed", "longer", "empty"])
def test_what_came_along_and_is_not_what_is_signed_is_fetched(
    supply: HubSupply, uplink: FakeUplink, tmp_path: Path, came: bytes
) -> None:
    uplink.along = {f"targets/{TARGET}": came}
    assert _manifest_on(Shelf(tmp_path / "bundles"), supply) == MANIFEST
    assert uplink.fetched == [f"targets/{TARGET}"]


def test_nothing_comes_along_with_the_words_of_each_day(supply: HubSupply, uplink: FakeUplink) -> None:
    uplink.along = {f"targets/{TARGET}": MANIFEST}

    async def ask() -> None:
        await supply.refresh()
        assert not supply.is_at_hand(TARGET)
        await supply.assignment()
        assert supply.is_at_hand(TARGET)

    asyncio.run(ask())


# ---- health


def test_health_says_until_when_it_holds(supply: HubSupply) -> None:
    asyncio.run(supply.refresh())
    assert (supply.trust.expires_at_s, supply.trust.trouble) == (NOW_S + 7 * DAY_S, "")


def test_health_says_why_what_is_signed_was_refused(cloud: SigningCloud, supply: HubSupply) -> None:
    cloud.stolen["director"] = THIEF
    with pytest.raises(Refused):
        asyncio.run(supply.refresh())
    assert "director metadata does not hold" in supply.trust.trouble


def test_health_warns_before_what_it_has_expires(supply: HubSupply, uplink: FakeUplink) -> None:
    asyncio.run(supply.refresh())
    uplink.now_s = NOW_S + 5.5 * DAY_S
    assert "36 hours more" in supply.trust.trouble


def test_what_is_signed_is_asked_for_again_after_anything_that_can_happen(
    uplink: FakeUplink, supply: HubSupply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock says the year 10,000: no date at all. It is not the end of the task."""
    uplink.now_s = 3e11
    slept: list[float] = []
    monkeypatch.setattr("edgeloop.device.supply.asyncio.sleep", _counting(slept, until=3))

    async def keep_fresh() -> None:
        await supply.keep_fresh()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_fresh())
    assert len(slept) == 3


def _counting(slept: list[float], *, until: int) -> Callable[[float], Awaitable[None]]:
    """A sleep that takes no time, and is cancelled as often as that."""

    async def sleep(wait_s: float) -> None:
        slept.append(wait_s)
        if len(slept) == until:
            raise asyncio.CancelledError

    return sleep
