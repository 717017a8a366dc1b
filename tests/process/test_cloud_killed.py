"""SIGKILL the cloud in the middle of a stream: nothing acknowledged is lost, nothing counts twice.

A real cloud process, the device's own outbox, sender and uplink against it, kills in the middle of sending, and
a link that loses some acknowledgements after the cloud has committed. Two controls break one promise each and
must be caught, or this test would show nothing.
"""

import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import Reading
from edgeloop.contracts.prediction import Prediction, Scored
from edgeloop.contracts.states import Kind
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.membership import join_hub, open_identity
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Sender
from edgeloop.transport.uplink import Uplink
from processes import Process

KILLS = 3
READINGS = 1500
LOST_ACKNOWLEDGEMENTS = 0.1
BROKEN = str(Path(__file__).parent / "broken_cloud.py")


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    readings: int
    acknowledged: int
    lost: int
    doubled: int


def test_every_acknowledged_reading_is_in_the_cloud_exactly_once(tmp_path: Path) -> None:
    outcome = _run(tmp_path, "-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(tmp_path / "cloud"), "--port")
    assert outcome == Outcome(readings=READINGS, acknowledged=READINGS, lost=0, doubled=0)
    assert not _half_written(tmp_path).exists()


def test_control_acknowledging_before_commit_is_caught_as_loss(tmp_path: Path) -> None:
    outcome = _run(tmp_path, BROKEN, str(tmp_path / "cloud"), fault="acknowledge-before-commit")
    assert outcome.acknowledged == READINGS
    assert outcome.lost > 0


def test_control_dropping_the_idempotency_key_is_caught_as_doubling(tmp_path: Path) -> None:
    outcome = _run(tmp_path, BROKEN, str(tmp_path / "cloud"), fault="no-idempotency-key")
    assert outcome.acknowledged == READINGS
    assert outcome.doubled > 0


class LossyLink(httpx.AsyncBaseTransport):
    """A real connection on which some answers to `send` are lost after the hub has done its work."""

    def __init__(self, seed: int) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._rng = random.Random(seed)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if request.url.path.endswith("/send") and self._rng.random() < LOST_ACKNOWLEDGEMENTS:
            await response.aread()
            raise httpx.ReadError("the answer was lost on the way", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _half_written(folder: Path) -> Path:
    """As a kill in the middle of keeping a sample leaves it."""
    return CloudConfig(folder=folder / "cloud").blobs_folder / "samples" / "ab" / "abcd#123456789"


def _run(folder: Path, *command: str, fault: str = "") -> Outcome:
    found(CloudConfig(folder=folder / "cloud"), keys=folder / "keys", url="http://127.0.0.1:0")
    _half_written(folder).parent.mkdir(parents=True)
    _half_written(folder).write_bytes(b"half")
    tail = (fault,) if fault else ()
    cloud = Process(*command, "0", *tail, log=folder / "cloud.log")
    try:
        url = cloud.start()["url"]
        port = url.rpartition(":")[2]
        return asyncio.run(_stream(folder, url, cloud, Process(*command, port, *tail, log=folder / "cloud.log")))
    finally:
        cloud.stop()


async def _stream(folder: Path, url: str, cloud: Process, again: Process) -> Outcome:
    stored = read_operator(folder / "cloud" / "operator.json")
    operator = Operator(url=url, token=stored.token)
    with CloudApi(operator) as api:
        token = await asyncio.to_thread(lambda: api.make_join_token(JoinTokenRequest()).token)
    member = await join_hub(
        folder / "device",
        hub_url=url,
        join=parse_join_token(token),
        device_id="cam",
        kind=Kind.DEVICE,
        profile=this_machine(),
    )
    outbox = Outbox(folder / "device" / "outbox.db", "cam")
    running = cloud
    async with httpx.AsyncClient(transport=LossyLink(seed=1), base_url=url) as client:
        uplink = Uplink(client, open_identity(folder / "device", member.device_id))
        sender = Sender(outbox, uplink, every_s=0.01, longest_wait_s=0.2)
        sending = asyncio.create_task(sender.run())
        try:
            for part in range(KILLS + 1):
                await _read(outbox, part)
                if part < KILLS:
                    await asyncio.to_thread(running.kill)
                    running = again
                    await asyncio.to_thread(running.start)
            await _drained(outbox)
            # A cloud that answered too early still has its last commits before it.
            await asyncio.sleep(1.0)
            return await asyncio.to_thread(_compare, outbox, operator)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            outbox.close()
            running.stop()


async def _read(outbox: Outbox, part: int) -> None:
    """A share of the readings, written while the sender is at work."""
    size = READINGS // (KILLS + 1)
    for number in range(part * size, (part + 1) * size):
        await asyncio.to_thread(outbox.append, [_reading(number)], at_ms=number)


async def _drained(outbox: Outbox) -> None:
    async with asyncio.timeout(60):
        while outbox.stats().pending_rows:
            await asyncio.sleep(0.05)


def _compare(outbox: Outbox, operator: Operator) -> Outcome:
    own = list(outbox.events())
    rows = []
    with CloudApi(operator) as api:
        while page := api.readings("cam", after=len(rows), limit=1000):
            rows += page
    there = {(row.epoch, row.sequence): row.reading for row in rows}
    frames = Counter(row.reading.source for row in rows)
    return Outcome(
        readings=len(own),
        acknowledged=outbox.stats().acknowledged_rows,
        lost=sum(there.get((event.epoch, event.sequence)) != event.body for event in own),
        doubled=sum(count - 1 for count in frames.values()),
    )


def _reading(number: int) -> Reading:
    prediction = Prediction(
        label=str(number % 10),
        score=0.9,
        margin=0.8,
        top=(Scored(str(number % 10), 0.9),),
        latency_ms=1.0,
        bundle="tiny@1.0.0",
        engine="litert",
        precision="int8",
    )
    return Reading(source=f"frame-{number:06d}", prediction=prediction)


@pytest.fixture(autouse=True)
def _linux_only() -> None:
    if sys.platform != "linux":
        pytest.skip("SIGKILL semantics are tested on Linux")
