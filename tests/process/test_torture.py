"""The torture bench with small numbers: kills, power cuts, full disks, cables that are pulled.

`make torture` runs the same with large ones, all points and controls, and clocks that jump. Each control breaks a
promise on purpose and must be caught; those of the kills are in test_cloud_killed and test_sender_killed.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from torture import cuts, disk, full, kills, links
from torture.warm import Warm

KILLS = 24
CUTS = 20
CUTS_WITHIN_S = 15.0
"""A round of four cuts takes about a second; a machine that is slower makes fewer rounds."""
POINTS = ("shelf part", "node outbox")
"""Of the twelve, one at the device and one above it; `make torture` runs all."""


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as started:
        yield started


@pytest.fixture(autouse=True)
def _linux_only() -> None:
    if sys.platform != "linux":
        pytest.skip("processes are forked, and namespaces made, on Linux")


def test_kills_at_random_instants_lose_and_double_nothing(warm: Warm, tmp_path: Path) -> None:
    done = kills.run(warm, tmp_path, kills=KILLS)
    assert (done.kills, done.lost, done.doubled) == (KILLS, 0, 0)
    assert done.acknowledged >= done.frames > 0
    assert done.resets > 0


@pytest.mark.skipif(bool(disk.why_not()), reason=f"needs a disk whose power can be cut: {disk.why_not()}")
class TestPowerCuts:
    """On an ext4 of the tests' own, shut down by its ioctl."""

    def test_leave_a_whole_version_and_every_acknowledged_row(self, warm: Warm, tmp_path: Path) -> None:
        done = cuts.run(warm, tmp_path, each=CUTS, until_s=time.monotonic() + CUTS_WITHIN_S)
        assert done.found == ()
        assert all(done.cuts[step] > 0 for step in cuts.STEPS)

    def test_control_files_that_are_not_synced_are_caught_as_corrupt(self, warm: Warm, tmp_path: Path) -> None:
        assert cuts.control(warm, tmp_path, fault="files_without_fsync", steps=("unpack", "switch")).corrupt > 0

    def test_control_rows_that_are_not_synced_are_caught_as_loss(self, warm: Warm, tmp_path: Path) -> None:
        assert cuts.control(warm, tmp_path, fault="no_fsync", steps=("outbox",)).lost > 0


@pytest.mark.skipif(bool(disk.why_not()), reason=f"needs a disk that can be filled: {disk.why_not()}")
@pytest.mark.parametrize("point", POINTS)
def test_disk_that_is_full_stops_no_inference_is_told_and_heals(warm: Warm, tmp_path: Path, point: str) -> None:
    (found,) = full.run(warm, tmp_path, names=(point,))
    assert found.is_sound, found


@pytest.mark.skipif(bool(links.why_not()), reason=f"needs network namespaces: {links.why_not()}")
def test_device_whose_cable_is_pulled_goes_on_and_catches_up(warm: Warm, tmp_path: Path) -> None:
    done = links.run(warm, tmp_path / "links", absences=1)
    assert (done.lost, done.doubled) == (0, 0)
    assert done.read_while_away > 0
