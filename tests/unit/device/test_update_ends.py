"""How updates end that do not go their way: by hand, by a crash, by a deadline, in their hours."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from torture.here import put_to_work_here

from builders import Parts, make_parts, quadrant_weights
from edgeloop.bundle.archive import Bundle, digest, entries
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.states import UpdateState
from edgeloop.contracts.window import parse_window
from edgeloop.device.config import Patience
from edgeloop.device.examine import Findings, Question
from edgeloop.device.exchange import Order
from edgeloop.device.lock import only_agent
from edgeloop.device.rollback import roll_back
from edgeloop.device.slots import AtWork
from edgeloop.device.state import Ended, Versions, Wish
from edgeloop.device.worker import Died
from updating import (
    CRASHED,
    KILLED,
    NOON_S,
    ON_WATCH,
    ArchiveSupply,
    Away,
    Device,
    Folder,
    Hanging,
    assigned,
    first_version,
    left_on_watch,
    second_version,
    supply_of,
    with_first,
)

_LEAVE_AFTER_S = 0.6


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
    left_on_watch(folder)
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


def test_rollback_without_an_agent_keeps_one_from_starting_meanwhile(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_three(folder).close()
    chosen, held = Versions.choose, []

    def choose(versions: Versions, *args: str) -> None:
        with suppress(Refused), only_agent(folder.device_folder):
            held.append("an agent began")
        held.append("chosen")
        chosen(versions, *args)

    monkeypatch.setattr(Versions, "choose", choose)
    roll_back(folder.device_folder, "1.0.0")
    assert held == ["chosen"]


def test_agent_that_begins_just_then_is_asked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_three(folder).close()
    monkeypatch.setattr("edgeloop.device.rollback.is_at_work", lambda folder: False)  # as it was a moment ago
    with only_agent(folder.device_folder), pytest.raises(Unavailable, match="as soon as it can"):
        roll_back(folder.device_folder, "1.0.0", within_s=0.2)
    assert _started(folder, Ended()).active == "tiny@1.2.0", "it is the agent's to do"


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
    left_on_watch(folder)
    device = _started(folder, CRASHED)
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")
    assert device.reason == "the agent's process crashed while it was on watch: Segmentation fault"


def test_version_that_crashed_is_not_taken_again(folder: Folder) -> None:
    left_on_watch(folder)
    device = _started(folder, CRASHED)
    device.take(assigned(second_version(folder), generation=3))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_kills_alone_leave_a_version_on_watch_twice_and_take_it_back_for_now_at_the_third(folder: Folder) -> None:
    left_on_watch(folder)
    assert [_started(folder, KILLED).runs for _ in range(3)] == ["tiny@1.1.0", "tiny@1.1.0", "tiny@1.0.0"]
    device = folder.device(supply_of(folder, second_version(folder)))
    assert "was killed 3 times" in device.reason
    device.updater.start()
    device.take(assigned(second_version(folder), generation=3))
    assert device.state is UpdateState.CONFIRMED


def test_clean_stops_on_watch_are_no_kills(folder: Folder) -> None:
    left_on_watch(folder)
    assert {_started(folder, Ended()).runs for _ in range(5)} == {"tiny@1.1.0"}


def test_first_version_that_crashes_is_left_for_nothing_so_that_a_better_one_can_come(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.take_until(UpdateState.ACTIVE, assigned(archive, watch=ON_WATCH))
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


def test_only_version_stays_however_often_the_agent_crashes(folder: Folder) -> None:
    with_first(folder)
    for _ in range(4):
        device = _started(folder, CRASHED)
    assert (device.runs, device.active) == ("tiny@1.0.0", "tiny@1.0.0")


def test_kills_are_no_trusted_versions_fault(folder: Folder) -> None:
    _with_three(folder)
    assert {_started(folder, KILLED).runs for _ in range(6)} == {"tiny@1.2.0"}


def test_crash_while_another_version_is_tried_is_not_the_trusted_ones_fault(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACCEPTING, assigned(second, generation=2))
    for _ in range(2):
        device = folder.device(supply_of(folder, second))
        device.updater.start(CRASHED)
        device.resume_until(UpdateState.ACCEPTING)
    device = folder.device(Away())
    device.updater.start(CRASHED)
    device.resume()
    assert (device.runs, device.state) == ("tiny@1.0.0", UpdateState.REFUSED)
    assert "did not survive trying it on this machine, 3 times: Segmentation fault" in device.reason


def test_clean_restarts_while_a_version_is_tried_do_not_speak_against_it(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACCEPTING, assigned(second, generation=2))
    for _ in range(5):
        device = folder.device(supply_of(folder, second))
        device.updater.start(Ended())
        device.resume_until(UpdateState.ACCEPTING)
    device = folder.device(supply_of(folder, second))
    device.updater.start(Ended())
    device.resume()
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


# ---- a version's process that died


def _died(device: Device, *, is_crash: bool = True, lived_s: float = 1.0, version: AtWork | None = None) -> None:
    """The active version's process, unless told."""
    slot = device.slots.current
    assert slot is not None
    told = "crashed while answering: SIGSEGV" if is_crash else "was ended by SIGKILL while answering"
    device.updater.hear_of_death(version or slot.active, Died(told, is_crash=is_crash, lived_s=lived_s))


def _watched(folder: Folder) -> Device:
    """1.1.0 is on watch over 1.0.0, and its agent at work."""
    left_on_watch(folder)
    return _started(folder, Ended())


def test_crash_on_watch_goes_back_at_once_for_good(folder: Folder) -> None:
    device = _watched(folder)
    slot = device.slots.current
    assert slot is not None
    _died(device)
    device.resume()
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")
    assert device.reason == "crashed while answering: SIGSEGV"
    after = device.slots.current
    assert after is not None
    assert after.active is slot.shadow, "what shadowed it goes on, in the same process"
    device.take(assigned(second_version(folder), generation=3))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_power_cut_between_a_crash_and_the_way_back_comes_to_the_same_end(folder: Folder) -> None:
    _died(_watched(folder))
    device = _started(folder, KILLED)
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")
    assert device.reason == "crashed while answering: SIGSEGV"
    assert device.versions.turned_down(assigned(second_version(folder)).manifest_sha256) is not None


def test_kills_on_watch_take_it_back_for_now_at_the_third_also_over_restarts(folder: Folder) -> None:
    device = _watched(folder)
    for _ in range(2):
        _died(device, is_crash=False)
    device = _started(folder, Ended())
    assert device.runs == "tiny@1.1.0"
    _died(device, is_crash=False)
    device.resume()
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")
    assert "killed 3 times while it was on watch: was ended by SIGKILL" in device.reason
    again = folder.device(supply_of(folder, second_version(folder)))
    again.updater.start()
    again.take(assigned(second_version(folder), generation=3))
    assert again.state is UpdateState.CONFIRMED


def test_death_of_the_shadow_or_of_a_version_that_left_means_nothing(folder: Folder) -> None:
    device = _watched(folder)
    slot = device.slots.current
    assert slot is not None
    _died(device, version=slot.shadow)
    assert device.versions.deaths is None
    _grant(device, "")
    _died(device, version=slot.active)
    assert device.versions.deaths is None


def test_trusted_version_whose_processes_crash_three_times_in_a_row_goes_back_for_now(folder: Folder) -> None:
    device = _with_three(folder)
    for lived_s, crashes in ((3600.0, False), (0.1, False), (0.1, True)):
        _died(device, lived_s=lived_s)
        assert device.updater.is_crashing is crashes
    device.updater.leave_if_it_crashes()
    assert (device.runs, device.state) == ("tiny@1.1.0", UpdateState.ROLLED_BACK)
    assert device.reason == "crashed 3 times in a row: crashed while answering: SIGSEGV"
    assert device.versions.turned_down(assigned(folder.write(_version(2))).manifest_sha256) is None
    assert not device.updater.is_crashing


def test_trusted_version_that_crashed_in_a_row_is_left_at_the_next_start_too(folder: Folder) -> None:
    device = _with_three(folder)
    for _ in range(3):
        _died(device)
    assert _started(folder, KILLED).runs == "tiny@1.1.0"


def test_crashes_with_a_minute_between_them_leave_a_trusted_version_where_it_is(folder: Folder) -> None:
    device = _with_three(folder)
    for _ in range(5):
        _died(device, lived_s=61.0)
    assert not device.updater.is_crashing


def test_kills_of_its_process_are_no_trusted_versions_fault(folder: Folder) -> None:
    device = _with_three(folder)
    for _ in range(10):
        _died(device, is_crash=False)
    assert not device.updater.is_crashing
    assert _started(folder, Ended()).runs == "tiny@1.2.0"


def test_only_version_that_crashes_goes_on(folder: Folder) -> None:
    device = with_first(folder)
    for _ in range(5):
        _died(device)
    device.updater.leave_if_it_crashes()
    assert (device.runs, device.updater.is_crashing) == ("tiny@1.0.0", False)


def test_version_that_is_killed_while_it_loads_at_a_start_is_not_left(folder: Folder) -> None:
    with_first(folder).close()

    def killed(order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        raise Died("was ended by SIGKILL while loading", is_crash=False, lived_s=0.1)

    device = folder.device(Away(), put_to_work=killed)
    device.updater.start()
    assert (device.runs, device.active) == ("tiny@1.0.0", "tiny@1.0.0")


def test_version_that_cannot_be_loaded_to_work_is_not_switched_to(folder: Folder) -> None:
    second = second_version(folder)
    with_first(folder, second).close()

    def crashing(order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        if str(bundle.manifest.ref) == "tiny@1.1.0":
            raise Died("crashed while loading: SIGSEGV", is_crash=True, lived_s=0.1)
        return put_to_work_here(order, bundle, variant)

    device = folder.device(supply_of(folder, second), put_to_work=crashing)
    device.updater.start()
    device.take(assigned(second, generation=2))
    assert (device.state, device.runs, device.active) == (UpdateState.REFUSED, "tiny@1.0.0", "tiny@1.0.0")
    assert "it passed its trial, and yet it cannot be loaded to work" in device.reason


# ---- deadlines


def test_download_that_never_ends_is_refused_and_may_be_assigned_again(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(Hanging(archive), patience=Patience(download_s=0.05))
    device.take(assigned(archive))
    assert (device.state, device.reason) == (UpdateState.REFUSED, "downloading it took longer than 0 s")
    again = folder.device(ArchiveSupply(archive))
    again.take(assigned(archive, generation=2))
    assert again.state is UpdateState.CONFIRMED


class Waiting(ArchiveSupply):
    """A supply that gives leave for each file late, as a day's budget does."""

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        began_s = time.monotonic()
        await asyncio.sleep(_LEAVE_AFTER_S)
        self.waited_s += time.monotonic() - began_s
        await super().fetch(target, shelf, sha256, size_bytes)


def test_download_that_waits_for_leave_is_not_late(folder: Folder) -> None:
    """Four files wait for 2.4 s, and have 2 s; what they do beside waiting takes moments."""
    archive = first_version(folder)
    device = folder.device(Waiting(archive), patience=Patience(download_s=2.0))
    device.take(assigned(archive))
    assert device.state is UpdateState.CONFIRMED, device.reason


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
    left_on_watch(folder)
    device = _started(folder, Ended())
    assert device.versions.update is not None
    long_ago = msgspec.structs.replace(device.versions.update, since_s=0.0)
    device.versions.note(long_ago)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(device.updater.resume(), 0.3))
    assert device.state is UpdateState.ACTIVE


def test_time_on_watch_counts_over_restarts(folder: Folder) -> None:
    left_on_watch(folder)
    device = _started(folder, Ended())
    assert device.versions.update is not None
    device.versions.note(msgspec.structs.replace(device.versions.update, spent_s=601.0))
    device.resume()
    assert (device.state, "no reading came within 600 s" in device.reason) == (UpdateState.CONFIRMED, True)


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
    device.take_until(UpdateState.WAITING, wanted, generation=2)
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
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("01:00-05:00 utc"))
    device.take_until(UpdateState.WAITING, wanted)
    again = folder.device(Away(), clock=lambda: NOON_S + 14 * 3600)
    again.updater.start()
    again.resume()
    assert (again.state, again.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")
