"""The agent as a whole, its hub away: how it ends, and what is wanted of it twice."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import Desired
from edgeloop.contracts.states import Kind
from edgeloop.device.agent import Agent
from edgeloop.device.app import end_once
from edgeloop.device.config import DeviceConfig
from edgeloop.device.state import KEPT, Versions, Wish
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership, open_client
from edgeloop.transport.uplink import Uplink
from updating import Folder, assigned, second_version, with_first

pytestmark = pytest.mark.anyio
_NOBODY = "http://127.0.0.1:9"


@asynccontextmanager
async def _agent(folder: Path, *, keep_versions: int = 3) -> AsyncIterator[Agent]:
    member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=_NOBODY, images_root=b"i", director_root=b"d")
    identity = Identity("cam", load_or_make_key(folder / "device.pem"))
    async with open_client(_NOBODY) as client:
        config = DeviceConfig(folder=folder, engines=(EngineName.ONNXRUNTIME,), race_s=0.0, keep_versions=keep_versions)
        yield Agent(config, member, Uplink(client, identity), profile=this_machine())


def _ended_clean(folder: Path) -> bool:
    keep = Keep(folder / "device.db")
    try:
        return Versions(keep).begin("").is_clean
    finally:
        keep.close()


async def _until(is_so: Callable[[], bool], *, within_s: float = 120.0) -> None:
    until_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until_s
        await asyncio.sleep(0.05)


async def test_stop_during_the_first_load_is_no_kill(tmp_path: Path) -> None:
    async with _agent(tmp_path) as agent:
        running = asyncio.create_task(agent.run())
        await asyncio.sleep(0)  # it has begun, and loads
        end_once(running)
        await asyncio.wait([running])
    assert running.cancelled()
    assert _ended_clean(tmp_path)


async def test_start_that_fails_by_itself_is_no_clean_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _agent(tmp_path) as agent:
        monkeypatch.setattr(agent._updater, "start", _breaks)
        with pytest.raises(RuntimeError, match="no new thread"):
            await agent.run()
    assert not _ended_clean(tmp_path)


def _breaks(_ended: object) -> None:
    raise RuntimeError("no new thread")


async def test_second_signal_does_not_cut_into_the_end() -> None:
    begun, may_end, has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            begun.set()
            await may_end.wait()
            has_ended.set()

    running = asyncio.create_task(work())
    await asyncio.sleep(0)
    end_once(running)
    await begun.wait()
    end_once(running)
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([running])
    assert has_ended.is_set()


async def test_wish_is_granted_once_however_often_something_else_is_wanted_meanwhile(folder: Folder) -> None:
    second = second_version(folder)
    await asyncio.to_thread(lambda: with_first(folder, second).take(assigned(second, generation=2)))
    folder.close()
    keep = Keep(folder.device_folder / "device.db")
    versions = Versions(keep)
    with capture_logs() as logs:
        async with _agent(folder.device_folder) as agent:
            running = asyncio.create_task(agent.run())
            await _until(lambda: agent.report().engine is not None)
            versions.want(Wish(bundle="1.0.0", at_s=1.0))
            for generation in itertools.count(3):
                if versions.wish is None:
                    break
                agent._on_desired((Desired(device_id="cam", generation=generation),))
                await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.wait([running])
    assert versions.active is not None
    assert (versions.active.bundle, versions.turned_down(versions.active.manifest_sha256)) == ("tiny@1.0.0", None)
    assert [one["event"] for one in logs].count("rolled_back_by_hand") == 1
    keep.close()


async def test_agent_writes_down_how_many_versions_it_keeps_for_a_rollback_without_it(tmp_path: Path) -> None:
    async with _agent(tmp_path, keep_versions=5):
        keep = Keep(tmp_path / "device.db")
        assert keep.get(KEPT, int) == 5
        keep.close()
