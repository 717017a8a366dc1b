"""A device's clock that jumps by decades while it works: it goes on, loses nothing, and takes its updates.

The device alone lives under libfaketime, whose offset is changed under it; the monotonic clock goes on, as it does on
a real one. Needs the Debian package faketime.
"""

import random
from functools import partial
from pathlib import Path

import msgspec

from torture.warm import Order, Settings, Warm
from torture.world import Spool, World, account, until

_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_OFFSETS = {"-56y": 8.0, "+14y": 1.0, "-1d": 8.0, "+0": 8.0}
"""About 1970, about 2040, yesterday, now; and for how many seconds an update is waited for."""
_FRAMES = 20
_RATE_HZ = 60.0


class Jumps(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to. at_once: updates that were taken before the clock jumped again; a clock that is far ahead makes
    signatures look expired, and then they wait. why: what was missing at the end.
    """

    jumps: int
    frames: int
    lost: int
    doubled: int
    at_once: int
    why: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is missing."""
        return not (self.lost or self.doubled or self.why)


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
    world.start("cam", Order(role="device", log="", settings=settings, faults=("accept_here",)), warm=dizzy)
    at_once, why, names = 0, "", tuple(_OFFSETS)
    for number in range(jumps + 1):
        shift = "+0" if number == jumps else names[number] if number < 2 else rng.choice(names)
        offset.write_text(f"{shift}\n")
        spool.put(_FRAMES)
        world.publish(f"1.{number}.0")
        world.start_rollout(f"1.{number}.0")
        try:
            until(partial(_runs, world, f"tiny@1.{number}.0"), "it", timeout_s=_OFFSETS[shift])
            at_once += 1
        except AssertionError:
            continue
    try:
        until(partial(_runs, world, f"tiny@1.{jumps}.0"), f"the update to 1.{jumps}.0 with the clock right")
        until(lambda: world.count("cam") >= len(spool.names), "every reading")
    except AssertionError as error:
        why = str(error)
    world.kill("cam")
    made = account(world, folder / "cam", "cam", spool.names)
    return Jumps(
        jumps=jumps,
        frames=made.frames,
        lost=made.lost,
        doubled=made.doubled,
        at_once=at_once,
        why=why,
    )


def _runs(world: World, bundle: str) -> bool:
    return world.active("cam") == bundle


def _library() -> str:
    """Where libfaketime is, for programs with threads; empty if nowhere."""
    found = (path for folder in _LIBRARIES for path in Path(folder).glob("**/libfaketimeMT.so.1"))
    return str(next(found, ""))
