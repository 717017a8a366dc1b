"""SIGKILL of cloud, node and devices at random instants, on links that are reset: nothing is lost, nothing is doubled.

A cloud, a node, a device on the node and one straight on the cloud, each hop through a link that resets 2 % of what
comes by. Frames go on coming, and version after version, every other of which answers wrongly and is gone back from;
one process after another is killed in the middle of whatever it does, and started again at once. In the end every frame
must be in the cloud exactly once, and every row that a hub acknowledged: readings, samples with their bytes, alerts;
and each update must have come to its end, with a whole version at work that is none of the bad ones. The device that
is straight on the cloud tries and runs its versions in processes of their own, as all do outside of benches.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from edgeloop.contracts.api import RolloutDevice
from edgeloop.contracts.states import Kind, Outcome, RolloutState
from edgeloop.device.agent import open_outbox
from torture.look import Told, look
from torture.resets import BreakingLink
from torture.warm import Order, Settings, Warm
from torture.world import Account, Spool, World, account, port_of, until, waiting

RESETS = 0.02
_LONGEST_PAUSE_S = 0.25
_FRAMES_A_KILL = 12
_RATE_HZ = 150.0
_STILL_S = 1.5
_WAIT_S = 20.0
_SETTLED_S = 300.0
_ENDED_S = 300.0
"""For an update's end: each of its states has a deadline of its own, and a machine with other work takes long to start
the processes that try a version, which may be killed as well."""
_LATE_S = 0.5
_DEVICES = {"far": ("accept_here", "answer_here"), "near": ()}
"""far: through the node. near: straight to the cloud, with the real processes for trying and answering."""
_CHANCES = 5
_KILLS_A_VERSION = 6
_WATCHED = 3


class Kills(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. resets: connections that were reset meanwhile. late: frames that still wait before a device:
    not lost, and not shown to be safe. samples, alerts: rows of these kinds, among all. confirmed, rolled_back: how
    updates ended that were under way. why: what is wrong with a device, or with what was to be shown.
    """

    kills: int
    resets: int
    frames: int
    acknowledged: int
    late: int
    lost: int
    doubled: int
    samples: int
    alerts: int
    confirmed: int
    rolled_back: int
    why: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is lost, doubled, late or stuck."""
        return not (self.late or self.lost or self.doubled or self.why)


FAULTS: dict[str, Callable[[Kills], int]] = {
    "acknowledge_before_commit": lambda done: done.lost,
    "no_idempotency_key": lambda done: done.doubled,
}
"""Promises that a cloud can break, and what shows it."""


def run(warm: Warm, folder: Path, *, kills: int, until_s: float = math.inf, seed: int = 0) -> Kills:
    """Kill so many times, or until then by the monotonic clock."""
    return _run(warm, folder, kills=kills, until_s=until_s, seed=seed)


def control(warm: Warm, folder: Path, *, fault: str) -> Kills:
    """A few kills of a cloud that breaks a promise, on links that break more often: it must be caught. Whether an
    answer is cut off between two of its steps hangs on chance: it has some.
    """
    for turn in range(_CHANCES):
        done = _run(
            warm, folder / str(turn), kills=3, until_s=math.inf, seed=1 + turn, resets=5 * RESETS, faults=(fault,)
        )
        if FAULTS[fault](done):
            break
    return done


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
        updates = _Updates(world, is_on=not faults)
        done = _kill(world, spools, updates, rng, itertools.islice(itertools.cycle(victims), kills), until_s)
        why = updates.why_not_ended(spools)
        accounts = _settled(world, folder, spools, still_s=_STILL_S if faults else _WAIT_S)
        why += [one.why for one in accounts if one.late or one.lost or one.doubled]
        why += [found for name in _DEVICES if (found := _why_not_whole(folder / name, name))]
    return Kills(
        kills=done,
        resets=sum(link.broken for link in links),
        frames=sum(one.frames for one in accounts),
        acknowledged=sum(one.acknowledged for one in accounts),
        late=sum(one.late for one in accounts),
        lost=sum(one.lost for one in accounts),
        doubled=sum(one.doubled for one in accounts),
        samples=sum(one.samples for one in accounts),
        alerts=sum(one.alerts for one in accounts),
        confirmed=updates.confirmed,
        rolled_back=updates.rolled_back,
        why=tuple(why),
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
    world.start(name, Order(role="device", log="", settings=settings, faults=_DEVICES[name]))


def _kill(
    world: World,
    spools: dict[str, Spool],
    updates: "_Updates",
    rng: random.Random,
    victims: Iterator[str],
    until_s: float,
) -> int:
    """Returns how many were killed."""
    killed = 0
    for name in victims:
        if time.monotonic() > until_s:
            break
        if killed % _KILLS_A_VERSION == 0:
            updates.begin()
        for spool in spools.values():
            spool.put(_FRAMES_A_KILL)
        time.sleep(rng.uniform(0.0, _LONGEST_PAUSE_S))
        world.kill(name)
        world.start_again(name)
        killed += 1
    return killed


class _Updates:
    """Version after version for both devices; every other one answers wrongly, which only the watch shows."""

    def __init__(self, world: World, *, is_on: bool) -> None:
        self._world = world
        self._is_on = is_on
        self._rollouts: dict[str, bool] = {}
        self._count = 0
        self.confirmed = 0
        self.rolled_back = 0

    def begin(self) -> None:
        """Give them the next one."""
        if self._is_on:
            self._count += 1
            is_bad = self._count % 2 == 0
            self._world.publish(f"1.{self._count}.0", is_bad=is_bad)
            rollout = self._world.start_rollout(f"1.{self._count}.0", min_readings=_WATCHED if is_bad else 0)
            self._rollouts[rollout] = is_bad

    def why_not_ended(self, spools: dict[str, Spool]) -> list[str]:
        """Wait for the end of all of them while frames keep coming; what did not end, or not as it should."""
        why = []
        for rollout, is_bad in self._rollouts.items():
            with suppress(AssertionError):  # what did not end is told by the devices below
                until(partial(self._has_ended, rollout, spools), "its end", timeout_s=_ENDED_S, every_s=0.1)
            view = self._world.api.rollout(rollout)
            for one in view.devices:
                self.confirmed += one.outcome is Outcome.CONFIRMED
                self.rolled_back += one.outcome is Outcome.ROLLED_BACK
                if is_open(view.state, one) or (is_bad and one.outcome is Outcome.CONFIRMED):
                    why.append(f"{'bad' if is_bad else 'good'} version: {one}")
        begun = set(self._rollouts.values())
        if False in begun and not self.confirmed:
            why.append("no good version was confirmed")
        if True in begun and not self.rolled_back:
            why.append("no bad version was gone back from")
        return why

    def _has_ended(self, rollout: str, spools: dict[str, Spool]) -> bool:
        for spool in spools.values():
            spool.put(_WATCHED)
        view = self._world.api.rollout(rollout)
        return not any(is_open(view.state, one) for one in view.devices)


def is_open(rollout: RolloutState, device: RolloutDevice) -> bool:
    """Whether a device has still to come to an end: in a rollout that ended, those that never heard of it have not."""
    return device.outcome is None and (device.state is not None or not rollout.is_final)


def _settled(world: World, folder: Path, spools: dict[str, Spool], *, still_s: float) -> list[Account]:
    """Once everything that was seen has come up, or nothing more has for so long and no frame waits to be seen."""
    counted: dict[str, int] = {}
    since_s = time.monotonic()

    def is_over() -> bool:
        nonlocal counted, since_s
        now = {name: world.rows(name) for name in _DEVICES}
        if now != counted:
            counted, since_s = now, time.monotonic()
        is_still = time.monotonic() - since_s > still_s
        if is_still and not any(_waits(folder, name, spools[name]) for name in _DEVICES):
            return True
        return all(_is_up(world, folder, name, spools[name]) for name in _DEVICES)

    with suppress(AssertionError):  # what is missing then is told by the accounts
        until(is_over, "the end of what comes up", timeout_s=_SETTLED_S, every_s=0.1)
    time.sleep(_LATE_S)  # a cloud that answered too early still has its last commits before it
    for name in _DEVICES:
        world.kill(name)
    return [account(world, folder / name, name, spools[name].names) for name in _DEVICES]


def _waits(folder: Path, name: str, spool: Spool) -> bool:
    """Whether there are frames that a device did not come to yet, as where it is still starting."""
    outbox = open_outbox(folder / name, name)
    read_last = outbox.last_source()
    outbox.close()
    return bool(waiting(spool.names, read_last))


def _is_up(world: World, folder: Path, name: str, spool: Spool) -> bool:
    """Whether a device has answered each frame and all its rows are in the cloud."""
    if world.count(name) < len(spool.names):
        return False
    outbox = open_outbox(folder / name, name)
    own = sum(one.appended.rows for one in outbox.stats().accounts.values())
    outbox.close()
    return world.rows(name) >= own


def _why_not_whole(device: Path, name: str) -> str:
    """What is wrong with what a device runs in the end; empty if nothing is."""
    wrong = look(device, step="killed", told=Told())
    return f"{name}: {wrong.corrupt}" if wrong.corrupt or wrong.none_whole else ""
