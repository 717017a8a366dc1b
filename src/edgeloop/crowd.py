"""How Python's interpreter is set in processes that thousands of devices wait for.

Below everything: the servers and the simulated fleet are such processes. For whole processes, once they have loaded
what they need.
"""

import gc
import math
import sys
import threading
import time
from contextlib import suppress

import psutil

_YOUNG = 2_000
_NEVER = 2**30
_LOOK_EVERY_S = 60.0
_AFTER_S = 3600.0
_GROWN = 2.0
_SWITCH_S = 0.0002


def expect_a_crowd() -> None:
    """Look for reference cycles among new objects only, and through all of them once an hour; let a thread that waits
    for the interpreter have it soon.

    Python stands still while it looks, and looks again whenever what lives on has grown by so much. A cloud on which
    10,000 devices wait holds 1.2 million objects: it stood still for up to 0.4 s every ten and for 1 to 3 s every few
    minutes, and found five. Reference counts free what a request leaves. What they do not free waits for an hour, or
    until the process takes twice the memory that it took then.

    A thread that comes back from SQLite waits for the one that runs Python to pause, for 5 ms unless told, and a commit
    comes back some ten times for each device.

    And have as many files open as the system lets this process have: shells and systemd begin with 1,024.
    """
    _open_many_files()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)
    sys.setswitchinterval(_SWITCH_S)
    process = psutil.Process()
    given = (process, process.memory_info().rss)
    threading.Thread(target=_look_through_all, args=given, name="cycles", daemon=True).start()


def most_open_files() -> float:
    """How many files and connections this process may have open now; infinite where there is no such limit."""
    if sys.platform == "win32":
        return math.inf
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _open_many_files() -> None:
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _look_through_all(process: psutil.Process, before_bytes: int) -> None:
    looked_s = time.monotonic()
    while True:
        time.sleep(_LOOK_EVERY_S)
        if time.monotonic() - looked_s > _AFTER_S or process.memory_info().rss > _GROWN * before_bytes:
            gc.collect()
            looked_s, before_bytes = time.monotonic(), process.memory_info().rss
