"""Since when the cloud hears its devices: nobody is silent, and no deadline of theirs runs, while it did not listen.

A cloud that was away for two hours has not heard of anyone for two hours; nor has one whose clock was just set two
hours on, or whose machine slept. Neighbour: `conductor` counts silence and waves from here.
"""

from collections.abc import Callable

_LEAP_S = 120.0
"""What a clock may gain or lose between two looks before it was set, and did not run."""


class Listening:
    """clock: seconds since 1970, which people and NTP set; ticks: seconds that pass whatever they do."""

    def __init__(self, *, clock: Callable[[], float], ticks: Callable[[], float]) -> None:
        self._clock = clock
        self._ticks = ticks
        self._since_s = clock()
        self._seen_s, self._seen_ticks = self._since_s, ticks()

    def look(self) -> None:
        """Look at the clocks, as often as possible: a leap of the one against the other begins anew."""
        now_s, ticks = self._clock(), self._ticks()
        if abs((now_s - self._seen_s) - (ticks - self._seen_ticks)) > _LEAP_S:
            self._since_s = now_s
        self._seen_s, self._seen_ticks = now_s, ticks

    def since_s(self, now_s: float) -> float:
        """Since when, never later than now."""
        self._since_s = min(self._since_s, now_s)
        return self._since_s
