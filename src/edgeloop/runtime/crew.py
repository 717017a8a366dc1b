"""The workers of one version: threads with a predictor each, on one queue.

A worker takes what waits, answers it, and tells the event loop once for all that it took. What it takes at a time is
decided by what was measured: where a run of several pays, up to a batch; where an answer takes less than a hop between
threads costs, its share of the queue, one by one; else one. Requests whose deadline has passed, or whose asker has
gone, are not computed, and leave the queue at once.

Neighbours: `servable` is what is run, `pool` puts jobs in and hands answers out.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import structlog

from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.servable import ManyRunner, Runner, Servable

_log = structlog.get_logger(__name__)

_SHORT_S = 0.001
"""Answers shorter than this are taken several at a time: a hop between threads costs some 50 microseconds."""
_MOST_SHORT = 8
"""Of those; the first waits for the last."""


class Job:
    """One question. raw: a preprocessed tensor for its outputs, else a source for its prediction.

    future: belongs to the event loop; a worker only reads whether it is done. answer, error: what the worker made.
    """

    __slots__ = ("answer", "error", "future", "raw", "source", "until_s")

    def __init__(self, source: Source, *, raw: bool, until_s: float, future: "asyncio.Future[Any]") -> None:
        self.source = source
        self.raw = raw
        self.until_s = until_s
        self.future = future
        self.answer: Any = None
        self.error: Exception | None = None


@dataclass(frozen=True)
class Shift:
    """What one worker did at a time. computed: of the jobs; the others came too late. run: inputs a run, 1 for each
    alone. busy_s: for all of them."""

    jobs: Sequence[Job]
    computed: int
    run: int
    busy_s: float


class Crew:
    """Threads that answer for one version. Made and used on one event loop; `open` may be called anywhere."""

    def __init__(
        self,
        servable: Servable,
        pairs: Sequence[tuple[Runner, ManyRunner | None]],
        *,
        max_batch: int,
        max_wait_ms: float,
    ) -> None:
        self.servable = servable
        self.size = len(pairs)
        self._pairs = pairs
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        # Jobs may be taken out again; a token for each that was put in wakes a worker, a last one for each ends it.
        self._jobs: deque[Job] = deque()
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()

    @classmethod
    def open(cls, servable: Servable, *, workers: int, max_batch: int, max_wait_ms: float) -> "Crew":
        """Load the model once a worker. Raises what loading raises; nothing stays loaded then."""
        pairs: list[tuple[Runner, ManyRunner | None]] = []
        with ExitStack() as loaded:
            for _ in range(workers):
                one = servable.open()
                loaded.callback(one.close)
                many = servable.open_many() if servable.open_many is not None else None
                if many is not None:
                    loaded.callback(many.close)
                pairs.append((one, many))
            loaded.pop_all()
        return cls(servable, pairs, max_batch=max_batch, max_wait_ms=max_wait_ms)

    def start(self, on_shift: Callable[[Shift], None]) -> None:
        """Begin to work; on_shift is called on this event loop.

        Raises Unavailable if there is no room for so many threads; nothing stays loaded then.
        """
        loop = asyncio.get_running_loop()
        self._left = 0
        self.ended: asyncio.Future[None] = loop.create_future()
        for number, pair in enumerate(self._pairs):
            name = f"{self.servable.manifest.ref}#{number}"
            thread = threading.Thread(target=self._work, args=(pair, loop, on_shift), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._end(self._pairs[number:], started=number)
                raise Unavailable(f"no thread for worker {number} of {self.size}: {error}; ask for fewer") from error
            self._left += 1

    def discard(self) -> None:
        """Give up what was loaded for a crew that is not started."""
        _close(one for pair in self._pairs for one in pair)

    def put(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)
        self._tokens.put(True)

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the queue again; False if a worker has begun with it."""
        try:
            self._jobs.remove(job)
        except ValueError:
            return False
        return True

    def finish(self) -> None:
        """Let every worker end once the queue is empty, and then set `ended`; nothing may be put after this."""
        for _ in range(self.size):
            self._tokens.put(False)

    def _end(self, idle: Sequence[tuple[Runner, ManyRunner | None]], *, started: int) -> None:
        for _ in range(started):
            self._tokens.put(False)
        _close(one for pair in idle for one in pair)

    def _work(
        self,
        pair: tuple[Runner, ManyRunner | None],
        loop: asyncio.AbstractEventLoop,
        on_shift: Callable[[Shift], None],
    ) -> None:
        is_last = False
        while not is_last:
            jobs, is_last = self._take()
            if jobs:
                _tell(loop, on_shift, _answer(jobs, pair, self.servable.pace.pays_from))
        try:
            _close(pair)
        except Exception as error:  # noqa: BLE001  whoever waits for the end of this crew must not wait for ever
            _log.error("not_closed", bundle=str(self.servable.manifest.ref), exc_info=error)
        _tell(loop, self._one_ended)

    def _take(self) -> tuple[list[Job], bool]:
        """What waits, and whether that was the last. Waits for the first; for others up to max_wait."""
        jobs: list[Job] = []
        while not jobs:
            if not self._tokens.get():
                return [], True
            self._take_one(jobs)
        share = self._share()
        until_s = time.monotonic() + self._max_wait_s
        while len(jobs) < share:
            try:
                left_s = until_s - time.monotonic() if self._max_wait_s else 0.0
                is_job = self._tokens.get(timeout=left_s) if left_s > 0 else self._tokens.get_nowait()
            except queue.Empty:
                break
            if not is_job:
                return jobs, True
            self._take_one(jobs)
        return jobs, False

    def _take_one(self, jobs: list[Job]) -> None:
        try:
            jobs.append(self._jobs.popleft())
        except IndexError:  # it was withdrawn meanwhile
            return

    def _share(self) -> int:
        """How many jobs to take: as many as a run holds, or a fair part of short ones, or one."""
        pace = self.servable.pace
        if pace.batch:
            return min(pace.batch, self._max_batch)
        if pace.item_s > _SHORT_S or self._max_batch < 2:
            return 1
        return min(self._max_batch, _MOST_SHORT, 1 + len(self._jobs) // self.size)

    def _one_ended(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.ended.set_result(None)


def _answer(jobs: list[Job], pair: tuple[Runner, ManyRunner | None], pays_from: int) -> Shift:
    runner, many = pair
    started_s = time.monotonic()
    wanted = [job for job in jobs if started_s <= job.until_s and not job.future.done()]
    run = 1
    if many is not None and len(wanted) >= pays_from:
        run = len(wanted)
        for raw in (False, True):
            _answer_together([job for job in wanted if job.raw is raw], many, raw=raw)
    else:
        for job in wanted:
            _answer_one(job, runner)
    return Shift(jobs, len(wanted), run, time.monotonic() - started_s)


def _answer_one(job: Job, runner: Runner) -> None:
    try:
        job.answer = runner.run_tensor(job.source) if job.raw else runner.predict(job.source)  # type: ignore[arg-type]
    except EdgeloopError as error:
        job.error = error
    except Exception as error:  # noqa: BLE001  the worker's one guard: a bug must not leave its asker waiting
        _log.error("answer_failed", exc_info=error)
        job.error = error


def _answer_together(jobs: list[Job], many: ManyRunner, *, raw: bool) -> None:
    if not jobs:
        return
    try:
        sources: list[Any] = [job.source for job in jobs]
        made: Sequence[Any] = many.run_tensors(sources) if raw else many.predict(sources)
        assert len(made) == len(jobs), f"{len(made)} answers to {len(jobs)} questions"
    except EdgeloopError as error:
        made = [error] * len(jobs)
    except Exception as error:  # noqa: BLE001  see _answer_one
        _log.error("answers_failed", exc_info=error)
        made = [error] * len(jobs)
    for job, one in zip(jobs, made, strict=True):
        if isinstance(one, Exception):
            job.error = one
        else:
            job.answer = one


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # closed in this very moment: nobody is left to tell
            _log.debug("event_loop_closed")


def _close(runners: Iterable[Runner | ManyRunner | None]) -> None:
    """Close them all, even if one fails at it."""
    with ExitStack() as closing:
        for one in runners:
            if one is not None:
                closing.callback(one.close)
