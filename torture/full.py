"""A disk that is full at a point where something is written: inference goes on, it is told, and it heals by itself.

For each point a device, its node or the cloud lies on a disk of its own, which is filled in the instant in which the
point is reached (`points`). While it is full the device must go on answering frames, and somebody must say that there
is no room. Then room is made, and nothing else done: the update that was under way must come to its end and new
readings must reach the cloud.
"""

import time
from pathlib import Path

import msgspec

from edgeloop.contracts.states import Kind
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
    """One point after another, each in a world of its own."""
    return [_at(name, warm, folder / str(number)) for number, name in enumerate(names)]


def _at(name: str, warm: Warm, folder: Path) -> Full:
    folder.mkdir(parents=True)
    with Disk(size_mib=_SIZE_MIB) as disk:
        role = points.POINTS[name].role
        world = World(warm, folder, cloud=disk.path / "cloud" if role == "cloud" else None)
        try:
            return _Trial(name, world, disk, folder).run()
        finally:
            world.close()
            points.forget(disk.path)


class _Trial:
    def __init__(self, name: str, world: World, disk: Disk, folder: Path) -> None:
        self._name = name
        self._role = points.POINTS[name].role
        self._world = world
        self._disk = disk
        self._folder = folder
        self._spool = Spool(folder / "spool")
        self._full: Settings = {"full_at": name, "full_on": str(disk.path)}

    def run(self) -> Full:
        self._set_up()
        with Marks(self._folder / "marks") as marks:
            self._start_device(marks, {})
            self._world.publish("1.0.0")
            self._world.roll_out("1.0.0")
            self._put_on_full(marks)
            self._spool.put(_FRAMES)
            if self._role != "cloud":
                self._world.publish("1.1.0")
                self._world.start_rollout("1.1.0")
            until(lambda: points.was_reached(self._disk.path), f"the point {self._name!r}", timeout_s=20)
            marks.drain()
            self._spool.put(_ANSWERS)
            goes_on = marks.wait("outbox", count=_ANSWERS, timeout_s=10)
            told = self._who_told()
            self._disk.free()
            return self._healed(goes_on=goes_on, told=told)

    def _set_up(self) -> None:
        """Everybody belongs together; nothing is full yet."""
        hub = self._world.url
        if self._role == "node":
            node = self._disk.path / "node"
            self._world.enrol(node, "node", hub=hub, kind=Kind.NODE)
            hub = self._world.start("node", Order(role="node", log="", settings={"folder": str(node)}))
            self._world.pin("node", hub)
        self._device = (self._disk.path if self._role == "device" else self._folder) / "cam"
        self._world.enrol(self._device, "cam", hub=hub)

    def _start_device(self, marks: Marks, more: Settings) -> None:
        settings: Settings = {
            "folder": str(self._device),
            "source": str(self._spool.folder),
            "rate_hz": _RATE_HZ,
            "race_s": 0.1 if self._name == "races folder" else 0.0,
            "marks": str(marks.path),
        }
        order = Order(role="device", log="", settings={**settings, **more}, faults=("accept_here",))
        self._world.start("cam", order)

    def _put_on_full(self, marks: Marks) -> None:
        """Start the one whose disk it is again, as one that will find it full."""
        name = "cam" if self._role == "device" else self._role
        self._world.kill(name)
        if name == "cam":
            self._start_device(marks, self._full)
        else:
            self._world.order_again(name, self._full)

    def _who_told(self) -> str:
        """Whose log says that there is no room."""
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            for name in ("cam", "node", "cloud"):
                if any(way in self._world.log(name) for way in _WAYS_TO_SAY_IT):
                    return name
            time.sleep(0.05)
        return ""

    def _healed(self, *, goes_on: bool, told: str) -> Full:
        try:
            if self._role != "cloud":
                until(lambda: self._world.active("cam") == "tiny@1.1.0", "the update", timeout_s=20)
            before = self._world.count("cam")
            self._spool.put(_FRAMES)
            until(lambda: self._world.count("cam") >= before + _FRAMES, "new readings in the cloud", timeout_s=20)
        except AssertionError as error:
            return Full(point=self._name, goes_on=goes_on, told=told, heals=False, why=str(error))
        return Full(point=self._name, goes_on=goes_on, told=told, heals=True)
