"""At most so many a second."""

import math

_SLACK_S = 1e-6
"""Frame times are decimal fractions in binary: 0.1 s may come as 0.0999999."""


class Pace:
    """Says which inputs of a stream are taken to keep to a rate; pure, given the time of each.

    rate_hz: on average; 0 for all. After a pause, what was missed is not made up for.

    >>> pace = Pace(20.0)
    >>> [at_ms for at_ms in range(0, 200, 33) if pace.is_due(at_ms / 1000)]
    [0, 66, 132, 165]
    """

    def __init__(self, rate_hz: float) -> None:
        self._interval_s = 1.0 / rate_hz if rate_hz > 0 else 0.0
        self._last_s = self._next_s = -math.inf

    def is_due(self, at_s: float) -> bool:
        """Whether the input at this time is to be taken; if so, it counts as taken."""
        if self.wait_s(at_s) > 0:
            return False
        later_s = self._next_s + self._interval_s
        self._last_s = at_s
        self._next_s = later_s if at_s < later_s <= at_s + self._interval_s else at_s + self._interval_s
        return True

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next input is due; 0 if it is, or if time did not go on since the last one."""
        return 0.0 if now_s <= self._last_s else max(0.0, self._next_s - now_s - _SLACK_S)
