"""Has the input drifted? Two channels, each watched by a one-sided CUSUM.

Channels: feature distance (novelty) and energy, both standardised by predicted class. Source: Page 1954,
"Continuous Inspection Schemes", Biometrika 41; slack and threshold in standard deviations of clean data.
"""

from edgeloop.contracts.prediction import Prediction

_SLACK = 0.5
_THRESHOLD = 12.0
_CLIP = 4.0
"""One freak reading moves a sum by at most this much."""


class Cusum:
    """S = max(0, S + min(z, clip) - slack); alarms when S passes the threshold."""

    def __init__(self, *, slack: float = _SLACK, threshold: float = _THRESHOLD) -> None:
        self._slack = slack
        self._threshold = threshold
        self.total = 0.0

    def add(self, z: float) -> bool:
        """Take one standardised value; True while the alarm is on."""
        self.total = max(0.0, self.total + min(z, _CLIP) - self._slack)
        self.total = min(self.total, 4 * self._threshold)
        return self.total > self._threshold


class DriftWatch:
    """Both channels over the readings of one bundle."""

    def __init__(self) -> None:
        self._channels = {"novelty": Cusum(), "energy": Cusum()}
        self._alarms: dict[str, str] = {}

    @property
    def reason(self) -> str:
        """Which channels alarm, and by how much; empty while none does."""
        return "; ".join(self._alarms.values())

    @property
    def is_on(self) -> bool:
        """True while either channel alarms."""
        return bool(self._alarms)

    def add(self, prediction: Prediction) -> bool:
        """Take a reading; True when the alarm goes on with it."""
        was_on = self.is_on
        for name, z in (("novelty", prediction.novelty), ("energy", prediction.energy_z)):
            if z is None:
                continue  # not measured: the channel stays as it was
            self._alarms.pop(name, None)
            if self._channels[name].add(z):
                self._alarms[name] = f"{name} CUSUM {self._channels[name].total:.1f} over {_THRESHOLD:g}"
        return self.is_on and not was_on
