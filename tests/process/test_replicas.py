"""Two replicas of one cloud, as processes, on one real PostgreSQL and one bucket of a real S3 server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from builders import make_bundle
from edgeloop.bundle.archive import digest
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.cloud.store import locks
from edgeloop.cloud.store.engine import open_engine
from edgeloop.contracts.api import JoinTokenRequest, RolloutRequest
from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import DeviceReport, SendRequest, SyncRequest, UpdateReport
from edgeloop.contracts.names import file_target
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.identity import Identity
from edgeloop.transport.replies import raise_for_reply
from edgeloop.transport.uplink import Uplink
from postgres import PostgresServer
from processes import Process
from s3 import S3Server
from small_cloud import enrol_request, event, key_of, sample

DEADLINE_S = 30.0


@dataclass
class Replica:
    """One process that serves the cloud. The first of a cloud conducts."""

    process: Process
    url: str
    api: CloudApi


@dataclass
class Replicas:
    """A cloud of two replicas, and the way to its database."""

    folder: Path
    first: Replica
    second: Replica
    database: str

    def is_conducted(self) -> bool:
        """Whether any replica carries rollouts forward now."""
        return _is_conducted(self.database)


def _is_conducted(database: str) -> bool:
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database WHERE locktype = 'advisory' "
        "AND granted AND datname = current_database() AND objid = :lock"
    )
    engine = open_engine(database)  # new: PostgreSQL may have been restarted
    try:
        with engine.connect() as connection:
            return bool(connection.execute(sa.text(query), {"lock": locks.CONDUCTING}).scalar())
    finally:
        engine.dispose()


@pytest.fixture
def replicas(
    postgres: PostgresServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Replicas]:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    database, blobs = postgres.new_database("cloud_1"), s3.new_bucket()
    monkeypatch.setenv("EDGELOOP_DATABASE", database)
    monkeypatch.setenv("EDGELOOP_BLOBS", blobs)
    config = CloudConfig(folder=tmp_path / "cloud", database_url=database, blobs_url=blobs)
    found(config, keys=tmp_path / "keys", url="http://127.0.0.1:0")
    started: list[Replica] = []
    try:
        started.append(_serve(config.folder, tmp_path / "first.log"))
        _until(lambda: _is_conducted(database), "a conductor")
        started.append(_serve(config.folder, tmp_path / "second.log"))
        yield Replicas(tmp_path, *started, database)
    finally:
        for replica in started:
            replica.api.close()
            replica.process.stop()


def _serve(folder: Path, log: Path) -> Replica:
    process = Process("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0", log=log)
    url = process.start()["url"]
    return Replica(process, url, CloudApi(Operator(url=url, token=read_operator(folder / "operator.json").token)))


def _until(is_true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline_s, f"{what} did not come about within {DEADLINE_S:.0f} s"
        time.sleep(0.05)


@asynccontextmanager
async def _uplink(replica: Replica, name: str) -> AsyncIterator[Uplink]:
    async with httpx.AsyncClient(base_url=replica.url) as client:
        yield Uplink(client, Identity(name, key_of(name)))


async def _enrol(replica: Replica, *names: str) -> None:
    for name in names:
        join = parse_join_token((await asyncio.to_thread(replica.api.make_join_token, JoinTokenRequest())).token)
        async with _uplink(replica, name) as uplink:
            await uplink.enrol(enrol_request(name, join.secret))


def _sync(name: str, known: int = 0, *, wait_s: float = 0.0, update: UpdateReport | None = None) -> SyncRequest:
    return SyncRequest(reports=(DeviceReport(device_id=name, known_generation=known, update=update),), wait_s=wait_s)


def _publish(replicas: Replicas) -> str:
    """Publish through the first replica; the hash of a file of the bundle."""
    bundle = make_bundle(replicas.folder)
    publish(bundle, replicas.first.api, targets_key=replicas.folder / "keys" / "targets.pem")
    return replicas.first.api.bundles()[0].manifest.files[0].sha256


async def _held(call: Awaitable[object], replicas: Replicas, name: str) -> "asyncio.Task[object]":
    """The call as a task, begun so far that the device was heard."""
    task = asyncio.ensure_future(call)

    def is_heard() -> bool:
        return any(view.device_id == name and view.last_seen_s for view in replicas.first.api.devices())

    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(is_heard):
            await asyncio.sleep(0.02)
    return task


def test_news_of_one_replica_answers_a_sync_that_the_other_holds_open(replicas: Replicas) -> None:
    sha256 = _publish(replicas)

    async def scenario() -> tuple[list[str], bytes]:
        await _enrol(replicas.first, "camera-1")
        async with _uplink(replicas.second, "camera-1") as uplink:
            held = await _held(uplink.sync(_sync("camera-1", wait_s=55.0)), replicas, "camera-1")
            await asyncio.to_thread(replicas.first.api.start_rollout, RolloutRequest(bundle="tiny@1.0.0"))
            async with asyncio.timeout(DEADLINE_S):
                reply = await held
            data = await uplink.fetch(f"targets/{file_target(sha256)}", max_bytes=10_000_000)
            return [one.device_id for one in reply.desired], data

    told, data = asyncio.run(scenario())
    assert told == ["camera-1"]
    assert digest(data) == sha256


def test_request_that_one_replica_answered_is_refused_by_the_other(replicas: Replicas) -> None:
    identity = Identity("camera-1", key_of("camera-1"))
    body = to_msgpack(_sync("camera-1"))

    async def scenario() -> list[httpx.Response]:
        await _enrol(replicas.first, "camera-1")
        async with httpx.AsyncClient() as client:
            urls = (replicas.first.url, replicas.second.url)
            requests = [
                client.build_request("POST", f"{url}/v1/sync", content=body, headers={"host": "cloud"}) for url in urls
            ]
            identity.sign(requests[0], created_s=int(time.time()))
            requests[1].headers = requests[0].headers
            return [await client.send(request) for request in requests]

    taken, replayed = asyncio.run(scenario())
    assert taken.status_code == 200, taken.text
    with pytest.raises(Refused, match="nonce is used"):
        raise_for_reply(replayed)


def test_what_is_sent_to_both_counts_once(replicas: Replicas) -> None:
    batch = SendRequest(events=(event(1), event(2, sample(b"12345"))))

    async def scenario() -> tuple[int, int]:
        await _enrol(replicas.first, "camera-1")
        async with _uplink(replicas.first, "camera-1") as one, _uplink(replicas.second, "camera-1") as other:
            first, second = await asyncio.gather(one.send(batch), other.send(batch))
            return first.accepted + second.accepted, first.repeated + second.repeated

    assert asyncio.run(scenario()) == (2, 2)
    (view,) = replicas.second.api.samples()
    assert replicas.second.api.sample_data(view.sample_id) == b"12345"


def test_rollout_goes_on_when_the_replica_that_carried_it_dies(replicas: Replicas) -> None:
    _publish(replicas)
    asyncio.run(_enrol(replicas.first, "camera-1", "camera-2"))
    rollout = replicas.first.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0", waves=("1", "100%")))
    replicas.first.process.kill()

    async def confirm(name: str) -> None:
        """What a device does, through the replica that is left: hear of the update, and say that it went well."""
        async with _uplink(replicas.second, name) as uplink:
            (desired,) = (await uplink.sync(_sync(name, wait_s=30.0))).desired
            update = UpdateReport(
                generation=desired.generation,
                rollout_id=rollout.rollout_id,
                bundle="tiny@1.0.0",
                state=UpdateState.CONFIRMED,
            )
            await uplink.sync(_sync(name, desired.generation, update=update))

    async def scenario() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await confirm("camera-1")
            await confirm("camera-2")

    asyncio.run(scenario())
    _until(lambda: replicas.second.api.rollout(rollout.rollout_id).state is RolloutState.COMPLETED, "the rollout's end")


def test_replica_comes_back_after_postgresql_did(replicas: Replicas, postgres: PostgresServer) -> None:
    asyncio.run(_enrol(replicas.first, "camera-1"))
    _publish(replicas)

    async def scenario() -> list[str]:
        async with _uplink(replicas.second, "camera-1") as uplink:
            held = await _held(uplink.sync(_sync("camera-1", wait_s=55.0)), replicas, "camera-1")
            await asyncio.to_thread(postgres.halt)
            await asyncio.to_thread(postgres.start)
            # Whoever waits is let go as soon as the replica listens again: news may have been missed.
            async with asyncio.timeout(DEADLINE_S):
                await held
            again = asyncio.ensure_future(uplink.sync(_sync("camera-1", wait_s=55.0)))
            await asyncio.to_thread(_until, replicas.is_conducted, "a conductor")
            await asyncio.to_thread(replicas.first.api.start_rollout, RolloutRequest(bundle="tiny@1.0.0"))
            async with asyncio.timeout(DEADLINE_S):
                return [one.device_id for one in (await again).desired]

    assert asyncio.run(scenario()) == ["camera-1"]
