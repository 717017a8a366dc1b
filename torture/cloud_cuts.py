"""Power cuts of a cloud that takes in events and samples: what it acknowledged is there when it comes back.

A real cloud with its database and its blobs on a disk of its own (`disk`); several requests at once bring readings,
alerts and samples, some of these with bytes that are there already, as from a camera that sees the same again. At a
random instant the power is cut, the cloud killed, the disk mounted and the cloud started on what is left: each row
must be there, and each sample's bytes. Neighbour: `cuts` does the same to a device.
"""

import asyncio
import itertools
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Alert, Body, Event, Reading, Sample, SendRequest
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Reason
from edgeloop.transport.membership import open_client, open_identity
from edgeloop.transport.uplink import Uplink
from torture.cuts import Neighbour
from torture.disk import Disk
from torture.warm import Warm
from torture.world import World

FAULTS = ("files_without_fsync", "no_fsync")
"""Promises that are broken for the control: the samples' bytes, and all of it."""
_MOST_CONTROL_CUTS = 6
_EACH_A_WORLD = 25
_AT_ONCE = 8
_BATCHES = (3, 12)
"""Acknowledged before the cut: one number between these."""
_SPAN_S = 0.01
_COMMIT_EVERY_S = 0.001
"""The filesystem commits its journal so often at least: names that were not synced are on the disk with no bytes."""
_SAMPLE_BYTES = 3_000
_KNOWN = 4
"""Different samples that come again and again."""
_SEND_TIMEOUT_S = 30.0
_AGAIN_S = 0.02


class CloudCuts(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. acknowledged: events before a cut. lost: of them, rows that are gone and samples without their
    bytes. why: what was wrong, cut by cut.
    """

    cuts: int
    acknowledged: int
    lost: int
    why: tuple[str, ...] = ()


def run(warm: Warm, folder: Path, *, cuts: int, until_s: float = math.inf, seed: int = 0) -> CloudCuts:
    """Cut so often, or until then by the monotonic clock; now and then in a world made anew."""
    made = []
    for number, first in enumerate(range(0, cuts, _EACH_A_WORLD)):
        with _bench(warm, folder / str(number), seed=seed + number) as bench:
            for _ in range(min(_EACH_A_WORLD, cuts - first)):
                if time.monotonic() < until_s:
                    bench.cut()
            made.append(bench.came())
    return CloudCuts(
        cuts=sum(one.cuts for one in made),
        acknowledged=sum(one.acknowledged for one in made),
        lost=sum(one.lost for one in made),
        why=tuple(why for one in made for why in one.why),
    )


def control(warm: Warm, folder: Path, *, fault: str) -> CloudCuts:
    """A cloud that does not sync, cut until it is caught, at most a few times."""
    with _bench(warm, folder, seed=1, faults=(fault,)) as bench:
        for _ in range(_MOST_CONTROL_CUTS):
            if not bench.came().why:
                bench.cut()
        return bench.came()


@contextmanager
def _bench(warm: Warm, folder: Path, *, seed: int, faults: tuple[str, ...] = ()) -> "Iterator[_Bench]":
    folder.mkdir(parents=True, exist_ok=True)
    with Disk() as disk:
        world = World(warm, folder, faults=faults, cloud=disk.path / "cloud")
        try:
            yield _Bench(world, disk, folder, seed)
        finally:
            world.close()


class _Bench:
    def __init__(self, world: World, disk: Disk, folder: Path, seed: int) -> None:
        self._world = world
        self._disk = disk
        self._member = folder / "cam"
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
        self._known = [self._rng.randbytes(_SAMPLE_BYTES) for _ in range(_KNOWN)]
        self._bodies = _bodies(self._rng, self._known)
        self._sequences = itertools.count(1)
        self._held: list[Event] = []
        self._made = CloudCuts(cuts=0, acknowledged=0, lost=0)
        world.enrol(self._member, "cam", hub=world.url)
        world.kill("cloud")
        disk.save()
        world.start_again("cloud")

    def came(self) -> CloudCuts:
        """So far."""
        return self._made

    def cut(self) -> None:
        """Cut the power while batches come in, and look whether all that was acknowledged is there."""
        sending = _Sending(self._world.url, self._member, self._bodies, self._sequences)
        with Neighbour(self._disk.path / "neighbour", every_s=_COMMIT_EVERY_S), sending:
            sending.wait(self._rng.randint(*_BATCHES))
            time.sleep(self._rng.uniform(0.0, _SPAN_S))
            acknowledged = sending.acknowledged()  # what is answered after the cut is answered by the dead
            self._disk.cut()
            self._world.kill("cloud")
        self._disk.unmount()
        self._disk.mount()
        self._held += acknowledged
        try:
            self._world.start_again("cloud")
            lost = list(self._lost())
        except AssertionError as error:
            lost = [f"it does not start: {error}"]
        made = self._made
        self._made = CloudCuts(
            cuts=made.cuts + 1,
            acknowledged=made.acknowledged + len(acknowledged),
            lost=made.lost + len(lost),
            why=(*made.why, *([f"cut {made.cuts + 1}: {len(lost)} lost, the first: {lost[0]}"] if lost else ())),
        )
        if lost:
            self._begin_anew()

    def _lost(self) -> Iterator[str]:
        """What was acknowledged and is not there."""
        there = {row.sequence for row in self._world.readings("cam")}
        alerts = sum(row.alerts for row in self._world.api.event_counts())
        wanted = sum(isinstance(one.body, Alert) for one in self._held)
        if alerts < wanted:
            yield f"{wanted - alerts} alerts"
        for event in self._held:
            if isinstance(event.body, Reading) and event.sequence not in there:
                yield f"reading {event.sequence}"
            elif isinstance(event.body, Sample):
                try:
                    data = self._world.api.sample_data(f"cam.{event.epoch}.{event.sequence}")
                except (EdgeloopError, httpx.HTTPError) as error:
                    yield f"sample {event.sequence}: {error}"
                else:
                    if data != event.body.data:
                        yield f"sample {event.sequence}: {len(data)} other bytes"
        self._forget_what_stays()

    def _forget_what_stays(self) -> None:
        """What is there once stays, but for bytes that come again: these are looked at after each cut."""
        again = {
            one.body.data: one for one in self._held if isinstance(one.body, Sample) and one.body.data in self._known
        }
        self._held = [*(one for one in self._held if not isinstance(one.body, Sample)), *again.values()]

    def _begin_anew(self) -> None:
        """On a sound disk, which knows of nothing."""
        self._world.kill("cloud")
        self._disk.restore()
        self._held = []
        self._world.start_again("cloud")


def _bodies(rng: random.Random, known: Sequence[bytes]) -> Iterator[tuple[Body, ...]]:
    """What batch after batch holds: a reading, a sample that is new, those that were there before, an alert."""
    for number in itertools.count():
        samples = (_sample(data) for data in (rng.randbytes(_SAMPLE_BYTES), *known))
        yield (_reading(number), *samples, Alert(what="drift", detail="a test"))


def _reading(number: int) -> Reading:
    made = Prediction(
        label="cat",
        score=0.5,
        margin=0.1,
        top=(),
        latency_ms=1.0,
        bundle="tiny@1.0.0",
        engine="onnxruntime",
        precision="float32",
    )
    return Reading(source=f"{number:07}.png", prediction=made, sent_sample=True)


def _sample(data: bytes) -> Sample:
    return Sample(source="a.png", reason=Reason.AUDIT, media="image/png", data=data)


class _Sending:
    """Several requests at once, one after another each, on a thread; a context that ends with them."""

    def __init__(
        self, url: str, member: Path, bodies: Iterator[tuple[Body, ...]], sequences: "itertools.count[int]"
    ) -> None:
        self._url = url
        self._identity = open_identity(member, "cam")
        self._bodies = bodies
        self._sequences = sequences
        self._news = threading.Condition()
        self._acknowledged: list[Event] = []
        self._batches = 0
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send_all()), name="sending")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def wait(self, batches: int) -> None:
        """Until so many were acknowledged. Raises AssertionError."""
        with self._news:
            assert self._news.wait_for(lambda: self._batches >= batches, _SEND_TIMEOUT_S), "nothing is acknowledged"

    def acknowledged(self) -> list[Event]:
        """All events of which the cloud has said that it has them, until now."""
        with self._news:
            return list(self._acknowledged)

    async def _send_all(self) -> None:
        async with open_client(self._url) as client, asyncio.TaskGroup() as group:
            uplink = Uplink(client, self._identity)
            for _ in range(_AT_ONCE):
                group.create_task(self._send(uplink))

    async def _send(self, uplink: Uplink) -> None:
        while not self._is_over:
            events = tuple(
                Event(device_id="cam", epoch=1, sequence=next(self._sequences), at_ms=0, body=body)
                for body in next(self._bodies)
            )
            try:
                await uplink.send(SendRequest(events=events))
            except EdgeloopError:
                await asyncio.sleep(_AGAIN_S)
                continue
            with self._news:
                self._acknowledged += events
                self._batches += 1
                self._news.notify_all()
