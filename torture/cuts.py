"""Power cuts while a device updates itself and writes its outbox: never a corrupt or missing version.

A real device on a disk of its own, beside a real cloud. At a random instant of a step (it takes in trust metadata,
downloads, unpacks, switches, writes its outbox) the disk's power is cut, the
device killed, the disk mounted again and looked through; then the device starts on what is left, and the next cut
comes. So each start shows that the one before it can be recovered from, and updates go on through all of it.

Beside the device another program syncs a file of its own again and again, as programs do: so the filesystem commits
its journal at instants that are not ours, and names may be on the disk before what they name.
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

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.device.agent import open_outbox
from edgeloop.device.state import Installed, Versions
from edgeloop.transport.keep import Keep
from torture.disk import Disk
from torture.marks import Marks
from torture.warm import Order, Warm
from torture.world import Spool, World

STEPS = ("trust", "download", "unpack", "switch", "outbox")
_EACH_A_WORLD = 25
_PADDING_BYTES = 300_000
_TURNS = {"trust": 6, "download": 6, "unpack": 4, "switch": 1, "outbox": 20}
"""How often a step is begun in one update, or run: the one that is cut is chosen among these."""
_SPAN_S = 0.006
"""A cut comes at most so long after its step has begun; each takes 1 to 5 ms."""
_STEP_TIMEOUT_S = 10.0
_FRAMES = 25


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. cuts: by step; "elsewhere" are those that came when the step was over.

    found: what was wrong after single cuts.
    """

    cuts: Counter[str]
    versions: int
    found: "tuple[Wrong, ...]"

    @property
    def corrupt(self) -> int:
        """Cuts after which a version, a file or a database was damaged, or no whole version was active."""
        return sum(bool(one.corrupt) or one.none_whole for one in self.found)

    @property
    def lost(self) -> int:
        """Rows of the outbox that were acknowledged and are gone."""
        return sum(one.lost for one in self.found)


def run(warm: Warm, folder: Path, *, each: int, until_s: float = math.inf, seed: int = 0) -> Cuts:
    """Cut so many times in each step, or until then by the monotonic clock; now and then in a world made anew, so that
    what earlier cuts left does not slow the later ones.
    """
    found = []
    for number, first in enumerate(range(0, each, _EACH_A_WORLD)):
        if time.monotonic() < until_s:
            part = min(_EACH_A_WORLD, each - first)
            place = folder / str(number)
            found.append(_run(warm, place, each=part, until_s=until_s, seed=seed + number, steps=STEPS))
    return Cuts(
        cuts=sum((one.cuts for one in found), Counter()),
        versions=sum(one.versions for one in found),
        found=tuple(wrong for one in found for wrong in one.found),
    )


def control(warm: Warm, folder: Path, *, fault: str, steps: tuple[str, ...]) -> Cuts:
    """A few cuts of a device that does not sync: what it leaves must be caught."""
    return _run(warm, folder, each=2, until_s=math.inf, seed=1, steps=steps, faults=(fault,))


def _run(
    warm: Warm,
    folder: Path,
    *,
    each: int,
    until_s: float,
    seed: int,
    steps: tuple[str, ...],
    faults: tuple[str, ...] = (),
) -> Cuts:
    folder.mkdir(parents=True, exist_ok=True)
    world = World(warm, folder)
    try:
        with Disk() as disk:
            return _Bench(world, disk, folder, faults, seed).run(each, steps, until_s)
    finally:
        world.close()


class _Bench:
    def __init__(self, world: World, disk: Disk, folder: Path, faults: tuple[str, ...], seed: int) -> None:
        self._world = world
        self._disk = disk
        self._folder = folder
        self._faults = faults
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
        self._spool = Spool(folder / "spool")
        self._device = disk.path / "device"
        self._version = 0
        self._kept = 0
        self._is_under_way = False
        self._marks = folder / "marks"
        self._found: list[Wrong] = []
        self._cuts: Counter[str] = Counter()

    def run(self, each: int, steps: tuple[str, ...], until_s: float) -> Cuts:
        self._world.enrol(self._device, "cam", hub=self._world.url)
        self._next_version()
        self._bring_to_the_end()
        self._disk.save()
        for _ in range(each):
            if time.monotonic() > until_s:
                break
            for step in steps:
                self._cut_in(step)
        return Cuts(cuts=self._cuts, versions=self._version, found=tuple(self._found))

    def _next_version(self) -> None:
        self._version += 1
        self._world.publish(f"1.{self._version}.0", padding_bytes=_PADDING_BYTES)
        self._world.start_rollout(f"1.{self._version}.0")
        self._is_under_way = True

    def _bring_to_the_end(self) -> None:
        """Let a sound device run until its update is confirmed."""
        with self._at_work(faults=()) as marks:
            assert marks.wait("confirmed"), self._world.log("cam")
        self._is_under_way = False

    def _cut_in(self, step: str) -> None:
        """One cut in this step; where the step was over before its turn came, another one at its next beginning."""
        for turns in (_TURNS[step], 1, 1):
            if step != "outbox" and not self._is_under_way:
                self._next_version()
            self._spool.put(_FRAMES)
            with self._at_work(faults=self._faults) as marks, _Neighbour(self._disk.path / "neighbour"):
                is_begun = marks.wait(step, count=self._rng.randint(1, turns), timeout_s=_STEP_TIMEOUT_S)
                time.sleep(self._rng.uniform(0.0, _SPAN_S))
                marks.drain()
                self._kept = max(self._kept, marks.kept)  # what is told after the cut is told by the dead
                self._disk.cut()
            self._disk.unmount()
            self._disk.mount()
            self._cuts[step if is_begun else "elsewhere"] += 1
            self._judge(look(self._device, step=step, kept=self._kept))
            self._is_under_way = not _is_over(self._device, f"tiny@1.{self._version}.0")
            if is_begun:
                return
        why = f"three runs did not come to it; the log ends: {self._world.log('cam')[-300:]}"
        self._judge(Wrong(step=step, corrupt=(why,), none_whole=False, lost=0))

    @contextmanager
    def _at_work(self, *, faults: tuple[str, ...]) -> Iterator[Marks]:
        """The device, from its start to its kill, and what it told."""
        settings = {"folder": str(self._device), "source": str(self._spool.folder), "marks": str(self._marks)}
        order = Order(role="device", log="", settings=settings, faults=("accept_here", *faults))
        with Marks(self._marks) as marks:
            self._world.start("cam", order)
            try:
                yield marks
            finally:
                self._world.kill("cam")
                marks.drain()

    def _judge(self, wrong: "Wrong") -> None:
        """Keep what is wrong, and go on from a sound disk."""
        if wrong.is_any():
            self._found.append(wrong)
            self._disk.restore()
            self._kept = 0


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a device's folder."""

    step: str
    corrupt: tuple[str, ...]
    none_whole: bool
    lost: int

    def is_any(self) -> bool:
        """Whether anything is."""
        return bool(self.corrupt or self.none_whole or self.lost)


def look(device: Path, *, step: str, kept: int) -> Wrong:
    """Look through the folder of a device that does not run.

    step: in which it was cut. kept: the last row that its outbox acknowledged.
    """
    whole = False
    shelf = Shelf(device / "bundles")
    corrupt = [
        f"file {path.name[:12]} holds something else, {path.stat().st_size} bytes"
        for path in (device / "bundles" / "files").glob("*")
        if path.suffix != ".part" and digest(path.read_bytes()) != path.name
    ]
    try:
        keep = Keep(device / "device.db")
        versions = Versions(keep)
        active, previous = versions.active, versions.previous
        keep.close()
        whole = active is not None
        for one in (active, previous):
            if one is not None and (why := _why_not_whole(shelf, one)):
                corrupt.append(why)
                whole = whole and one is not active
    except EdgeloopError as error:
        corrupt.append(str(error))
    return Wrong(step=step, corrupt=tuple(corrupt), none_whole=not whole, lost=_lost(device, kept, corrupt))


def _why_not_whole(shelf: Shelf, installed: Installed) -> str:
    """Why a version cannot be run, empty if it can: its manifest, variant and golden samples are looked at by hash."""
    try:
        bundle = shelf.open(installed.ref)
        golden = bundle.manifest.golden
        for sha256 in (installed.variant, golden.inputs, golden.outputs):
            bundle.read(sha256)
    except EdgeloopError as error:
        return f"{installed.bundle}: {error}"
    same = digest(bundle.manifest_bytes) == installed.manifest_sha256
    return "" if same else f"{installed.bundle}: another manifest than was accepted"


def _is_over(device: Path, bundle: str) -> bool:
    """Whether the update to this version has ended, by what is on the disk: its end may be there and untold."""
    keep = Keep(device / "device.db")
    update = Versions(keep).update
    keep.close()
    return update is not None and update.state.is_final and update.assignment.bundle == bundle


def _lost(device: Path, kept: int, corrupt: list[str]) -> int:
    """How many acknowledged rows the outbox lacks; sequences are given one after another, from 1 on."""
    try:
        outbox = open_outbox(device, "cam")
        own = {event.sequence for event in outbox.events()}
        outbox.close()
    except EdgeloopError as error:
        corrupt.append(str(error))
        return kept
    return len(set(range(1, kept + 1)) - own)


class _Neighbour:
    """Another program on the same disk, which syncs a file of its own every few milliseconds until the disk is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbour")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError), self._path.open("wb", buffering=0) as file:
            while not self._is_over.wait(0.005):
                file.seek(0)
                file.write(b"x")
                os.fsync(file.fileno())
