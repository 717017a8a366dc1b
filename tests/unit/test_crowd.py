"""What a process that thousands wait for is spared, in processes of their own: settings are the whole process's."""

import subprocess
import sys

import pytest

_HOLD = """
import gc, sys
from edgeloop.crowd import expect_a_crowd
if sys.argv[1] == "crowd":
    expect_a_crowd()
older = []
gc.callbacks.append(lambda phase, told: older.append(told) if phase == "start" and told["generation"] else None)
held = [{"waiter": [number]} for number in range(400_000)]
found = len(older)
print(found, gc.isenabled(), sys.getswitchinterval() < 0.001)
"""


def _said(setting: str) -> list[str]:
    made = subprocess.run([sys.executable, "-c", _HOLD, setting], capture_output=True, text=True, check=True)
    return made.stdout.split()


@pytest.mark.parametrize(("setting", "is_spared"), [("crowd", True), ("plain", False)])
def test_holding_more_does_not_have_what_is_held_looked_through(setting: str, is_spared: bool) -> None:
    looks, enabled, switches_soon = _said(setting)
    assert (int(looks) == 0) is is_spared
    assert enabled == "True"
    assert (switches_soon == "True") is is_spared


_GROW = """
import gc, sys, time, weakref
from edgeloop import crowd

class Cycle:
    def __init__(self):
        self.itself = self

crowd._LOOK_EVERY_S = 0.01
crowd.expect_a_crowd()
cycle = Cycle()
gc.collect(0)  # no young object any more: only a look at all finds it
gone, cycle = weakref.ref(cycle), None
more = b"x" * int(sys.argv[1])
until_s = time.monotonic() + float(sys.argv[2])
while gone() is not None and time.monotonic() < until_s:
    time.sleep(0.01)
print(gone() is None)
"""


@pytest.mark.parametrize(("grown_mb", "patience_s", "is_found"), [(400, 60.0, True), (0, 1.0, False)])
def test_what_has_doubled_is_looked_through(grown_mb: int, patience_s: float, is_found: bool) -> None:
    asked = [sys.executable, "-c", _GROW, str(grown_mb * 1024**2), str(patience_s)]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() == [str(is_found)]
