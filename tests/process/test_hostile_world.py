"""Real devices against a real cloud in a world that goes wrong: kills, full disks, wrong clocks, wrong tokens."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import make_bundle, quadrant_images
from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import DeviceView, Gate, JoinTokenRequest, ReadingView, RolloutRequest
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import RolloutState
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from processes import Process
from small_disk import fill, small_disk

FRAMES = 200
DEADLINE_S = 40.0


@dataclass(frozen=True)
class Cloud:
    """A cloud process with a bundle published in it."""

    folder: Path
    url: str
    api: CloudApi

    def token(self) -> str:
        return self.api.make_join_token(JoinTokenRequest()).token

    def roll_out(self) -> None:
        """Bring the bundle to every device, and wait for the end."""
        gate = Gate(watch=WatchBounds(min_readings=5, deadline_s=5.0))
        view = self.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0", waves=("100%",), gate=gate))
        _until(lambda: self.api.rollout(view.rollout_id).state is not RolloutState.RUNNING, "the rollout's end")
        ended = self.api.rollout(view.rollout_id)
        assert ended.state is RolloutState.COMPLETED, ended.reason

    def readings(self, device_id: str) -> list[ReadingView]:
        rows: list[ReadingView] = []
        while page := self.api.readings(device_id, after=len(rows), limit=1000):
            rows += page
        return rows

    def device(self, device_id: str) -> DeviceView:
        return next(view for view in self.api.devices() if view.device_id == device_id)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    folder = tmp_path / "cloud"
    found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    process = Process(
        "-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0", log=tmp_path / "cloud.log"
    )
    url = process.start()["url"]
    operator = Operator(url=url, token=read_operator(folder / "operator.json").token)
    try:
        with CloudApi(operator) as api:
            publish(make_bundle(tmp_path), api, targets_key=tmp_path / "keys" / "targets.pem")
            yield Cloud(tmp_path, url, api)
    finally:
        process.stop()


def test_device_that_is_killed_again_and_again_loses_and_doubles_nothing(cloud: Cloud) -> None:
    spool = _spool(cloud.folder / "spool")
    device = _device(cloud, cloud.folder / "device", spool, rate_hz=60)
    device.start()
    try:
        cloud.roll_out()
        for kill in range(1, 4):
            _until(lambda seen=kill * FRAMES // 5: len(cloud.readings("cam")) >= seen, "some readings")
            device.kill()
            device.start()
        _until(lambda: len(cloud.readings("cam")) >= FRAMES, "every reading")
        frames = Counter(row.reading.source for row in cloud.readings("cam"))
        assert frames == Counter({path.name: 1 for path in spool.iterdir()})
        assert cloud.device("cam").report.active == "tiny@1.0.0"
    finally:
        device.stop()


def test_device_with_a_full_disk_goes_on_inferring_says_so_and_recovers(cloud: Cloud) -> None:
    with small_disk(cloud.folder / "disk") as disk:
        spool = _spool(cloud.folder / "spool", count=20)
        device = _device(cloud, disk / "device", spool, rate_hz=50)
        device.start()
        try:
            cloud.roll_out()
            _until(lambda: len(cloud.readings("cam")) == 20, "the first readings")
            ballast = fill(disk)
            _spool(spool, count=40, prefix="b")
            log = cloud.folder / "device.log"
            _until(lambda: "record_cannot_write" in log.read_text(), "the device saying that its disk is full")
            _until(lambda: _dropped(cloud) >= 32, "inference going on, its readings dropped and counted")
            assert log.read_text().count("record_cannot_write") == 1, "told once and not for each reading"
            assert "Free some space" in log.read_text()
            ballast.unlink()
            _spool(spool, count=10, prefix="c")
            _until(lambda: _count(cloud, "c") == 10, "readings coming up again once there is room")
        finally:
            device.stop()


def test_device_starts_on_a_full_disk_infers_says_so_and_recovers(cloud: Cloud) -> None:
    """After a clean end SQLite has removed what it keeps beside its files, and finds no room to make it anew."""
    with small_disk(cloud.folder / "disk") as disk:
        spool = _spool(cloud.folder / "spool", count=20)
        device = _device(cloud, disk / "device", spool, rate_hz=50)
        device.start()
        try:
            cloud.roll_out()
            _until(lambda: len(cloud.readings("cam")) == 20, "the first readings")
            assert device.handle is not None
            device.handle.terminate()
            device.handle.wait(30)
            assert not list((disk / "device").glob("*.db-shm")), "that was a clean end"
            ballast = fill(disk)
            _spool(spool, count=40, prefix="b")
            device.start()
            log = cloud.folder / "device.log"
            _until(lambda: "disk_full_at_start" in log.read_text(), "the device saying that its disk is full")
            _until(lambda: _dropped(cloud) >= 32, "inference going on, its readings dropped and counted")
            ballast.unlink()
            _spool(spool, count=10, prefix="c")
            _until(lambda: _count(cloud, "c") == 10, "readings coming up again once there is room")
        finally:
            device.stop()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs the program faketime (Debian package faketime)")
def test_device_whose_clock_says_1970_enrols_updates_and_reports(cloud: Cloud) -> None:
    spool = _spool(cloud.folder / "spool", count=30)
    device = _device(cloud, cloud.folder / "device", spool, rate_hz=50)
    early = Process("-c", _UNDER_FAKETIME, *device.arguments, log=cloud.folder / "device.log")
    early.start()
    try:
        cloud.roll_out()
        _until(lambda: len(cloud.readings("cam")) == 30, "its readings")
        assert {row.at_ms < 10**11 for row in cloud.readings("cam")} == {True}, "the clock really was wrong"
    finally:
        early.stop()


def test_wrong_join_token_is_refused_with_what_to_do(cloud: Cloud) -> None:
    stranger = cloud.token()[:-32] + "0" * 32
    for token, code, said in (
        ("nonsense", 2, "expected el1.SECRET.FINGERPRINT"),
        (f"el1.{'A' * 43}.{'0' * 32}", 4, "never made that join token"),
        (stranger, 4, "not the cloud that made the token"),
    ):
        folder = cloud.folder / f"device-{token[4:12]}"
        done = _run("device", "run", "--dir", str(folder), "--hub", cloud.url, "--join", token, "--id", "cam")
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert not (folder / "membership.json").exists()


def test_second_server_on_a_port_names_the_port_and_the_way_out(cloud: Cloud) -> None:
    port = cloud.url.rpartition(":")[2]
    done = _run("cloud", "serve", "--dir", str(cloud.folder / "cloud"), "--port", port)
    assert done.returncode == 5
    assert port in done.stderr
    assert "--port" in done.stderr


def test_full_disk_leaves_no_half_written_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        with pytest.raises(Exception, match="Free some space"):
            write_durable(disk / "copy.edgeloop", bundle.read_bytes() * 40)
        assert [path.name for path in disk.iterdir()] == ["ballast"]


# ---- the world

_UNDER_FAKETIME = """
import os, sys
os.environ["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
os.execvp("faketime", ["faketime", "-f", "@1970-01-02 00:00:00", sys.executable, *sys.argv[1:]])
"""


class _Device(Process):
    def __init__(self, *arguments: str, log: Path) -> None:
        super().__init__(*arguments, log=log)
        self.arguments = arguments


def _device(cloud: Cloud, folder: Path, spool: Path, *, rate_hz: int) -> _Device:
    where = ("--dir", str(folder), "--hub", cloud.url, "--join", cloud.token(), "--id", "cam")
    how = ("--source", str(spool), "--rate-hz", str(rate_hz), "--longest-backoff-s", "0.3", "--json")
    return _Device("-m", "edgeloop", "device", "run", *where, *how, log=cloud.folder / "device.log")


def _spool(folder: Path, *, count: int = FRAMES, prefix: str = "a") -> Path:
    for index, image in enumerate(quadrant_images(count, seed=len(prefix))):
        write_durable(folder / f"{prefix}-{index:05d}.png", encode_png(image))
    return folder


def _dropped(cloud: Cloud) -> int:
    """How many events the device told the cloud of that found no room."""
    report = cloud.device("cam").report
    return 0 if report is None else report.health.dropped


def _count(cloud: Cloud, prefix: str) -> int:
    return sum(row.reading.source.startswith(f"{prefix}-") for row in cloud.readings("cam"))


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "edgeloop", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _until(is_true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not is_true():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what} did not come about within {DEADLINE_S:.0f} s")
        time.sleep(0.1)
