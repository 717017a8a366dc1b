import threading
from pathlib import Path

import pytest

from builders import make_bundle
from edgeloop.device.slots import Slot, Slots
from edgeloop.runtime.load import load


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(load(make_bundle(tmp_path)))


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
    assert Slot(slot.predictor).drift is not Slot(slot.predictor).drift
