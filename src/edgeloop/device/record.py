"""What the device has to say, into the outbox, whatever the disk does.

Rules kept here: nothing that the disk does reaches who has something to say; what cannot be written is counted;
alerts that cannot be are kept in mind, and written as soon as they can be; the trouble is told once when it begins,
and once, in the log and as an alert, when it is over.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.contracts.messages import Alert, Body

_log = structlog.get_logger(__name__)
_MOST_IN_MIND = 100


class Queue(Protocol):
    """The outbox, as far as it is needed here."""

    def append(self, bodies: Sequence[Body], *, at_ms: int) -> list[int]:
        """See Outbox.append."""
        ...


class Record:
    """One device's words. Safe to use from many threads.

    dropped: events that were never written. trouble: why nothing can be written now; empty while it can.
    """

    def __init__(self, outbox: Queue, *, clock: Callable[[], float] = time.time) -> None:
        self._outbox = outbox
        self._clock = clock
        self._lock = threading.Lock()
        self._in_mind: deque[tuple[int, Alert]] = deque()
        self._dropped_before = 0
        self.dropped = 0
        self.trouble = ""

    def keep(self, bodies: Sequence[Body]) -> None:
        """Queue these events, made just now."""
        at_ms = int(self._clock() * 1000)
        with self._lock:
            try:
                # First what waits, so that the disk is known to have room when the readings of now are written.
                self._write_down()
                self._outbox.append(bodies, at_ms=at_ms)
            except (Unavailable, Corrupt) as error:
                self._began(error)
                alerts = [body for body in bodies if isinstance(body, Alert)]
                self.dropped += len(bodies) - len(alerts)
                for alert in alerts:
                    self._bear_in_mind(at_ms, alert)
            else:
                self._ended(at_ms)

    def retry(self) -> None:
        """Write down what is kept in mind, if there is anything and the disk takes it."""
        with self._lock:
            if not self._in_mind:
                return
            try:
                self._write_down()
            except (Unavailable, Corrupt) as error:
                self._began(error)
            else:
                self._ended(int(self._clock() * 1000))

    def _write_down(self) -> None:
        while self._in_mind:
            at_ms, alert = self._in_mind[0]
            self._outbox.append([alert], at_ms=at_ms)
            self._in_mind.popleft()

    def _bear_in_mind(self, at_ms: int, alert: Alert) -> None:
        if len(self._in_mind) == _MOST_IN_MIND:
            self._in_mind.popleft()
            self.dropped += 1
        self._in_mind.append((at_ms, alert))

    def _began(self, error: Unavailable | Corrupt) -> None:
        if not self.trouble:
            self._dropped_before = self.dropped
            _log.error("record_cannot_write", detail=str(error))
        self.trouble = str(error)

    def _ended(self, at_ms: int) -> None:
        if not self.trouble:
            return
        detail = f"{self.dropped - self._dropped_before} events could not be written: {self.trouble}"
        _log.warning("record_writes_again", detail=detail)
        self.trouble = ""
        try:
            self._outbox.append([Alert(what="storage", detail=detail)], at_ms=at_ms)
        except (Unavailable, Corrupt) as error:
            self._began(error)
            self._bear_in_mind(at_ms, Alert(what="storage", detail=detail))
