"""What a process that thousands wait for is spared, in processes of their own: settings are the whole process's."""

import subprocess
import sys

import pytest

_HOLD = """
import gc, sys
from edgeloop.crowd import expect_a_crowd
if sys.argv[1] == "crowd":
    expect_a_crowd()
whole = []
gc.callbacks.append(lambda phase, told: whole.append(told) if (phase, told["generation"]) == ("start", 2) else None)
held = [{"waiter": [number]} for number in range(400_000)]
found = len(whole)
print(found, gc.isenabled(), sys.getswitchinterval() < 0.001)
"""


def _said(setting: str) -> list[str]:
    made = subprocess.run([sys.executable, "-c", _HOLD, setting], capture_output=True, text=True, check=True)
    return made.stdout.split()


@pytest.mark.parametrize(("setting", "is_spared"), [("crowd", True), ("plain", False)])
def test_holding_more_does_not_have_everything_looked_through(setting: str, is_spared: bool) -> None:
    looks, enabled, switches_soon = _said(setting)
    assert (int(looks) == 0) is is_spared
    assert enabled == "True"
    assert (switches_soon == "True") is is_spared
