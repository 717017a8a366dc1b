"""The cloud is away for 72 hours of a device's clock: nothing is lost within the bound, and what is fresh comes first.

The device's own outbox, sender and uplink against the cloud's own app and database; only time is simulated.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from edgeloop.cloud.store.tables import events
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert, Body
from edgeloop.transport.identity import Identity
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import BACKLOG_EVERY, Sender
from edgeloop.transport.uplink import Uplink
from edgeloop.transport.worth import ALERT, READING, SAMPLE, Bounds
from house import Wire
from small_cloud import START_S, Clock, SmallCloud, key_of, reading, sample

pytestmark = pytest.mark.anyio

HOURS = 72
AN_HOUR = 60
"""Readings in one."""


@dataclass
class Camera:
    """A device without an engine: what it would see, and its way up."""

    outbox: Outbox
    sender: Sender
    wire: Wire
    clock: Clock
    cloud: SmallCloud

    def sees(self, count: int) -> list[int]:
        """So many readings, a minute apart; every tenth with its sample."""
        bodies: list[Body] = []
        for number in range(count):
            self.clock.now_s += 60
            bodies.append(reading(margin=number % 10 / 10))
            if number % 10 == 0:
                bodies.append(sample(b"pixels" * 20))
        return self.outbox.append(bodies, at_ms=int(self.clock.now_s * 1000))

    def warns(self) -> int:
        """An alert."""
        return self.outbox.append([Alert(what="drift", detail="")], at_ms=int(self.clock.now_s * 1000))[0]

    async def in_the_cloud(self) -> set[int]:
        """Sequences; each is there once, since it is the table's key."""
        query = sa.select(events.c.sequence).where(events.c.device_id == "camera-1")
        rows = await self.cloud.database.read(lambda connection: connection.execute(query).all())
        assert len(rows) == len({row.sequence for row in rows})
        return {row.sequence for row in rows}


@asynccontextmanager
async def _camera(cloud: SmallCloud, folder: Path, bounds: Bounds) -> AsyncIterator[Camera]:
    cloud.enrol("camera-1")
    clock, wire = Clock(START_S), Wire(cloud.app)
    outbox = Outbox(folder / "outbox.db", "camera-1", bounds=bounds, clock_s=clock)
    async with httpx.AsyncClient(transport=wire, base_url="http://cloud.test") as client:
        sender = Sender(outbox, Uplink(client, Identity("camera-1", key_of("camera-1"))))
        yield Camera(outbox, sender, wire, clock, cloud)
    outbox.close()


async def _is_away(camera: Camera) -> None:
    """For 72 hours, with a try and an alert now and then."""
    camera.wire.is_cut = True
    for hour in range(HOURS):
        camera.sees(AN_HOUR)
        if hour % 12 == 0:
            camera.warns()
        with pytest.raises(Unavailable):
            await camera.sender.send_once()
    camera.wire.is_cut = False


async def test_nothing_is_lost_and_what_is_fresh_comes_first(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _camera(cloud, tmp_path, Bounds()) as camera:
        await _is_away(camera)
        backlog = camera.outbox.stats().pending_rows
        batches, late = 0, []
        while camera.outbox.stats().pending_rows:
            fresh = {camera.warns(), *camera.sees(5)} if batches < 12 else set()
            await camera.sender.send_once()
            batches += 1
            if not fresh <= await camera.in_the_cloud():
                late.append(batches)
            assert batches < 100
        everything = camera.outbox.stats().accounts
        # All but each fourth batch, the backlog's, take what was seen a moment ago.
        assert late == [batch for batch in range(1, 13) if batch % BACKLOG_EVERY == 0 and batch * 500 < backlog]
        assert {kind: one.acknowledged.rows for kind, one in everything.items()} == {
            kind: one.appended.rows for kind, one in everything.items()
        }
        total = sum(one.appended.rows for one in everything.values())
        assert await camera.in_the_cloud() == set(range(1, total + 1))


async def test_oldest_of_the_backlog_has_its_share_while_there_is_always_something_fresh(
    cloud: SmallCloud, tmp_path: Path
) -> None:
    async with _camera(cloud, tmp_path, Bounds()) as camera:
        await _is_away(camera)
        oldest_came_after = None
        for batch in range(1, BACKLOG_EVERY + 1):
            camera.sees(500)  # more than a batch: what is fresh would take all of the link
            await camera.sender.send_once()
            if 3 in await camera.in_the_cloud():
                oldest_came_after = batch
                break
        assert oldest_came_after == BACKLOG_EVERY


async def test_beyond_the_bound_the_least_valuable_is_lost_and_each_row_is_accounted_for(
    cloud: SmallCloud, tmp_path: Path
) -> None:
    async with _camera(cloud, tmp_path, Bounds(max_bytes=1_000_000, keep_free_bytes=0)) as camera:
        await _is_away(camera)
        while camera.outbox.stats().pending_rows:
            await camera.sender.send_once()
        accounts = camera.outbox.stats().accounts
        came = await camera.in_the_cloud()
        assert len(came) == sum(one.acknowledged.rows for one in accounts.values())
        assert [accounts[kind].evicted.rows for kind in (ALERT, SAMPLE)] == [0, 0]
        assert accounts[READING].evicted.rows == HOURS * AN_HOUR - accounts[READING].acknowledged.rows > 0


async def test_what_may_not_wait_for_so_long_is_expired_and_counted(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _camera(cloud, tmp_path, Bounds(ttl_s={READING: 24 * 3600.0})) as camera:
        await _is_away(camera)
        while camera.outbox.stats().pending_rows:
            await camera.sender.send_once()
        accounts = camera.outbox.stats().accounts
        assert accounts[READING].expired.rows + accounts[READING].acknowledged.rows == HOURS * AN_HOUR
        assert 47 * AN_HOUR <= accounts[READING].expired.rows <= 49 * AN_HOUR
        assert (accounts[SAMPLE].expired.rows, accounts[ALERT].expired.rows) == (0, 0)
