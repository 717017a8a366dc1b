"""What runs now: the active version, and the old one in its shadow while a new version is on watch.

Rule kept here: a version that left its slot is closed, but not while the inference loop is in the middle of a frame.
"""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgeloop.contracts.manifest import Manifest, Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.drift import DriftWatch
from edgeloop.device.watch import Watch

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame


class AtWork(Protocol):
    """A version that answers, with what lasts from one frame to the next.

    setting: in which its engine runs, for people; is_raced: whether a race chose that.
    """

    manifest: Manifest
    variant: Variant
    is_raced: bool
    setting: str

    @property
    def is_late(self) -> bool:
        """Whether it still computes what it was late with."""
        ...

    def answer(self, frame: "Frame", *, within_s: float | None = None) -> Prediction:
        """The prediction for the next frame; after a Died, by a new process.

        Raises Died if its process did not survive it, Resting if none is to be started yet, Late if there is no answer
        within_s but may be one later, or what Predictor.predict raises.
        """
        ...

    def catch_up(self) -> Prediction:
        """What it says to the frame that it was late with. Raises as `answer`: Late while it still computes."""
        ...

    def forget(self) -> None:
        """From its next frame on, compute again what comes again. Safe to call from any thread."""
        ...

    def close(self) -> None:
        """Give up its process. May be called twice."""
        ...


@dataclass(frozen=True)
class Slot:
    """One version at work."""

    active: AtWork
    shadow: AtWork | None = None
    watch: Watch | None = None
    drift: DriftWatch = field(default_factory=DriftWatch)

    @property
    def versions(self) -> tuple[AtWork, ...]:
        """All that run."""
        return (self.active,) if self.shadow is None else (self.active, self.shadow)


class Slots:
    """Switches atomically between slots; the inference loop takes the slot anew for each reading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._filled = threading.Event()
        self._is_taken = False
        self._leaving: list[AtWork] = []

    @property
    def current(self) -> Slot | None:
        """What runs now."""
        with self._lock:
            return self._slot

    def put(self, slot: Slot | None) -> None:
        """From the next reading on, run this. What ran and is not in it any more is closed."""
        with self._lock:
            stay = () if slot is None else slot.versions
            if self._slot is not None:
                self._leaving += [one for one in self._slot.versions if one not in stay]
            self._slot = slot
            if slot is None:
                self._filled.clear()
            else:
                self._filled.set()
        self._close_leaving()

    def take(self) -> Slot | None:
        """What runs now, for one reading: until `let_go` nothing is closed. For one thread alone."""
        with self._lock:
            self._is_taken = True
            return self._slot

    def let_go(self) -> None:
        """The reading is done."""
        with self._lock:
            self._is_taken = False
        self._close_leaving()

    def wait(self, timeout_s: float) -> bool:
        """True when there is something to run."""
        return self._filled.wait(timeout_s)

    def _close_leaving(self) -> None:
        with self._lock:
            if self._is_taken:
                return
            leaving, self._leaving = self._leaving, []
        for one in leaving:
            one.close()
