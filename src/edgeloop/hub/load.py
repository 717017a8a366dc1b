"""Whether a hub can answer in time; whoever it cannot is told when to come again.

A hub that is asked for more than it can do must not take it all: what waits too long is given up by its askers, asked
for again, and answered to nobody, until nothing that is done is of use to anyone. Rules kept here: who would be
answered too late is turned away at once, before their body is read and their proof looked at; what gets late all the
same is not begun; each is told a time of their own, spread over as long as it takes to answer all. One a process, used
from one event loop; replicas count each for itself. Neighbours: `limits` bounds single senders.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextvars import ContextVar

import structlog

from edgeloop.hub.limits import TooMany

_log = structlog.get_logger(__name__)

answer_by_s: ContextVar[float] = ContextVar("answer_by_s", default=float("inf"))
"""By the monotonic clock: when the request that is being answered will be of use to nobody."""

_WITHIN_S = 10.0
"""Askers give up after 15; a third of that is for the link, and for what is guessed wrong here."""
_QUEUE_S = 2.0
"""What waits to be written is let in no more once its oldest has waited so long: its youngest will wait for longer."""
_FIRST_SPREAD_S = 2.0
_LONGEST_SPREAD_S = 60.0
"""Over how long those who are turned away are spread: doubled as long as it does not help, and halved when it did."""
_STRANGERS_S = 10.0
_TELL_EVERY_S = 10.0


class Busy(TooMany):
    """More is asked than can be answered in time; retry_after_s: when there will be room for this asker."""

    http_status = 503


class Load:
    """What a hub has to do. queue_s: how long what is written now waits for its turn. clock: as the event loop's. draw:
    a random number in 0..1.
    """

    def __init__(
        self,
        queue_s: Callable[[], float] = lambda: 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._queue_s = queue_s
        self._clock = clock
        self._draw = draw
        self._turn = _Turn(clock)
        self._spread_s = _FIRST_SPREAD_S
        self._spread_at_s = self._last_s = float("-inf")
        self._turned_away = 0
        self._told_s = float("-inf")

    def let_in(self, *, writes: bool = False, is_known: bool = True) -> None:
        """One request more, which is to be answered by `answer_by_s`. Raises Busy if that is not to be expected.

        writes: whether its answer has to wait for what is queued to be written. is_known: whether its sender proved
        itself before; what strangers ask for says nothing of when the others may come.
        """
        self._turn.come()
        now_s = self._clock()
        waited_s = self._turn.waited_s(now_s)
        if waited_s > _WITHIN_S or (writes and self._queue_s() > _QUEUE_S):
            raise self.busy(is_known=is_known)
        answer_by_s.set(now_s - waited_s + _WITHIN_S)

    def busy(self, *, is_known: bool = True) -> Busy:
        """What to tell one who cannot be answered in time."""
        now_s = self._clock()
        again_s = self._draw() * (self._spread(now_s) if is_known else _STRANGERS_S)
        self._tell(now_s)
        return Busy(f"more is asked here than can be answered in time; come again in {again_s:.1f} s", again_s)

    def _spread(self, now_s: float) -> float:
        """Over how long to spread those who are turned away now. As long as there are any after that time, it was too
        short for as many as there are; where for as long nobody was, they were let in.
        """
        quiet_s, self._last_s = now_s - self._last_s, now_s
        if quiet_s > 2 * _LONGEST_SPREAD_S:
            self._spread_s, self._spread_at_s = _FIRST_SPREAD_S, now_s
        elif quiet_s > self._spread_s:
            self._spread_s, self._spread_at_s = max(_FIRST_SPREAD_S, self._spread_s / 2), now_s
        elif now_s - self._spread_at_s > self._spread_s:
            self._spread_s, self._spread_at_s = min(_LONGEST_SPREAD_S, self._spread_s * 2), now_s
        return self._spread_s

    def _tell(self, now_s: float) -> None:
        self._turned_away += 1
        if now_s - self._told_s >= _TELL_EVERY_S:
            _log.warning(
                "asked_for_more_than_can_be_done",
                turned_away=self._turned_away,
                turn_s=round(self._turn.waited_s(now_s), 2),
                queue_s=round(self._queue_s(), 2),
                spread_s=round(self._spread_s),
            )
            self._turned_away, self._told_s = 0, now_s


class _Turn:
    """How long whoever is looked at now may have waited for that: since the event loop's last turn began.

    Whatever comes during one turn is looked at in the next. The next turn is found out by a callback, which runs before
    whatever comes in until then. It is asked for again as long as somebody came in the turn before, so that an idle
    loop sleeps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s: float | None = None
        self._last_s = 0.0
        self._has_come = False

    def come(self) -> None:
        """Somebody came."""
        self._has_come = True
        if self._began_s is None:
            self._next()

    def waited_s(self, now_s: float) -> float:
        """Since the last turn began, as far as anybody came in it."""
        return 0.0 if self._began_s is None else now_s - self._began_s + self._last_s

    def _next(self) -> None:
        now_s = self._clock()
        self._last_s = 0.0 if self._began_s is None else now_s - self._began_s
        self._began_s = now_s if self._has_come else None
        if self._has_come:
            self._has_come = False
            asyncio.get_running_loop().call_soon(self._next)
