"""A simulated device: a real uplink and the real loop that keeps in step, and in place of the engine a clock.

What is the device's own code: identity, enrolment, signing, sync (`transport.syncing`), the requests that send and
fetch (`transport.uplink`), and for the checked ones trust and download (`device.supply`). What is not: inference; and
the outbox with the loop that empties it (`transport.outbox`, `transport.sender`). Readings wait in a bounded list in
memory and go up oldest first, in batches as large, with waits as long after a failure. Measured, the real pair over
SQLite in memory takes 3.2 ms of processor time for a batch of 60 and 0.5 MB a device, the list 0.02 ms: ten thousand
devices would take half a core and 5 GB more. What the server gets is alike, but for the order after an outage.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Protocol

from edgeloop import __version__
from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import (
    Assignment,
    Desired,
    DeviceReport,
    Event,
    Health,
    Profile,
    Reading,
    SendRequest,
    SyncReply,
    SyncRequest,
    UpdateReport,
)
from edgeloop.contracts.prediction import Prediction, Scored
from edgeloop.contracts.states import UpdateState
from edgeloop.simulate.link import held_s
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.tally import Tally
from edgeloop.simulate.turns import Turns
from edgeloop.transport.again import FIRST_WAIT_S, asked_wait_s
from edgeloop.transport.syncing import HOLD_BACK_S, Pace, SyncLoop
from edgeloop.transport.uplink import Uplink

_LONGEST_BACKOFF_S = 30.0
_BATCH = 500
_MOST_WAITING = 3600
_ACCEPTING_S = 1.0
_VARIETY = 1000
_LABELS = ("cat", "dog", "bird", "fish")


PROFILE = Profile(
    architecture="aarch64",
    system="Linux 6.6 (simulated)",
    cpu_count=4,
    memory_bytes=4 * 1024**3,
    engines={EngineName.LITERT: "simulated"},
    edgeloop=__version__,
)
"""What every simulated machine says that it is."""


class Supply(Protocol):
    """Where bundles come from: see `supply`."""

    async def assignment(self) -> Assignment | None:
        """What this device is to run."""
        ...

    async def fetch(self, assignment: Assignment) -> None:
        """Have its files, each as signed."""
        ...


class HeldUplink(Uplink):
    """An uplink that tells its simulated link how long a sync asks to be held."""

    async def sync(self, request: SyncRequest) -> SyncReply:
        """See Uplink.sync."""
        held_s.set(request.wait_s)
        return await super().sync(request)


class SimulatedDevice:
    """One device, enrolled. rng: its own. turns: in which it begins to bring what it is assigned. Belongs to one event
    loop.
    """

    def __init__(
        self, uplink: Uplink, plan: Plan, tally: Tally, *, supply: Supply, rng: random.Random, turns: Turns
    ) -> None:
        self._device_id = uplink.identity.device_id
        self._uplink = uplink
        self._plan = plan
        self._tally = tally
        self._supply = supply
        self._turns = turns
        self._rng = rng
        self._sync = SyncLoop(
            uplink,
            reports=lambda: (self._report(),),
            on_desired=self._on_desired,
            pace=Pace(plan.beat_s, _LONGEST_BACKOFF_S, hold_back_s=HOLD_BACK_S),
        )
        self._epoch = rng.getrandbits(62)
        self._sequence = 0
        self._waiting: deque[Event] = deque(maxlen=_MOST_WAITING)
        self._wanted = asyncio.Event()
        self._wanted_generation = 0
        self._known_generation = 0
        self._active: str | None = None
        self._update: UpdateReport | None = None

    async def run(self, *, begin_in_s: float) -> None:
        """Live until cancelled."""
        await asyncio.sleep(begin_in_s)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sync.run())
            group.create_task(self._updates())
            if self._plan.readings_per_s:
                group.create_task(self._sends())

    async def ask(self) -> None:
        """Be answered once, however often it takes; the tally notes when."""
        await self._insist(self._asked_once)
        self._tally.returned.append(time.monotonic())

    async def _asked_once(self) -> None:
        await self._uplink.sync(SyncRequest(reports=(self._report(),)))

    def _report(self) -> DeviceReport:
        return DeviceReport(
            device_id=self._device_id,
            known_generation=max(self._wanted_generation, self._known_generation),
            active=self._active,
            engine="litert int8",
            update=self._update,
            profile=PROFILE,
            health=Health(readings=self._sequence, outbox_rows=len(self._waiting), clock_ms=int(time.time() * 1000)),
        )

    def _on_desired(self, news: tuple[Desired, ...]) -> None:
        for desired in news:
            if desired.device_id == self._device_id and desired.generation > self._wanted_generation:
                self._wanted_generation = desired.generation
                self._wanted.set()

    # ---- send

    async def _sends(self) -> None:
        every_s = self._plan.send_every_s
        since_s = time.monotonic()
        await asyncio.sleep(every_s * self._rng.random())
        while True:
            now_s = time.monotonic()
            self._see(now_s - since_s)
            since_s = now_s
            await self._insist(self._send_all)
            await asyncio.sleep(max(0.0, now_s + every_s - time.monotonic()))

    def _see(self, during_s: float) -> None:
        """The readings of a while."""
        count = round(self._plan.readings_per_s * during_s)
        at_ms = int(time.time() * 1000)
        bodies = readings(self._active or "none@0.0.0")
        for index in range(count):
            self._sequence += 1
            if len(self._waiting) == _MOST_WAITING:
                self._tally.overflowed += 1
            self._waiting.append(
                Event(
                    device_id=self._device_id,
                    epoch=self._epoch,
                    sequence=self._sequence,
                    at_ms=at_ms - int(1000 * (count - index) / max(self._plan.readings_per_s, 1e-9)),
                    body=bodies[self._sequence % _VARIETY],
                )
            )
        self._tally.made += count

    async def _send_all(self) -> None:
        while self._waiting:
            batch = tuple(self._waiting)[:_BATCH]
            reply = await self._uplink.send(SendRequest(events=batch))
            self._tally.acknowledged += reply.accepted + reply.repeated
            for _ in batch:
                self._waiting.popleft()

    # ---- update

    async def _updates(self) -> None:
        while True:
            await self._wanted.wait()
            await self._turns.come()
            self._wanted.clear()
            await self._insist(self._bring)

    async def _bring(self) -> None:
        generation = self._wanted_generation
        assignment = await self._supply.assignment()
        self._known_generation = generation
        if assignment is None or assignment.bundle == self._active:
            return
        self._tell(assignment, UpdateState.DOWNLOADING)
        await self._supply.fetch(assignment)
        self._tally.reached.append(time.monotonic())
        self._tell(assignment, UpdateState.ACCEPTING)
        await asyncio.sleep(_ACCEPTING_S * (0.5 + self._rng.random()))
        self._active = assignment.bundle
        self._tell(assignment, UpdateState.CONFIRMED)

    def _tell(self, assignment: Assignment, state: UpdateState) -> None:
        self._update = UpdateReport(
            generation=assignment.generation,
            rollout_id=assignment.rollout_id,
            bundle=assignment.bundle,
            state=state,
            reason="simulated",
        )
        self._sync.changed(at_once=state is not UpdateState.DOWNLOADING)

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Until it succeeds, with the device's own waits between."""
        backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=_LONGEST_BACKOFF_S, draw=self._rng.random)
        while True:
            try:
                await step()
            except EdgeloopError as error:
                await asyncio.sleep(asked_wait_s(error, backoff))
            else:
                return


@lru_cache(maxsize=8)
def readings(bundle: str) -> tuple[Reading, ...]:
    """What a classifier would have said: of the size and the variety of real ones, to be used again and again."""
    rng = random.Random(bundle)  # noqa: S311 - a simulation, the same each time
    return tuple(_reading(rng, bundle, number) for number in range(_VARIETY))


def _reading(rng: random.Random, bundle: str, number: int) -> Reading:
    score = 0.5 + 0.5 * rng.random()
    first = rng.choice(_LABELS)
    made = Prediction(
        label=first,
        score=score,
        margin=2 * score - 1.0,
        top=(Scored(first, score), Scored("other", 1.0 - score)),
        latency_ms=5.0 + rng.random(),
        bundle=bundle,
        engine="litert",
        precision="int8",
        energy=-4.0 - rng.random(),
        energy_z=rng.gauss(0.0, 1.0),
        novelty=rng.gauss(0.0, 1.0),
    )
    return Reading(source=f"frame-{number:07}.png", prediction=made)
