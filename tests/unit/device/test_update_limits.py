"""What ends an update that gets nowhere: a wish that was taken back, and time that counts over restarts."""

import asyncio

import msgspec
import pytest

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.states import UpdateState
from edgeloop.contracts.window import parse_window
from edgeloop.device.config import Patience
from edgeloop.device.state import Ended
from updating import (
    CRASHED,
    KILLED,
    NOON_S,
    ArchiveSupply,
    Away,
    Device,
    Folder,
    Hanging,
    assigned,
    first_version,
    second_version,
    supply_of,
    two_variants,
    with_first,
)

_MOST_TRIES = 40


# ---- nothing is wanted any more


@pytest.mark.parametrize("state", [UpdateState.DOWNLOADING, UpdateState.VERIFYING, UpdateState.ACCEPTING])
def test_aborted_first_version_does_not_come_back_at_the_next_start(folder: Folder, state: UpdateState) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.take_until(state, assigned(archive))
    again = folder.device(ArchiveSupply(archive))
    again.updater.start()
    again.take(None, generation=2)
    assert (again.state, again.reason) == (
        UpdateState.REFUSED,
        "withdrawn: nothing is wanted of this device any more",
    )
    last = folder.device(ArchiveSupply(archive))
    last.updater.start()
    last.resume()
    assert (last.state, last.runs, last.versions.known_generation) == (UpdateState.REFUSED, None, 2)
    last.take(assigned(archive, generation=3))
    assert last.state is UpdateState.CONFIRMED, "it was not turned down"


# ---- ends of the agent's process while a version waits for its hours


def _waiting(folder: Folder) -> Device:
    second = second_version(folder)
    device = with_first(folder, second)
    wanted = msgspec.structs.replace(assigned(second, generation=2), window=parse_window("01:00-05:00 utc"))
    device = folder.device(supply_of(folder, second), clock=lambda: NOON_S)
    device.updater.start()
    device.take_until(UpdateState.WAITING, wanted, generation=2)
    return device


def test_ends_while_a_version_waits_for_its_hours_do_not_speak_against_it(folder: Folder) -> None:
    _waiting(folder)
    for _ in range(5):
        device = folder.device(Away(), clock=lambda: NOON_S)
        device.updater.start(KILLED)
        device.resume_until(UpdateState.WAITING)
    device = folder.device(Away(), clock=lambda: NOON_S + 14 * 3600)
    device.updater.start(KILLED)
    device.resume()
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


def test_crash_while_another_version_waits_for_its_hours_counts_for_the_one_that_runs(folder: Folder) -> None:
    _waiting(folder)
    device = folder.device(Away(), clock=lambda: NOON_S)
    device.updater.start(CRASHED)
    assert device.versions.count_crash() == 2


@pytest.mark.parametrize(("ended", "is_for_good"), [(KILLED, False), (CRASHED, True)])
def test_agent_that_does_not_survive_trying_refuses_for_good_only_for_a_crash(
    folder: Folder, ended: Ended, is_for_good: bool
) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACCEPTING, assigned(second, generation=2))
    for _ in range(2):
        device = folder.device(supply_of(folder, second))
        device.updater.start(ended)
        device.resume_until(UpdateState.ACCEPTING)
    device = folder.device(supply_of(folder, second))
    device.updater.start(ended)
    device.resume()
    assert device.state is UpdateState.REFUSED
    assert (device.versions.turned_down(assigned(second).manifest_sha256) is not None) == is_for_good


# ---- downloads


class Partly(ArchiveSupply):
    """A supply that never has one of the files: it works on it for a while and gives up, or hangs."""

    late = ""
    hangs = False

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        if sha256 == self.late:
            await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0.03))
            raise Unavailable("the link broke")
        await super().fetch(target, shelf, sha256, size_bytes)


def test_second_candidate_that_hangs_is_given_up_as_a_download(folder: Folder) -> None:
    parts, _, good = two_variants("1.0.0")
    archive = folder.write(parts)
    supply = Partly(archive)
    supply.late, supply.hangs = good, True
    device = folder.device(supply, patience=Patience(download_s=0.5))
    device.take(assigned(archive))
    assert (device.state, "downloading it took longer" in device.reason) == (UpdateState.REFUSED, True)
    assert device.states[-2] is UpdateState.DOWNLOADING


def test_second_candidate_whose_link_breaks_again_and_again_comes_to_an_end(folder: Folder) -> None:
    parts, _, good = two_variants("1.0.0")
    archive = folder.write(parts)
    supply = Partly(archive)
    supply.late = good
    device = folder.device(supply, patience=Patience(download_s=60.0))
    with pytest.raises(Unavailable):
        device.take(assigned(archive))
    for _ in range(_MOST_TRIES):
        device = folder.device(supply, patience=Patience(download_s=0.3))
        device.updater.start()
        try:
            device.resume()
        except Unavailable:
            continue
        break
    assert (device.state, "downloading it took longer" in device.reason) == (UpdateState.REFUSED, True)


def test_time_of_a_download_that_hangs_adds_up_over_stops(folder: Folder) -> None:
    archive = first_version(folder)
    for _ in range(_MOST_TRIES):
        device = folder.device(Hanging(archive), patience=Patience(download_s=1.0))
        device.updater.start()
        try:
            asyncio.run(asyncio.wait_for(device.updater.take(assigned(archive), generation=1), 0.3))
        except TimeoutError:
            continue
        break
    assert (device.state, device.reason) == (UpdateState.REFUSED, "downloading it took longer than 1 s")


def test_time_of_a_download_is_written_down_while_it_lasts(folder: Folder) -> None:
    """So that a kill does not begin it anew."""
    archive = first_version(folder)
    device = folder.device(Hanging(archive), patience=Patience(note_every_s=0.05))

    async def noted() -> float:
        taking = asyncio.create_task(device.updater.take(assigned(archive), generation=1))
        while (update := device.versions.update) is None or not update.download_s:
            await asyncio.sleep(0.02)
        taking.cancel()
        return update.download_s

    assert asyncio.run(asyncio.wait_for(noted(), 60)) > 0.0
