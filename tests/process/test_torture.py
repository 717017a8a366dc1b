"""The torture bench with small numbers: kills, power cuts, full disks, cables that are pulled, clocks that jump.

`make torture` runs the same with large ones. Each control breaks a promise on purpose and must be caught; those of the
kills are in test_cloud_killed and test_sender_killed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from torture import cloud_cuts, cuts, disk, full, kills, links, points
from torture.suites import Suite, row_of
from torture.warm import Warm

KILLS = 24
CUTS = {"download": 20, "unpack": 20, "switch": 20, "outbox": 20, "trust": 6, "go_back": 4}
"""By step."""
TRIALS = 2
CLOUD_CUTS = 6


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
    assert (done.kills, done.lost, done.doubled, done.why) == (KILLS, 0, 0, ())
    assert done.acknowledged >= done.frames > 0
    assert done.resets > 0
    assert min(done.samples, done.alerts, done.confirmed, done.rolled_back) > 0, done


@pytest.mark.skipif(bool(disk.why_not()), reason=f"needs a disk whose power can be cut: {disk.why_not()}")
class TestPowerCuts:
    """On an ext4 of the tests' own, shut down by its ioctl."""

    @pytest.mark.parametrize("each", sorted(set(CUTS.values())))
    def test_leave_a_whole_version_and_all_that_a_device_acted_upon(
        self, warm: Warm, tmp_path: Path, each: int
    ) -> None:
        steps = tuple(step for step in cuts.STEPS if CUTS[step] == each)
        done = cuts.run(warm, tmp_path, each=each, steps=steps)
        assert done.found == ()
        assert {step: done.cuts[step] for step in steps} == dict.fromkeys(steps, each)

    def test_while_a_version_is_tried_in_its_own_process_leave_the_old_one(self, warm: Warm, tmp_path: Path) -> None:
        done = cuts.run(warm, tmp_path, each=TRIALS, steps=cuts.TRIAL)
        assert done.found == ()
        assert done.cuts["accept"] == TRIALS

    def test_control_of_each_step_is_caught(self, warm: Warm, tmp_path: Path) -> None:
        caught = cuts.control(warm, tmp_path)
        assert set(caught) == set(cuts.STEPS)
        assert all(caught.values()), caught

    def test_of_a_cloud_lose_nothing_that_it_acknowledged(self, warm: Warm, tmp_path: Path) -> None:
        done = cloud_cuts.run(warm, tmp_path, cuts=CLOUD_CUTS)
        assert (done.cuts, done.lost, done.why) == (CLOUD_CUTS, 0, ())
        assert done.acknowledged > 0

    @pytest.mark.parametrize("fault", cloud_cuts.FAULTS)
    def test_control_cloud_that_does_not_sync_is_caught(self, warm: Warm, tmp_path: Path, fault: str) -> None:
        assert cloud_cuts.control(warm, tmp_path, fault=fault).lost > 0


@pytest.mark.skipif(bool(disk.why_not()), reason=f"needs a disk that can be filled: {disk.why_not()}")
@pytest.mark.parametrize("role", ["device", "node", "cloud"])
def test_disk_that_is_full_stops_no_inference_is_told_and_heals(warm: Warm, tmp_path: Path, role: str) -> None:
    names = tuple(name for name, point in points.POINTS.items() if point.role == role)
    found = full.run(warm, tmp_path, names=names)
    assert [one.point for one in found] == list(names)
    assert [one for one in found if not one.is_sound] == []


@pytest.mark.skipif(bool(links.why_not()), reason=f"needs network namespaces: {links.why_not()}")
def test_device_whose_cable_is_pulled_goes_on_and_catches_up(warm: Warm, tmp_path: Path) -> None:
    done = links.run(warm, tmp_path / "links", absences=1)
    assert (done.lost, done.doubled) == (0, 0)
    assert done.read_while_away > 0


# ---- rows of the table that are tests of the suite


def _reported(folder: Path, *cases: str) -> Path:
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


PASSED = '<testcase name="test_it"/>'
CAUGHT = '<testcase name="test_control_without_it"/>'
MISSED = '<testcase name="test_control_without_it"><failure message="m"/></testcase>'
SKIPPED = '<testcase name="test_control_without_it"><skipped message="m"/></testcase>'


@pytest.mark.parametrize(
    ("control", "said"),
    [(CAUGHT, True), (MISSED, False), (SKIPPED, None), ("", None)],
    ids=["ok", "no", "skip", "none"],
)
def test_control_counts_as_caught_only_where_it_was_run_and_passed(
    tmp_path: Path, control: str, said: bool | None
) -> None:
    suite = Suite("it", "all of it", ("tests/test_it.py",), controls=("control_without",))
    assert row_of(suite, _reported(tmp_path, PASSED, control), times=1).control_failed is said
