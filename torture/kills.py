"""SIGKILL of cloud, node and devices at random instants, on links that are reset: nothing is lost, nothing is doubled.

A cloud, a node, a device on the node and one straight on the cloud, each hop through a link that resets 2 % of what
comes by. Frames go on coming; one process after another is killed in the middle of whatever it does, and started
again at once. In the end every frame must be in the cloud exactly once, and every row that a hub acknowledged.
"""

import itertools
import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edgeloop.contracts.states import Kind
from torture.resets import BreakingLink
from torture.warm import Order, Settings, Warm
from torture.world import Account, Spool, World, account, port_of, until

RESETS = 0.02
_LONGEST_PAUSE_S = 0.25
_FRAMES_A_KILL = 12
_RATE_HZ = 150.0
_STILL_S = 1.5
_WAIT_S = 20.0
_LATE_S = 0.5
_DEVICES = ("far", "near")
"""far: through the node. near: straight to the cloud."""


class Kills(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. resets: connections that were reset meanwhile."""

    kills: int
    resets: int
    frames: int
    acknowledged: int
    lost: int
    doubled: int


def run(warm: Warm, folder: Path, *, kills: int, until_s: float = math.inf, seed: int = 0) -> Kills:
    """Kill so many times, or until then by the monotonic clock."""
    return _run(warm, folder, kills=kills, until_s=until_s, seed=seed)


def control(warm: Warm, folder: Path, *, fault: str) -> Kills:
    """A few kills of a cloud that breaks a promise, on links that break more often: it must be caught."""
    return _run(warm, folder, kills=3, until_s=math.inf, seed=1, resets=5 * RESETS, faults=(fault,))


def _run(
    warm: Warm,
    folder: Path,
    *,
    kills: int,
    until_s: float,
    seed: int,
    resets: float = RESETS,
    faults: tuple[str, ...] = (),
) -> Kills:
    victims = ("cloud",) if faults else ("cloud", "node", *_DEVICES)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)  # noqa: S311 - faults, not secrecy
    world = World(warm, folder, faults=faults)
    with ExitStack() as stack:
        stack.callback(world.close)
        links = _links(world, folder, stack, random.Random(seed), resets)  # noqa: S311 - the same
        spools = {name: Spool(folder / f"{name}-spool") for name in _DEVICES}
        for name in _DEVICES:
            _start_device(world, folder, name, spools[name])
        world.publish("1.0.0")
        world.roll_out("1.0.0")
        done = _kill(world, spools, rng, itertools.islice(itertools.cycle(victims), kills), until_s)
        accounts = _settled(world, folder, spools, still_s=_STILL_S if faults else _WAIT_S)
    return Kills(
        kills=done,
        resets=sum(link.broken for link in links),
        frames=sum(one.frames for one in accounts),
        acknowledged=sum(one.acknowledged for one in accounts),
        lost=sum(one.lost for one in accounts),
        doubled=sum(one.doubled for one in accounts),
    )


def _links(world: World, folder: Path, stack: ExitStack, rng: random.Random, resets: float) -> list[BreakingLink]:
    """The node, its link to the cloud, and those of the two devices, which belong to the cloud by now."""

    def link_to(port: int) -> BreakingLink:
        return stack.enter_context(BreakingLink(port, resets=resets, seed=rng.randrange(2**32)))

    to_cloud = [link_to(world.port), link_to(world.port)]
    world.enrol(folder / "node", "node", hub=world.url, kind=Kind.NODE)
    _move(folder / "node", to_cloud[0].url)
    url = world.start("node", Order(role="node", log="", settings={"folder": str(folder / "node")}))
    world.pin("node", url)
    to_node = link_to(port_of(url))
    for name, hub, link in (("far", url, to_node), ("near", world.url, to_cloud[1])):
        world.enrol(folder / name, name, hub=hub)
        _move(folder / name, link.url)
    return [*to_cloud, to_node]


def _move(folder: Path, url: str) -> None:
    """Joined over a sound link, it works over the breaking one."""
    path = folder / "membership.json"
    member = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**member, "hub_url": url}))


def _start_device(world: World, folder: Path, name: str, spool: Spool) -> None:
    settings: Settings = {"folder": str(folder / name), "source": str(spool.folder), "rate_hz": _RATE_HZ}
    world.start(name, Order(role="device", log="", settings=settings, faults=("accept_here",)))


def _kill(world: World, spools: dict[str, Spool], rng: random.Random, victims: Iterator[str], until_s: float) -> int:
    """Returns how many were killed."""
    killed = 0
    for name in victims:
        if time.monotonic() > until_s:
            break
        for spool in spools.values():
            spool.put(_FRAMES_A_KILL)
        time.sleep(rng.uniform(0.0, _LONGEST_PAUSE_S))
        world.kill(name)
        world.start_again(name)
        killed += 1
    return killed


def _settled(world: World, folder: Path, spools: dict[str, Spool], *, still_s: float) -> list[Account]:
    """Once everything that was seen has come up, or nothing more has for so long."""
    wanted = {name: len(spools[name].names) for name in _DEVICES}
    counted: dict[str, int] = {}
    since_s = time.monotonic()

    def is_over() -> bool:
        nonlocal counted, since_s
        now = {name: world.count(name) for name in _DEVICES}
        if now != counted:
            counted, since_s = now, time.monotonic()
        is_still = time.monotonic() - since_s > still_s
        return is_still or all(now[name] >= wanted[name] for name in _DEVICES)

    until(is_over, "the end of what comes up", every_s=0.1)
    time.sleep(_LATE_S)  # a cloud that answered too early still has its last commits before it
    for name in _DEVICES:
        world.kill(name)
    return [account(world, folder / name, name, spools[name].names) for name in _DEVICES]
