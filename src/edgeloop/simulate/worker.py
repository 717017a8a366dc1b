"""A process that holds a part of the fleet: `python -m edgeloop.simulate.worker`, talked to in lines of JSON.

In comes a Crew, then one line for each step; out goes, once a second, what was seen since. It ends when its standard
input does, so that it never outlives whoever started it.
"""

import asyncio
import gc
import random
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from pathlib import Path

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.backoff import Backoff
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.join import Join
from edgeloop.contracts.states import Kind
from edgeloop.simulate.connections import Connections
from edgeloop.simulate.device import PROFILE, HeldUplink, SimulatedDevice
from edgeloop.simulate.link import LinkTransport, Way
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.supply import Checked, Unchecked
from edgeloop.simulate.tally import Tally
from edgeloop.simulate.turns import Turns
from edgeloop.transport.again import asked_wait_s
from edgeloop.transport.identity import Identity
from edgeloop.transport.membership import Membership, ask_to_join

_ENROL_AT_ONCE = 16
_ENROL_TRIES = 20
_TELL_EVERY_S = 1.0
_LAG_EVERY_S = 0.05


class Step(StrEnum):
    """What a worker is told to do; each takes it further."""

    ENROL = "enrol"
    RUN = "run"
    ASK = "ask"
    """Every device asks for one answer now, as one does whose connection broke."""


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's part. devices: first and one-past-last number. hubs: where they are; device i goes to hub i % many.

    name: begins the devices' ids. ca: of the hubs, where it is private. folder: for what is checked on disk.
    """

    plan: Plan
    name: str
    devices: tuple[int, int]
    hubs: tuple[str, ...]
    join: Join
    folder: str
    ca: str | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says. done: the step that it has come to the end of."""

    enrolled: int
    tally: Tally
    done: Step | None = None
    failed: str = ""


class Worker:
    """A part of the fleet on one event loop."""

    def __init__(self, crew: Crew, say: Callable[[Said], None]) -> None:
        self._crew = crew
        self._say = say
        self._tally = Tally()
        self._devices: list[SimulatedDevice] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = Turns()
        self._tls = ssl.create_default_context(cafile=crew.ca, cadata=crew.join.ca_pem if crew.join.ca else None)

    async def work(self, steps: Callable[[], Awaitable[str]]) -> None:
        """Do each step that comes until there are no more."""
        watching = [asyncio.create_task(self._tell()), asyncio.create_task(self._watch_lag())]
        try:
            while line := (await steps()).strip():
                step = Step(line)
                await {Step.ENROL: self._enrol, Step.RUN: self._run, Step.ASK: self._ask}[step]()
                self._hand_over(done=step)
        except EdgeloopError as error:
            self._hand_over(failed=str(error))
        finally:
            await _end([*watching, *self._tasks])

    def _hand_over(self, *, done: Step | None = None, failed: str = "") -> None:
        """Say what was counted since the last time, and count anew in the same place."""
        self._say(Said(enrolled=len(self._devices), tally=self._tally, done=done, failed=failed))
        fresh = Tally()
        for name in Tally.__struct_fields__:
            setattr(self._tally, name, getattr(fresh, name))

    async def _enrol(self) -> None:
        first, end = self._crew.devices
        numbers = iter(range(first, end))

        async def one_after_another() -> None:
            for number in numbers:
                self._devices.append(await self._made(number))

        async with asyncio.TaskGroup() as group:
            for _ in range(_ENROL_AT_ONCE):
                group.create_task(one_after_another())
        # What is here by now stays: it need not be looked through again and again.
        gc.collect()
        gc.freeze()

    async def _run(self) -> None:
        """Begin, spread over a beat as a fleet is that was not switched on at once."""
        rng = random.Random(self._crew.plan.seed)  # noqa: S311 - a simulation, repeated by its seed
        for device in self._devices:
            running = device.run(begin_in_s=rng.random() * self._crew.plan.beat_s)
            self._tasks.add(asyncio.create_task(running))

    async def _ask(self) -> None:
        for device in self._devices:
            task = asyncio.create_task(device.ask())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _made(self, number: int) -> SimulatedDevice:
        """An enrolled device; all of it but its key follows from the seed."""
        crew = self._crew
        plan = crew.plan
        rng = random.Random(f"{plan.seed}.{number}")  # noqa: S311 - a simulation, repeated by its seed
        hub_url = crew.hubs[number % len(crew.hubs)]
        way = Way(plan.link, plan.faults, rng)
        transport = LinkTransport(Connections(self._tls), way, self._tally)
        client = httpx.AsyncClient(transport=transport, base_url=hub_url, trust_env=False)
        identity = Identity(f"{crew.name}-{number}", Ed25519PrivateKey.generate())
        uplink = HeldUplink(client, identity)
        member = await self._joined(uplink, hub_url)
        is_checked = rng.random() < plan.checked
        folder = Path(crew.folder) / identity.device_id
        supply = Checked(uplink, member, folder) if is_checked else Unchecked(uplink, member)
        return SimulatedDevice(uplink, plan, self._tally, supply=supply, rng=rng, turns=self._turns)

    async def _joined(self, uplink: HeldUplink, hub_url: str) -> Membership:
        """Enrolled, however the link behaves. Raises Unavailable when it stays away."""
        backoff = Backoff(first_s=0.2, longest_s=5.0)
        for _ in range(_ENROL_TRIES):
            try:
                reply = await ask_to_join(uplink, self._crew.join, kind=Kind.DEVICE, profile=PROFILE)
            except (Unavailable, Corrupt, NotFound) as error:
                last = error
                await asyncio.sleep(asked_wait_s(error, backoff))
            else:
                return Membership(
                    device_id=reply.device_id,
                    kind=Kind.DEVICE,
                    hub_url=hub_url,
                    images_root=reply.images_root,
                    director_root=reply.director_root,
                )
        raise Unavailable(f"{uplink.identity.device_id} could not enrol in {_ENROL_TRIES} tries: {last}")

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            self._hand_over()

    async def _watch_lag(self) -> None:
        """A simulation that comes late itself would blame the server."""
        while True:
            due_s = time.monotonic() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._tally.lagging_ms = max(self._tally.lagging_ms, 1000 * (time.monotonic() - due_s))


async def _end(tasks: Iterable["asyncio.Task[None]"]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)


async def read_lines() -> Callable[[], Awaitable[str]]:
    """Standard input, line by line; empty at its end."""
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def line() -> str:
        return (await reader.readline()).decode()

    return line


def say(what: msgspec.Struct) -> None:
    """One line on standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


async def _main() -> None:
    lines = await read_lines()
    crew = from_json((await lines()).encode(), Crew, what="the crew")
    await Worker(crew, say).work(lines)


if __name__ == "__main__":
    from edgeloop.crowd import expect_a_crowd
    from edgeloop.simulate.program import run_quietly

    expect_a_crowd()
    run_quietly(_main())
