"""Power cuts while a device updates itself and writes its outbox: never a corrupt or missing version.

A real device on a disk of its own, beside a real cloud. At a random instant of a step (it takes in trust metadata,
downloads, unpacks, tries a version, switches, goes back, writes its outbox) the disk's power is cut, the
device killed, the disk mounted again and looked through; then the device starts on what is left, and the next cut
comes. So each start shows that the one before it can be recovered from, and updates go on through all of it.

Beside the device another program syncs a file of its own again and again, as programs do: so the filesystem commits
its journal at instants that are not ours, and names may be on the disk before what they name. Neighbours: `look`
judges what is left, `cloud_cuts` does the same to a cloud.
"""

import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec

from edgeloop.contracts.states import RolloutState, UpdateState
from torture.disk import Disk
from torture.look import Told, Wrong, is_over, look
from torture.marks import Marks
from torture.warm import Order, Warm
from torture.world import Spool, World

STEPS = ("trust", "download", "unpack", "switch", "go_back", "outbox")
TRIAL = ("accept",)
"""A step that is cut with the real processes for trying and answering; all others save the seconds that these take."""
CONTROLS = {
    "trust": "trust_without_fsync",
    "download": "files_without_fsync",
    "unpack": "files_without_fsync",
    "switch": "switch_in_two",
    "go_back": "switch_in_two",
    "outbox": "no_fsync",
}
"""The promise that is broken to show that a step's cuts would show it."""
_MOST_CONTROL_CUTS = 12
_EACH_A_WORLD = 25
_PADDING_BYTES = 300_000
_TURNS = {"trust": 8, "download": 6, "unpack": 4, "accept": 1, "switch": 1, "go_back": 1, "outbox": 20}
"""How often a step is begun in one update, or run: the one that is cut is chosen among these."""
_SPANS_S = {"accept": 1.0}
_SPAN_S = 0.006
"""A cut comes at most so long after its step has begun; each takes 1 to 5 ms."""
_STEP_TIMEOUT_S = 20.0
_FRAMES = 25
_WATCHED = 3
"""Readings on watch before a version that answers otherwise is left."""


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. cuts: by step; "elsewhere" are those that came when the step was over.

    found: what was wrong after single cuts.
    """

    cuts: Counter[str]
    versions: int
    found: tuple[Wrong, ...]

    @property
    def corrupt(self) -> int:
        """Cuts after which a version, a file, signed metadata or a database was damaged, or no whole version active."""
        return sum(bool(one.corrupt) or one.none_whole for one in self.found)

    @property
    def lost(self) -> int:
        """Rows of the outbox that were acknowledged and are gone."""
        return sum(one.lost for one in self.found)


def run(
    warm: Warm,
    folder: Path,
    *,
    each: int,
    steps: tuple[str, ...] = STEPS,
    until_s: float = math.inf,
    seed: int = 0,
) -> Cuts:
    """Cut so many times in each step, or until then by the monotonic clock; now and then in a world made anew, so that
    what earlier cuts left does not slow the later ones.
    """
    found = []
    for number, first in enumerate(range(0, each, _EACH_A_WORLD)):
        if time.monotonic() < until_s:
            part = min(_EACH_A_WORLD, each - first)
            with _bench(warm, folder / str(number), seed=seed + number) as bench:
                found.append(bench.run(part, steps, until_s))
    return Cuts(
        cuts=sum((one.cuts for one in found), Counter()),
        versions=sum(one.versions for one in found),
        found=tuple(wrong for one in found for wrong in one.found),
    )


def control(warm: Warm, folder: Path, *, steps: tuple[str, ...] = tuple(CONTROLS)) -> dict[str, int]:
    """Cuts of a device that breaks a promise, in each of these steps alone, until what it leaves is caught; by step the
    number of the cut that caught it, 0 where none of a dozen did.
    """
    with _bench(warm, folder, seed=1) as bench:
        bench.begin()
        return {step: bench.caught_at(step, CONTROLS[step]) for step in steps}


@contextmanager
def _bench(warm: Warm, folder: Path, *, seed: int) -> "Iterator[_Bench]":
    folder.mkdir(parents=True, exist_ok=True)
    world = World(warm, folder)
    try:
        with Disk() as disk:
            yield _Bench(world, disk, folder, seed)
    finally:
        world.close()


class _Bench:
    def __init__(self, world: World, disk: Disk, folder: Path, seed: int) -> None:
        self._world = world
        self._disk = disk
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
        self._spool = Spool(folder / "spool")
        self._device = disk.path / "device"
        self._marks = folder / "marks"
        self._version = 0
        self._rollout: str | None = None
        self._told = Told()
        self._told_when_saved = b""
        self._found: list[Wrong] = []
        self._cuts: Counter[str] = Counter()

    def run(self, each: int, steps: tuple[str, ...], until_s: float) -> Cuts:
        self.begin()
        for _ in range(each):
            for step in steps:
                if time.monotonic() < until_s:
                    self._cut_in(step, faults=())
        return Cuts(cuts=self._cuts, versions=self._version, found=tuple(self._found))

    def begin(self) -> None:
        """A sound device takes its first version, and what is then on the disk is kept to go back to."""
        self._world.enrol(self._device, "cam", hub=self._world.url)
        self._next_version(is_bad=False)
        with self._at_work(faults=_here("")) as marks:
            assert marks.wait("confirmed"), self._world.log("cam")
        self._told.hear(marks.lines)  # killed, and yet on the disk: the power did not go
        self._rollout = None
        self._disk.save()
        self._told_when_saved = msgspec.msgpack.encode(self._told)

    def caught_at(self, step: str, fault: str) -> int:
        """Number of the cut of a faulty device that was caught, 0 for none; ends on a sound disk."""
        for number in range(1, _MOST_CONTROL_CUTS + 1):
            self._cut_in(step, faults=(fault,))
            caught, self._found = self._found, []
            if caught:
                return number
        self._restore()
        return 0

    # ---- one cut

    def _cut_in(self, step: str, *, faults: tuple[str, ...]) -> None:
        """One cut in this step; where the step was over before its turn came, another one at its next beginning."""
        for turns in (_TURNS[step], 1, 1):
            if self._rollout is None and step != "outbox":
                self._next_version(is_bad=step == "go_back")
            self._spool.put(_FRAMES)
            is_begun = self._cut_at(step, self._rng.randint(1, turns), faults)
            self._cuts[step if is_begun else "elsewhere"] += 1
            self._judge(look(self._device, step=step, told=self._told))
            self._rollout = None if self._is_over() else self._rollout
            if is_begun:
                if step == "go_back" and not faults:
                    self._let_it_go_back()
                return
        why = f"three runs did not come to it; the log ends: {self._world.log('cam')[-300:]}"
        self._judge(Wrong(step=step, corrupt=(why,), none_whole=False, lost=0))

    def _cut_at(self, step: str, turn: int, faults: tuple[str, ...]) -> bool:
        """Whether the step was begun for so many times before the cut."""
        with self._at_work(faults=(*_here(step), *faults)) as marks, Neighbour(self._disk.path / "neighbour"):
            with self._fed(is_on=step == "go_back"):
                is_begun = marks.wait(step, count=turn, timeout_s=_STEP_TIMEOUT_S)
            time.sleep(self._rng.uniform(0.0, _SPANS_S.get(step, _SPAN_S)))
            marks.drain()
            self._told.hear(marks.lines)  # what is told after the cut is told by the dead
            heard = len(marks.lines)
            self._disk.cut()
            marks.drain()
            # Between the two a file may have been begun, which then may be torn; nothing else of this is believed.
            self._told.hear([line for line in marks.lines[heard:] if line.startswith("begun ")])
        self._disk.unmount()
        self._disk.mount()
        return is_begun

    def _let_it_go_back(self) -> None:
        """What was cut in going back goes back when there is power again."""
        if self._rollout is None:
            return
        with self._at_work(faults=_here("go_back")) as marks, self._fed(is_on=True):
            went_back = marks.wait("rolled_back", timeout_s=_STEP_TIMEOUT_S)
        self._told.hear(marks.lines)
        self._rollout = None
        if not went_back and not self._is_rolled_back():
            why = f"did not go back with power again; the log ends: {self._world.log('cam')[-300:]}"
            self._judge(Wrong(step="go_back", corrupt=(why,), none_whole=False, lost=0))

    def _is_rolled_back(self) -> bool:
        """It may have been before it was started: the cut came between its end and our hearing of it."""
        return self._told.state is not UpdateState.CONFIRMED and is_over(self._device, f"tiny@1.{self._version}.0")

    @contextmanager
    def _at_work(self, *, faults: tuple[str, ...]) -> Iterator[Marks]:
        """The device, from its start to its kill, and what it told."""
        settings = {"folder": str(self._device), "source": str(self._spool.folder), "marks": str(self._marks)}
        with Marks(self._marks) as marks:
            self._world.start("cam", Order(role="device", log="", settings=settings, faults=faults))
            try:
                yield marks
            finally:
                self._world.kill("cam")
                marks.drain()

    @contextmanager
    def _fed(self, *, is_on: bool) -> Iterator[None]:
        """Frames keep coming: a version on watch is judged by what it answers."""
        over = threading.Event()

        def feed() -> None:
            while not over.wait(0.05):
                self._spool.put(_WATCHED)

        thread = threading.Thread(target=feed, name="feeder", daemon=True)
        if is_on:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if is_on:
                thread.join()

    def _next_version(self, *, is_bad: bool) -> None:
        self._version += 1
        version = f"1.{self._version}.0"
        self._world.publish(version, padding_bytes=_PADDING_BYTES, is_bad=is_bad)
        self._rollout = self._world.start_rollout(version, min_readings=_WATCHED if is_bad else 0)

    def _is_over(self) -> bool:
        """Whether there is nothing left to do of the newest version, by the disk or by the cloud's books."""
        if self._rollout is None or is_over(self._device, f"tiny@1.{self._version}.0"):
            return True
        return self._world.api.rollout(self._rollout).state is not RolloutState.RUNNING

    def _judge(self, wrong: Wrong) -> None:
        """Keep what is wrong, and go on from a sound disk."""
        if wrong.is_any():
            self._found.append(wrong)
            self._restore()

    def _restore(self) -> None:
        self._disk.restore()
        self._told = msgspec.msgpack.decode(self._told_when_saved, type=Told)


def _here(step: str) -> tuple[str, ...]:
    """What saves the time of processes that a step's cuts have nothing to do with."""
    return () if step in TRIAL else ("accept_here", "answer_here")


class Neighbour:
    """Another program on the same disk, which syncs a file of its own every few milliseconds until the disk is gone."""

    def __init__(self, path: Path, *, every_s: float = 0.005) -> None:
        self._path = path
        self._every_s = every_s
        self._is_over = threading.Event()
        # Whoever is ended between its start and our end is not kept alive by it.
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError), self._path.open("wb", buffering=0) as file:
            while not self._is_over.wait(self._every_s):
                file.seek(0)
                file.write(b"x")
                os.fsync(file.fileno())
