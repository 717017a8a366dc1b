"""How updates end that do not go their way: by hand, by a crash, by a deadline, in their hours."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from builders import Parts, make_parts, quadrant_weights
from edgeloop.bundle.archive import digest, entries
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import NotFound, Refused, Unavailable
from edgeloop.contracts.states import UpdateState
from edgeloop.contracts.window import parse_window
from edgeloop.device.config import Patience
from edgeloop.device.examine import Findings, Question
from edgeloop.device.lock import only_agent
from edgeloop.device.rollback import roll_back
from edgeloop.device.state import Ended, Wish
from updating import (
    KILLED,
    ON_WATCH,
    ArchiveSupply,
    Away,
    Device,
    Folder,
    Killed,
    assigned,
    first_version,
    second_version,
    supply_of,
    with_first,
)

CRASHED = Ended(is_clean=False, crash="Segmentation fault")
NOON_S = 1_800_014_400.0
"""2027-01-15 12:00 UTC."""


def _with_three(folder: Folder) -> Device:
    """A device on which 1.0.0, 1.1.0 and 1.2.0 were confirmed one after another."""
    archives = [folder.write(_version(n)) for n in range(3)]
    device = folder.device(ArchiveSupply(*archives))
    for generation, archive in enumerate(archives, start=1):
        device.take(assigned(archive, generation=generation))
    assert device.runs == "tiny@1.2.0"
    return device


def _version(number: int) -> Parts:
    return make_parts(version=f"1.{number}.0", weights=quadrant_weights(sharpness=20.0 + number))


def _on_watch(folder: Folder) -> Device:
    """1.1.0 is active over 1.0.0, and its process was killed."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.kill_at(UpdateState.ACTIVE)
    with pytest.raises(Killed):
        device.take(assigned(second, generation=2, watch=ON_WATCH))
    return device


def _started(folder: Folder, ended: Ended) -> Device:
    device = folder.device(Away())
    device.updater.start(ended)
    return device


# ---- by hand


def _grant(device: Device, bundle: str) -> None:
    device.updater.grant(Wish(bundle=bundle, at_s=1.0))


@pytest.mark.parametrize(
    ("wanted", "runs"), [("", "tiny@1.1.0"), ("1.0.0", "tiny@1.0.0"), ("tiny@1.0.0", "tiny@1.0.0")]
)
def test_any_kept_version_can_be_gone_back_to(folder: Folder, wanted: str, runs: str) -> None:
    device = _with_three(folder)
    _grant(device, wanted)
    assert (device.runs, device.active) == (runs, runs)


def test_what_was_left_is_told_as_rolled_back(folder: Folder) -> None:
    device = _with_three(folder)
    _grant(device, "1.0.0")
    assert (device.state, device.reason) == (
        UpdateState.ROLLED_BACK,
        "rolled back by hand at the device, to tiny@1.0.0",
    )


def test_what_was_left_is_not_taken_again_by_itself(folder: Folder) -> None:
    device = _with_three(folder)
    _grant(device, "1.0.0")
    device.take(assigned(folder.write(_version(2)), generation=9))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")
    assert "turned down here before: rolled back by hand" in device.reason


def test_what_was_left_can_be_chosen_again(folder: Folder) -> None:
    device = _with_three(folder)
    _grant(device, "1.0.0")
    _grant(device, "1.2.0")
    assert device.runs == "tiny@1.2.0"
    assert device.versions.turned_down(assigned(folder.write(_version(2))).manifest_sha256) is None


def test_floor_stays_for_the_hub_when_somebody_goes_below_it(folder: Folder) -> None:
    device = _with_three(folder)
    _grant(device, "1.0.0")
    between = folder.write(make_parts(version="1.0.5", weights=quadrant_weights(sharpness=30.0)))
    device.take(assigned(between, generation=9))
    assert str(device.versions.floor) == "tiny@1.2.0"
    assert (device.state, "is older than tiny@1.2.0" in device.reason) == (UpdateState.REFUSED, True)


def test_newer_version_is_taken_after_a_rollback_by_hand(folder: Folder) -> None:
    newest = folder.write(_version(3))
    device = _with_three(folder)
    _grant(device, "1.0.0")
    again = folder.device(ArchiveSupply(newest))
    again.updater.start()
    again.take(assigned(newest, generation=9))
    assert (again.state, again.runs) == (UpdateState.CONFIRMED, "tiny@1.3.0")
    assert [one.bundle for one in again.versions.older] == ["tiny@1.0.0", "tiny@1.1.0"]


def test_rollback_by_hand_outlives_a_restart(folder: Folder) -> None:
    _grant(_with_three(folder), "1.0.0")
    assert _started(folder, Ended()).runs == "tiny@1.0.0"


def test_version_on_watch_can_be_left_by_hand(folder: Folder) -> None:
    _on_watch(folder)
    device = _started(folder, Ended())
    _grant(device, "")
    device.resume()
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


def test_wish_for_what_is_not_kept_changes_nothing(folder: Folder) -> None:
    device = _with_three(folder)
    device.versions.want(Wish(bundle="tiny@0.1.0", at_s=1.0))
    _grant(device, "tiny@0.1.0")
    assert (device.runs, device.versions.wish) == ("tiny@1.2.0", None)
    assert device.versions.wish_failed == (
        "tiny@0.1.0 is not kept here; kept besides what runs: tiny@1.1.0, tiny@1.0.0"
    )


def test_wish_for_what_does_not_load_changes_nothing(folder: Folder) -> None:
    device = _with_three(folder)
    folder.damage(_version(0).manifest.variants[0].file)
    _grant(device, "1.0.0")
    assert (device.runs, device.active) == ("tiny@1.2.0", "tiny@1.2.0")


def test_rollback_without_an_agent_is_done_on_the_disk(folder: Folder) -> None:
    _with_three(folder).close()
    assert roll_back(folder.device_folder, "1.0.0").bundle == "tiny@1.0.0"
    device = _started(folder, Ended())
    assert (device.runs, device.state) == ("tiny@1.0.0", UpdateState.ROLLED_BACK)


@pytest.mark.parametrize("wanted", ["1.2.0", "9.9.9"])
def test_rollback_to_what_runs_or_is_not_kept_says_what_is(folder: Folder, wanted: str) -> None:
    _with_three(folder).close()
    with pytest.raises(NotFound, match=r"tiny@1\.1\.0, tiny@1\.0\.0"):
        roll_back(folder.device_folder, wanted)


def test_rollback_with_nothing_older_is_not_found(folder: Folder) -> None:
    with_first(folder).close()
    with pytest.raises(NotFound, match="an older version is not kept here"):
        roll_back(folder.device_folder)


def test_agent_that_is_at_work_and_does_not_answer_is_told_and_waited_for(folder: Folder) -> None:
    device = _with_three(folder)
    with only_agent(folder.device_folder), pytest.raises(Unavailable, match="as soon as it can"):
        roll_back(folder.device_folder, "1.0.0", within_s=0.2)
    assert (device.active, device.versions.wish and device.versions.wish.bundle) == ("tiny@1.2.0", "tiny@1.0.0")


def test_second_agent_in_a_folder_is_refused(tmp_path: Path) -> None:
    with only_agent(tmp_path), pytest.raises(Refused, match="already"), only_agent(tmp_path):
        pass


# ---- a process that crashed


def test_crash_on_watch_goes_back_at_the_next_start_without_a_network(folder: Folder) -> None:
    _on_watch(folder)
    device = _started(folder, CRASHED)
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")
    assert device.reason == "the agent's process crashed while it was on watch: Segmentation fault"


def test_version_that_crashed_is_not_taken_again(folder: Folder) -> None:
    _on_watch(folder)
    device = _started(folder, CRASHED)
    device.take(assigned(second_version(folder), generation=3))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_kills_alone_leave_a_version_on_watch_twice_and_take_it_back_for_now_at_the_third(folder: Folder) -> None:
    _on_watch(folder)
    assert [_started(folder, KILLED).runs for _ in range(3)] == ["tiny@1.1.0", "tiny@1.1.0", "tiny@1.0.0"]
    device = folder.device(supply_of(folder, second_version(folder)))
    assert "was killed 3 times" in device.reason
    device.updater.start()
    device.take(assigned(second_version(folder), generation=3))
    assert device.state is UpdateState.CONFIRMED


def test_clean_stops_on_watch_are_no_kills(folder: Folder) -> None:
    _on_watch(folder)
    assert {_started(folder, Ended()).runs for _ in range(5)} == {"tiny@1.1.0"}


def test_first_version_that_crashes_is_left_for_nothing_so_that_a_better_one_can_come(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.kill_at(UpdateState.ACTIVE)
    with pytest.raises(Killed):
        device.take(assigned(archive, watch=ON_WATCH))
    assert [_started(folder, KILLED).runs for _ in range(4)] == ["tiny@1.0.0"] * 4
    assert _started(folder, CRASHED).runs is None


def test_trusted_version_goes_back_after_three_crashes_in_a_row(folder: Folder) -> None:
    _with_three(folder)
    assert [_started(folder, CRASHED).runs for _ in range(3)] == ["tiny@1.2.0", "tiny@1.2.0", "tiny@1.1.0"]
    device = _started(folder, Ended())
    assert (device.state, "crashed 3 times in a row" in device.reason) == (UpdateState.ROLLED_BACK, True)


def test_trusted_version_that_ran_for_a_while_between_crashes_stays(folder: Folder) -> None:
    _with_three(folder)
    for _ in range(5):
        device = _started(folder, CRASHED)
        device.versions.forget_crashes()
    assert device.runs == "tiny@1.2.0"


def test_kills_are_no_trusted_versions_fault(folder: Folder) -> None:
    _with_three(folder)
    assert {_started(folder, KILLED).runs for _ in range(6)} == {"tiny@1.2.0"}


def test_crash_while_another_version_is_tried_is_not_the_trusted_ones_fault(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.kill_at(UpdateState.ACCEPTING)
    with pytest.raises(Killed):
        device.take(assigned(second, generation=2))
    for _ in range(2):
        device = folder.device(supply_of(folder, second))
        device.updater.start(CRASHED)
        device.kill_at(UpdateState.ACCEPTING)
        with pytest.raises(Killed):
            device.resume()
    device = folder.device(Away())
    device.updater.start(CRASHED)
    device.resume()
    assert (device.runs, device.state) == ("tiny@1.0.0", UpdateState.REFUSED)
    assert "did not survive trying it on this machine, 3 times: Segmentation fault" in device.reason


def test_clean_restarts_while_a_version_is_tried_do_not_speak_against_it(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.kill_at(UpdateState.ACCEPTING)
    with pytest.raises(Killed):
        device.take(assigned(second, generation=2))
    for _ in range(5):
        device = folder.device(supply_of(folder, second))
        device.updater.start(Ended())
        device.kill_at(UpdateState.ACCEPTING)
        with pytest.raises(Killed):
            device.resume()
    device = folder.device(supply_of(folder, second))
    device.updater.start(Ended())
    device.resume()
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


# ---- deadlines


class Hanging(ArchiveSupply):
    """A supply whose files never come to an end."""

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        await asyncio.Event().wait()


def test_download_that_never_ends_is_refused_and_may_be_assigned_again(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(Hanging(archive), patience=Patience(download_s=0.05))
    device.take(assigned(archive))
    assert (device.state, device.reason) == (UpdateState.REFUSED, "downloading it took longer than 0 s")
    again = folder.device(ArchiveSupply(archive))
    again.take(assigned(archive, generation=2))
    assert again.state is UpdateState.CONFIRMED


class Failing(ArchiveSupply):
    """A supply that works for a while on each file, and gives up."""

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        await asyncio.sleep(0.03)
        raise Unavailable("the link broke")


def test_time_of_broken_downloads_adds_up_over_restarts(folder: Folder) -> None:
    archive = first_version(folder)
    wanted = assigned(archive)
    for _ in range(20):
        device = folder.device(Failing(archive), patience=Patience(download_s=0.08))
        device.updater.start()
        try:
            device.resume() if device.versions.update else device.take(wanted)
        except Unavailable:
            continue
        break
    assert device.state is UpdateState.REFUSED


def test_time_on_watch_is_not_what_the_clock_says(folder: Folder) -> None:
    _on_watch(folder)
    device = _started(folder, Ended())
    assert device.versions.update is not None
    long_ago = msgspec.structs.replace(device.versions.update, since_s=0.0)
    device.versions.note(long_ago)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(device.updater.resume(), 0.3))
    assert device.state is UpdateState.ACTIVE


def test_time_on_watch_counts_over_restarts(folder: Folder) -> None:
    _on_watch(folder)
    device = _started(folder, Ended())
    assert device.versions.update is not None
    device.versions.note(msgspec.structs.replace(device.versions.update, spent_s=601.0))
    device.resume()
    assert (device.state, "nothing failed within 600 s" in device.reason) == (UpdateState.CONFIRMED, True)


def test_all_variants_together_have_the_time_of_one_acceptance(folder: Folder) -> None:
    parts = make_parts()
    variant = parts.manifest.variants[0]
    models = [parts.files[variant.file] + bytes([n]) for n in range(3)]
    variants = tuple(msgspec.structs.replace(variant, file=digest(one), size_bytes=len(one)) for one in models)
    files = {sha: data for sha, data in parts.files.items() if sha != variant.file} | {digest(m): m for m in models}
    manifest = msgspec.structs.replace(parts.manifest, variants=variants, files=entries(files.values()))
    archive = folder.write(Parts(manifest, files))
    asked: list[float] = []

    async def slow(question: Question, manifest: bytes) -> Findings:
        asked.append(question.within_s)
        return Findings(failure="no", is_passing=False)

    device = folder.device(ArchiveSupply(archive), ask=slow, accept_s=45.0)
    device.take(assigned(archive))
    assert [round(one) for one in asked] == [30, 30, 45]


# ---- in their hours


def _in_hours(folder: Folder, clock: Callable[[], float]) -> tuple[Device, Path]:
    second = second_version(folder)
    device = folder.device(supply_of(folder, second), clock=clock)
    device.take(assigned(first_version(folder)))
    device.states.clear()
    return device, second


def test_version_is_tried_and_waits_for_its_hours(folder: Folder) -> None:
    device, second = _in_hours(folder, lambda: NOON_S)
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("01:00-05:00 utc"))
    device.kill_at(UpdateState.WAITING)
    with pytest.raises(Killed):
        device.take(wanted, generation=2)
    assert device.states[-2:] == [UpdateState.ACCEPTING, UpdateState.WAITING]
    assert (device.runs, device.reason) == ("tiny@1.0.0", "accepted; waits for its hours, 01:00-05:00 utc")


def test_version_is_put_to_work_as_its_hours_begin(folder: Folder) -> None:
    passed = iter([NOON_S + 59.95] * 2)
    device, second = _in_hours(folder, lambda: next(passed, NOON_S + 61.0))
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("12:01-13:00 utc"))
    device.take(wanted, generation=2)
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


def test_version_is_put_to_work_at_once_within_its_hours(folder: Folder) -> None:
    device, second = _in_hours(folder, lambda: NOON_S)
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("11:00-13:00 utc"))
    device.take(wanted, generation=2)
    assert UpdateState.WAITING not in device.states
    assert device.state is UpdateState.CONFIRMED


def test_restart_while_waiting_ends_in_the_same_wait(folder: Folder) -> None:
    device, second = _in_hours(folder, lambda: NOON_S)
    device.kill_at(UpdateState.WAITING)
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("01:00-05:00 utc"))
    with pytest.raises(Killed):
        device.take(wanted)
    again = folder.device(Away(), clock=lambda: NOON_S + 14 * 3600)
    again.updater.start()
    again.resume()
    assert (again.state, again.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")
