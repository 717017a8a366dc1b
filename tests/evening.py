"""A clock shortly before a day's end, which stands still until it is told to go: however long a test takes until then,
the day has not ended."""

import time

_DAY_S = 86_400.0
_BEGAN_S = 20_000 * _DAY_S


class Evening:
    """Seconds since 1970, for `Budget`. ends_in_s: how long the day still is once the clock goes."""

    def __init__(self, *, ends_in_s: float) -> None:
        self._stood_s = _BEGAN_S + _DAY_S - ends_in_s
        self._went_at_s: float | None = None

    def __call__(self) -> float:
        """What it says."""
        went_s = 0.0 if self._went_at_s is None else time.monotonic() - self._went_at_s
        return self._stood_s + went_s

    def go(self) -> None:
        """Begin to go; told again, nothing changes."""
        if self._went_at_s is None:
            self._went_at_s = time.monotonic()
