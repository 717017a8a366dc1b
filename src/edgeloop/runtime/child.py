"""What our own processes for one task, which may die of it, share with those who start them.

A process that may start others is started with OWN_GROUP, so that `kill_group` ends them with it.

Neighbours: `engines.trial` tries a setting in one, `device.examine` a new version; in `device.answer` one answers.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

OWN_GROUP: Mapping[str, Any] = MappingProxyType({"process_group": 0} if os.name == "posix" else {})
"""For `subprocess`: a group of its own, to be ended with all that it started, and out of a terminal's reach. Not a
session, which Linux would schedule apart from the parent's, so that a low priority would count for nothing."""


FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if os.name == "posix" else ()
"""Signals that somebody sends; all others are a crash. Where memory runs out Linux sends SIGKILL, and earlyoom and
others like it SIGTERM first, to just such processes: see `die_first`."""


def command_of(module: str) -> tuple[str, ...]:
    """What runs a module of ours in another process."""
    # -P: else -m would import what lies in the working folder before what is installed.
    return (sys.executable, "-P", "-m", module)


def kill_group(pid: int) -> None:
    """End a process that was started with OWN_GROUP, and what it started, if it still runs. Only for who has not heard
    yet that it ended: else its number may be another's."""
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)  # which ends it there at once


def take_stdout() -> int:
    """A descriptor of what was standard output; that is standard error from now on: what libraries print must not spoil
    the answer."""
    taken = os.dup(1)
    os.dup2(2, 1)
    return taken


def end_of(code: int) -> str:
    """How a process ended, by its return code as `subprocess` gives it: "was ended by SIGSEGV" for -11."""
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11."""
    known = {int(one): one.name for one in signal.Signals}
    return known.get(number, f"signal {number}")


def last_line(noise: bytes) -> str:
    """The last line with something in it of what a process wrote to standard error."""
    lines = reversed(noise.decode(errors="replace").split("\n"))
    return next((line.strip() for line in lines if line.strip()), "it said nothing")


def end_with(parent: int, *, within_s: float) -> None:
    """Have the system end this process when its parent ends, and in any case after within_s; nothing can hold it up.

    parent: its process number, as it knows it. On Linux it counts as ended when the thread that started this process
    ends. Elsewhere only the time counts, on Windows nothing does.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, within_s)


class Bounded:
    """While it is entered, the system ends this process after within_s seconds, whatever native code is in; not on
    Windows. For a process that is asked again and again: 3 us.
    """

    def __init__(self) -> None:
        self.within_s = 0.0
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def __enter__(self) -> Self:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self.within_s)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def die_first() -> None:
    """Where memory runs out, have Linux end this process before any other, such as the one that started it."""
    with suppress(OSError):  # there is no such file elsewhere
        Path("/proc/self/oom_score_adj").write_text("1000")
