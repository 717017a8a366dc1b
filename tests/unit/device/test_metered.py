"""Downloads within a day's budget."""

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Assignment
from edgeloop.device.metered import MeteredSupply
from edgeloop.transport.budget import DOWNLOAD, Budget
from edgeloop.transport.keep import Keep
from evening import Evening

pytestmark = pytest.mark.anyio

SHA256 = "0" * 64


class Warehouse:
    """A supply whose files come over a link that is counted."""

    waited_s = 0.0

    def __init__(self, link: SimpleNamespace) -> None:
        self._link = link
        self.fetched: list[str] = []
        self.breaks = False

    async def assignment(self) -> Assignment | None:
        """Nothing is wanted."""
        return None

    async def check(self, target: str, sha256: str) -> int:
        """Of any size."""
        return 0

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """Half of it, if the link breaks."""
        self._link.traffic_bytes["fetch"] += size_bytes // (2 if self.breaks else 1)
        if self.breaks:
            raise Unavailable("broke off")
        self.fetched.append(target)


class World:
    """A supply with a budget of 1,000 bytes a day; `said` notes whether it waited each time that it told. The clock
    goes once it waits."""

    def __init__(self, folder: Path, *, day_ends_in_s: float) -> None:
        self.clock = Evening(ends_in_s=day_ends_in_s)
        self.link = SimpleNamespace(traffic_bytes=Counter())
        self.keep = Keep(folder / "device.db")
        self.budget = Budget(self.keep, limit_bytes=1_000, clock=self.clock)
        self.warehouse = Warehouse(self.link)
        self.said: list[bool] = []
        self.supply = MeteredSupply(
            self.warehouse,
            self.link,  # type: ignore[arg-type]
            self.budget,
            on_wait=self._on_wait,
        )
        self.shelf = Shelf(folder / "bundles")

    def _on_wait(self) -> None:
        self.said.append(self.supply.is_waiting)
        self.clock.go()

    async def fetch(self, size_bytes: int) -> None:
        """One file."""
        await self.supply.fetch("files/a", self.shelf, SHA256, size_bytes)


async def test_download_that_fits_goes_and_is_spent_with_its_name(tmp_path: Path) -> None:
    world = World(tmp_path, day_ends_in_s=3600)
    await world.fetch(400)
    assert world.budget.today().spent == {DOWNLOAD: {"files/a": 400}}
    assert (world.warehouse.fetched, world.said) == (["files/a"], [])
    world.keep.close()


async def test_download_that_does_not_fit_waits_for_the_next_day_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, day_ends_in_s=0.3)
    world.budget.spend("reading", {"tiny@1.0.0": 900})
    await asyncio.wait_for(world.fetch(400), 10)
    assert (world.warehouse.fetched, world.said) == (["files/a"], [True, False])
    assert world.budget.today().spent == {DOWNLOAD: {"files/a": 400}}
    world.keep.close()


async def test_download_that_is_no_longer_wanted_stops_waiting(tmp_path: Path) -> None:
    world = World(tmp_path, day_ends_in_s=3600)
    world.budget.spend("reading", {"tiny@1.0.0": 900})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.fetch(400), 0.05)
    assert (world.warehouse.fetched, world.said) == ([], [True, False])
    world.keep.close()


async def test_bytes_of_a_download_that_broke_off_are_spent(tmp_path: Path) -> None:
    world = World(tmp_path, day_ends_in_s=3600)
    world.warehouse.breaks = True
    with pytest.raises(Unavailable):
        await world.fetch(400)
    assert world.budget.today().spent_bytes() == 200
    world.keep.close()


async def test_time_that_a_download_waits_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, day_ends_in_s=0.3)
    await world.fetch(10)
    assert world.supply.waited_s == 0.0
    world.budget.spend("reading", {"tiny@1.0.0": 900})
    waiting = asyncio.create_task(world.fetch(400))
    while not world.supply.is_waiting:
        await asyncio.sleep(0)
    before_s = world.supply.waited_s
    await asyncio.sleep(0.01)
    assert world.supply.waited_s > before_s, "also of the one that still waits"
    await asyncio.wait_for(waiting, 10)
    waited_s = world.supply.waited_s
    assert waited_s > 0.2
    await asyncio.sleep(0.01)
    assert world.supply.waited_s == waited_s
    world.keep.close()
