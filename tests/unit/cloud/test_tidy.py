"""What the cloud lets go of by age, on SQLite and on PostgreSQL, and what stays of it."""

import asyncio
import dataclasses
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from edgeloop.bundle.archive import digest
from edgeloop.cloud.app import make_app
from edgeloop.cloud.store import inbox, tidying
from edgeloop.cloud.store.blobs import bucket_blobs, folder_blobs
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.samples import SampleBytes
from edgeloop.cloud.store.tables import devices, events, loose_blobs, tidied
from edgeloop.cloud.store.tidying import Keep
from edgeloop.cloud.tidy import GRACE_S, Tidier, require_sane, tidy_cloud
from edgeloop.contracts.api import LabelRequest
from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable
from edgeloop.contracts.messages import Alert, Event, SendReply, SendRequest
from small_cloud import Clock, SmallCloud, event, reading, sample, until

CAMERA = "camera-1"
DAY_S = 86_400.0
MONTH = Keep(readings_s=30 * DAY_S, alerts_s=90 * DAY_S, samples_s=30 * DAY_S)


class Store:
    """A database with one device, and blobs; `add` puts both as the hub does."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(url)
        self.folder = folder
        self.blobs = folder_blobs(folder / "blobs")
        self.samples = SampleBytes(self.blobs)
        self.clock = Clock()
        self.enrol(CAMERA)

    def enrol(self, name: str) -> None:
        """A device."""
        row = {"device_id": name, "public_key": b"k" * 32, "kind": "device", "labels": "{}", "enrolled_at_s": 0.0}
        self.database.write_now(lambda c: c.execute(devices.insert().values(**row)) and None)

    def add(self, *batch: Event, days_ago: float = 0.0) -> int:
        """How many were new, received so long ago."""
        new = self.database.write_now(lambda c: inbox.add_events(c, batch), alone=False)
        received_ms = int((self.clock() - days_ago * DAY_S) * 1000)
        sequences = [one.sequence for one in batch]
        mine = events.update().where(events.c.sequence.in_(sequences)).values(received_ms=received_ms)
        self.database.write_now(lambda c: c.execute(mine) and None)
        return new

    def put(self, data: bytes) -> None:
        """A sample's bytes."""
        asyncio.run(self.samples.put(inbox.sample_key(digest(data)), data))

    def has(self, data: bytes) -> bool:
        """Whether they are there."""
        return asyncio.run(self.blobs.size_bytes(inbox.sample_key(digest(data)))) is not None

    def tidy(self, keep: Keep = MONTH, *, grace_s: float = GRACE_S) -> dict[str, int]:
        """What was removed, without what was not."""
        removed = asyncio.run(Tidier(self.database, self.samples, keep, clock=self.clock).tidy(grace_s=grace_s))
        return {name: getattr(removed, name) for name in removed.__struct_fields__ if getattr(removed, name)}

    def sequences(self) -> list[int]:
        """What is there."""
        return self.database.read_now(
            lambda c: list(c.execute(sa.select(events.c.sequence).order_by(events.c.sequence)).scalars())
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'cloud.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database("cloud_1")
    made = Store(url, tmp_path)
    yield made
    made.database.close()


ALERT = Alert(what="drift", detail="seen")


def test_each_kind_has_an_age_of_its_own(store: Store) -> None:
    store.add(event(1), event(2, ALERT), event(3), event(4, sample(b"old")), days_ago=31)
    store.add(event(5), event(6, ALERT), days_ago=29)
    assert store.tidy() == {"readings": 1, "samples": 1, "sample_bytes": 3}
    assert store.sequences() == [2, 3, 5, 6]
    assert store.tidy() == {"readings": 1}, "a reading goes after its sample"
    assert store.tidy(Keep(alerts_s=30 * DAY_S)) == {"alerts": 1}


def test_all_is_kept_unless_told(store: Store) -> None:
    store.add(event(1), event(2, ALERT), days_ago=10_000)
    assert store.tidy(Keep()) == {}
    assert store.sequences() == [1, 2]


def test_what_somebody_labelled_stays_with_its_reading(store: Store) -> None:
    store.add(event(1), event(2, sample(b"a")), event(3), event(4, sample(b"b")), days_ago=31)
    request = LabelRequest(label="cat", by="ana")
    store.database.write_now(lambda c: inbox.set_label(c, f"{CAMERA}.7.2", request, now_s=1.0))
    for _ in range(2):
        store.tidy(grace_s=-1.0)
    (view,) = store.database.read_now(lambda c: inbox.list_samples(c, device_id=None, labelled=None, limit=9))
    assert (store.sequences(), view.label, view.predicted) == ([1, 2], "cat", reading().prediction.label)


def test_age_counts_from_when_the_cloud_received_it(store: Store) -> None:
    """A device's clock said 1970."""
    store.add(event(1, at_ms=0))
    assert store.tidy() == {}


def test_what_was_removed_does_not_come_back(store: Store) -> None:
    old = [event(number) for number in range(1, 1201)]
    store.add(*old, days_ago=31)
    assert store.tidy() == {"readings": 1200}
    assert store.add(*old, event(1201)) == 1
    assert store.sequences() == [1201]
    assert store.database.read_now(lambda c: len(c.execute(sa.select(tidied)).all())) == 1
    (count,) = store.database.read_now(inbox.count_events)
    assert (count.readings, count.removed) == (1, 1200)


def test_what_comes_late_for_the_first_time_is_taken(store: Store) -> None:
    """Live data overtook the backlog, a month ago."""
    store.add(event(1), event(2), event(5), event(6), event(9), days_ago=31)
    store.tidy()
    assert store.add(*(event(number) for number in range(1, 10))) == 4
    assert store.sequences() == [3, 4, 7, 8]
    assert store.add(event(1, epoch=8)) == 1, "another epoch is another count"


def test_other_event_under_an_identity_that_was_removed_is_told(store: Store) -> None:
    """A disk went back to an earlier state, and its device counts on from there."""
    store.add(event(1, at_ms=1000), event(2, at_ms=2000), days_ago=31)
    store.tidy()
    batch = (event(1, at_ms=1000), event(2, at_ms=9000))
    assert store.database.read_now(lambda c: inbox.reused(c, batch)) == (batch[1],)


def test_largest_sequence_goes_like_any_other(store: Store) -> None:
    last = 2**63 - 1
    one, two, three = (event(number, at_ms=1) for number in (last - 2, last - 1, last))
    store.add(one, three, days_ago=31)
    assert store.tidy() == {"readings": 2}
    assert store.add(two, three, days_ago=31) == 1
    assert store.tidy() == {"readings": 1}
    ranges = store.database.read_now(lambda c: c.execute(sa.select(tidied.c.first, tidied.c.last)).all())
    assert [tuple(row) for row in ranges] == [(last - 2, last)]


def test_device_whose_rows_cannot_be_read_keeps_nobody_elses(store: Store) -> None:
    store.enrol("camera-0")
    store.add(event(1, device_id="camera-0"), event(1), days_ago=31)
    odd = events.update().where(events.c.device_id == "camera-0").values(kind="odd")
    store.database.write_now(lambda c: c.execute(odd) and None)
    with capture_logs() as logs:
        assert store.tidy() == {"readings": 1, "devices_passed_over": 1}
    assert [line["device_id"] for line in logs if line["event"] == "device_not_tidied"] == ["camera-0"]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_coming_and_going_counts_each_once(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    counted: dict[int, int] = {}
    for _ in range(12):
        some = sorted(chance.sample(range(1, 40), chance.randint(1, 12)))
        before = set(store.sequences())
        store.add(*(event(number) for number in some), days_ago=chance.choice([0, 31]))
        for number in set(store.sequences()) - before:
            counted[number] = counted.get(number, 0) + 1
        if chance.random() < 0.5:
            store.tidy()
    assert set(counted.values()) == {1}
    (row,) = store.database.read_now(inbox.count_events) or [None]
    ranges = store.database.read_now(tidying.removed_counts)
    assert len(store.sequences()) + ranges.get((CAMERA, 7), 0) == len(counted)
    assert row is None or row.distinct == len(store.sequences())


def test_bytes_go_when_no_row_names_them_and_the_grace_is_over(store: Store) -> None:
    for data in (b"one", b"shared"):
        store.put(data)
    store.add(event(2, sample(b"one")), event(4, sample(b"shared")), days_ago=31)
    store.add(event(6, sample(b"shared")))
    assert store.tidy() == {"samples": 2, "sample_bytes": 9}
    assert store.has(b"one"), "a backup may be reading it"
    store.clock.now_s += GRACE_S + 1
    assert store.tidy() == {"blobs": 1}
    assert (store.has(b"one"), store.has(b"shared")) == (False, True)
    store.clock.now_s += GRACE_S + 1
    store.tidy()
    assert store.database.read_now(lambda c: c.execute(sa.select(loose_blobs)).all()) == []


def test_bytes_that_were_removed_before_their_rows_came_are_asked_for_again(store: Store) -> None:
    """Put, then removed by one who tidies, then named by a row: the hub has them still, and puts them again."""
    data = b"same picture"
    store.put(data)
    store.add(event(2, sample(data)), days_ago=31)
    store.tidy(grace_s=-1.0)
    assert not store.has(data)
    store.add(event(4, sample(data)))
    claims = [
        store.database.write_now(lambda c: inbox.claim_blobs(c, [digest(data)], now_s=store.clock())) for _ in range(2)
    ]
    assert claims == [{digest(data)}, set()]


def _in_the_way(store: Store, data: bytes) -> Path:
    """A folder where the bytes should be: it cannot be removed as they could."""
    path = store.folder / "blobs" / inbox.sample_key(digest(data))
    path.mkdir(parents=True)
    (path / "inside").touch()
    return path


def test_bytes_that_cannot_be_removed_are_not_counted_and_go_the_next_time(store: Store) -> None:
    store.put(b"one")
    store.add(event(2, sample(b"one")), event(4, sample(b"two")), days_ago=31)
    path = _in_the_way(store, b"two")
    assert store.tidy(grace_s=-1.0) == {"samples": 2, "sample_bytes": 6, "blobs": 1}
    assert store.tidy(grace_s=-1.0) == {}
    (path / "inside").unlink()
    path.rmdir()
    store.put(b"two")
    assert store.tidy(grace_s=-1.0) == {"blobs": 1}
    assert (store.has(b"one"), store.has(b"two")) == (False, False)


def test_store_of_blobs_that_fails_is_left_alone_until_the_next_time(store: Store) -> None:
    many = [b"%d" % number for number in range(30)]
    for data in many:
        _in_the_way(store, data)
    store.add(*(event(2 * index + 2, sample(data)) for index, data in enumerate(many)), days_ago=31)
    with capture_logs() as logs:
        assert store.tidy(grace_s=-1.0).get("blobs") is None
    assert [line["count"] for line in logs if line["event"] == "blobs_not_removed"] == [20]


def test_bytes_that_may_have_been_removed_are_asked_for_again(store: Store) -> None:
    """The store of blobs said that it had failed, which says nothing."""
    store.put(b"one")
    store.add(event(2, sample(b"one")), days_ago=31)
    store.tidy()
    store.add(event(4, sample(b"one")))
    claimed = store.database.write_now(lambda c: inbox.claim_blobs(c, [digest(b"one")], now_s=store.clock()))
    assert claimed == {digest(b"one")}


def test_bucket_that_does_not_answer_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        kept = SampleBytes(bucket_blobs("s3://bucket"))
        assert asyncio.run(kept.remove(["a", "b"], timeout_s=0.1)) == ([], "removing a takes longer than 0.1 s")


# ---- through the hub, and by hand


@pytest.mark.anyio
async def test_sample_that_is_sent_again_after_its_bytes_went_is_whole(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    batch = SendRequest(events=(event(2, sample(b"pixels")),))
    await cloud.hub.send(CAMERA, batch)
    await cloud.database.write(lambda c: c.execute(events.update().values(received_ms=0)) and None)
    tidier = Tidier(cloud.database, cloud.stores.samples, MONTH, clock=cloud.clock)
    assert (await tidier.tidy(grace_s=-1.0)).blobs == 1
    assert await cloud.hub.send(CAMERA, batch) == SendReply(accepted=0, repeated=1)
    again = SendRequest(events=(event(3, sample(b"pixels"), at_ms=1),))
    assert await cloud.hub.send(CAMERA, again) == SendReply(accepted=1, repeated=0)
    assert await cloud.stores.samples.get(inbox.sample_key(digest(b"pixels"))) == b"pixels"


@pytest.mark.anyio
async def test_bytes_that_go_between_put_and_commit_are_put_again(cloud: SmallCloud) -> None:
    """The writer does first what was queued first: the removal, then the row that names the same bytes."""
    cloud.enrol(CAMERA)
    key, samples = inbox.sample_key(digest(b"pixels")), cloud.stores.samples
    await samples.put(key, b"pixels")
    await cloud.database.write(lambda c: tidying.let_go(c, [digest(b"pixels")], now_s=0.0))
    path = cloud.config.blobs_folder / key
    os.utime(path, (0, 0))
    hold = threading.Event()

    def remove(connection: sa.Connection) -> None:
        assert hold.wait(60)
        hashes, _ = tidying.due_blobs(connection, before_s=1.0, limit=9)
        assert asyncio.run(samples.remove([key], timeout_s=60.0)) == ([key], "")
        assert not path.exists()
        tidying.mark_gone(connection, hashes, now_s=1.0)

    removing = asyncio.ensure_future(cloud.database.write(remove))
    await asyncio.sleep(0)
    sending = asyncio.ensure_future(cloud.hub.send(CAMERA, SendRequest(events=(event(2, sample(b"pixels")),))))

    async def is_put() -> bool:
        return path.stat().st_mtime > 0

    await until(is_put, "the bytes", timeout_s=60.0)
    hold.set()
    await removing
    assert await sending == SendReply(accepted=1, repeated=0)
    assert await samples.get(key) == b"pixels"


@pytest.mark.anyio
async def test_sample_whose_bytes_cannot_be_kept_is_not_acknowledged_and_leaves_no_row(cloud: SmallCloud) -> None:
    """The bytes go first: a row without them would turn the repeat into a repeat."""
    cloud.enrol(CAMERA)
    cloud.config.blobs_folder.mkdir(exist_ok=True)
    (cloud.config.blobs_folder / "samples").write_bytes(b"a file where a folder is needed")
    with pytest.raises(Unavailable, match="cannot keep blob"):
        await cloud.hub.send(CAMERA, SendRequest(events=(event(1), event(2, sample()))))
    assert cloud.database.read_now(inbox.count_events) == []


@pytest.mark.anyio
async def test_serving_cloud_tidies_by_itself(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    await cloud.hub.send(CAMERA, SendRequest(events=(event(1), event(2, ALERT))))
    await cloud.database.write(lambda c: c.execute(events.update().values(received_ms=0)) and None)
    app = make_app(dataclasses.replace(cloud.config, keep=Keep(readings_s=30 * DAY_S)), cloud.stores, cloud.waker)

    async def is_tidied() -> bool:
        rows = await cloud.database.read(inbox.count_events)
        return [(row.readings, row.alerts, row.removed) for row in rows] == [(0, 1, 1)]

    async with app.lifespan():
        await until(is_tidied, "the first tidying", timeout_s=60.0)


def test_cloud_is_tidied_by_hand_while_it_is_not_served(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)
    asyncio.run(cloud.hub.send(CAMERA, SendRequest(events=(event(2, sample(b"pixels")), event(3)))))
    cloud.database.write_now(lambda c: c.execute(events.update().values(received_ms=0)) and None)
    cloud.close()
    removed = tidy_cloud(cloud.config, MONTH)
    assert (removed.readings, removed.samples, removed.blobs) == (1, 1, 1)


def test_ages_that_are_none_or_too_short_are_invalid_input(cloud: SmallCloud, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--keep-readings"):
        tidy_cloud(cloud.config, Keep())
    with pytest.raises(InvalidInput, match="an hour is the least"):
        require_sane(Keep(alerts_s=3599.0))
    assert require_sane(MONTH) is MONTH
    with pytest.raises(NotFound):
        tidy_cloud(type(cloud.config)(folder=tmp_path / "nowhere"), MONTH)
