"""A version at work in a process of its own: a crash of its model costs that process, and not the agent.

Rules kept here: a process that died is started anew when the next frame is to be answered, the first time at once, and
after waits that double up to half a minute for as long as none of them answers anything; how it died is told to who
asked, who decides what that means. Not thread-safe, but for `forget`, and `close` after the last answer. Neighbours:
`worker` is one process, `asking` asks, `blame` judges.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeloop.backoff import Backoff
from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.exchange import Order
from edgeloop.device.worker import Died, Late, Slow, Worker

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame

_FIRST_REST_S = 0.5
_LONGEST_REST_S = 30.0


class Resting(Unavailable):
    """Its process died again and again; it is not started before retry_after_s, in seconds, are over."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"its process died without an answer and is started anew in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class Isolated:
    """Implements slots.AtWork. start: a process that has loaded it, see Worker.start."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        start: Callable[[], Worker],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manifest = bundle.manifest
        self.variant = variant
        self.is_raced = False
        self.setting = ""
        self._start = start
        self._clock = clock
        self._worker: Worker | None = None
        self._backoff = Backoff(first_s=_FIRST_REST_S, longest_s=_LONGEST_REST_S)
        self._rests_until_s = 0.0
        self._is_fresh = False
        self._forgets = False

    @property
    def pid(self) -> int | None:
        """Its process's number, while it has one."""
        return None if self._worker is None else self._worker.pid

    @property
    def is_late(self) -> bool:
        """See AtWork."""
        return self._worker is not None and self._worker.is_busy

    def load(self) -> None:
        """Have its process ready. Raises Died, or what loading raises, see `runtime.load.load_fastest`."""
        self._worker = worker = self._start()
        assert worker.loaded is not None
        self.is_raced, self.setting = worker.loaded.is_raced, worker.loaded.setting

    def answer(self, frame: "Frame", *, within_s: float | None = None) -> Prediction:
        """See AtWork."""
        if self._worker is None:
            self._begin_anew()
        forgets, self._forgets = self._forgets, False
        return self._guarded(lambda worker: worker.answer(frame, within_s=within_s, forgets=forgets))

    def catch_up(self) -> Prediction:
        """See AtWork."""
        return self._guarded(lambda worker: worker.catch_up())

    def forget(self) -> None:
        """See AtWork."""
        self._forgets = True

    def close(self) -> None:
        """End its process."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _guarded(self, asked: Callable[[Worker], Prediction]) -> Prediction:
        assert self._worker is not None
        try:
            made = asked(self._worker)
        except Died:
            self._lost()
            raise
        except Late:
            raise
        except EdgeloopError:  # it said so: it lives
            self._is_well()
            raise
        self._is_well()
        return made

    def _is_well(self) -> None:
        self._is_fresh = False
        self._backoff.succeeded()

    def _begin_anew(self) -> None:
        left_s = self._rests_until_s - self._clock()
        if left_s > 0:
            raise Resting(left_s)
        try:
            self.load()
        except Died:
            self._lost()
            raise
        except EdgeloopError as error:
            self._lost()
            # An engine that is not there any more, or a disk that failed once, is not the version's fault.
            is_its_own = isinstance(error, Corrupt | NotFound)
            is_slow = isinstance(error, Slow)
            raise Died(f"does not load any more: {error}", is_crash=is_its_own, is_slow=is_slow, lived_s=0.0) from error
        self._is_fresh = True

    def _lost(self) -> None:
        """The one that follows a process which had answered is started at once; the one that follows that is not."""
        self.close()
        self._rests_until_s = self._clock() + (self._backoff.failed() if self._is_fresh else 0.0)
        self._is_fresh = True


def put_to_work(order: Order, bundle: Bundle, variant: Variant) -> Isolated:
    """A version with its process ready. Raises Died, or what loading raises."""
    made = put_to_work_when_asked(order, bundle, variant)
    made.load()
    return made


def put_to_work_when_asked(order: Order, bundle: Bundle, variant: Variant) -> Isolated:
    """The same, its process started for its first frame."""
    return Isolated(bundle, variant, lambda: Worker.start(order, bundle.manifest_bytes))
