"""A device's clock that jumps by decades while it works: it goes on, loses nothing, and takes its updates.

At each hour frames are answered and come up. At 1970, yesterday and now an update is taken before the clock jumps
again; at 2040, where signatures look expired, it waits until the clock is right. The device alone lives under
libfaketime, whose offset is changed under it; the monotonic clock goes on, as it does on a real one. Needs the Debian
package faketime.
"""

import random
from functools import partial
from pathlib import Path

import msgspec

from torture.warm import Order, Settings, Warm
from torture.world import DEADLINE_S, Spool, World, account, until

_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_OFFSETS = {"-56y": True, "+14y": False, "-1d": True, "+0": True}
"""About 1970, about 2040, yesterday, now; and whether an update is taken there."""
_NOW = "+0"
_WAITS_S = 1.0
"""For how long it is looked on that an update is not taken."""
_FRAMES = 20
_RATE_HZ = 60.0


class Jumps(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. at_once: by how the clock was put, how many updates were taken there, and of how many. why: what
    was missing.
    """

    jumps: int
    frames: int
    lost: int
    doubled: int
    at_once: dict[str, tuple[int, int]]
    why: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is missing: at 2040 alone an update may wait."""
        return not (self.lost or self.doubled or self.why)

    def told(self) -> str:
        """How many updates were taken before the next jump, by where the clock was."""
        return ", ".join(f"{taken} of {given} at {shift}" for shift, (taken, given) in self.at_once.items())


def why_not() -> str:
    """Why clocks cannot be turned here; empty if they can."""
    return "" if _library() else "libfaketime is not installed (Debian package faketime)"


def run(folder: Path, *, jumps: int, seed: int = 0) -> Jumps:
    """Let the clock jump so many times, and then be right."""
    folder.mkdir(parents=True)
    offset = folder / "offset"
    offset.write_text("+0\n")
    environment = {
        "LD_PRELOAD": _library(),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with Warm() as warm, Warm(environment=environment) as dizzy:
        world = World(warm, folder)
        try:
            return _jump(world, folder, offset, dizzy, jumps, random.Random(seed))  # noqa: S311 - faults, not secrecy
        finally:
            world.close()


def _jump(world: World, folder: Path, offset: Path, dizzy: Warm, jumps: int, rng: random.Random) -> Jumps:
    spool = Spool(folder / "spool")
    world.enrol(folder / "cam", "cam", hub=world.url)
    settings: Settings = {"folder": str(folder / "cam"), "source": str(spool.folder), "rate_hz": _RATE_HZ}
    world.start(
        "cam", Order(role="device", log="", settings=settings, faults=("accept_here", "answer_here")), warm=dizzy
    )
    at_once: dict[str, tuple[int, int]] = {}
    why, names = [], tuple(_OFFSETS)
    for number in range(jumps + 1):
        shift = _NOW if number == jumps else names[number] if number < len(names) else rng.choice(names)
        offset.write_text(f"{shift}\n")
        spool.put(_FRAMES)
        world.publish(f"1.{number}.0")
        world.start_rollout(f"1.{number}.0")
        is_taken = _is_taken(world, number, timeout_s=DEADLINE_S if _OFFSETS[shift] else _WAITS_S)
        taken, given = at_once.get(shift, (0, 0))
        at_once[shift] = (taken + is_taken, given + 1)
        if _OFFSETS[shift] and not is_taken:
            why.append(f"the update to 1.{number}.0 was not taken with the clock put {shift}")
        try:
            until(lambda: world.count("cam") >= len(spool.names), "every reading in the cloud")
        except AssertionError as error:
            why.append(f"with the clock put {shift}: {error}")
    world.kill("cam")
    made = account(world, folder / "cam", "cam", spool.names)
    return Jumps(jumps=jumps, frames=made.frames, lost=made.lost, doubled=made.doubled, at_once=at_once, why=tuple(why))


def _is_taken(world: World, number: int, *, timeout_s: float) -> bool:
    try:
        until(partial(_runs, world, f"tiny@1.{number}.0"), "it", timeout_s=timeout_s)
    except AssertionError:
        return False
    return True


def _runs(world: World, bundle: str) -> bool:
    return world.active("cam") == bundle


def _library() -> str:
    """Where libfaketime is, for programs with threads; empty if nowhere."""
    found = (path for folder in _LIBRARIES for path in Path(folder).glob("**/libfaketimeMT.so.1"))
    return str(next(found, ""))
