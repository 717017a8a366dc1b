"""How Python's interpreter is set in processes that thousands of devices wait for.

Below everything: the servers and the simulated fleet are such processes. For whole processes, once they have loaded
what they need.
"""

import gc
import sys

_YOUNG = 20_000
_MIDDLE = 10
_OLD = 10
_SWITCH_S = 0.0002


def expect_a_crowd() -> None:
    """Look for reference cycles seldom, and let a thread that waits for the interpreter have it soon.

    Python looks through everything each time the objects that live on have grown by a quarter. A cloud on which 10,000
    devices wait holds 1.2 million: it stood still for 1 to 3 seconds every ten, and found nothing. Reference counts
    free what a request leaves; now at most 2 million objects, some 200 MB, wait to be found.

    A thread that comes back from SQLite waits for the one that runs Python to pause, for 5 ms unless told, and a commit
    comes back some ten times for each device.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_SWITCH_S)
