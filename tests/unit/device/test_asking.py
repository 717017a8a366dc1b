"""Who answers a frame, of versions that do as they are told."""

import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from answered import answer
from builders import as_bundle, make_parts
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.manifest import Manifest, Variant
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.asking import Answers, Asking
from edgeloop.device.isolated import Resting
from edgeloop.device.slots import AtWork, Slot, Slots
from edgeloop.device.watch import Healthy, Watch
from edgeloop.device.worker import Died, Late
from edgeloop.runtime.sources.port import Frame

Deed = str | Exception
"""A label to answer with, or what to raise."""

OLD, NEW = "top_left", "top_right"


def crashed() -> Died:
    return Died("crashed while answering: SIGSEGV", is_crash=True, lived_s=1.0)


def killed() -> Died:
    return Died("was ended by SIGKILL while answering", is_crash=False, lived_s=1.0)


class Scripted:
    """Implements slots.AtWork: does one deed a frame, and the last one for ever. late: what it says after a Late."""

    is_raced = False
    setting = ""

    def __init__(self, *deeds: Deed, cached: bool = False) -> None:
        bundle = as_bundle(make_parts())
        self.manifest: Manifest = bundle.manifest
        self.variant: Variant = bundle.manifest.variants[0]
        self.asked: list[str] = []
        self.within_s: list[float | None] = []
        self.late: list[Deed] = []
        self._deeds = list(deeds)
        self._cached = cached
        self._is_late = False

    @property
    def is_late(self) -> bool:
        """See AtWork."""
        return self._is_late

    def answer(self, frame: Frame, *, within_s: float | None = None) -> Prediction:
        """See AtWork."""
        self.asked.append(frame.name)
        self.within_s.append(within_s)
        return self._do(self._deeds.pop(0) if len(self._deeds) > 1 else self._deeds[0])

    def catch_up(self) -> Prediction:
        """See AtWork."""
        return self._do(self.late.pop(0))

    def forget(self) -> None:
        """See AtWork."""

    def close(self) -> None:
        """See AtWork."""

    def _do(self, deed: Deed) -> Prediction:
        self._is_late = isinstance(deed, Late)
        if isinstance(deed, Exception):
            raise deed
        return answer(deed, cached=self._cached)


class Room:
    """Asks of a slot, and hears of deaths."""

    def __init__(self, active: AtWork, *, shadow: AtWork | None = None, watch: Watch | None = None) -> None:
        self.slots = Slots()
        self.slots.put(Slot(active, shadow=shadow, watch=watch))
        self.deaths: list[bool] = []
        self.asking = Asking(
            self.slots,
            shadow_share=1.0,
            rng=random.Random(0),
            on_death=lambda version, death: self.deaths.append(death.is_crash),
        )

    def see(self, *names: str) -> list[Answers]:
        """What comes of these frames."""
        return [self._see(name) for name in names]

    def _see(self, name: str) -> Answers:
        slot = self.slots.current
        assert slot is not None
        return self.asking.answers(Frame(name, b"", 0.0, "image/png"), slot)


def _on_watch(*deeds: Deed, shadow: Scripted | None = None) -> tuple[Room, Scripted, Scripted, Watch]:
    new, old, watch = Scripted(*deeds), shadow or Scripted(OLD), Watch()
    return Room(new, shadow=old, watch=watch), new, old, watch


def _labels(made: list[Answers]) -> list[str | None]:
    return [one.prediction.label for one in made]


# ---- on watch


def test_both_answer_each_frame_once() -> None:
    room, new, old, watch = _on_watch(NEW)
    made = room.see("1", "2", "3")
    assert _labels(made) == [NEW] * 3
    assert [one.shadow.label for one in made if one.shadow] == [OLD] * 3
    assert (new.asked, old.asked) == (["1", "2", "3"], ["1", "2", "3"])
    assert (watch.stats().readings, watch.stats().disagreements, watch.stats().errors) == (3, 3, 0)


def test_crash_is_told_once_and_the_old_version_answers_from_then_on() -> None:
    room, new, _, watch = _on_watch(NEW, crashed())
    made = room.see("1", "2", "3", "4")
    assert _labels(made) == [NEW, OLD, OLD, OLD]
    assert (room.deaths, watch.stats().errors, new.asked) == ([True], 1, ["1", "2"])
    assert [one.failure is not None for one in made] == [False, True, False, False]


def test_kill_is_told_and_is_no_error_of_the_version() -> None:
    room, _, _, watch = _on_watch(killed(), NEW)
    made = room.see("1", "2")
    assert _labels(made) == [OLD, NEW]
    assert (room.deaths, watch.stats().errors, made[0].failure) == ([False], 0, None)


def test_version_that_rests_is_stood_in_for() -> None:
    room, _, _, watch = _on_watch(Resting(30.0), NEW)
    assert _labels(room.see("1", "2")) == [OLD, NEW]
    assert (room.deaths, watch.stats().errors) == ([], 0)


def test_what_it_cannot_answer_is_its_error_and_answered_by_the_old_version() -> None:
    room, _, _, watch = _on_watch(Corrupt("it divides by zero"), NEW)
    made = room.see("1", "2")
    assert _labels(made) == [OLD, NEW]
    assert (watch.stats().errors, isinstance(made[0].failure, Corrupt), room.deaths) == (1, True, [])


def test_input_that_neither_version_can_read_says_nothing_of_the_new_one() -> None:
    cut_off = Corrupt("the picture ends in its middle")
    room, _, old, watch = _on_watch(cut_off, NEW, shadow=Scripted(cut_off, OLD))
    with pytest.raises(Corrupt):
        room.see("1")
    assert (old.asked, watch.stats().errors) == (["1"], 0)
    nothing_came = watch.verdict(WatchBounds(min_readings=20, deadline_s=1.0), age_s=2.0)
    assert isinstance(nothing_came, Healthy), "it did not fail to answer what nobody can"
    room.see("2")
    assert (watch.stats().readings, watch.stats().errors) == (1, 0)


@pytest.mark.parametrize("deed", [Unavailable("no room for a frame"), killed(), OLD])
def test_error_counts_where_the_old_version_does_not_say_that_it_is_the_inputs(deed: Deed) -> None:
    room, _, _, watch = _on_watch(Corrupt("it divides by zero"), NEW, shadow=Scripted(deed, OLD))
    with suppress(Corrupt):
        room.see("1")
    assert watch.stats().errors == 1


def test_late_answer_is_compared_when_it_comes_and_waited_for_no_longer() -> None:
    room, new, old, watch = _on_watch(Late("not yet"), NEW)
    new.late = [Late("still not"), NEW]
    assert _labels(room.see("1")) == [OLD]
    assert watch.stats().readings == 0
    # Meanwhile the old one answers; the new one is not asked anything more.
    assert (_labels(room.see("2")), new.asked) == ([OLD], ["1"])
    assert _labels(room.see("3")) == [NEW]
    stats = watch.stats()
    assert (stats.readings, stats.compared, stats.errors, new.asked, old.asked) == (
        2,
        2,
        0,
        ["1", "3"],
        ["1", "2", "3"],
    )


def test_version_that_hangs_is_told_as_a_crash_and_loses_no_reading() -> None:
    room, new, _, _ = _on_watch(Late("not yet"))
    new.late = [Late("not yet"), crashed(), NEW]
    assert _labels(room.see("1", "2", "3", "4")) == [OLD] * 4
    assert room.deaths == [True]


def test_version_is_late_after_half_a_second_where_the_old_one_is_quick() -> None:
    room, new, _, _ = _on_watch(NEW)
    room.see("1", "2")
    assert new.within_s == [0.5, 0.5]


def test_version_is_waited_for_where_nobody_can_stand_in() -> None:
    new = Scripted(NEW)
    Room(new, watch=Watch()).see("1")
    other = Scripted(NEW)
    Room(other, shadow=Scripted(OLD), watch=Watch(compares=False)).see("1")
    assert (new.within_s, other.within_s) == ([None], [None])


@pytest.mark.parametrize("deed", [crashed, killed, lambda: InvalidInput("no image")])
def test_first_version_has_nobody_to_stand_in(deed: Callable[[], Exception]) -> None:
    room = Room(Scripted(deed(), NEW), watch=Watch())
    with pytest.raises((Died, InvalidInput)):
        room.see("1")
    assert _labels(room.see("2")) == [NEW]


def test_version_that_is_late_is_waited_for_where_the_old_one_has_no_answer_either() -> None:
    room, new, _, watch = _on_watch(Late("not yet"), NEW, shadow=Scripted(InvalidInput("no")))
    assert _labels(room.see("1")) == [NEW]
    assert (new.within_s, watch.stats().readings) == ([0.5, None], 1)


def test_shadow_that_dies_costs_no_reading_and_is_asked_a_few_times_only() -> None:
    old = Scripted(crashed())
    room, _, _, watch = _on_watch(NEW, shadow=old)
    assert _labels(room.see(*"12345678")) == [NEW] * 8
    assert (len(old.asked), room.deaths, watch.stats().errors, watch.stats().compared) == (3, [], 0, 0)


def test_shadow_that_fails_is_asked_again() -> None:
    room, _, old, watch = _on_watch(NEW, shadow=Scripted(InvalidInput("no"), OLD))
    room.see("1", "2")
    assert (old.asked, watch.stats().compared) == (["1", "2"], 1)


def test_what_is_known_of_one_watch_is_not_held_against_the_next() -> None:
    room, _, old, _ = _on_watch(crashed())
    room.see("1")
    room.slots.put(Slot(Scripted(NEW), shadow=old, watch=Watch()))
    assert _labels(room.see("2")) == [NEW]


# ---- trusted


def test_trusted_version_whose_process_died_is_asked_once_more() -> None:
    version = Scripted(crashed(), OLD)
    room = Room(version)
    assert (_labels(room.see("1")), version.asked, room.deaths) == ([OLD], ["1", "1"], [True])


def test_frame_that_it_does_not_survive_twice_is_an_error() -> None:
    room = Room(Scripted(crashed(), crashed(), OLD))
    with pytest.raises(Died, match="SIGSEGV"):
        room.see("1")
    assert (_labels(room.see("2")), room.deaths) == ([OLD], [True, True])


def test_rest_is_waited_for_and_counts_no_death() -> None:
    room = Room(Scripted(Resting(0.01), Resting(0.01), OLD))
    assert (_labels(room.see("1")), room.deaths) == ([OLD], [])


def test_rest_in_the_middle_of_a_frame_gives_it_no_third_try() -> None:
    room = Room(Scripted(crashed(), Resting(0.01), crashed(), OLD))
    with pytest.raises(Died):
        room.see("1")


def test_error_of_a_trusted_version_is_that_of_the_frame() -> None:
    version = Scripted(InvalidInput("no image"), OLD)
    room = Room(version)
    with pytest.raises(InvalidInput):
        room.see("1")
    assert version.asked == ["1"]
