"""What devices say of how they fare waits for no disk; all else does."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from edgeloop.cloud.beats import Beats
from edgeloop.cloud.hub import CloudHub
from edgeloop.cloud.store import fleet
from edgeloop.contracts.api import DeviceView
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.messages import Desired, DeviceReport, Health, SourceHealth, SyncReply, SyncRequest
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


@pytest.mark.parametrize("news", ["active", "known", "profile", "drift", "storage", "source"])
async def test_news_is_kept_before_it_is_answered(cloud: SmallCloud, news: str) -> None:
    cloud.enrol(CAMERA)
    said = {
        "active": {"active": "tiny@1.0.0"},
        "known": {"known_generation": 1},
        "profile": {"profile": msgspec.structs.replace(PROFILE, cpu_count=4)},
        "drift": {"health": Health(readings=2, drift_alarm=True)},
        "storage": {"health": Health(readings=2, storage="no room")},
        "source": {"health": Health(readings=2, source=SourceHealth(trouble="unplugged"))},
    }[news]
    await sync(cloud, well(1))
    changed = msgspec.structs.replace(well(2), **said)
    assert await is_held_up(cloud, changed)
    assert readings(cloud) == 2
    more = msgspec.structs.replace(changed, health=msgspec.structs.replace(changed.health, readings=3))
    assert not await is_held_up(cloud, more), "no news any more"


@pytest.mark.parametrize(
    ("state", "waits"), [(UpdateState.DOWNLOADING, True), (UpdateState.CONFIRMED, False)], ids=["goes on", "ended"]
)
async def test_report_of_an_update_waits_until_it_has_ended(cloud: SmallCloud, state: UpdateState, waits: bool) -> None:
    """Another replica may have heard of a later state, and then of this one again."""
    cloud.enrol(CAMERA)
    await cloud.assign(CAMERA)
    assignment = cloud.assigned(CAMERA)
    assert assignment is not None
    reports = [msgspec.structs.replace(well(count), update=update_report(assignment, state)) for count in (1, 2)]
    await sync(cloud, reports[0])
    assert await is_held_up(cloud, reports[1]) == waits


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


@pytest.mark.parametrize("other_clock_s", [-30.0, 30.0], ids=["slow", "fast"])
async def test_beat_gives_way_to_what_another_replica_kept(cloud: SmallCloud, other_clock_s: float) -> None:
    """Whatever their clocks say."""
    cloud.enrol(CAMERA)
    other = CloudHub(cloud.stores, cloud.conductor, cloud.waker, clock=lambda: START_S + other_clock_s)
    await sync(cloud, well(1))
    await sync(cloud, well(2))  # waits here
    await other.sync(CAMERA, SyncRequest(reports=(well(3, active="tiny@1.0.0"),)))
    await cloud.hub.close()
    await other.close()
    told = seen(cloud)
    assert told.report is not None
    assert (told.report.active, readings(cloud)) == ("tiny@1.0.0", 3)
    assert told.last_seen_s == START_S + other_clock_s


async def test_after_another_replica_heard_of_a_device_its_next_report_waits(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    other = CloudHub(cloud.stores, cloud.conductor, cloud.waker, clock=lambda: START_S + 5)
    beats = cloud.hub._beats
    await sync(cloud, well(1))
    await other.sync(CAMERA, SyncRequest(reports=(well(2),)))
    await sync(cloud, well(3))

    async def is_told() -> bool:
        return not beats.is_beat(CAMERA, (well(4),))

    await until(is_told, "the beat that gave way")
    assert await is_held_up(cloud, well(4))
    assert readings(cloud) == 4
    await other.close()


async def test_beats_are_kept_also_after_the_clock_was_set_back(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    cloud.clock.now_s -= 3600
    await sync(cloud, well(2))
    await kept(cloud, 2)
    assert seen(cloud).last_seen_s == START_S - 3600


async def test_beat_after_beat_is_kept(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    for count in (2, 3, 4):
        cloud.clock.now_s += 60
        await sync(cloud, well(count))
        await kept(cloud, count)
    assert seen(cloud).last_seen_s == START_S + 180


async def test_beats_that_come_while_others_are_being_kept_are_kept_after_them(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    beats = Beats(cloud.database, clock=cloud.clock, every_s=0.0)
    cloud.database.write_now(lambda c: fleet.save_reports(c, (well(1),), now_s=cloud.clock()))
    beats.note_kept(CAMERA, (well(1),), now_s=cloud.clock())
    with held_up(cloud):
        for count in range(2, 10):
            beats.put(well(count))
            await asyncio.sleep(0.01)
        assert cloud.database._writer._tasks.qsize() == 1, "one save at a time"
    await beats.close()
    assert readings(cloud) == 9


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


@pytest.mark.parametrize(
    ("broken", "event"),
    [("RAISE(FAIL, 'no')", "beats_broke"), ("no_such_function()", "beats_not_kept")],
    ids=["as nobody foresaw", "unavailable"],
)
async def test_after_beats_could_not_be_kept_the_next_report_waits_for_its_commit(
    cloud: SmallCloud, broken: str, event: str
) -> None:
    cloud.enrol(CAMERA)
    await sync(cloud, well(1))
    trigger = f"CREATE TRIGGER broken BEFORE UPDATE ON devices BEGIN SELECT {broken}; END"
    await cloud.database.write(lambda c: c.exec_driver_sql(trigger).close())
    with capture_logs() as logs:
        await sync(cloud, well(2))

        async def is_told() -> bool:
            return bool(logs)

        await until(is_told, "a word in the log")
    assert [one["event"] for one in logs] == [event]
    await cloud.database.write(lambda c: c.exec_driver_sql("DROP TRIGGER broken").close())
    assert await is_held_up(cloud, well(3))
    assert readings(cloud) == 3
