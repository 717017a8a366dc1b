"""Hours of the day in which a new version may be put to work."""

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from edgeloop.contracts.errors import InvalidInput

DAY_S = 86_400.0
_DAY_MINUTES = 1440
_WRITTEN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])( utc)?", re.IGNORECASE)

Minute = Annotated[int, msgspec.Meta(ge=0, lt=_DAY_MINUTES)]
"""Of a day, from midnight."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """From the first minute to the last, each day, the last one not in it; over midnight if it is the smaller one.

    utc: the hours are UTC; else the device's own, by its clock and time zone.

    >>> str(Window(first=1380, last=330))
    '23:00-05:30'
    """

    first: Minute
    last: Minute
    utc: bool = False

    def __str__(self) -> str:
        first, last = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.first, self.last))
        return f"{first}-{last}{' utc' if self.utc else ''}"

    def opens_in_s(self, now_s: float) -> float:
        """Seconds from now_s (since 1970) until it is open, 0.0 while it is."""
        now = datetime.fromtimestamp(now_s, UTC)
        local = now if self.utc else now.astimezone()
        minute = local.hour * 60 + local.minute + (local.second + local.microsecond / 1e6) / 60
        length = (self.last - self.first) % _DAY_MINUTES
        if (minute - self.first) % _DAY_MINUTES < length:
            return 0.0
        return ((self.first - minute) % _DAY_MINUTES) * 60


def parse_window(text: str) -> Window:
    """Raises InvalidInput unless it is like 01:00-05:00, or "01:00-05:00 utc".

    >>> parse_window("22:30-04:00 utc")
    Window(first=1350, last=240, utc=True)
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(
            f"{text!r} is no maintenance window; write it as 01:00-05:00 (each device's own time) or '01:00-05:00 utc'"
        )
    first, last = (int(found[at]) * 60 + int(found[at + 1]) for at in (1, 3))
    if first == last:
        raise InvalidInput(f"the maintenance window {text!r} is empty; leave it out to allow all hours")
    return Window(first=first, last=last, utc=found[5] is not None)
