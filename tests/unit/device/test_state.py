from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.states import UpdateState
from edgeloop.device.state import KEPT, Installed, Update, Versions, Wish
from edgeloop.transport.keep import Keep


def _hash(version: str) -> str:
    return version.replace(".", "").ljust(64, "0")


def _installed(version: str, *, name: str = "tiny") -> Installed:
    return Installed(f"{name}@{version}", "v" + _hash(version)[1:], _hash(version))


def _update(version: str, state: UpdateState, *, generation: int = 1, reason: str = "") -> Update:
    assignment = Assignment(
        generation=generation, rollout_id="r1", bundle=f"tiny@{version}", manifest_sha256=_hash(version)
    )
    return Update(assignment=assignment, state=state, reason=reason)


class Disk:
    """A device's record that can be closed and opened again, as a restart does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keep = Keep(path)
        self.versions = Versions(self._keep)

    def versions_kept(self, kept: int) -> Versions:
        """As an agent sees it that keeps so many."""
        return Versions(self._keep, kept=kept)

    def write(self, changes: dict[str, int]) -> None:
        """Settings."""
        self._keep.set(changes)

    def reopen(self) -> Versions:
        """What a fresh process finds."""
        self._keep.close()
        self._keep = Keep(self._path)
        self.versions = Versions(self._keep)
        return self.versions

    def close(self) -> None:
        """Close the file."""
        self._keep.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    opened = Disk(tmp_path / "device.db")
    yield opened
    opened.close()


def _confirmed(disk: Disk, *versions: str, name: str = "tiny") -> None:
    for version in versions:
        disk.versions.switch(_installed(version, name=name), _update(version, UpdateState.ACTIVE))
        disk.versions.confirm(_update(version, UpdateState.CONFIRMED))


def test_fresh_device_knows_nothing(disk: Disk) -> None:
    found = disk.reopen()
    assert (found.active, found.previous, found.floor, found.update, found.known_generation) == (
        None,
        None,
        None,
        None,
        0,
    )


def test_note_is_there_after_a_restart(disk: Disk) -> None:
    update = _update("1.0.0", UpdateState.DOWNLOADING, generation=7)
    disk.versions.note(update)
    found = disk.reopen()
    assert (found.update, found.known_generation) == (update, 7)


def test_switch_is_there_after_a_restart(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    update = _update("1.1.0", UpdateState.ACTIVE)
    disk.versions.switch(_installed("1.1.0"), update)
    found = disk.reopen()
    assert (found.active, found.previous, found.update) == (_installed("1.1.0"), _installed("1.0.0"), update)


def test_switch_does_not_raise_the_floor(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    assert str(disk.reopen().floor) == "tiny@1.0.0"


@pytest.mark.parametrize(
    ("versions", "floor"),
    [
        (("1.0.0",), "1.0.0"),
        (("1.0.0", "1.1.0"), "1.1.0"),
        (("1.1.0", "1.0.0"), "1.1.0"),
        (("1.9.0", "1.10.0"), "1.10.0"),
        (("1.10.0", "1.9.0"), "1.10.0"),
    ],
)
def test_floor_only_rises(disk: Disk, versions: tuple[str, ...], floor: str) -> None:
    _confirmed(disk, *versions)
    assert str(disk.reopen().floor) == f"tiny@{floor}"


def test_floor_of_another_model_starts_anew(disk: Disk) -> None:
    _confirmed(disk, "2.0.0")
    _confirmed(disk, "1.0.0", name="other")
    assert str(disk.reopen().floor) == "other@1.0.0"


def test_going_back_runs_the_version_before(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    back = _update("1.1.0", UpdateState.ROLLED_BACK, reason="slow")
    assert disk.versions.go_back(_installed("1.1.0"), back, for_good=True)
    found = disk.reopen()
    assert (found.active, found.previous, found.update) == (_installed("1.0.0"), None, back)


def test_first_version_goes_back_to_nothing(disk: Disk) -> None:
    disk.versions.switch(_installed("1.0.0"), _update("1.0.0", UpdateState.ACTIVE))
    disk.versions.go_back(_installed("1.0.0"), _update("1.0.0", UpdateState.ROLLED_BACK), for_good=True)
    assert disk.reopen().active is None


def test_going_back_leaves_the_floor(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    disk.versions.go_back(_installed("1.1.0"), _update("1.1.0", UpdateState.ROLLED_BACK), for_good=False)
    assert str(disk.reopen().floor) == "tiny@1.0.0"


def test_going_back_for_good_turns_the_content_down(disk: Disk) -> None:
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    disk.versions.go_back(_installed("1.1.0"), _update("1.1.0", UpdateState.ROLLED_BACK, reason="slow"), for_good=True)
    assert disk.reopen().turned_down(_hash("1.1.0")) == "slow"


def test_going_back_for_now_turns_nothing_down(disk: Disk) -> None:
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    disk.versions.go_back(
        _installed("1.1.0"), _update("1.1.0", UpdateState.ROLLED_BACK, reason="withdrawn"), for_good=False
    )
    assert disk.reopen().turned_down(_hash("1.1.0")) is None


def test_version_that_was_left_already_is_not_left_again(disk: Disk) -> None:
    """Going back is relative: a second time it would take the version before away."""
    _confirmed(disk, "1.0.0")
    disk.versions.switch(_installed("1.1.0"), _update("1.1.0", UpdateState.ACTIVE))
    back = _update("1.1.0", UpdateState.ROLLED_BACK, reason="crashed")
    assert disk.versions.go_back(_installed("1.1.0"), back, for_good=True)
    again = _update("1.1.0", UpdateState.ROLLED_BACK, reason="slow")
    assert not disk.versions.go_back(_installed("1.1.0"), again, for_good=True)
    assert not disk.versions.fall_back(_installed("1.1.0"), "does not load")
    found = disk.reopen()
    assert (found.active, found.update, found.turned_down(_hash("1.1.0"))) == (_installed("1.0.0"), back, "crashed")


def test_what_is_judged_late_changes_nothing(disk: Disk) -> None:
    """It was left while its verdict came."""
    _confirmed(disk, "1.0.0")
    on_watch = _update("1.1.0", UpdateState.ACTIVE)
    disk.versions.switch(_installed("1.1.0"), on_watch)
    back = _update("1.1.0", UpdateState.ROLLED_BACK, reason="crashed")
    disk.versions.go_back(_installed("1.1.0"), back, for_good=True)
    disk.versions.count(msgspec.structs.replace(on_watch, spent_s=15.0))
    assert not disk.versions.confirm(_update("1.1.0", UpdateState.CONFIRMED))
    found = disk.reopen()
    assert (found.update, str(found.floor)) == (back, "tiny@1.0.0")


def test_version_that_is_chosen_twice_is_not_turned_down(disk: Disk) -> None:
    _confirmed(disk, "1.0.0", "1.1.0")
    for _ in range(2):
        disk.versions.want(Wish(bundle="1.0.0", at_s=1.0))
        disk.versions.choose(_installed("1.0.0"), "by hand")
    found = disk.reopen()
    assert (found.active, found.older, found.wish) == (_installed("1.0.0"), (_installed("1.1.0"),), None)
    assert [found.turned_down(_hash(one)) for one in ("1.0.0", "1.1.0")] == [None, "by hand"]


def test_who_chooses_without_an_agent_keeps_as_many_as_that_keeps(disk: Disk) -> None:
    keeping_five = disk.versions_kept(5)
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"):
        keeping_five.switch(_installed(version), _update(version, UpdateState.ACTIVE))
    disk.write({KEPT: 5})
    disk.versions.choose(_installed("1.3.0"), "by hand")
    assert [one.bundle for one in disk.reopen().older] == ["tiny@1.2.0", "tiny@1.1.0", "tiny@1.0.0", "tiny@1.4.0"]


def test_version_that_was_just_left_stays_where_fewer_are_kept_now(disk: Disk) -> None:
    _confirmed(disk, "1.0.0", "1.1.0", "1.2.0")
    disk.write({KEPT: 2})
    disk.versions.choose(_installed("1.1.0"), "by hand")
    assert disk.reopen().older == (_installed("1.2.0"),)


def test_refusal_keeps_what_runs(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    disk.versions.refuse(_update("1.1.0", UpdateState.REFUSED, reason="wrong"), for_good=True)
    assert disk.reopen().active == _installed("1.0.0")


def test_every_refusal_is_remembered(disk: Disk) -> None:
    for version in ("1.1.0", "1.2.0"):
        disk.versions.refuse(_update(version, UpdateState.REFUSED, reason=f"why {version}"), for_good=True)
    found = disk.reopen()
    assert [found.turned_down(_hash(v)) for v in ("1.1.0", "1.2.0", "1.3.0")] == ["why 1.1.0", "why 1.2.0", None]


def test_refusal_for_now_turns_nothing_down(disk: Disk) -> None:
    disk.versions.refuse(_update("1.1.0", UpdateState.REFUSED, reason="not judged"), for_good=False)
    assert disk.reopen().turned_down(_hash("1.1.0")) is None


def test_falling_back_runs_the_version_before(disk: Disk) -> None:
    _confirmed(disk, "1.0.0", "1.1.0")
    disk.versions.fall_back(_installed("1.1.0"), "does not load")
    found = disk.reopen()
    assert found.update is not None
    assert (found.active, found.update.state, found.update.reason) == (
        _installed("1.0.0"),
        UpdateState.ROLLED_BACK,
        "does not load",
    )


def test_falling_back_leaves_the_update_of_another_version(disk: Disk) -> None:
    _confirmed(disk, "1.0.0", "1.1.0")
    refused = _update("1.2.0", UpdateState.REFUSED, reason="wrong")
    disk.versions.refuse(refused, for_good=True)
    disk.versions.fall_back(_installed("1.1.0"), "does not load")
    assert disk.reopen().update == refused


def test_nothing_wanted_is_an_answered_generation(disk: Disk) -> None:
    _confirmed(disk, "1.0.0")
    disk.versions.note_nothing_wanted(9)
    found = disk.reopen()
    assert (found.known_generation, found.active) == (9, _installed("1.0.0"))


def test_report_says_where_the_update_is(disk: Disk) -> None:
    report = _update("1.1.0", UpdateState.REFUSED, generation=4, reason="wrong").report()
    assert (report.generation, report.rollout_id, report.bundle, report.state, report.reason) == (
        4,
        "r1",
        "tiny@1.1.0",
        UpdateState.REFUSED,
        "wrong",
    )
