"""How long to wait before the next try: pure, and below everything, since links and cameras are lost alike."""

import random
from collections.abc import Callable


class Backoff:
    """Exponential waits with jitter. Source: Brooker 2015, "Exponential Backoff And Jitter", AWS ("equal jitter").

    draw: a random number in 0..1.

    >>> backoff = Backoff(first_s=0.5, longest_s=10.0, draw=lambda: 1.0)
    >>> [backoff.failed() for _ in range(6)]
    [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    """

    def __init__(self, *, first_s: float, longest_s: float, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure: between half and all of a bound that doubles up to the longest."""
        bound_s = min(self._longest_s, self._first_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return bound_s * (0.5 + 0.5 * self._draw())

    def succeeded(self) -> None:
        """Begin again with the first wait."""
        self._failures = 0
