"""A whole node as its app wires it, between real devices' uplinks and a real cloud."""

import itertools
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from damage import TABLE_LEAF, damage_pages
from edgeloop.cloud.store import fleet
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.messages import Account, Alert, Desired, SendRequest, Spending, SyncRequest
from edgeloop.contracts.states import Kind
from edgeloop.hub.waker import Waker
from edgeloop.node.app import make_app, run_node
from edgeloop.node.config import NodeConfig
from edgeloop.node.hub import Child
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.uplink import Uplink
from edgeloop.transport.worth import NO_BOUNDS
from house import Wire
from small_cloud import SmallCloud, enrol_request, event, key_of, report, until

pytestmark = pytest.mark.anyio


def _uplink(wire: Wire, name: str) -> Uplink:
    return Uplink(httpx.AsyncClient(transport=wire, base_url="http://hub.test"), Identity(name, key_of(name)))


@dataclass
class Site:
    """A node at work and the wire to it."""

    cloud: SmallCloud
    wire: Wire

    async def join(self, name: str) -> Uplink:
        """Enrol a device with the node."""
        uplink = _uplink(self.wire, name)
        await uplink.enrol(enrol_request(name, self.cloud.join_secret()))
        return uplink

    async def reported(self, name: str) -> str | None:
        """What the cloud knows a device to run."""
        views = {view.device_id: view for view in await self.cloud.database.read(fleet.list_devices)}
        told = views[name].report
        return told.active if told else None


@asynccontextmanager
async def _site(cloud: SmallCloud, folder: Path, *, day_bytes: int = 0) -> AsyncIterator[Site]:
    up = _uplink(Wire(cloud.app), "gateway")
    reply = await up.enrol(enrol_request("gateway", cloud.join_secret(), kind=Kind.NODE))
    member = Membership(
        device_id="gateway",
        kind=Kind.NODE,
        hub_url="http://cloud.test",
        images_root=reply.images_root,
        director_root=reply.director_root,
    )
    waker = Waker()
    config = NodeConfig(folder=folder, send_every_s=0.01, longest_backoff_s=0.05, day_bytes=day_bytes)
    app = make_app(config, member, up, waker)
    async with app.lifespan():
        yield Site(cloud, Wire(app))
        waker.release()
        cloud.waker.release()


async def _say(uplink: Uplink, active: str, *, wait_s: float = 0.0) -> tuple[Desired, ...]:
    said = report(uplink.identity.device_id, active=active)
    return (await uplink.sync(SyncRequest(reports=(said,), wait_s=wait_s))).desired


async def _comes_up(site: Site, uplink: Uplink, active: str) -> None:
    async def arrived() -> bool:
        await _say(uplink, active)
        return await site.reported(uplink.identity.device_id) == active

    await until(arrived, f"the report of {uplink.identity.device_id}", timeout_s=5.0)


async def test_report_of_a_device_comes_up(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _site(cloud, tmp_path / "node") as site:
        await _comes_up(site, await site.join("camera-1"), "tiny@1.0.0")


async def test_accounts_of_a_nodes_outbox_come_up_with_its_own_report(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _site(cloud, tmp_path / "node") as site:
        uplink = await site.join("camera-1")
        await uplink.send(SendRequest(events=(event(1), event(2))))

        async def told() -> bool:
            await _say(uplink, f"tiny@1.0.{next(versions)}")  # news of a device, with which the node reports itself
            views = {view.device_id: view for view in await cloud.database.read(fleet.list_devices)}
            report = views["gateway"].report
            return report is not None and report.health.outbox.get("reading", Account()).acknowledged.rows == 2

        versions = itertools.count()
        await until(told, "the node's accounts")


async def test_day_of_a_node_is_kept_and_comes_up_with_its_own_report(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _site(cloud, tmp_path / "node", day_bytes=1000) as site:
        uplink = await site.join("camera-1")
        await uplink.send(SendRequest(events=tuple(event(one) for one in range(1, 6))))
        versions = itertools.count()

        async def day() -> Spending:
            await _say(uplink, f"tiny@1.0.{next(versions)}")  # news of a device, with which the node reports itself
            views = {view.device_id: view for view in await cloud.database.read(fleet.list_devices)}
            report = views["gateway"].report
            return report.health.day if report else Spending()

        async def spent() -> bool:
            return (await day()).spent.get("reading", 0) > 0

        await until(spent, "what was spent on readings")
        for first in range(6, 30, 6):
            await uplink.send(SendRequest(events=tuple(event(one) for one in range(first, first + 6))))

        async def waits() -> bool:
            return (await day()).waits == ("reading",)

        await until(waits, "readings that wait for the next day")
        assert (await day()).limit_bytes == 1000


async def test_damaged_record_costs_a_node_the_devices_that_it_hits_alone(cloud: SmallCloud, tmp_path: Path) -> None:
    folder, others = tmp_path / "node", [f"sensor-{number}" for number in range(500)]
    async with _site(cloud, folder) as site:
        camera = await site.join("camera-1")
    keep = Keep(folder / "node.db")
    keep.set({f"child {name}": Child(public_key=bytes(32), speaker=name) for name in others})
    keep.close()
    damage_pages(folder / "node.db", kind=TABLE_LEAF)
    async with _site(cloud, folder) as site:
        await _say(_uplink(site.wire, camera.identity.device_id), "tiny@1.0.0")
    outbox = Outbox(folder / "outbox.db", "gateway", bounds=NO_BOUNDS)
    (told,) = [one.body.detail for one in outbox.events() if isinstance(one.body, Alert)]
    outbox.close()
    known = re.search(r"node\.db was damaged.* knows (\d+) devices; one that it does not know", told)
    assert known is not None
    assert 400 < int(known[1]) < 501


async def test_device_that_is_not_enrolled_here_is_refused(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _site(cloud, tmp_path / "node") as site:
        cloud.enrol("camera-1")  # with the cloud, not through this node
        with pytest.raises(Refused, match="not enrolled"):
            await _say(_uplink(site.wire, "camera-1"), "tiny@1.0.0")


async def test_device_that_moved_to_the_cloud_does_not_silence_those_that_stayed(
    cloud: SmallCloud, tmp_path: Path
) -> None:
    async with _site(cloud, tmp_path / "node") as site:
        moving, staying = await site.join("camera-1"), await site.join("camera-2")
        await _comes_up(site, moving, "tiny@1.0.0")
        await _comes_up(site, staying, "tiny@1.0.0")
        await _uplink(Wire(cloud.app), "camera-1").enrol(enrol_request("camera-1", cloud.join_secret()))
        await _comes_up(site, staying, "tiny@1.1.0")


def test_node_loads_what_answering_takes_with_the_first_question_only() -> None:
    program = """
import sys
import edgeloop.node.app
heavy = {"numpy", "cv2", "tuf", "onnxruntime", "ai_edge_litert", "openvino"} & set(sys.modules)
sys.exit(f"loaded {sorted(heavy)}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def test_node_that_is_not_enrolled_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="enrolled"):
        run_node(NodeConfig(folder=tmp_path / "node"), on_ready=lambda _: None)
