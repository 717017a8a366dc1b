"""The whole simulation: starts its processes, takes them through their steps, and adds up what they saw."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil

from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.join import Join
from edgeloop.simulate.nodes import Carried, Carriers, Carrying
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.program import Program, Watched
from edgeloop.simulate.report import Window
from edgeloop.simulate.tally import Tally
from edgeloop.simulate.worker import Crew, Said, Step

_DEVICES_A_WORKER = 5000
_NODES_A_PROCESS = 50
_READY_S = 300.0
_LOOK_EVERY_S = 0.2


class Fleet:
    """Simulated devices, and nodes where wanted, below one hub. Use it in `with`: it leaves no process behind.

    hub_urls: where devices go, in turn; nodes, to the first of them. watched: the server's process, where it is one of
    this machine that may be looked at. carried_*: what the nodes fetched from above. on_look: called a few times a
    second.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        hub_urls: tuple[str, ...],
        join: Join,
        name: str,
        folder: Path,
        ca: str | None = None,
        watched: Watched | None = None,
    ) -> None:
        self.plan = plan
        self.watched = watched
        self.enrolled = 0
        self._hub_urls = hub_urls
        self._join = join
        self._name = name
        self._folder = folder
        self._ca = ca
        self._workers: list[Program] = []
        self._enrolled_by: dict[int, int] = {}
        self._done: dict[int, Step] = {}
        self._carriers: list[Program] = []
        self._seen = Tally()
        self.total = Tally()
        self.carried_bundle_bytes = 0
        self.carried_metadata_bytes = 0
        self.on_look: Callable[[], None] = lambda: None

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        programs = [*self._workers, *self._carriers]
        for program in programs:
            program.ask_to_end()
        for program in programs:
            program.end()

    def enrol(self, *, timeout_s: float = 1800.0) -> float:
        """Start everything and have all devices enrolled; returns how many a second that were."""
        hubs = self._start_nodes() or self._hub_urls
        began_s = time.monotonic()
        many = max(1, min(math.ceil(self.plan.devices / _DEVICES_A_WORKER), os.cpu_count() or 1))
        bounds = [self.plan.devices * index // many for index in range(many + 1)]
        for index, devices in enumerate(pairwise(bounds)):
            worker = Program("edgeloop.simulate.worker", log=self._folder / f"worker-{index}.log")
            self._workers.append(worker)
            crew = Crew(
                plan=self.plan,
                name=self._name,
                devices=devices,
                hubs=hubs,
                join=self._join,
                folder=str(self._folder / "devices"),
                ca=self._ca,
            )
            worker.tell(to_json(crew))
        self._take(Step.ENROL, timeout_s=timeout_s)
        return self.plan.devices / (time.monotonic() - began_s)

    def run(self) -> None:
        """Have the devices begin to live, spread over one beat."""
        self._take(Step.RUN, timeout_s=60.0)

    def ask(self, *, timeout_s: float) -> list[float]:
        """Have every device ask for one answer now, all at once; when each was answered, by the monotonic clock.

        Those that were not within timeout_s are left out.
        """
        before = len(self.total.returned)
        self._take(Step.ASK, timeout_s=60.0)
        until_s = time.monotonic() + timeout_s
        while len(self.total.returned) - before < self.plan.devices and time.monotonic() < until_s:
            self._look()
        return self.total.returned[before:]

    def watch(self, during_s: float, *, until: Callable[[], bool] = lambda: False) -> Window:
        """Look on for a while, or until something is so."""
        self._listen()
        self._seen = Tally()
        began_s = time.monotonic()
        cpu_s = self.watched.cpu_s() if self.watched else None
        own_cpu_s = self._own_cpu_s()
        peak_bytes = self._memory_bytes()
        while time.monotonic() < began_s + during_s and not until():
            self._look()
            peak_bytes = max(peak_bytes, self._memory_bytes())
        seconds = time.monotonic() - began_s
        return Window(
            seconds=seconds,
            tally=self._seen,
            server_cores=(self.watched.cpu_s() - cpu_s) / seconds if self.watched and cpu_s is not None else None,
            server_peak_bytes=peak_bytes or None,
            own_cores=(self._own_cpu_s() - own_cpu_s) / seconds,
        )

    def _own_cpu_s(self) -> float:
        return sum(Watched(program.pid).cpu_s() for program in [*self._workers, *self._carriers])

    def _memory_bytes(self) -> int:
        with suppress(psutil.Error):
            return self.watched.memory_bytes() if self.watched else 0
        return 0

    def _look(self) -> None:
        time.sleep(_LOOK_EVERY_S)
        self._listen()
        self.on_look()

    def _listen(self) -> None:
        for index, worker in enumerate(self._workers):
            for line in worker.heard():
                said = from_json(line, Said, what="what a worker says")
                if said.failed:
                    raise Unavailable(said.failed)
                if said.done is not None:
                    self._done[index] = said.done
                self._enrolled_by[index] = said.enrolled
                self._seen.merge(said.tally)
                self.total.merge(said.tally)
        self.enrolled = sum(self._enrolled_by.values())
        for carriers in self._carriers:
            for line in carriers.heard():
                carried = from_json(line, Carried, what="what the nodes say")
                self.carried_bundle_bytes += carried.bundle_bytes
                self.carried_metadata_bytes += carried.metadata_bytes

    def _take(self, step: Step, *, timeout_s: float) -> None:
        """Have all workers do a step, and wait until they have."""
        self._done.clear()
        for worker in self._workers:
            worker.tell(step.encode())
        until_s = time.monotonic() + timeout_s
        while set(self._done) != set(range(len(self._workers))):
            if time.monotonic() > until_s:
                raise Unavailable(f"the simulation did not come to the end of {step!r} within {timeout_s:.0f} s")
            self._look()

    def _start_nodes(self) -> tuple[str, ...]:
        many = math.ceil(self.plan.nodes / _NODES_A_PROCESS)
        urls: list[str] = []
        for index in range(many):
            carriers = Program("edgeloop.simulate.nodes", log=self._folder / f"nodes-{index}.log")
            self._carriers.append(carriers)
            wanted = Carriers(
                name=f"{self._name}-{index}",
                nodes=min(_NODES_A_PROCESS, self.plan.nodes - index * _NODES_A_PROCESS),
                hub_url=self._hub_urls[0],
                join=self._join,
                folder=str(self._folder / f"nodes-{index}"),
                ca=self._ca,
            )
            carriers.tell(to_json(wanted))
        for carriers in self._carriers:
            urls += from_json(carriers.wait_line(_READY_S), Carrying, what="what the nodes say").urls
        return tuple(urls)
