"""A node and a device in a network namespace of its own, joined by a cable that is pulled: it catches up.

The cable is a pair of virtual interfaces; pulled, packets vanish without a word, as on a real one, and open
connections hang. Over it the hop is TLS, as everywhere but on loopback. Needs the right to make namespaces.
"""

import ctypes
import os
import random
import subprocess
import time
from functools import cache
from pathlib import Path

import msgspec

from edgeloop.contracts.states import Kind
from edgeloop.hub.tls import ServerFiles, issue, make_authority
from torture.marks import Marks
from torture.warm import Order, Settings, Warm
from torture.world import Spool, World, account, until

_FRAMES = 20
_RATE_HZ = 60.0
_CLONE_NEWNET = 0x40000000


class Absences(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. read_while_away: frames that the device answered with the cable pulled."""

    absences: int
    frames: int
    read_while_away: int
    lost: int
    doubled: int


class Cable:
    """A network namespace with one cable to us. `with Cable() as cable` makes it and takes all of it away again."""

    def __init__(self) -> None:
        # Of this process alone, so that two benches do not meet.
        self.namespace = f"torture-{os.getpid()}"
        net = f"10.213.{os.getpid() % 254}"
        self.host, self._device = f"{net}.1", f"{net}.2"
        self._ours = f"tort{os.getpid() % 1_000_000}"

    def __enter__(self) -> "Cable":
        _ip("netns", "add", self.namespace)
        try:
            _ip("link", "add", self._ours, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
            _ip("addr", "add", f"{self.host}/30", "dev", self._ours)
            _ip("link", "set", self._ours, "up")
            _ip("-n", self.namespace, "addr", "add", f"{self._device}/30", "dev", "eth0")
            for name in ("lo", "eth0"):
                _ip("-n", self.namespace, "link", "set", name, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self.namespace)  # and with it the pair

    def pull(self) -> None:
        """From now on nothing comes through."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        """And again it does."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")


@cache
def why_not() -> str:
    """Why there can be no such cable here; empty if there can."""
    try:
        with Cable():
            return ""
    except FileNotFoundError as error:
        return f"there is no {error.filename} here"
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()[:200]}"


def enter(namespace: str) -> None:
    """This process lives there from now on."""
    with Path(f"/run/netns/{namespace}").open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):  # os.setns comes with Python 3.12
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def run(warm: Warm, folder: Path, *, absences: int, seed: int = 0) -> Absences:
    """Pull the cable so many times."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
    world = World(warm, folder)
    try:
        with Cable() as cable, Marks(folder / "marks") as marks:
            spool = _set_up(world, folder, cable, marks)
            read = 0
            for _ in range(absences):
                spool.put(_FRAMES)
                time.sleep(rng.uniform(0.0, 0.1))
                cable.pull()
                marks.drain()
                spool.put(_FRAMES)
                read += _FRAMES if marks.wait("outbox", count=_FRAMES) else 0
                cable.plug_in()
                until(lambda: world.count("cam") >= len(spool.names), "the device to catch up")
            world.kill("cam")
            made = account(world, folder / "cam", "cam", spool.names)
    finally:
        world.close()
    return Absences(absences=absences, frames=made.frames, read_while_away=read, lost=made.lost, doubled=made.doubled)


def _set_up(world: World, folder: Path, cable: Cable, marks: Marks) -> Spool:
    files = ServerFiles(folder / "tls")
    make_authority(folder / "authority")
    issue(folder / "authority", files, (cable.host,))
    world.enrol(folder / "node", "node", hub=world.url, kind=Kind.NODE)
    settings = {
        "folder": str(folder / "node"),
        "host": cable.host,
        "tls_cert": str(files.cert),
        "tls_key": str(files.key),
    }
    hub = world.start("node", Order(role="node", log="", settings=settings))
    world.enrol(folder / "cam", "cam", hub=hub, ca=str(files.ca))
    spool = Spool(folder / "spool")
    at_work: Settings = {
        "source": str(spool.folder),
        "rate_hz": _RATE_HZ,
        "marks": str(marks.path),
        "netns": cable.namespace,
    }
    order = Order(
        role="device",
        log="",
        settings={"folder": str(folder / "cam"), **at_work},
        faults=("accept_here", "answer_here"),
    )
    world.start("cam", order)
    world.publish("1.0.0")
    world.roll_out("1.0.0")
    return spool


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)  # noqa: S603, S607 - literals
