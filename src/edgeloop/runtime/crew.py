"""The workers of one version: threads with a predictor each, on one queue.

A worker takes what waits, answers it, and tells the event loop once for all that it took. What it takes at a time is
decided by what was measured: where a run of several pays, up to a batch; where an answer takes less than a hop between
threads costs, its share of the queue, one by one; else one. Requests whose deadline has passed, or whose asker has
gone, are not computed.

Neighbours: `servable` is what is run, `pool` puts jobs in and hands answers out.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.servable import ManyRunner, Runner, Servable

_log = structlog.get_logger(__name__)

_SHORT_S = 0.001
"""Answers shorter than this are taken several at a time: a hop between threads costs some 50 microseconds."""


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
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    @classmethod
    def open(cls, servable: Servable, *, workers: int, max_batch: int, max_wait_ms: float) -> "Crew":
        """Load the model once a worker. Raises what loading raises; nothing stays loaded then."""
        pairs: list[tuple[Runner, ManyRunner | None]] = []
        try:
            for _ in range(workers):
                pairs.append((servable.open(), None))
                if servable.open_many is not None:
                    pairs[-1] = (pairs[-1][0], servable.open_many())
        except EdgeloopError:
            for pair in pairs:
                _close(pair)
            raise
        return cls(servable, pairs, max_batch=max_batch, max_wait_ms=max_wait_ms)

    def start(self, on_shift: Callable[[Shift], None]) -> None:
        """Begin to work; on_shift is called on this event loop."""
        loop = asyncio.get_running_loop()
        self._left = self.size
        self.ended: asyncio.Future[None] = loop.create_future()
        for number, pair in enumerate(self._pairs):
            name = f"{self.servable.manifest.ref}#{number}"
            threading.Thread(target=self._work, args=(pair, loop, on_shift), name=name, daemon=True).start()

    def discard(self) -> None:
        """Give up what was loaded for a crew that is not started."""
        for pair in self._pairs:
            _close(pair)

    def put(self, job: Job) -> None:
        """Queue a job."""
        self._queue.put(job)

    def finish(self) -> None:
        """Let every worker end once the queue is empty, and then set `ended`; nothing may be put after this."""
        for _ in range(self.size):
            self._queue.put(None)

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
        _close(pair)
        _tell(loop, self._one_ended)

    def _take(self) -> tuple[list[Job], bool]:
        """What waits, and whether that was the last. Waits for the first; for others up to max_wait."""
        first = self._queue.get()
        if first is None:
            return [], True
        jobs = [first]
        until_s = time.monotonic() + self._max_wait_s
        for _ in range(self._share() - 1):
            try:
                left_s = until_s - time.monotonic() if self._max_wait_s else 0.0
                job = self._queue.get(timeout=left_s) if left_s > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _share(self) -> int:
        """How many jobs to take: as many as a run holds, or a fair part of short ones, or one."""
        pace = self.servable.pace
        if pace.batch:
            return min(pace.batch, self._max_batch)
        if pace.item_s > _SHORT_S or self._max_batch < 2:
            return 1
        return min(self._max_batch, 1 + self._queue.qsize() // self.size)

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


def _close(pair: tuple[Runner, ManyRunner | None]) -> None:
    for one in pair:
        if one is not None:
            one.close()
