"""What the torture bench judges by, and that it can be ended."""

import subprocess
import sys
from pathlib import Path

import pytest
from torture.kills import Kills, is_open
from torture.world import waiting

from edgeloop.contracts.api import RolloutDevice
from edgeloop.contracts.states import Outcome, RolloutState, UpdateState

_GONE_AFTER_ITS_START = """
import sys
from pathlib import Path
from torture.cuts import Neighbour
Neighbour(Path(sys.argv[1])).__enter__()
raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("rollout", "state", "outcome", "expected"),
    [
        (RolloutState.RUNNING, None, None, True),
        (RolloutState.COMPLETED, None, None, False),
        (RolloutState.COMPLETED, UpdateState.ACTIVE, None, True),
        (RolloutState.RUNNING, UpdateState.CONFIRMED, Outcome.CONFIRMED, False),
    ],
)
def test_update_that_never_began_is_open_as_long_as_its_rollout_is(
    rollout: RolloutState, state: UpdateState | None, outcome: Outcome | None, expected: bool
) -> None:
    device = RolloutDevice(device_id="cam", wave=1, state=state, reason="", outcome=outcome)
    assert is_open(rollout, device) is expected


def test_frames_that_wait_are_not_lost_and_not_sound() -> None:
    assert waiting({"1.png", "2.png", "3.png"}, "2.png") == {"3.png"}
    assert waiting({"1.png"}, "") == {"1.png"}
    found = Kills(
        kills=1,
        resets=0,
        frames=1,
        acknowledged=0,
        late=1,
        lost=0,
        doubled=0,
        samples=0,
        alerts=0,
        confirmed=1,
        rolled_back=1,
    )
    assert not found.is_sound


def test_bench_that_is_ended_beside_its_neighbour_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _GONE_AFTER_ITS_START, str(tmp_path / "neighbour")],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "tests"},
        capture_output=True,
        timeout=120,
    )
    assert b"KeyboardInterrupt" in done.stderr
