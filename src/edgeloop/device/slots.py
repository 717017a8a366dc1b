"""What runs now: the active predictor, and the old one in its shadow while a new version is on watch."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeloop.device.drift import DriftWatch
from edgeloop.device.watch import Watch

if TYPE_CHECKING:
    from edgeloop.runtime.predictor import Predictor


@dataclass(frozen=True)
class Slot:
    """One version at work."""

    predictor: "Predictor"
    shadow: "Predictor | None" = None
    watch: Watch | None = None
    drift: DriftWatch = field(default_factory=DriftWatch)


class Slots:
    """Switches atomically between slots; the inference loop takes the slot anew for each reading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._filled = threading.Event()

    @property
    def current(self) -> Slot | None:
        """What runs now."""
        with self._lock:
            return self._slot

    def put(self, slot: Slot | None) -> None:
        """From the next reading on, run this."""
        with self._lock:
            self._slot = slot
            if slot is None:
                self._filled.clear()
            else:
                self._filled.set()

    def wait(self, timeout_s: float) -> bool:
        """True when there is something to run."""
        return self._filled.wait(timeout_s)
