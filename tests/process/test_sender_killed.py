"""SIGKILL the device while it appends and sends: what its outbox took is in the cloud once, no more and no less.

A real cloud process; the device's outbox, sender and uplink in a process that is killed at random instants. Neighbour:
test_cloud_killed kills the other side.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.states import Kind
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.membership import join_hub
from edgeloop.transport.outbox import Outbox
from processes import Process

KILLS = 24
LONGEST_LIFE_S = 0.08
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the device is forked")


class Outcome(NamedTuple):
    """told: readings that the outbox said were durable. lost: of these, not in the cloud. doubled: there twice."""

    told: int
    lost: int
    doubled: int


def test_device_that_is_killed_at_any_instant_loses_and_doubles_nothing(tmp_path: Path) -> None:
    outcome = _run(tmp_path)
    assert outcome.told > KILLS
    assert (outcome.lost, outcome.doubled) == (0, 0)


def test_control_outbox_that_tells_before_its_commit_is_caught_as_loss(tmp_path: Path) -> None:
    assert _run(tmp_path, "tell-before-commit").lost > 0


def test_control_cloud_without_an_idempotency_key_is_caught_as_doubling(tmp_path: Path) -> None:
    # Whether an answer is cut off between two of its steps hangs on chance: it has some.
    assert any(_run(tmp_path / str(turn), cloud_fault="no-idempotency-key").doubled for turn in range(4))


def _run(folder: Path, *faults: str, cloud_fault: str = "") -> Outcome:
    found(CloudConfig(folder=folder / "cloud"), keys=folder / "keys", url="http://127.0.0.1:0")
    command = ["-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder / "cloud"), "--port", "0"]
    if cloud_fault:
        command = [str(HERE / "broken_cloud.py"), str(folder / "cloud"), "0", cloud_fault]
    cloud = Process(*command, log=folder / "cloud.log")
    try:
        url = cloud.start()["url"]
        operator = Operator(url=url, token=read_operator(folder / "cloud" / "operator.json").token)
        asyncio.run(_join(folder / "device", operator))
        with _device(folder, *faults) as device:
            _kill_often(device)
            _order(device, "drain")
            assert device.stdout is not None
            assert device.stdout.readline() == "ended\n"
        return _compare(folder, operator)
    finally:
        cloud.stop()


async def _join(folder: Path, operator: Operator) -> None:
    with CloudApi(operator) as api:
        token = await asyncio.to_thread(lambda: api.make_join_token(JoinTokenRequest()).token)
    join = parse_join_token(token)
    kind, profile = Kind.DEVICE, this_machine()
    await join_hub(folder, hub_url=operator.url, join=join, device_id="cam", kind=kind, profile=profile)
    await asyncio.to_thread(lambda: Outbox(folder / "outbox.db", "cam").close())


@contextmanager
def _device(folder: Path, *faults: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, str(HERE / "sending_device.py"), str(folder / "device"), str(folder / "told"), *faults]
    with (folder / "device.log").open("wb") as log:
        device = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield device
    finally:
        assert device.stdin is not None
        device.stdin.close()
        device.wait(30)
        assert device.stdout is not None
        device.stdout.close()


def _order(device: "subprocess.Popen[str]", order: str) -> int:
    assert device.stdin is not None
    assert device.stdout is not None
    device.stdin.write(f"{order}\n")
    device.stdin.flush()
    return int(device.stdout.readline())


def _kill_often(device: "subprocess.Popen[str]") -> None:
    rng, never = random.Random(5), threading.Event()
    for _ in range(KILLS):
        pid = _order(device, "go")
        assert device.stdout is not None
        assert device.stdout.readline() == "begins\n"
        never.wait(rng.uniform(0.0, LONGEST_LIFE_S))  # the instant, not a wait for anything
        os.kill(pid, signal.SIGKILL)
        assert device.stdout.readline() == "ended\n"


def _compare(folder: Path, operator: Operator) -> Outcome:
    told = (folder / "told").read_text().split()
    there: Counter[str] = Counter()
    with CloudApi(operator) as api:
        while page := api.readings("cam", after=there.total(), limit=1000):
            there.update(row.reading.source for row in page)
    outbox = Outbox(folder / "device" / "outbox.db", "cam")
    account = outbox.stats().accounts["reading"]
    outbox.close()
    assert account.appended.rows == account.acknowledged.rows
    return Outcome(
        told=len(told),
        lost=sum(source not in there for source in told),
        doubled=sum(count - 1 for count in there.values()),
    )
