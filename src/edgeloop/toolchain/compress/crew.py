"""Who tries plans: worker processes on this machine, one thread each, ended with the search whatever ends it.

Neighbours: `workbench` is what a worker runs, `ray` spreads the same over a cluster.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, Self

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.toolchain.backend import use_threads
from edgeloop.toolchain.compress.plan import Outcome
from edgeloop.toolchain.compress.workbench import Setting, Task, Tried, Workbench

_END_S = 5.0


class Crew(Protocol):
    """Tries tasks, several at once."""

    size: int

    def run(self, tasks: Sequence[Task], *, deadline: float) -> Iterator[tuple[int, Tried]]:
        """Yield (index, what came of it) as tasks are done, in any order.

        deadline: of time.monotonic(); what is not done by then is given up and not yielded.
        """
        ...

    def close(self) -> None:
        """End all workers. May be called twice."""
        ...


@dataclass
class _Hand:
    """One worker process, and the task that it is at."""

    process: BaseProcess
    connection: Connection
    task: int | None = None


class LocalCrew:
    """Processes on this machine, made anew when one dies."""

    def __init__(self, setting: Setting, *, size: int) -> None:
        self.size = size
        self._setting = setting
        self._context = multiprocessing.get_context("spawn")
        self._hands = [self._hire() for _ in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, tasks: Sequence[Task], *, deadline: float) -> Iterator[tuple[int, Tried]]:
        """See Crew.run."""
        waiting = list(enumerate(tasks))[::-1]
        while waiting or any(hand.task is not None for hand in self._hands):
            for hand in self._hands:
                if hand.task is None and waiting:
                    self._give(hand, waiting)
            busy = [hand for hand in self._hands if hand.task is not None]
            left_s = max(0.0, deadline - time.monotonic())
            ready = wait([hand.connection for hand in busy], timeout=None if math.isinf(left_s) else left_s)
            if not ready:
                self._give_up(busy)
                return
            for hand in busy:
                if hand.connection in ready:
                    yield self._taken(hand, tasks)

    def close(self) -> None:
        """End all workers."""
        for hand in self._hands:
            _end(hand)
        self._hands = []

    def _give(self, hand: _Hand, waiting: list[tuple[int, Task]]) -> None:
        index, task = waiting.pop()
        try:
            hand.connection.send(task)
            hand.task = index
        except OSError:
            # It died while it was idle; another takes its place and, at the next turn, the task.
            waiting.append((index, task))
            _end(hand)
            self._replace(hand)

    def _taken(self, hand: _Hand, tasks: Sequence[Task]) -> tuple[int, Tried]:
        index = hand.task
        assert index is not None
        try:
            answer = hand.connection.recv()
            if isinstance(answer, EdgeloopError):
                raise answer
            tried: Tried = answer
            hand.task = None
        except (EOFError, ConnectionResetError):
            _end(hand)
            code = hand.process.exitcode
            tried = Tried(
                Outcome(
                    plan=tasks[index].plan,
                    failure=f"its process died (exit code {code}; -9 is often too little memory, -11 a library)",
                )
            )
            self._replace(hand)
        return index, tried

    def _give_up(self, busy: Sequence[_Hand]) -> None:
        for hand in busy:
            _end(hand)
            self._replace(hand)

    def _replace(self, hand: _Hand) -> None:
        self._hands[self._hands.index(hand)] = self._hire()

    def _hire(self) -> _Hand:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._setting, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Hand(process, ours)


def _end(hand: _Hand) -> None:
    """An idle worker ends by itself when its connection closes; a busy one is told to."""
    hand.connection.close()
    if hand.task is not None:
        hand.process.terminate()
    hand.process.join(_END_S)
    if hand.process.is_alive():
        hand.process.kill()
        hand.process.join()


def _work(setting: Setting, connection: Connection) -> None:
    """A worker's life: tasks in, what came of them out, until the other end is gone."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By an exception, so that what libraries hold (semaphores, folders) is given back.
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow_parent, daemon=True).start()
    # joblib, which scikit-learn brings, makes a semaphore when it is imported, and a worker that is killed leaves it.
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    try:
        use_threads(1)
        _answer(setting, connection)
    except (EOFError, BrokenPipeError):
        return


def _answer(setting: Setting, connection: Connection) -> None:
    """Task after task. An error instead of what came of one ends the search: no worker can begin, or the disk is
    full."""
    try:
        bench = Workbench(setting)
    except EdgeloopError as error:
        connection.recv()
        connection.send(error)
        return
    while True:
        task = connection.recv()
        try:
            tried = bench.try_task(task)
        except EdgeloopError as error:
            connection.send(error)
            return
        connection.send(tried)


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def _follow_parent() -> None:
    """A parent that was killed leaves no worker behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
