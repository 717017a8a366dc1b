"""A disk that is full at a point where something is written: inference goes on, it is told, and it heals by itself.

For each point a device, its node or the cloud lies on a disk of its own, which is filled in the instant in which the
point is reached (`points`). While it is full the device must go on answering frames, and somebody must say that there
is no room. Then room is made, and nothing else done: the update that was under way must come to its end and new
readings must reach the cloud. The points of one role follow one another in one world, for as long as all is sound.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import msgspec

from edgeloop.contracts.states import Kind, UpdateState
from torture import points
from torture.disk import Disk
from torture.marks import Marks
from torture.warm import Order, Settings, Warm
from torture.world import Spool, World, until

_SIZE_MIB = 1024
"""More than the outbox of a node leaves free."""
_ANSWERS = 20
_FRAMES = 30
_RATE_HZ = 60.0
_WAYS_TO_SAY_IT = ("no room", "ree some space", "No space left", "disk is full", "disk full")
_REACHED_S = 20.0
_HEALED_S = 20.0
_GOING_BACK = "going back"
_CLEAN_START = "start after a clean stop"
_PROCESSES = ("cam", "node", "cloud")


class Full(msgspec.Struct, frozen=True, kw_only=True):
    """How one point went. goes_on: frames were answered while it was full. told: where it was said, "" for nowhere.

    heals: with room again the update came to its end, and readings made after that are in the cloud. why: what was
    missing.
    """

    point: str
    goes_on: bool
    told: str
    heals: bool
    why: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether all of it is as it must be."""
        return self.goes_on and bool(self.told) and self.heals


def run(warm: Warm, folder: Path, *, names: tuple[str, ...] = tuple(points.POINTS)) -> list[Full]:
    """One point after another."""
    found: list[Full] = []
    by_role = sorted(names, key=lambda name: points.POINTS[name].role)
    for role, of_role in groupby(by_role, key=lambda name: points.POINTS[name].role):
        left = list(of_role)
        while left:
            came = list(_until_unsound(role, left, warm, folder / str(len(found))))
            found += came
            left = left[len(came) :]
    return found


def _until_unsound(role: str, names: list[str], warm: Warm, folder: Path) -> Iterator[Full]:
    """Points in one world, the last of them the first that is not sound: what it left is no place for others."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        disk = stack.enter_context(Disk(size_mib=_SIZE_MIB))
        stack.callback(points.forget, disk.path)
        world = World(warm, folder, cloud=disk.path / "cloud" if role == "cloud" else None)
        stack.callback(world.close)
        marks = stack.enter_context(Marks(folder / "marks"))
        place = _Place(role, world, disk, folder, marks)
        for name in names:
            made = place.fill_at(name)
            yield made
            if not made.is_sound:
                return
            points.forget(disk.path)


class _Place:
    """A world in which one role's disk will be full; a version runs on its device."""

    def __init__(self, role: str, world: World, disk: Disk, folder: Path, marks: Marks) -> None:
        self._role = role
        self._world = world
        self._disk = disk
        self._folder = folder
        self._marks = marks
        self._spool = Spool(folder / "spool")
        self._version = 0
        self._runs = ""
        self._set_up()

    def _set_up(self) -> None:
        """Everybody belongs together; nothing is full yet."""
        hub = self._world.url
        if self._role == "node":
            node = self._disk.path / "node"
            self._world.enrol(node, "node", hub=hub, kind=Kind.NODE)
            hub = self._world.start("node", Order(role="node", log="", settings={"folder": str(node)}))
            self._world.pin("node", hub)
        device = (self._disk.path if self._role == "device" else self._folder) / "cam"
        self._world.enrol(device, "cam", hub=hub)
        settings: Settings = {
            "folder": str(device),
            "source": str(self._spool.folder),
            "rate_hz": _RATE_HZ,
            "marks": str(self._marks.path),
        }
        order = Order(role="device", log="", settings=settings, faults=("accept_here", "answer_here"))
        self._world.start("cam", order)
        self._world.publish("1.0.0")
        self._world.roll_out("1.0.0")
        self._runs = "tiny@1.0.0"

    def fill_at(self, name: str) -> Full:
        """Have the disk full at a point, look on, and make room."""
        said = {one: len(self._world.log(one)) for one in _PROCESSES}
        self._put_on_full(name)
        self._spool.put(_FRAMES)
        wanted = self._next_version(is_bad=name == _GOING_BACK) if self._role != "cloud" else None
        try:
            until(self._is_reached, f"the point {name!r}", timeout_s=_REACHED_S, every_s=0.1)
        except AssertionError as error:
            return Full(point=name, goes_on=False, told="", heals=False, why=f"{error}; {self._log_end()}")
        self._marks.drain()
        self._spool.put(_ANSWERS)
        goes_on = self._marks.wait("outbox", count=_ANSWERS, timeout_s=10)
        told = self._who_told(said)
        self._disk.free()
        why = self._why_not_healed(wanted, is_bad=name == _GOING_BACK)
        return Full(point=name, goes_on=goes_on, told=told, heals=not why, why=why if goes_on else self._log_end())

    def _put_on_full(self, name: str) -> None:
        """Start the one whose disk it is again, as one that will find it full."""
        process = "cam" if self._role == "device" else self._role
        full: Settings = {"full_at": name, "full_on": str(self._disk.path)}
        if process == "cam":
            full = {**full, "race_s": 0.1 if name == "races folder" else 0.0}
        if name == _CLEAN_START:
            self._world.stop(process)
        else:
            self._world.kill(process)
        self._world.order_again(process, full)

    def _next_version(self, *, is_bad: bool) -> str:
        self._version += 1
        version = f"1.{self._version}.0"
        self._world.publish(version, is_bad=is_bad)
        self._world.start_rollout(version, min_readings=5 if is_bad else 0)
        return f"tiny@{version}"

    def _is_reached(self) -> bool:
        """Frames keep coming, since some points are reached only with them."""
        self._spool.put(3)
        return points.was_reached(self._disk.path)

    def _who_told(self, said: dict[str, int]) -> str:
        """Whose log says that there is no room. said: how long the logs were before."""
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            for name in _PROCESSES:
                if any(way in self._world.log(name)[said[name] :] for way in _WAYS_TO_SAY_IT):
                    return name
            time.sleep(0.05)
        return ""

    def _why_not_healed(self, wanted: str | None, *, is_bad: bool) -> str:
        """What is missing although there is room; empty if nothing is. wanted: the update that was under way."""
        end = UpdateState.ROLLED_BACK if is_bad else UpdateState.CONFIRMED
        try:
            if wanted is not None:
                until(lambda: self._world.has_ended("cam", wanted, end), f"{wanted} {end}", timeout_s=_HEALED_S)
                self._runs = self._runs if is_bad else wanted
            until(lambda: self._world.active("cam") == self._runs, f"{self._runs} at work", timeout_s=_HEALED_S)
            before = self._world.count("cam")
            self._spool.put(_FRAMES)
            what = "new readings in the cloud"
            until(lambda: self._world.count("cam") >= before + _FRAMES, what, timeout_s=_HEALED_S)
        except AssertionError as error:
            return f"{error}; {self._log_end()}"
        return ""

    def _log_end(self) -> str:
        return f"the device's log ends: {self._world.log('cam')[-300:]}"
