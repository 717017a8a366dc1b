"""The node's hub by itself: whom it knows, what it has heard of, what it says."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.messages import MAX_BODY_BYTES, MAX_REPORT_BYTES, Desired, DeviceReport, SyncRequest
from edgeloop.contracts.states import Kind
from edgeloop.hub.waker import Waker
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.hub import Child, NodeHub
from edgeloop.transport.budget import Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.uplink import Uplink
from house import Wire
from small_cloud import Clock, SmallCloud, enrol_request, key_of, public_key_of, report

pytestmark = pytest.mark.anyio

NODE = "gateway"


class FullKeep(Keep):
    """A keep whose disk may be full, and that counts what it was given."""

    is_full = True
    writes = 0

    def set(self, changes: Mapping[str, Any]) -> None:
        if self.is_full:
            raise Unavailable("the keep cannot write: database or disk is full")
        super().set(changes)
        self.writes += 1


@asynccontextmanager
async def _node(
    folder: Path, *, keep: Keep | None = None, cloud: SmallCloud | None = None, clock_s: Clock | None = None
) -> AsyncIterator[NodeHub]:
    """A node's hub without its loops; below nothing or, enrolled, below a cloud."""
    keep = keep or Keep(folder / "node.db")
    outbox = Outbox(folder / "outbox.db", NODE)
    transport = Wire(cloud.app) if cloud else None
    async with httpx.AsyncClient(transport=transport, base_url="http://hub.test") as client:
        uplink = Uplink(client, Identity(NODE, key_of(NODE)))
        if cloud:
            await uplink.enrol(enrol_request(NODE, cloud.join_secret(), kind=Kind.NODE))
        budget = Budget(keep)
        meter = Meter(budget, on_wait=lambda: None)
        yield NodeHub(
            uplink,
            keep=keep,
            cache=Cache(folder / "cache", uplink, meter),
            outbox=outbox,
            answering=Answering(uplink, None),
            waker=Waker(),
            budget=budget,
            meter=meter,
            clock_s=clock_s or Clock(),
        )
    outbox.close()
    keep.close()


async def test_news_that_finds_the_disk_full_is_news_again_when_there_is_room(tmp_path: Path) -> None:
    keep = FullKeep(tmp_path / "node.db")
    async with _node(tmp_path, keep=keep) as hub:
        news = Desired(device_id="camera-1", generation=3)
        with hub._waker.listening(["camera-1"]) as woken:
            with pytest.raises(Unavailable):
                hub.on_desired((news,))
            assert hub.known() == {}, "the hub above must be asked for it again"
            keep.is_full = False
            hub.on_desired((news,))
            assert woken.is_set()
        assert hub.known() == {"camera-1": 3}
        assert keep.get("desired", dict[str, int]) == {"camera-1": 3}


async def test_news_of_all_devices_is_written_down_at_once(tmp_path: Path) -> None:
    """A rollout brings news of thousands in one answer; each write waits for the disk."""
    keep = FullKeep(tmp_path / "node.db")
    async with _node(tmp_path, keep=keep) as hub:
        keep.is_full = False
        hub.on_desired(tuple(Desired(device_id=f"camera-{number}", generation=3) for number in range(500)))
        assert (keep.writes, len(hub.known())) == (1, 500)
        hub.on_desired((Desired(device_id="camera-7", generation=3), Desired(device_id="camera-8", generation=2)))
        assert keep.writes == 1, "nothing was new"


async def test_device_that_moved_here_from_a_node_below_is_spoken_for_by_itself(
    cloud: SmallCloud, tmp_path: Path
) -> None:
    keep = Keep(tmp_path / "node" / "node.db")
    keep.set({"child camera-1": Child(public_key=public_key_of("camera-1"), speaker="below")})
    async with _node(tmp_path / "node", keep=keep, cloud=cloud) as hub:
        hub.on_desired((Desired(device_id="camera-1", generation=3),))
        assert [one.device_id for one in hub._newer("below", {})] == ["camera-1"]
        await hub.enrol(enrol_request("camera-1", cloud.join_secret()))
        assert (hub._newer("below", {}), len(hub._newer("camera-1", {}))) == ((), 1)


async def test_device_is_not_known_before_it_is_kept(cloud: SmallCloud, tmp_path: Path) -> None:
    """Whoever was let in by a node that could not write it down would be a stranger to it after its next start."""
    keep = FullKeep(tmp_path / "node" / "node.db")
    async with _node(tmp_path / "node", keep=keep, cloud=cloud) as hub:
        request = enrol_request("camera-1", cloud.join_secret())
        with pytest.raises(Unavailable):
            await hub.enrol(request)
        assert await hub.public_key("camera-1") is None
        keep.is_full = False
        await hub.enrol(request)
        assert await hub.public_key("camera-1") == public_key_of("camera-1")
        assert list(keep.under("child ", Child)) == ["camera-1"]


async def test_devices_that_an_earlier_node_kept_together_are_taken_over(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "node.db")
    keep.set({"children": {"camera-2": Child(public_key=b"key", speaker="camera-2")}})
    async with _node(tmp_path, keep=keep) as hub:
        assert await hub.public_key("camera-2") == b"key"
        assert (keep.get("children", dict[str, Any]), list(keep.under("child ", Child))) == (None, ["camera-2"])


async def test_revocation_of_a_device_is_remembered(cloud: SmallCloud, tmp_path: Path) -> None:
    path = tmp_path / "node"
    async with _node(path, cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1", "camera-2")
        hub.on_desired((Desired(device_id="camera-1", generation=3, revoked=True),))
    async with _node(path) as again:
        assert await again.public_key("camera-1") is None
        assert await again.public_key("camera-2") == public_key_of("camera-2")


# ---- what goes up of what devices report


async def _with_children(hub: NodeHub, cloud: SmallCloud, *names: str) -> None:
    for name in names:
        await hub.enrol(enrol_request(name, cloud.join_secret()))
        await _hear(hub, name)


async def _hear(hub: NodeHub, name: str, *, active: str | None = None) -> None:
    await hub.sync(name, SyncRequest(reports=(report(name, active=active),)))


def _told(reports: tuple[DeviceReport, ...]) -> list[tuple[str, str | None]]:
    own, *others = reports
    assert own.device_id == NODE, "each sync says how the node itself does"
    return [(one.device_id, one.active) for one in others]


async def test_each_report_goes_up_once(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _node(tmp_path / "node", cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1", "camera-2")
        assert _told(hub.reports()) == [("camera-1", None), ("camera-2", None)]
        assert _told(hub.reports()) == []
        await _hear(hub, "camera-2", active="tiny@1.0.0")
        assert _told(hub.reports()) == [("camera-2", "tiny@1.0.0")]


async def test_what_a_device_says_again_goes_up_again(cloud: SmallCloud, tmp_path: Path) -> None:
    """The cloud tells from it that the device is there."""
    async with _node(tmp_path / "node", cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1")
        hub.reports()
        await _hear(hub, "camera-1")
        assert _told(hub.reports()) == [("camera-1", None)]


async def test_all_reports_go_up_after_a_sync_that_failed(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _node(tmp_path / "node", cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1", "camera-2")
        hub.reports()
        hub.on_sync_failed(Unavailable("no answer"))
        assert _told(hub.reports()) == [("camera-1", None), ("camera-2", None)]


async def test_only_what_was_in_it_goes_up_again_after_a_sync_for_which_the_hub_asked_for_patience(
    cloud: SmallCloud, tmp_path: Path
) -> None:
    busy = Unavailable("much to do")
    busy.retry_after_s = 3.0
    async with _node(tmp_path / "node", cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1", "camera-2")
        hub.reports()
        hub.reports()
        await _hear(hub, "camera-2", active="tiny@1.0.0")
        hub.reports()
        hub.on_sync_failed(busy)
        assert _told(hub.reports()) == [("camera-2", "tiny@1.0.0")]


async def test_all_reports_go_up_now_and_then_with_their_age(cloud: SmallCloud, tmp_path: Path) -> None:
    clock_s = Clock(0.0)
    async with _node(tmp_path / "node", cloud=cloud, clock_s=clock_s) as hub:
        await _with_children(hub, cloud, "camera-1")
        hub.reports()
        clock_s.now_s = 299.0
        assert _told(hub.reports()) == []
        clock_s.now_s = 300.0
        _, again = hub.reports()
        assert (again.device_id, again.age_s) == ("camera-1", 300.0)


async def test_sync_that_was_refused_forgets_what_devices_said(cloud: SmallCloud, tmp_path: Path) -> None:
    async with _node(tmp_path / "node", cloud=cloud) as hub:
        await _with_children(hub, cloud, "camera-1", "camera-2")
        hub.on_desired((Desired(device_id="camera-1", generation=3),))
        hub.on_sync_failed(Refused("camera-1 moved"))
        assert (_told(hub.reports()), hub.known()) == ([], {})


async def test_reports_that_do_not_fit_into_one_request_go_with_the_next(tmp_path: Path) -> None:
    """However large each of them is: the hub above would turn the whole request down, for ever."""
    async with _node(tmp_path) as hub:
        names = [f"camera-{number}" for number in range(300)]
        hub._children = {name: Child(public_key=b"", speaker=name) for name in names}
        for name in names:
            await hub.sync(name, SyncRequest(reports=(report(name),)))
        first, second = hub.reports(), hub.reports()
        assert len(first) * MAX_REPORT_BYTES < MAX_BODY_BYTES
        assert {one.device_id for one in (*first, *second)} == {NODE, *names}
        assert [one.device_id for one in hub.reports()] == [NODE]
