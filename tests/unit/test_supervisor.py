"""What a supervisor hears, on a real datagram socket, from this process and from real services."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.states import Kind
from edgeloop.supervisor import Supervisor
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.membership import Membership

PATIENCE_S = 60.0


class Ear:
    """A supervisor's socket."""

    def __init__(self, address: str) -> None:
        self.handle = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.handle.bind(address.replace("@", "\0", 1))
        self.handle.settimeout(PATIENCE_S)
        self.environment = {"NOTIFY_SOCKET": address}

    def hear(self) -> str:
        return self.handle.recv(100).decode()


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    opened = Ear(str(tmp_path / "notify") if request.param == "path" else f"@edgeloop-test-{os.getpid()}")
    yield opened
    opened.handle.close()


def test_life_goes_on_until_the_end_is_told(ear: Ear) -> None:
    async def live() -> list[str]:
        supervisor = Supervisor(ear.environment | {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
        supervisor.ready()
        heard = [await asyncio.to_thread(ear.hear) for _ in range(4)]
        supervisor.ending()
        while heard[-1] != "STOPPING=1":
            heard.append(await asyncio.to_thread(ear.hear))
        await asyncio.sleep(0.1)  # ten signs of life
        return heard

    heard = asyncio.run(live())
    assert heard[:4] == ["READY=1", *["WATCHDOG=1"] * 3]
    ear.handle.setblocking(False)
    with pytest.raises(BlockingIOError):
        ear.hear()


def test_hanging_loop_gives_no_sign_of_life(ear: Ear) -> None:
    async def hang() -> None:
        supervisor = Supervisor(ear.environment | {"WATCHDOG_USEC": "20000"})
        supervisor.ready()
        time.sleep(0.2)  # what a watchdog is for
        supervisor.ending()

    asyncio.run(hang())
    assert [ear.hear() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}],
)
def test_no_sign_of_life_where_none_is_asked_of_this_process(ear: Ear, environment: dict[str, str]) -> None:
    async def begin() -> None:
        supervisor = Supervisor(ear.environment | environment)
        supervisor.ready()
        await asyncio.sleep(0.05)
        supervisor.ending()

    asyncio.run(begin())
    assert [ear.hear() for _ in range(2)] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_nobody_who_hears_is_no_failure(environment: dict[str, str]) -> None:
    supervisor = Supervisor(environment)
    supervisor.ready()
    supervisor.ending()


def _enrolled(folder: Path, kind: Kind) -> None:
    member = Membership(
        device_id="camera-1", kind=kind, hub_url="http://127.0.0.1:9", images_root=b"i", director_root=b"d"
    )
    write_durable(folder / "membership.json", to_pretty_json(member))
    load_or_make_key(folder / "device.pem")


@pytest.mark.parametrize("tier", ["device", "node", "cloud"])
def test_services_tell_that_they_are_ready_alive_and_ending(tier: str, tmp_path: Path, cloud_template: Path) -> None:
    folder = tmp_path / tier
    command = [sys.executable, "-P", "-m", "edgeloop", tier, "run", "--dir", str(folder), "--json"]
    if tier == "cloud":
        shutil.copytree(cloud_template / "cloud", folder)
        command = [*command[:5], "serve", "--dir", str(folder), "--port", "0", "--json"]
    else:
        _enrolled(folder, Kind(tier))
        command += ["--port", "0"] if tier == "node" else []
    ear = Ear(str(tmp_path / "notify"))
    environment = os.environ | ear.environment | {"WATCHDOG_USEC": "200000"}
    with ear.handle, subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            heard = [ear.hear() for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            while heard[-1] != "STOPPING=1":
                heard.append(ear.hear())
        finally:
            process.kill()
    assert heard[:2] == ["READY=1", "WATCHDOG=1"]
    assert set(heard[2:-1]) == {"WATCHDOG=1"}
