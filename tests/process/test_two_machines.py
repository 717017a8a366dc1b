"""docs/deploy.md is true: its commands, as they stand there, on machines of their own, systemd on them, TLS between.

Left out is what would fetch from elsewhere (apt-get, venv, pip): the package under test stands in its place. Two things
a person does are done here: bringing a folder from one machine to another (scp), and copying the token.
"""

import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builders import make_bundle, quadrant_images
from edgeloop.bundle.durable import write_durable
from edgeloop.runtime.input.images import encode_png
from machines import ROOT, Machine, link, need_machines

PAGE = ROOT / "docs" / "deploy.md"
FETCHES = re.compile(r"^(apt-get install|python3 -m venv|\S+/pip install) .*$", re.MULTILINE)
SCP = re.compile(r"^scp -rp (\S+) root@cloud\.example\.org:(\S+)$", re.MULTILINE)
SERVER, DEVICE, LAPTOP = "203.0.113.10", "203.0.113.20", "203.0.113.30"
UNIT = "edgeloop-device"
PATIENCE_S = 120.0


@dataclass
class World:
    """The three machines, and what was said on each."""

    server: Machine
    device: Machine
    laptop: Machine
    token: str = "TOKEN"
    said: list[str] = field(default_factory=list)

    def follow(self, machine: str, block: str) -> str:
        """Do what a block of the page says; returns what came of it."""
        script = FETCHES.sub("", block).replace("TOKEN", self.token)
        for found in SCP.finditer(script):
            before, _, script = script.partition(found[0])
            self._type(self.laptop, before)
            shutil.copytree(self.laptop.path(f"/root/{found[1]}"), self.server.path(found[2]))
        out = self._type(getattr(self, machine), script)
        if "fleet token" in block:
            self.token = out.split()[-1]
        return out

    def _type(self, machine: Machine, script: str) -> str:
        done = machine.run(script, timeout_s=PATIENCE_S)
        journal = ""
        if done.returncode != 0 and machine is not self.laptop:
            journal = machine.run("journalctl --no-pager -n 60").stdout
        assert done.returncode == 0, f"{machine.name}: {script}\n{done.stdout}\n{done.stderr}\n{journal}"
        self.said.append(done.stdout)
        return done.stdout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    need_machines()
    with ExitStack() as stack:
        server = stack.enter_context(Machine("server", boots=True))
        device = stack.enter_context(Machine("device", boots=True))
        laptop = stack.enter_context(Machine("laptop", boots=False))
        link(server, SERVER, device, DEVICE)
        link(server, SERVER, laptop, LAPTOP)
        for machine in (server, device, laptop):
            with machine.path("/etc/hosts").open("a") as hosts:
                hosts.write(f"{SERVER} cloud.example.org\n")
            installed = machine.path("/opt/edgeloop")
            installed.unlink(missing_ok=True)
            installed.symlink_to(sys.prefix)
        laptop.path("/usr/local/bin/edgeloop").unlink(missing_ok=True)
        laptop.path("/usr/local/bin/edgeloop").symlink_to("/opt/edgeloop/bin/edgeloop")
        for version in ("1.0.0", "1.1.0"):
            made = make_bundle(tmp_path / version, name="digits", version=version)
            shutil.copy(made, laptop.path(f"/root/digits-{version}.edgeloop"))
        yield World(server, device, laptop)


def blocks() -> list[tuple[str, str]]:
    found = re.findall(r"^```sh (server|device|laptop)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) >= 10
    return found


@contextmanager
def pictures(folder: Path) -> Iterator[None]:
    """Something before the camera, all the time."""
    ended = threading.Event()

    def show() -> None:
        images = [encode_png(one) for one in quadrant_images(20)]
        shown = 0
        while not ended.wait(0.1):
            if folder.is_dir():
                write_durable(folder / f"{shown:06d}.png", images[shown % len(images)])
                shown += 1

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def until(is_true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < until_s, f"{what} did not come about"
        time.sleep(0.1)


def main_pid(machine: Machine) -> int:
    return int(machine.run(f"systemctl show {UNIT} -p MainPID --value").stdout)


def is_active(machine: Machine) -> bool:
    return machine.run(f"systemctl is-active {UNIT} || true").stdout.strip() == "active"


@pytest.mark.timeout(600)
def test_page_leads_from_nothing_to_a_confirmed_device_and_away_again(world: World) -> None:
    with pictures(world.device.path("/srv/frames")):
        for machine, block in blocks():
            if "device uninstall-service" in block:
                _goes_on_whatever_happens(world)
                _keeps_its_secrets(world)
            out = world.follow(machine, block)
            if "rollout start digits@1.0.0" in block:
                assert "camera-1" in out
                assert "completed" in out
            if "rollout start digits@1.1.0" in block:
                assert "completed" in out
            if "device status" in block:
                assert "digits@1.1.0" in out
                assert "active (running)" in out
    assert "could not be found" in world.device.run("systemctl status edgeloop-device 2>&1 || true").stdout
    assert not world.device.path("/etc/edgeloop/edgeloop-device.env").exists()
    assert world.server.path("/var/lib/edgeloop-cloud/cloud.db").exists()


def _goes_on_whatever_happens(world: World) -> None:
    """Killed, then frozen; systemd is made to wait for less than the unit says, so that the test need not."""
    less = "[Service]\\nWatchdogSec=5s\\nTimeoutStopSec=2s\\n"
    place = f"/run/systemd/system/{UNIT}.service.d"
    world.follow("device", f"mkdir -p {place} && printf '{less}' > {place}/less.conf && systemctl daemon-reload\n")
    world.follow("device", f"systemctl restart {UNIT}\n")
    for name in ("KILL", "STOP"):
        before = main_pid(world.device)
        assert before
        world.follow("device", f"kill -s {name} {before}\n")
        until(
            lambda before=before: main_pid(world.device) not in {0, before} and is_active(world.device), "a new start"
        )


def _keeps_its_secrets(world: World) -> None:
    unit = world.device.path("/etc/systemd/system/edgeloop-device.service").read_text()
    variables = world.device.path("/etc/edgeloop/edgeloop-device.env")
    assert world.token not in unit
    assert world.token in variables.read_text()
    assert variables.stat().st_mode & 0o777 == 0o600
    words = world.device.run("tr '\\0' ' ' < /proc/$(systemctl show edgeloop-device -p MainPID --value)/cmdline").stdout
    assert "edgeloop" in words
    assert world.token not in words
    assert world.device.run("stat -c %U /var/lib/edgeloop-device/outbox.db").stdout.strip() == "edgeloop"
