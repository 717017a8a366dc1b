"""A cloud that is lost and comes back from a backup, with commands, and the device that it had goes on."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from builders import make_bundle
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import JoinTokenRequest, RolloutRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import Assignment, DeviceReport, EnrolReply, SendRequest, SyncRequest
from edgeloop.contracts.names import BundleRef, manifest_target
from edgeloop.contracts.states import Kind
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.identity import Identity
from edgeloop.transport.membership import Membership
from edgeloop.transport.trust import Trust
from edgeloop.transport.trusted import Trusted
from edgeloop.transport.uplink import Uplink
from postgres import PostgresServer
from processes import Process
from s3 import S3Server
from small_cloud import enrol_request, event, key_of, sample

NAME = "camera-1"


def _edgeloop(*arguments: str, **environment: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "edgeloop", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Device:
    """What of a device speaks to its cloud: the real uplink, and real TUF metadata on its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity = Identity(NAME, key_of(NAME))
        self._roots: EnrolReply | None = None
        self.known = 0

    async def enrol(self, url: str, secret: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            self._roots = await Uplink(client, self._identity).enrol(enrol_request(NAME, secret))

    async def sync(self, url: str) -> Assignment | None:
        """Report; where there is news, what the cloud wants, proven and its bundle, too."""
        async with httpx.AsyncClient(base_url=url) as client:
            uplink = Uplink(client, self._identity)
            report = DeviceReport(device_id=NAME, known_generation=self.known)
            desired = (await uplink.sync(SyncRequest(reports=(report,)))).desired
            if not desired:
                return None
            self.known = desired[0].generation
            assert self._roots is not None
            member = Membership(
                device_id=NAME,
                kind=Kind.DEVICE,
                hub_url=url,
                images_root=self._roots.images_root,
                director_root=self._roots.director_root,
            )
            trusted = Trusted(member, self._folder, lambda path, most: uplink.fetch(path, max_bytes=most))
            return await trusted.ask(_proven)

    async def send(self, url: str, *events: int) -> tuple[int, int]:
        """How many were new there, and how many were there already."""
        async with httpx.AsyncClient(base_url=url) as client:
            batch = SendRequest(events=tuple(event(one, sample(f"{one}".encode())) for one in events))
            reply = await Uplink(client, self._identity).send(batch)
            return reply.accepted, reply.repeated


def _proven(trust: Trust) -> Assignment | None:
    wanted = trust.assignment(NAME)
    if wanted is not None:
        trust.image(manifest_target(BundleRef.parse(wanted.bundle)))
    return wanted


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, CloudApi]]:
    log = folder.with_suffix(".log")
    process = Process("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0", log=log)
    url = process.start()["url"]
    try:
        with CloudApi(Operator(url=url, token=read_operator(folder / "operator.json").token)) as api:
            yield url, api
    finally:
        process.stop()


@pytest.mark.parametrize("onto", ["one machine", "several replicas"])
def test_restored_cloud_serves_the_same_devices(
    tmp_path: Path, onto: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(CloudConfig(folder=tmp_path / "old"), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    device = Device(tmp_path / "device")
    with _served(tmp_path / "old") as (url, api):
        publish(make_bundle(tmp_path), api, targets_key=tmp_path / "keys" / "targets.pem")
        asyncio.run(device.enrol(url, parse_join_token(api.make_join_token(JoinTokenRequest()).token).secret))
        first = api.start_rollout(RolloutRequest(bundle="tiny@1.0.0"))
        assert asyncio.run(device.sync(url)) is not None
        asyncio.run(device.send(url, 2, 4))
        _edgeloop("cloud", "backup", str(tmp_path / "backup"), "--dir", str(tmp_path / "old"))
        # After the backup the device hears of more, and sends more.
        api.abort_rollout(first.rollout_id, "changed my mind")
        asyncio.run(device.sync(url))
        asyncio.run(device.send(url, 6))
    known = device.known
    shutil.rmtree(tmp_path / "old")
    if onto == "several replicas":
        _set_places(request, monkeypatch)

    _edgeloop("cloud", "restore", str(tmp_path / "backup"), "--dir", str(tmp_path / "new"))
    with _served(tmp_path / "new") as (url, api):
        assert asyncio.run(device.sync(url)) is None, "what the backup knows is no news to the device"
        assert asyncio.run(device.send(url, 2, 4, 6)) == (1, 2)
        assert sorted(api.sample_data(view.sample_id) for view in api.samples()) == [b"2", b"4", b"6"]
        (paused,) = api.rollouts()
        assert (paused.rollout_id, paused.state) == (first.rollout_id, "paused"), "it had been aborted since"
        assert paused.reason.startswith("restored from a backup of ")
        api.abort_rollout(first.rollout_id, "restored")
        again = api.start_rollout(RolloutRequest(bundle="tiny@1.0.0"))
        wanted = asyncio.run(device.sync(url))
    assert wanted is not None
    assert (wanted.rollout_id, wanted.bundle) == (again.rollout_id, "tiny@1.0.0")
    assert device.known > known + 1


def test_devices_that_saw_more_than_the_backup_take_updates_again_after_one_command(tmp_path: Path) -> None:
    targets_key = tmp_path / "keys" / "targets.pem"
    found(CloudConfig(folder=tmp_path / "old"), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    device = Device(tmp_path / "device")
    with _served(tmp_path / "old") as (url, api):
        publish(make_bundle(tmp_path), api, targets_key=targets_key)
        asyncio.run(device.enrol(url, parse_join_token(api.make_join_token(JoinTokenRequest()).token).secret))
        _edgeloop("cloud", "backup", str(tmp_path / "backup"), "--dir", str(tmp_path / "old"))
        for version in ("1.1.0", "1.2.0"):
            publish(make_bundle(tmp_path, version=version), api, targets_key=targets_key)
        api.start_rollout(RolloutRequest(bundle="tiny@1.2.0"))
        assert asyncio.run(device.sync(url)) is not None
    shutil.rmtree(tmp_path / "old")

    _edgeloop("cloud", "restore", str(tmp_path / "backup"), "--dir", str(tmp_path / "new"))
    with _served(tmp_path / "new") as (url, api):
        publish(make_bundle(tmp_path, version="1.3.0"), api, targets_key=targets_key)
        rollout = api.start_rollout(RolloutRequest(bundle="tiny@1.3.0"))
        with pytest.raises(Refused, match="images metadata does not hold"):
            asyncio.run(device.sync(url))
        assert any("keys lift" in role.warning for role in api.keys().roles)

        operator = tmp_path / "operator.json"
        operator.write_bytes(to_json(msgspec.structs.replace(read_operator(tmp_path / "new/operator.json"), url=url)))
        _edgeloop("keys", "lift", "--operator", str(operator), "--targets-key", str(targets_key))
        assert not any(role.warning for role in api.keys().roles)
        device.known -= 1  # it heard of it, and asks again
        wanted = asyncio.run(device.sync(url))
    assert wanted is not None
    assert (wanted.rollout_id, wanted.bundle) == (rollout.rollout_id, "tiny@1.3.0")


def _set_places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the cloud's database is PostgreSQL and its blobs are in a bucket."""
    postgres: PostgresServer = request.getfixturevalue("postgres")
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EDGELOOP_DATABASE", postgres.new_database())
    monkeypatch.setenv("EDGELOOP_BLOBS", s3.new_bucket())
