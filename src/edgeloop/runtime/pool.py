"""Many askers, few cores: predictions from one event loop over a bounded queue of workers, versions swapped under way.

Rules kept here:
- the queue is bounded, and nobody is let in who would wait longer than the deadline: Overloaded says when to ask again;
- an answer that takes less than a hop between threads is computed at once, on the event loop, as long as it stays so;
  one that takes a little longer, too, while there is but one asker, whom nobody else waits behind;
- a question whose asker has gone, or whose deadline has passed, leaves the queue, and makes room for others;
- a version that follows another is loaded and proven beside it; every question is answered by the one or the other,
  and the old one is closed after its last answer;
- whatever fails or is cancelled on the way, what was loaded is closed and what was started ends.

Neighbours: `crew` has the threads, `servable` what they run; `serve` answers HTTP with this, the cloud its `infer`.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.crew import Crew, Job, Shift
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.remembered import available_cores
from edgeloop.runtime.servable import MAX_RUN_S, Outputs, Runner, Servable

_SWEEP_S = 0.02
_SMALL_BYTES = 8 * 1024
_STALLED_S = 0.02
_AFTER_STALL_S = 60.0


class Overloaded(Unavailable):
    """More is asked than can be answered in time. retry_after_s: by then, what waits now will have been answered."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class PoolSettings:
    """How a pool works. workers: threads, None for one a core. max_queue: questions that wait or are being answered.

    max_batch: inputs that a worker takes at a time; max_run_ms: that a run of several may take, where their number is
    chosen by measurement. max_wait_ms: how long a worker waits for them to come. inline_ms: what takes less is computed
    on the event loop; alone_ms: the same for one asker alone; 0 for nothing. Measured on two cores: two workers answer
    sooner than the loop from 0.2 ms on, and a hop to a worker and back takes 0.15 ms or more.
    """

    workers: int | None = None
    max_queue: int = 256
    max_batch: int = 16
    max_run_ms: float = 1000 * MAX_RUN_S
    max_wait_ms: float = 0.0
    inline_ms: float = 0.25
    alone_ms: float = 5.0

    @property
    def size(self) -> int:
        """How many workers that makes here."""
        return self.workers or available_cores()


@dataclass
class PoolCounts:
    """What a pool has done. answered, failed: computed, failed for their input's fault or the model's.

    rejected: not let in. late: not answered before their deadline. gone: whoever asked went away before the answer.
    batches: how many runs were of so many inputs.
    """

    answered: int = 0
    failed: int = 0
    rejected: int = 0
    late: int = 0
    gone: int = 0
    swaps: int = 0
    batches: Counter[int] = field(default_factory=Counter)


class Pool:
    """One model, answering many. All methods belong to the event loop on which it was opened.

    pool = await Pool.open(servable)
    prediction = await pool.predict(jpeg, deadline_s=2.0)
    await pool.swap(newer)
    await pool.close()
    """

    def __init__(self, crew: Crew, direct: "_Direct | None", settings: PoolSettings) -> None:
        self.counts = PoolCounts()
        self._settings = settings
        self._crew = crew
        self._direct = direct
        self._item_s = crew.servable.pace.item_s
        self._open: dict[Job, Crew] = {}
        self._waiting = 0
        self._sweeping = False
        self._closing = False
        self._stalled_until_s = 0.0
        self._changing = asyncio.Lock()
        self._retired: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(cls, servable: Servable, settings: PoolSettings | None = None) -> "Pool":
        """Load a worker's predictor for each worker, and begin. Raises what loading raises."""
        chosen = settings or PoolSettings()
        crew, direct = await _Opening(servable, chosen).done()
        pool = cls(crew, direct, chosen)
        _start(crew, direct, pool._on_shift)
        return pool

    @property
    def servable(self) -> Servable:
        """What answers now."""
        return self._crew.servable

    @property
    def manifest(self) -> Manifest:
        """Of what answers now."""
        return self._crew.servable.manifest

    @property
    def depth(self) -> int:
        """How many questions wait or are being answered."""
        return self._waiting

    @property
    def workers(self) -> int:
        """How many threads answer."""
        return self._crew.size

    async def predict(self, source: Source, *, deadline_s: float, alone: bool = False) -> Prediction:
        """Answer for one input. alone: for the time being nobody else asks.

        Raises Overloaded, Unavailable after the deadline, or what the input is wrong with.
        """
        made = self.predict_at_once(source, alone=alone)
        if made is not None:
            return made
        jobs = self._let_in((source,), raw=False, deadline_s=deadline_s)
        try:
            return await jobs[0].future  # type: ignore[no-any-return]
        except (asyncio.CancelledError, GeneratorExit):
            self._withdraw(jobs)
            raise

    async def run_tensors(
        self, tensors: Sequence[NDArray[np.float32]], *, deadline_s: float, alone: bool = False
    ) -> list[Outputs]:
        """The model's outputs for preprocessed inputs of manifest.input.shape; all are let in, or none.

        Raises as `predict`.
        """
        if len(tensors) == 1:
            made = self.run_tensor_at_once(tensors[0], alone=alone)
            if made is not None:
                return [made]
        return await self._all(self._let_in(tensors, raw=True, deadline_s=deadline_s))

    def answers_at_once(self, *, alone: bool = False) -> bool:
        """Whether small inputs are computed on the event loop just now, so that it pays to ask for that first."""
        return self._direct is not None and (not self._direct.only_alone or (alone and not self._waiting))

    def predict_at_once(self, source: Source, *, alone: bool = False) -> Prediction | None:
        """The answer, computed here and now; None if it is the workers' to give. Raises as `predict`."""
        if self._direct is not None and self._is_short(source, self._direct, alone):
            return self._at_once(self._direct.runner.predict, source)  # type: ignore[no-any-return]
        return None

    def run_tensor_at_once(self, tensor: NDArray[np.float32], *, alone: bool = False) -> Outputs | None:
        """The same for the outputs for one preprocessed input."""
        if self._direct is not None and self._is_short(tensor, self._direct, alone):
            return self._at_once(self._direct.runner.run_tensor, tensor)  # type: ignore[no-any-return]
        return None

    async def predict_many(self, sources: Sequence[Source], *, deadline_s: float) -> list[Prediction]:
        """Answers for several inputs; all are let in, or none. Raises as `predict`, for the first that fails."""
        return await self._all(self._let_in(sources, raw=False, deadline_s=deadline_s))

    async def swap(self, servable: Servable) -> None:
        """From now on this answers. Returns when the former has given its last answer and was closed.

        servable: loaded here beside the former; if that fails, the former stays, and what loading raised is raised.
        """
        async with self._changing:  # of two, the one that was asked for last is to answer
            crew, direct = await _Opening(servable, self._settings).done()
            if self._closing:
                _discard(crew, direct)
                raise self._is_closed()
            _start(crew, direct, self._on_shift)
            former, former_direct = self._crew, self._direct
            self._crew, self._direct, self._item_s = crew, direct, servable.pace.item_s
            self.counts.swaps += 1
            self._retire(former, former_direct)
        # Not awaited itself: whoever asked for the swap may go away, the crew ends all the same.
        await asyncio.shield(former.ended)

    async def close(self) -> None:
        """Answer what was let in, and end. What comes later is turned away."""
        if not self._closing:
            self._closing = True
            self._retire(self._crew, self._direct)
        while self._retired:
            await asyncio.wait(self._retired)

    def _retire(self, crew: Crew, direct: "_Direct | None") -> None:
        crew.finish()
        self._retired.add(crew.ended)
        crew.ended.add_done_callback(self._retired.discard)
        if direct is not None:
            direct.runner.close()

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"{self.manifest.ref} is being closed; ask again soon")

    def _is_short(self, source: Source, direct: "_Direct", alone: bool) -> bool:
        """Whether to compute at once: what was measured as short, on an input no larger than what was measured."""
        if direct.only_alone and (self._waiting or not alone):
            return False
        if isinstance(source, np.ndarray):
            is_small = source.nbytes <= max(_SMALL_BYTES, 4 * self._crew.servable.pace.sample_bytes)
        else:
            is_small = isinstance(source, bytes) and len(source) <= _SMALL_BYTES
        return is_small and not self._closing and (not self._stalled_until_s or not self._is_stalled())

    def _is_stalled(self) -> bool:
        """A small file can decode to a large image: after one that held everybody up, all go to the workers a while."""
        if time.monotonic() >= self._stalled_until_s:
            self._stalled_until_s = 0.0
        return self._stalled_until_s > 0

    def _at_once(self, answer: Any, source: Source) -> Any:
        started_s = time.thread_time()  # not the wall's: another program that had the core is not the input's fault
        try:
            made = answer(source)
        except Exception:
            self.counts.failed += 1
            raise
        finally:
            if time.thread_time() - started_s > _STALLED_S:
                self._stalled_until_s = time.monotonic() + _AFTER_STALL_S
        self.counts.answered += 1
        self.counts.batches[1] += 1
        return made

    def _let_in(self, sources: Sequence[Source], *, raw: bool, deadline_s: float) -> list[Job]:
        self._check_room(len(sources), deadline_s)
        loop = asyncio.get_running_loop()
        until_s = time.monotonic() + deadline_s
        jobs = [Job(source, raw=raw, until_s=until_s, future=loop.create_future()) for source in sources]
        for job in jobs:
            self._open[job] = self._crew
            self._crew.put(job)
        self._waiting += len(jobs)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP_S, self._sweep)
        return jobs

    def _check_room(self, count: int, deadline_s: float) -> None:
        if self._closing:
            raise self._is_closed()
        wait_s = self._waiting * self._item_s / self._crew.size
        if self._waiting + count > self._settings.max_queue:
            self.counts.rejected += count
            raise Overloaded(
                f"{self._waiting} questions wait and {self._settings.max_queue} may; ask again in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )
        own_s = count * self._item_s / self._crew.size
        # An idle pool lets anyone in: only an answer shows that one that was slow is no longer.
        if self._waiting and wait_s + own_s > deadline_s:
            self.counts.rejected += count
            hint = "allow more time" if own_s > deadline_s else f"ask again in {wait_s:.1f} s"
            raise Overloaded(
                f"an answer would take about {1000 * (wait_s + own_s):.1f} ms, {1000 * own_s:.1f} of them by itself, "
                f"longer than the deadline of {1000 * deadline_s:.0f} ms; {hint}",
                retry_after_s=wait_s,
            )

    async def _all(self, jobs: list[Job]) -> list[Any]:
        try:
            made = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        except (asyncio.CancelledError, GeneratorExit):
            self._withdraw(jobs)
            raise
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return made

    def _withdraw(self, jobs: Iterable[Job]) -> None:
        """Whoever asked has gone: what nobody has begun with is not computed any more, nor waits in others' way."""
        for job in jobs:
            job.future.cancel()
            if self._leave(job):
                self.counts.gone += 1

    def _leave(self, job: Job) -> bool:
        """Nobody waits for this any more; False if nobody did before."""
        crew = self._open.pop(job, None)
        if crew is None:
            return False
        if crew.withdraw(job):
            self._waiting -= 1
        return True

    def _on_shift(self, shift: Shift) -> None:
        """A worker has done these: once for all that it took."""
        self._waiting -= len(shift.jobs)
        if shift.computed:
            self.counts.batches[shift.run] += shift.computed // shift.run
            self._item_s += 0.2 * (shift.busy_s / shift.computed - self._item_s)
        for job in shift.jobs:
            if self._open.pop(job, None) is None:  # it went away, or its deadline passed
                continue
            if job.future.done():
                self.counts.gone += 1
            else:
                self._resolve(job)

    def _resolve(self, job: Job) -> None:
        if job.error is not None:
            self.counts.failed += 1
            job.future.set_exception(job.error)
        elif job.answer is None:
            self._expire(job)
        else:
            self.counts.answered += 1
            job.future.set_result(job.answer)

    def _sweep(self) -> None:
        """One timer for all deadlines: a timer for each request costs more than many a model."""
        now_s = time.monotonic()
        for job in [job for job in self._open if job.until_s < now_s and not job.future.done()]:
            self._leave(job)
            self._expire(job)
        self._sweeping = bool(self._open)
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _expire(self, job: Job) -> None:
        self.counts.late += 1
        job.future.set_exception(Unavailable("no answer before the deadline; ask again, or allow more time"))


@dataclass(frozen=True)
class _Direct:
    """What answers on the event loop itself. only_alone: as long as there is one asker."""

    runner: Runner
    only_alone: bool


class _Opening:
    """A crew being loaded, in a thread. Whoever waits for it may go away: then what it loads is closed again."""

    def __init__(self, servable: Servable, settings: PoolSettings) -> None:
        self._servable = servable
        self._settings = settings
        self._deciding = threading.Lock()
        self._made: tuple[Crew, _Direct | None] | None = None
        self._is_wanted = True

    async def done(self) -> tuple[Crew, _Direct | None]:
        """What was loaded; it is the caller's. Raises what loading raises."""
        try:
            return await asyncio.to_thread(self._run)
        except asyncio.CancelledError:
            self._give_up()
            raise

    def _run(self) -> tuple[Crew, _Direct | None]:
        made = _open(self._servable, self._settings)
        with self._deciding:
            self._made = made
            is_wanted = self._is_wanted
        if not is_wanted:
            _discard(*made)
        return made

    def _give_up(self) -> None:
        with self._deciding:
            self._is_wanted = False
            made = self._made
        if made is not None:
            _discard(*made)


def _open(servable: Servable, settings: PoolSettings) -> tuple[Crew, _Direct | None]:
    crew = Crew.open(
        servable,
        workers=settings.size,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
    )
    with ExitStack() as loaded:
        loaded.callback(crew.discard)
        direct = _open_direct(servable, settings)
        loaded.pop_all()
    return crew, direct


def _start(crew: Crew, direct: _Direct | None, on_shift: Callable[[Shift], None]) -> None:
    with ExitStack() as loaded:
        if direct is not None:
            loaded.callback(direct.runner.close)
        crew.start(on_shift)
        loaded.pop_all()


def _discard(crew: Crew, direct: _Direct | None) -> None:
    with ExitStack() as closing:
        closing.callback(crew.discard)
        if direct is not None:
            closing.callback(direct.runner.close)


def _open_direct(servable: Servable, settings: PoolSettings) -> _Direct | None:
    pace = servable.pace
    if 0 < pace.item_s <= settings.inline_ms / 1000:
        return _Direct(servable.open(), only_alone=False)
    alone_s = pace.alone_s or pace.item_s
    if 0 < alone_s <= settings.alone_ms / 1000:
        return _Direct((servable.open_alone or servable.open)(), only_alone=True)
    return None
