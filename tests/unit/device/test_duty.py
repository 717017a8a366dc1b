"""A version that does not load, or must be left, while the machine below it is not well."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from torture.here import put_to_work_here

from builders import make_parts
from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.states import UpdateState
from edgeloop.device.accept import Acceptance, PutToWork
from edgeloop.device.config import Pace
from edgeloop.device.duty import Duty, in_full
from edgeloop.device.exchange import Order
from edgeloop.device.slots import AtWork
from edgeloop.device.state import Ended, Wish
from edgeloop.device.worker import Died
from small_disk import fill, small_disk
from updating import (
    ON_WATCH,
    SURER,
    Away,
    Device,
    Folder,
    Killed,
    assigned,
    second_version,
    with_first,
)

_LOADS_IN_S = 0.5


class Machine:
    """Puts versions to work, as long as it can. lacks: the versions whose engine is not there, all for "*"."""

    def __init__(self, *lacks: str) -> None:
        self.lacks = set(lacks)
        self.loaded: list[str] = []

    def __call__(self, order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        """See PutToWork."""
        ref = str(bundle.manifest.ref)
        self.loaded.append(ref)
        if self.lacks & {ref, "*"}:
            raise Unavailable("the engine onnxruntime is not installed here")
        return put_to_work_here(order, bundle, variant)


def _crashing(ref: str) -> PutToWork:
    def crashing(order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        if str(bundle.manifest.ref) == ref:
            raise Died("crashed while loading: SIGSEGV", is_crash=True, lived_s=0.1)
        return put_to_work_here(order, bundle, variant)

    return crashing


def _with_second(folder: Folder) -> None:
    """1.1.0 is confirmed over 1.0.0."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.take(assigned(second, generation=2))
    assert device.active == "tiny@1.1.0"


def _started(folder: Folder, put_to_work: PutToWork = put_to_work_here) -> Device:
    device = folder.device(Away(), put_to_work=put_to_work)
    device.updater.start()
    return device


def _on_watch(folder: Folder, put_to_work: PutToWork = put_to_work_here) -> Device:
    """1.1.0 is on watch over 1.0.0."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.kill_at(UpdateState.ACTIVE)
    with pytest.raises(Killed):
        device.take(assigned(second, generation=2, watch=ON_WATCH))
    return _started(folder, put_to_work)


def _when_due(device: Device, *, within_s: float = 60.0) -> None:
    until_s = time.monotonic() + within_s
    while not device.updater.is_due:
        assert time.monotonic() < until_s, "it is never tried again"
        time.sleep(0.05)
    device.updater.try_again()


# ---- what does not load


def test_engine_that_is_missing_at_one_start_costs_no_version(folder: Folder) -> None:
    _with_second(folder)
    device = _started(folder, Machine("*"))
    assert (device.runs, device.active, device.state) == (None, "tiny@1.1.0", UpdateState.CONFIRMED)
    assert [one.bundle for one in device.versions.older] == ["tiny@1.0.0"]
    assert [str(ref) for ref in device.shelf.refs()] == ["tiny@1.0.0", "tiny@1.1.0"]
    assert "tiny@1.1.0 does not load and is tried again: the engine onnxruntime is not" in device.updater.trouble
    again = _started(folder)
    assert (again.runs, again.updater.trouble) == ("tiny@1.1.0", "")


def test_older_version_stands_in_for_one_that_does_not_load_now(folder: Folder) -> None:
    _with_second(folder)
    device = _started(folder, Machine("tiny@1.1.0"))
    assert (device.runs, device.active) == ("tiny@1.0.0", "tiny@1.1.0")
    assert "tiny@1.0.0 answers meanwhile" in device.updater.trouble


def test_version_that_did_not_load_runs_as_soon_as_it_does(folder: Folder) -> None:
    _with_second(folder)
    machine = Machine("tiny@1.1.0")
    device = _started(folder, machine)
    device.updater.try_again()
    assert machine.loaded.count("tiny@1.1.0") == 1, "not before its time"
    standing_in = device.slots.current
    _when_due(device)
    assert (device.runs, device.slots.current is standing_in) == ("tiny@1.0.0", True), "what stands in goes on as it is"
    machine.lacks.clear()
    _when_due(device)
    assert (device.runs, device.updater.trouble, device.updater.is_due) == ("tiny@1.1.0", "", False)


def test_disk_that_fails_once_costs_no_version(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_second(folder)

    def failing(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", failing)
        device = _started(folder)
    assert (device.runs, device.active) == (None, "tiny@1.1.0")
    _when_due(device)
    assert device.runs == "tiny@1.1.0"


def test_version_that_lost_its_file_is_left(folder: Folder) -> None:
    _with_second(folder)
    (folder.device_folder / "bundles" / "files" / make_parts(weights=SURER).manifest.variants[0].file).unlink()
    device = _started(folder)
    assert (device.runs, device.active, device.state) == ("tiny@1.0.0", "tiny@1.0.0", UpdateState.ROLLED_BACK)


def test_trusted_version_that_crashes_while_it_loads_is_left_after_three_in_a_row(folder: Folder) -> None:
    _with_second(folder)
    actives = []
    for _ in range(3):
        device = _started(folder, _crashing("tiny@1.1.0"))
        assert device.runs == "tiny@1.0.0"
        actives.append(device.active)
    assert actives == ["tiny@1.1.0", "tiny@1.1.0", "tiny@1.0.0"]
    assert "crashed 3 times in a row: crashed while loading: SIGSEGV" in device.reason


def test_version_on_watch_that_crashes_while_it_loads_goes_back_at_once(folder: Folder) -> None:
    device = _on_watch(folder, _crashing("tiny@1.1.0"))
    assert (device.runs, device.active, device.state) == ("tiny@1.0.0", "tiny@1.0.0", UpdateState.ROLLED_BACK)


def test_watch_is_taken_up_once_the_version_loads(folder: Folder) -> None:
    machine = Machine("tiny@1.1.0")
    device = _on_watch(folder, machine)

    async def watched() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(device.updater.resume())
            machine.lacks.clear()
            await asyncio.to_thread(_when_due, device)
            device.see(disagreements=20)

    asyncio.run(asyncio.wait_for(watched(), 120))
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


def test_version_on_watch_that_never_loads_goes_back_for_now_at_its_deadline(folder: Folder) -> None:
    device = _on_watch(folder, Machine("tiny@1.1.0"))
    assert device.versions.update is not None
    assignment = device.versions.update.assignment
    device.versions.note(msgspec.structs.replace(device.versions.update, spent_s=601.0))
    device.resume()
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")
    assert "does not load and is tried again" in device.reason
    assert device.versions.turned_down(assignment.manifest_sha256) is None


def test_version_that_was_left_for_a_crash_is_not_left_again_for_what_it_answered(folder: Folder) -> None:
    device = _on_watch(folder)
    update = device.versions.update
    assert update is not None
    acceptance = Acceptance(Pace(folder.device_folder / "races"), put_to_work=put_to_work_here)
    duty = Duty(device.versions, device.shelf, device.slots, acceptance, on_change=lambda: None)
    device.versions.count_death("tiny@1.1.0", "SIGSEGV", is_crash=True, is_in_a_row=True)
    duty.heed(Ended())
    duty.leave(msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason="slow"), for_good=True)
    assert (device.runs, device.active, device.reason) == ("tiny@1.0.0", "tiny@1.0.0", "SIGSEGV")


# ---- a full disk


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Folder, Callable[[], Path]]]:
    """A device's folder on a disk, and what fills it."""
    with small_disk(tmp_path / "disk") as disk:
        made = Folder(disk)
        yield made, lambda: fill(disk)
        made.close()


def test_rollback_does_not_wait_for_a_full_disk(full: tuple[Folder, Callable[[], Path]]) -> None:
    folder, filled = full
    device = _on_watch(folder)
    ballast = filled()
    device.see(disagreements=20)
    device.resume()
    assert (device.runs, device.active, device.state) == ("tiny@1.0.0", "tiny@1.0.0", UpdateState.ROLLED_BACK)
    with pytest.raises(Unavailable):
        device.versions.save()
    ballast.unlink()
    device.versions.save()
    again = _started(folder)
    assert (again.runs, again.state) == ("tiny@1.0.0", UpdateState.ROLLED_BACK)
    assert again.versions.turned_down(assigned(second_version(folder)).manifest_sha256) is not None


def test_crashes_are_forgotten_while_the_disk_takes_nothing(full: tuple[Folder, Callable[[], Path]]) -> None:
    folder, filled = full
    device = _started(folder)
    device.versions.count_crash()
    ballast = filled()
    device.versions.forget_crashes()
    ballast.unlink()
    assert device.versions.count_crash() == 1


def test_rollback_by_hand_does_not_wait_for_a_full_disk(full: tuple[Folder, Callable[[], Path]]) -> None:
    folder, filled = full
    _with_second(folder)
    device = _started(folder)
    filled()
    device.updater.grant(Wish(bundle="1.0.0", at_s=1.0))
    assert (device.runs, device.active) == ("tiny@1.0.0", "tiny@1.0.0")


# ---- going back with a version that is slow to load


class Slow:
    """Puts versions to work after a while, as large models take it, but for the one that it refuses."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.wait_s = 0.0
        self.refuses = ""

    def __call__(self, order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        """See PutToWork."""
        self.loaded.append(str(bundle.manifest.ref))
        time.sleep(self.wait_s)
        if str(bundle.manifest.ref) == self.refuses:
            raise Unavailable("there is no memory for two")
        return put_to_work_here(order, bundle, variant)


def test_going_back_loads_nothing_and_leaves_no_instant_without_an_answer(folder: Folder) -> None:
    slow = Slow()
    device = _on_watch(folder, slow)
    slow.loaded.clear()
    slow.wait_s = _LOADS_IN_S
    device.see(disagreements=20)
    seen = _run_by(device)
    assert (device.runs, slow.loaded) == ("tiny@1.0.0", [])
    assert None not in seen


def test_event_loop_goes_on_while_a_version_without_a_shadow_goes_back(folder: Folder) -> None:
    slow = Slow()
    slow.refuses = "tiny@1.0.0"
    device = _on_watch(folder, slow)
    slow.refuses, slow.wait_s = "", _LOADS_IN_S
    device.see(disagreements=20)
    seen = _run_by(device)
    assert (device.runs, slow.loaded[-1]) == ("tiny@1.0.0", "tiny@1.0.0")
    assert None not in seen
    assert len(seen) > 3, "the loop stood still while it loaded"


def _run_by(device: Device) -> list[str | None]:
    """What ran, as the event loop saw it while the watch came to its verdict."""
    seen: list[str | None] = []

    async def look() -> None:
        while True:
            seen.append(device.runs)
            await asyncio.sleep(_LOADS_IN_S / 20)

    async def both() -> None:
        looking = asyncio.create_task(look())
        await device.updater.resume()
        looking.cancel()

    asyncio.run(asyncio.wait_for(both(), 60))
    return seen


@pytest.mark.anyio
async def test_what_fails_after_its_caller_was_cancelled_is_no_error_that_nobody_heard_of() -> None:
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    has_begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def fail() -> None:
        has_begun.set()
        may_end.wait(60)
        has_ended.set()
        raise Unavailable("the disk is away")

    task = asyncio.create_task(in_full(fail))
    assert await asyncio.to_thread(has_begun.wait, 60)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    may_end.set()
    await asyncio.wait([task])
    assert (task.cancelled(), has_ended.is_set()) == (True, True)
    del task
    gc.collect()
    assert unheard == []
