"""What devices say of how they fare waits for no disk; all else does."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import ANY

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from edgeloop.cloud.beats import Beats
from edgeloop.cloud.hub import CloudHub
from edgeloop.cloud.store import fleet
from edgeloop.contracts.api import DeviceView
from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.messages import Desired, DeviceReport, Health, SyncReply, SyncRequest
from edgeloop.contracts.states import Kind, UpdateState
from small_cloud import PROFILE, START_S, SmallCloud, report, until, update_report

pytestmark = pytest.mark.anyio

CAMERA = "camera-1"
AT_ONCE_S = 2.0


@contextmanager
def held_up(cloud: SmallCloud) -> Iterator[None]:
    """While the writer cannot commit: nothing that waits for a commit is answered."""
    begun, let_go = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        begun.set()
        assert let_go.wait(30)

    done = cloud.database._writer.submit(hold)
    assert begun.wait(10)
    try:
        yield
    finally:
        let_go.set()
        done.result(10)


def well(readings: int = 0, *, name: str = CAMERA, known: int = 0, active: str | None = None) -> DeviceReport:
    """A report of a device that has made so many readings."""
    said = report(name, known, active=active)
    return msgspec.structs.replace(said, health=Health(readings=readings), profile=PROFILE)


async def sync(cloud: SmallCloud, *reports: DeviceReport, sender: str = CAMERA, wait_s: float = 0.0) -> SyncReply:
    """One sync of a sender."""
    return await cloud.hub.sync(sender, SyncRequest(reports=reports, wait_s=wait_s))


async def is_held_up(cloud: SmallCloud, *reports: DeviceReport, sender: str = CAMERA) -> bool:
    """Whether these reports are answered after a commit only."""
    with held_up(cloud):
        asked = asyncio.create_task(sync(cloud, *reports, sender=sender))
        done, _ = await asyncio.wait([asked], timeout=0.3)
    await asked
    return not done


def seen(cloud: SmallCloud, name: str = CAMERA) -> DeviceView:
    """What the cloud shows of a device."""
    return cloud.database.read_now(lambda c: fleet.get_device(c, name))


def readings(cloud: SmallCloud) -> int:
    """How many readings the cloud knows of."""
    told = seen(cloud).report
    return -1 if told is None else told.health.readings


async def kept(cloud: SmallCloud, count: int) -> None:
    """Wait until a beat with so many readings is kept."""

    async def is_kept() -> bool:
        return readings(cloud) == count

    await until(is_kept, f"a beat with {count} readings kept")


async def test_beat_is_answered_before_it_is_kept_and_kept_within_a_moment(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    cloud.clock.now_s += 60
    with held_up(cloud):
        async with asyncio.timeout(AT_ONCE_S):
            await sync(cloud, well(2))
        assert readings(cloud) == 1
    await kept(cloud, 2)
    assert seen(cloud).last_seen_s == START_S + 60


async def test_first_report_is_kept_before_it_is_answered(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    assert await is_held_up(cloud, well(1))


@pytest.mark.parametrize("news", ["active", "known", "update", "profile"])
async def test_news_is_kept_before_it_is_answered(cloud: SmallCloud, news: str) -> None:
    cloud.enrol(CAMERA)
    await cloud.assign(CAMERA)
    assignment = cloud.assigned(CAMERA)
    assert assignment is not None
    said = {
        "active": {"active": "tiny@1.0.0"},
        "known": {"known_generation": 1},
        "update": {"update": update_report(assignment, UpdateState.ACCEPTING)},
        "profile": {"profile": msgspec.structs.replace(PROFILE, cpu_count=4)},
    }[news]
    await sync(cloud, well(1))
    changed = msgspec.structs.replace(well(2), **said)
    assert await is_held_up(cloud, changed)
    assert readings(cloud) == 2
    assert not await is_held_up(cloud, msgspec.structs.replace(changed, health=Health(readings=3))), "no news any more"


async def test_what_a_node_brings_is_kept_before_it_is_answered(cloud: SmallCloud) -> None:
    cloud.enrol("gateway", kind=Kind.NODE)
    cloud.enrol(CAMERA, via="gateway")
    both = (well(name="gateway"), well(1))
    await sync(cloud, *both, sender="gateway")
    assert await is_held_up(cloud, *both, sender="gateway")
    assert await is_held_up(cloud, well(1), sender="gateway")


async def test_beat_is_told_what_is_newer(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    generation = await cloud.assign(CAMERA)
    reply = await sync(cloud, well(2), wait_s=30.0)
    assert reply.desired == (Desired(device_id=CAMERA, generation=generation),)


async def test_held_beat_is_told_of_a_new_assignment(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    waiting = asyncio.create_task(sync(cloud, well(2), wait_s=30.0))
    await asyncio.sleep(0.05)
    generation = await cloud.assign(CAMERA)
    async with asyncio.timeout(AT_ONCE_S):
        assert (await waiting).desired == (Desired(device_id=CAMERA, generation=generation),)


async def test_revoked_device_is_turned_down_and_a_beat_that_waits_is_not_kept(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    await sync(cloud, well(2))
    await cloud.database.write(lambda c: fleet.revoke(c, CAMERA, now_s=cloud.clock()))
    with pytest.raises(Refused, match="revoked"):
        await sync(cloud, well(3))
    await cloud.hub.close()
    assert readings(cloud) == 1


async def test_older_beat_does_not_take_the_place_of_what_came_after_it(cloud: SmallCloud) -> None:
    """As where two replicas hear of a device."""
    cloud.enrol(CAMERA)
    other = CloudHub(cloud.stores, cloud.conductor, cloud.waker, clock=cloud.clock)
    await sync(cloud, well(1))
    await sync(cloud, well(2))  # waits here
    cloud.clock.now_s += 1
    await other.sync(CAMERA, SyncRequest(reports=(well(3, active="tiny@1.0.0"),)))
    await cloud.hub.close()
    await other.close()
    told = seen(cloud)
    assert told.report is not None
    assert (told.report.active, readings(cloud), told.last_seen_s) == ("tiny@1.0.0", 3, START_S + 1)


async def test_news_takes_the_place_of_a_beat_that_waits(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    await sync(cloud, well(2))
    await sync(cloud, well(3, active="tiny@1.0.0"))
    await cloud.hub.close()
    assert readings(cloud) == 3


async def test_what_waits_is_kept_at_the_end(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    await sync(cloud, well(2))
    await cloud.hub.close()
    assert readings(cloud) == 2


async def test_after_a_beat_could_not_be_kept_the_next_waits_for_its_commit(
    cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.enrol(CAMERA)
    beats = Beats(cloud.database, clock=cloud.clock, every_s=0.0)
    beats.note_kept(CAMERA, (well(1),))
    assert beats.is_beat(CAMERA, (well(2),))

    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("no space left on the disk")

    monkeypatch.setattr(cloud.database, "write", fail)
    with capture_logs() as logs:
        beats.put(well(2))
        await asyncio.sleep(0.05)
    assert logs == [
        {"event": "beats_not_kept", "devices": 1, "code": "unavailable", "detail": ANY, "log_level": "warning"}
    ]
    assert not beats.is_beat(CAMERA, (well(3),))
    await beats.close()
