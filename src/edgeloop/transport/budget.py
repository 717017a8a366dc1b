"""A day's budget of bytes, shared by downloads, readings and samples, with what each byte was spent on.

Rules kept here: alerts always go, and count; samples get at most half of a day; what a day spends beyond its budget is
owed by the days after; what was spent is on the disk, so that a restart does not begin a new day. A day begins at an
hour of UTC, and is had once: a clock that goes back, or comes out of a time before this software was made, takes along
what was spent, and the next day begins when one has passed by the time that the process runs. Neighbours: `sender`
spends on events, the device on downloads.
"""

import threading
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Account, Spending
from edgeloop.transport.keep import Keep
from edgeloop.transport.worth import READING, SAMPLE

_log = structlog.get_logger(__name__)

DOWNLOAD = "download"
SAMPLE_SHARE = 0.5
"""Of a day's budget, what samples may have at most."""

_DAY_S = 86_400
_RAN_A_DAY_S = 90_000.0
"""An hour more: where the clock is right it decides, and not two clocks that run a little apart."""
_2020 = 18_262
"""The first day of 2020, in days since 1970: a clock that says less was never set."""
_MOST_REASONS = 64
_OTHERS = "others"
_UNLIMITED_EVERY_S = 60.0


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent on a day. number: days since 1970, by the hour at which they begin; the latest that this day had.
    spent: by class, by reason. owed_bytes: see Spending. ran_s: for how long the process ran on it.
    """

    number: int
    spent: dict[str, dict[str, int]] = {}
    owed_bytes: int = 0
    ran_s: float = 0.0

    def spent_bytes(self, kind: str | None = None) -> int:
        """On a class, or on all."""
        return sum(sum(reasons.values()) for one, reasons in self.spent.items() if kind in (None, one))

    def plus(self, kind: str, reasons: Mapping[str, int]) -> "Day":
        """With more spent. Of the reasons of a class so many are told apart, the rest are one."""
        mine = dict(self.spent.get(kind, {}))
        for reason, size_bytes in reasons.items():
            name = reason if reason in mine or len(mine) < _MOST_REASONS else _OTHERS
            mine[name] = mine.get(name, 0) + size_bytes
        return msgspec.structs.replace(self, spent=self.spent | {kind: mine})

    def at(self, number: int, *, limit_bytes: int) -> "Day":
        """The day that it is while the clock says this number: this one, or the one that follows."""
        is_later = number > self.number
        if not (is_later and self.number >= _2020) and self.ran_s < _RAN_A_DAY_S:
            return msgspec.structs.replace(self, number=number) if is_later else self
        owed_bytes = self.owed_bytes + self.spent_bytes() - limit_bytes if limit_bytes else 0
        return Day(number=number, owed_bytes=max(0, owed_bytes))


class DaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent was told when it last ran, for who looks into its folder."""

    limit_bytes: int = 0
    begins_h: int = 0


class Budget:
    """One device's days. Safe to use from many threads.

    limit_bytes: a day; 0 for no limit, and then it only keeps account. begins_h: the hour, UTC. clock: seconds since
    1970, right or wrong. passed_s: seconds that pass, from anywhere.
    """

    def __init__(
        self,
        keep: Keep,
        *,
        limit_bytes: int = 0,
        begins_h: int = 0,
        clock: Callable[[], float] = time.time,
        passed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._limit_bytes = limit_bytes
        self._begins_s = begins_h * 3600
        self._clock = clock
        self._passed_s = passed_s
        self._counted_s = passed_s()
        self._lock = threading.Lock()
        self._kept_s = passed_s()
        self._is_kept = True
        self._day = keep.get("day", Day) or Day(number=self._number())

    def left_bytes(self, kind: str) -> int | None:
        """What a class may still spend today; None for as much as it likes."""
        if not self._limit_bytes:
            return None
        day = self.today()
        left = self._limit_bytes - day.owed_bytes - day.spent_bytes()
        if kind == SAMPLE:
            left = min(left, self.most_bytes(SAMPLE) - day.spent_bytes(SAMPLE))
        return max(0, left)

    def most_bytes(self, kind: str) -> int:
        """What a class may spend on a whole day. Only where there is a limit."""
        return int(self._limit_bytes * SAMPLE_SHARE) if kind == SAMPLE else self._limit_bytes

    def allowed_bytes(self) -> dict[str, int]:
        """By class of event, for `Outbox.pending`."""
        left = {kind: self.left_bytes(kind) for kind in (READING, SAMPLE)}
        return {kind: size_bytes for kind, size_bytes in left.items() if size_bytes is not None}

    def may_download(self, size_bytes: int) -> bool:
        """Whether it fits into what is left. One that is larger than half a day may take what is left of a day that
        has half left, and owe the rest."""
        left = self.left_bytes(DOWNLOAD)
        return left is None or left >= min(size_bytes, self._limit_bytes // 2)

    def spend(self, kind: str, reasons: Mapping[str, int]) -> None:
        """Bytes that went over the link, by what for. A disk that is full does not stop the counting."""
        if not any(reasons.values()):
            return
        with self._lock:
            self._day = self._turned().plus(kind, reasons)
            if self._limit_bytes or self._passed_s() - self._kept_s >= _UNLIMITED_EVERY_S:
                self._write()

    def today(self) -> Day:
        """What was spent so far."""
        with self._lock:
            self._day = self._turned()
            return self._day

    def spending(self, accounts: Mapping[str, Account]) -> Spending:
        """For reports. accounts: of the outbox; a class waits where its mean row is more than it has left."""
        day = self.today()
        waits = []
        for kind, left in self.allowed_bytes().items():
            pending = accounts.get(kind, Account()).pending
            if pending.rows and left < pending.size_bytes / pending.rows:
                waits.append(kind)
        spent = {kind: day.spent_bytes(kind) for kind in day.spent}
        return Spending(limit_bytes=self._limit_bytes, spent=spent, owed_bytes=day.owed_bytes, waits=tuple(waits))

    def until_next_s(self) -> float:
        """Seconds until the next day begins, if the clock is right."""
        return _DAY_S - (self._clock() - self._begins_s) % _DAY_S

    def close(self) -> None:
        """Write down what is not yet."""
        with self._lock:
            self._write()

    def _number(self) -> int:
        return int((self._clock() - self._begins_s) // _DAY_S)

    def _turned(self) -> Day:
        now_s = self._passed_s()
        day = msgspec.structs.replace(self._day, ran_s=self._day.ran_s + now_s - self._counted_s)
        self._counted_s = now_s
        return day.at(self._number(), limit_bytes=self._limit_bytes)

    def _write(self) -> None:
        try:
            self._keep.set({"day": self._day})
            self._is_kept = True
            self._kept_s = self._passed_s()
        except EdgeloopError as error:
            if self._is_kept:
                _log.error("budget_not_written", detail=str(error))
            self._is_kept = False
