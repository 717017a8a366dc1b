import threading
from pathlib import Path

import pytest
from torture.here import Here

from builders import make_bundle
from edgeloop.device.slots import Slot, Slots
from edgeloop.runtime.load import load


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(Here(load(make_bundle(tmp_path))))


def test_nothing_runs_at_first() -> None:
    slots = Slots()
    assert (slots.current, slots.wait(0.0)) == (None, False)


def test_what_was_put_runs(slot: Slot) -> None:
    slots = Slots()
    slots.put(slot)
    assert (slots.current, slots.wait(0.0)) == (slot, True)


def test_nothing_runs_after_it_is_emptied(slot: Slot) -> None:
    slots = Slots()
    slots.put(slot)
    slots.put(None)
    assert (slots.current, slots.wait(0.0)) == (None, False)


def test_waiter_is_woken_by_the_first_slot(slot: Slot) -> None:
    slots = Slots()
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(slots.wait(30.0)))
    waiter.start()
    slots.put(slot)
    waiter.join(30.0)
    assert woken == [True]


def test_each_slot_watches_its_own_drift(slot: Slot) -> None:
    assert Slot(slot.active).drift is not Slot(slot.active).drift


def _version(slot: Slot) -> Here:
    assert isinstance(slot.active, Here)
    return slot.active


def test_version_that_left_is_closed(slot: Slot) -> None:
    slots = Slots()
    slots.put(slot)
    assert not _version(slot).is_closed
    slots.put(None)
    assert _version(slot).is_closed


def test_version_that_stays_in_another_part_is_not_closed(slot: Slot, tmp_path: Path) -> None:
    slots, other = Slots(), Here(load(make_bundle(tmp_path, version="1.1.0")))
    slots.put(slot)
    slots.put(Slot(other, shadow=slot.active))
    slots.put(Slot(slot.active))
    assert (_version(slot).is_closed, other.is_closed) == (False, True)


def test_version_that_left_in_the_middle_of_a_frame_is_closed_after_it(slot: Slot) -> None:
    slots = Slots()
    slots.put(slot)
    assert slots.take() is slot
    slots.put(None)
    assert not _version(slot).is_closed
    slots.let_go()
    assert _version(slot).is_closed
