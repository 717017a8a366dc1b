"""Who answers a frame: the active version, the one before it in its shadow, or that one in its stead.

Rules kept here: each frame is answered within a second of when it could have been, where any version can answer it; a
version on watch that crashes, fails or is late is stood in for by the one before it; what the one before cannot read
either says nothing of the one on watch; a trusted version whose process died is asked once more, in a new one, and a
frame that it does not survive twice is an error; a shadow costs no reading. How a process died is told, and judged
elsewhere. Neighbours: `infer` asks for each frame, `blame` judges, `watch` counts.
"""

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.isolated import Resting
from edgeloop.device.slots import AtWork, Slot, Slots
from edgeloop.device.watch import Watch
from edgeloop.device.worker import Died, Late

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame

_log = structlog.get_logger(__name__)
_HALF = 0.5
_MOST_DEATHS = 2
"""Of processes, over one frame."""
_MOST_SHADOWS = 3
_LATE_S = 0.5
"""So that a frame that a new version hangs on is answered within a second by the old one."""
_LATE_RATIO = 5.0
"""Times what the old version took: slow machines are slow with both."""
_LOOK_EVERY_S = 0.1


class HearOfDeath(Protocol):
    """Who is told that a version's process died while it was to answer, on the inference thread."""

    def __call__(self, version: AtWork, death: Died) -> None:
        """A shadow's death is not told."""
        ...


class Answers(NamedTuple):
    """What came of a frame. prediction: the reading's. shadow: the old version's, where both answered. failure: of the
    active version, where the old one stood in for it."""

    prediction: Prediction
    shadow: Prediction | None = None
    failure: EdgeloopError | None = None


@dataclass
class _OnWatch:
    """What is known of a slot that is on watch.

    took_s: by the old version at best, 0.0 while it has computed nothing. deaths: of the old version's processes.
    frame: that the old version was asked last, and beside what it said, None if nothing; is_unreadable: since it cannot
    read that frame. owed: what it said to the frame that the new version is late with.
    """

    watch: Watch
    took_s: float = 0.0
    deaths: int = 0
    has_crashed: bool = False
    frame: "Frame | None" = None
    beside: Prediction | None = None
    is_unreadable: bool = False
    owed: Prediction | None = None


class Asking:
    """Asks whatever slot is active. For the inference thread alone.

    shadow_share: of the readings that the old version answers, too, while a new one is on watch. stop: once it is set,
    nothing is waited for.
    """

    def __init__(self, slots: Slots, *, shadow_share: float, rng: random.Random, on_death: HearOfDeath) -> None:
        self._slots = slots
        self._shadow_share = shadow_share
        self._rng = rng
        self._on_death = on_death
        self._known: _OnWatch | None = None
        self.stop = threading.Event()

    def answers(self, frame: "Frame", slot: Slot) -> Answers:
        """The answers to one frame. Raises an EdgeloopError if there is none."""
        if slot.watch is None:
            return self._by_trusted(frame, slot)
        known = self._known
        if known is None or known.watch is not slot.watch:
            known = self._known = _OnWatch(slot.watch)
        try:
            return self._by_watched(frame, slot, known)
        except EdgeloopError as error:
            is_its_own = self._heed(error, frame, slot, known)
            instead = self._shadow(frame, slot, known)
            if instead is None and isinstance(error, Resting):
                return self.answers(frame, self._rested(slot, error))
            if instead is None:
                raise
            return Answers(instead, failure=error if is_its_own else None)

    def _by_trusted(self, frame: "Frame", slot: Slot) -> Answers:
        deaths = 0
        while True:
            try:
                return Answers(slot.active.answer(frame))
            except Resting as rest:
                slot = self._rested(slot, rest)
                if slot.watch is not None:
                    return self.answers(frame, slot)
            except Died as death:
                self._on_death(slot.active, death)
                deaths += 1
                if deaths == _MOST_DEATHS:
                    raise

    def _rested(self, slot: Slot, rest: Resting) -> Slot:
        """The slot to ask once it is time, or as soon as there is another. Raises rest if it is time to end."""
        until_s = time.monotonic() + rest.retry_after_s
        while True:
            current = self._slots.current
            if current is not None and current is not slot:
                return current
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return slot
            if self.stop.wait(min(left_s, _LOOK_EVERY_S)):
                raise rest

    def _by_watched(self, frame: "Frame", slot: Slot, known: _OnWatch) -> Answers:
        """Raises what the active version raises; Late where the old one is to answer meanwhile."""
        can_stand_in = self._can_stand_in(slot, known)
        known.watch.asks()
        if known.has_crashed and can_stand_in:
            raise Late("its process crashed; it is about to be left")
        if slot.active.is_late and can_stand_in:
            known.watch.saw(slot.active.catch_up(), known.owed)
        # Whoever runs first after a pause pays for cold caches: take turns, so that latencies can be compared. The
        # first time it is the old one, which shows how long an answer takes here.
        is_shadowed = slot.shadow is not None and self._rng.random() < self._shadow_share
        if is_shadowed and (self._rng.random() < _HALF or not known.took_s):
            self._shadow(frame, slot, known)
        try:
            late_s = max(_LATE_S, _LATE_RATIO * known.took_s) if self._can_stand_in(slot, known) else None
            prediction = slot.active.answer(frame, within_s=late_s)
        except Late:
            known.owed = self._shadow(frame, slot, known)
            if known.owed is not None:
                raise
            prediction = slot.active.answer(frame)
        shadow = self._shadow(frame, slot, known) if is_shadowed else None
        known.watch.saw(prediction, shadow)
        return Answers(prediction, shadow)

    def _heed(self, error: EdgeloopError, frame: "Frame", slot: Slot, known: _OnWatch) -> bool:
        """Whether it speaks against the version on watch that it said this; count and tell it if so."""
        if isinstance(error, Died):
            self._on_death(slot.active, error)
            known.has_crashed |= error.is_crash
        if isinstance(error, Late | Resting) or (isinstance(error, Died) and not error.is_crash):
            return False
        if not isinstance(error, Died) and self._is_unreadable(frame, slot, known):
            known.watch.passes_over()
            return False
        known.watch.failed()
        return True

    def _is_unreadable(self, frame: "Frame", slot: Slot, known: _OnWatch) -> bool:
        """Whether the old version cannot read it either, such as a picture that was cut off."""
        self._shadow(frame, slot, known)
        return known.is_unreadable

    def _can_stand_in(self, slot: Slot, known: _OnWatch) -> bool:
        return slot.shadow is not None and known.watch.compares and known.deaths < _MOST_SHADOWS

    def _shadow(self, frame: "Frame", slot: Slot, known: _OnWatch) -> Prediction | None:
        """The old version's answer to the same frame, asked once; None if it cannot give one, or takes other inputs."""
        if known.frame is not frame:
            known.frame, known.beside, known.is_unreadable = frame, None, False
            if self._can_stand_in(slot, known):
                known.beside = self._ask_shadow(frame, slot, known)
        return known.beside

    def _ask_shadow(self, frame: "Frame", slot: Slot, known: _OnWatch) -> Prediction | None:
        assert slot.shadow is not None
        began_s = time.monotonic()
        try:
            made = slot.shadow.answer(frame)
        except EdgeloopError as error:
            known.deaths += isinstance(error, Died)
            known.is_unreadable = isinstance(error, InvalidInput | Corrupt)
            _log.warning("shadow_failed", source=frame.name, code=error.code, detail=str(error))
            return None
        if not made.cached:
            took_s = time.monotonic() - began_s
            known.took_s = min(known.took_s, took_s) if known.took_s else took_s
        return made
