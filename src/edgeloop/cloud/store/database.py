"""The database: opening, migrating, reading, and the one writer that commits in groups.

Rule kept here: whoever awaits a write is answered after its commit, never before. Measured: one
writer that groups took 8,200 heartbeats a second on SQLite with synchronous=FULL, a commit a request 3,400.

On PostgreSQL each replica has one such writer. What reads, decides and writes is done by one replica at a time
(locks.DECIDING); what commutes (`alone=False`) is done by all at once. Operations may be run again after a deadlock
or a lost connection, so they act on their connection alone. Neighbours: `engine`, `schema`, `locks`; `replica` tells
the replicas of one another.
"""

import asyncio
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from edgeloop.cloud.store.checkpoints import Checkpoints
from edgeloop.cloud.store.engine import GONE, is_postgresql, open_engine, unavailable
from edgeloop.cloud.store.glance import Glance, straight
from edgeloop.cloud.store.locks import DECIDING, take_for_transaction
from edgeloop.cloud.store.schema import migrate, require_newest
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Unavailable

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]

_LARGEST_GROUP = 256
_GROUP_S = 0.5
"""A group whose operations took longer is followed by smaller ones: who comes during one waits for all of it, and 256
large batches took 15 s. The commit does not count: it costs as much for few.
"""
_GATHER_S = 0.004
_CROWD_WITHIN_S = 0.02
"""A group that is begun so soon after the last one waits a moment for others: each costs a commit, and at 300 requests
a second there was one for each. Whoever writes alone does not wait.
"""
_TRIES = 3
_LARGEST_PART = 64
_ROLLED_BACK = ("40001", "40P01")
"""SQLSTATE of serialization failure and deadlock: the server undid the transaction, which may simply go again."""


class TooLate(Exception):
    """What was to be written has not begun by when it had to."""


def _too_late() -> TooLate:
    return TooLate("what waits to be written is more than can be in time")


class Database:
    """An opened and migrated database. Reads run on threads, writes through one writer thread.

    migrates: whether an older schema is brought up to date here, or turned down with InvalidInput. A newer one is
    turned down always.
    """

    def __init__(self, url: str, *, migrates: bool = True) -> None:
        self.engine = open_engine(url)
        try:
            if migrates:
                migrate(self.engine)
            else:
                require_newest(self.engine)
        except BaseException:
            self.engine.dispose()
            raise
        is_sqlite = not is_postgresql(self.engine)
        self._glance = Glance(self.engine) if is_sqlite else None
        self._checkpoints = Checkpoints(self.engine) if is_sqlite else None
        self._writer = Writer(self.engine, self._checkpoints)

    async def read(self, operation: Operation[T]) -> T:
        """Run a read on a thread. Raises Unavailable if the database cannot serve."""
        return await asyncio.to_thread(self.read_now, operation)

    async def look(self, query: sa.Select[Any], **values: str) -> Sequence[Sequence[Any]]:
        """The rows of a read by key. values: of the query's parameters.

        On SQLite it is asked at once and straight, which takes less than having a thread do it. Raises Unavailable.
        """
        if self._glance is not None:
            return self._glance.rows(query, values)
        return await self.read(lambda connection: connection.execute(query, values).all())

    def read_now(self, operation: Operation[T]) -> T:
        """Run a read here and now."""
        try:
            return self._read(operation)
        except sa.exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise _translated(error) from error
        except GONE as error:
            raise unavailable(error) from error
        try:
            # The pool has thrown away its connections by now: PostgreSQL was restarted, say.
            return self._read(operation)
        except sa.exc.SQLAlchemyError as error:
            raise _translated(error) from error

    def _read(self, operation: Operation[T]) -> T:
        with self.engine.connect() as connection:
            return operation(connection)

    async def write(self, operation: Operation[T], *, alone: bool = True, until_s: float = math.inf) -> T:
        """Run a write in the next group; returns after its commit. Errors of the operation undo it alone.

        alone: no other replica decides anything meanwhile. False is for what has the same outcome in any order.
        until_s: by the monotonic clock; what has not begun by then is left out. Raises TooLate, also where that is to
        be expected.
        """
        if time.monotonic() + self.queue_s() > until_s:
            raise _too_late()
        waiting = _Awaited()
        self._writer.put(_Task(operation, alone, waiting, until_s=until_s))
        result: T = await waiting.future
        return result

    def queue_s(self) -> float:
        """How long what is being written now has waited for that; 0.0 while nothing is."""
        return self._writer.queue_s()

    async def transact(self, operation: Operation[T]) -> T:
        """Run an operation on a thread, in a transaction beside the writer's: for what groups its writes itself.

        PostgreSQL only: SQLite has one writer. Raises Unavailable.
        """
        return await asyncio.to_thread(_in_transaction, self.engine, operation)

    def write_now(self, operation: Operation[T], *, alone: bool = True) -> T:
        """The same, blocking."""
        return self._writer.submit(operation, alone=alone).result()

    def close(self) -> None:
        """Finish what is queued, then close."""
        self._writer.close()
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self._glance is not None:
            self._glance.close()
        self.engine.dispose()


class _Awaited:
    """Where a task of this event loop waits for the writer."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def set_running_or_notify_cancel(self) -> bool:
        """False if nobody waits any more."""
        return not self.future.cancelled()

    def end(self, outcome: Any) -> None:
        """In its event loop only."""
        if not self.future.done():
            _settle(self.future, outcome)


@dataclass(frozen=True)
class _Task:
    """By the monotonic clock, put_s: when it was queued; until_s: when it is of use to nobody any more."""

    operation: Operation[Any]
    alone: bool
    waiting: "_Awaited | Future[Any]"
    put_s: float = field(default_factory=time.monotonic)
    until_s: float = math.inf


class Writer:
    """One thread, one transaction for all that waits; what an operation that fails did is undone alone."""

    def __init__(self, engine: sa.Engine, checkpoints: Checkpoints | None = None) -> None:
        self._engine = engine
        self._checkpoints = checkpoints
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._ended_s = 0.0
        self._oldest_s: float | None = None
        self._largest = _LARGEST_GROUP
        self._thread = threading.Thread(target=self._run, name="cloud-writer", daemon=True)
        self._thread.start()

    def put(self, task: _Task) -> None:
        """Queue an operation; who waits is told after the commit of its group. Raises Unavailable after `close`."""
        with self._lock:
            if self._is_closed:
                raise Unavailable("the cloud's database is closed: the server ends; try again")
            self._tasks.put(task)

    def submit(self, operation: Operation[T], *, alone: bool = True) -> "Future[T]":
        """The same, for whoever waits in a thread."""
        future: Future[T] = Future()
        try:
            self.put(_Task(operation, alone, future))
        except Unavailable as error:
            future.set_exception(error)
        return future

    def queue_s(self) -> float:
        """See Database.queue_s."""
        oldest_s = self._oldest_s
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            self._is_closed = True
            self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            group, ending = self._next_group()
            # Whoever gave up waiting before its turn is left out; from here on nobody can give up.
            group = [task for task in group if task.waiting.set_running_or_notify_cancel()]
            now_s = time.monotonic()
            late = [task for task in group if task.until_s < now_s]
            _tell(late, [_too_late()] * len(late))
            wanted = [task for task in group if task.until_s >= now_s]
            if wanted:
                self._oldest_s = wanted[0].put_s
                _tell(wanted, self._commit(wanted))
                if self._checkpoints is not None:
                    self._checkpoints.committed()
            self._oldest_s = None
            self._ended_s = time.monotonic()
            if ending:
                return

    def _next_group(self) -> tuple[list[_Task], bool]:
        first = self._tasks.get()
        if first is None:
            return [], True
        if self._tasks.empty() and time.monotonic() - self._ended_s < _CROWD_WITHIN_S:
            time.sleep(_GATHER_S)
        group = [first]
        while len(group) < self._largest:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is None:
                return group, True
            group.append(task)
        return group, False

    def _measured(self, connection: sa.Connection, group: list[_Task]) -> list[Any]:
        _take_turns(connection, group)
        began_s = time.monotonic()
        outcomes = _all_or_none(connection, group)
        self._measure(len(group), time.monotonic() - began_s)
        return outcomes

    def _measure(self, count: int, took_s: float) -> None:
        """How large the next group may be, after one of so many."""
        if took_s > _GROUP_S and count > 1:
            self._largest = max(1, int(count * _GROUP_S / took_s))
        elif count >= self._largest and took_s < _GROUP_S / 2:
            self._largest = min(_LARGEST_GROUP, 2 * self._largest)

    def _commit(self, group: list[_Task]) -> list[Any]:
        """What each operation gave, or raised; all the same where the group could not be committed."""
        try:
            return self._outcomes(group)
        except (sa.exc.SQLAlchemyError, EdgeloopError) as error:
            return [error] * len(group)

    def _outcomes(self, group: list[_Task]) -> list[Any]:
        """What each operation gave, or raised, once the group is committed.

        Nearly always all go well, so they are first run without savepoints, which cost as much as a small operation.
        """
        try:
            return _in_transaction(self._engine, lambda connection: self._measured(connection, group))
        except _OneFailed:
            return _in_transaction(self._engine, lambda connection: _one_by_one(connection, group))


def _tell(group: list[_Task], outcomes: list[Any]) -> None:
    """Each event loop is woken once for all of its tasks."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[_Awaited, Any]]] = defaultdict(list)
    for task, outcome in zip(group, outcomes, strict=True):
        if isinstance(task.waiting, _Awaited):
            by_loop[task.waiting.loop].append((task.waiting, outcome))
        else:
            _settle(task.waiting, outcome)
    for loop, ended in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits there
            loop.call_soon_threadsafe(_end_all, ended)


def _settle(future: "asyncio.Future[Any] | Future[Any]", outcome: Any) -> None:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _end_all(ended: list[tuple[_Awaited, Any]]) -> None:
    for awaited, outcome in ended:
        awaited.end(outcome)


class _OneFailed(Exception):
    """An operation of a group raised something: all were undone."""


def _in_transaction(engine: sa.Engine, work: Operation[T]) -> T:
    """Work and commit; again if the transaction was undone without a fault of its own. Raises Unavailable."""
    tries_left = _TRIES
    while True:
        tries_left -= 1
        is_committing = False
        try:
            with engine.connect() as connection, connection.begin() as transaction:
                result = work(connection)
                is_committing = True
                transaction.commit()
                return result
        except sa.exc.SQLAlchemyError as error:
            if is_committing and _is_cut_off(error):
                raise unavailable(error, became="What became of this request is not known") from error
            if not (tries_left and _may_go_again(error)):
                raise _translated(error) from error


def _all_or_none(connection: sa.Connection, group: list[_Task]) -> list[Any]:
    """What all operations gave. Raises _OneFailed if one raised anything."""
    try:
        return [task.operation(connection) for task in group]
    except Exception as error:
        raise _OneFailed from error


def _one_by_one(connection: sa.Connection, group: list[_Task]) -> list[Any]:
    """What each operation gave, or raised."""
    _take_turns(connection, group)
    return [_outcome(connection, task) for task in group]


def _take_turns(connection: sa.Connection, group: list[_Task]) -> None:
    if any(task.alone for task in group):
        take_for_transaction(connection, DECIDING)


def _outcome(connection: sa.Connection, task: _Task) -> Any:
    """The operation's result, or what it raised, with its own changes undone."""
    try:
        with connection.begin_nested():
            return task.operation(connection)
    except sa.exc.DBAPIError as error:
        if _ends_group(error, connection):
            raise
        translated = _translated(error)
        translated.__cause__ = error
        return translated
    except Exception as error:  # noqa: BLE001 - handed to the one who waits; the thread must outlive it
        return error


def _ends_group(error: sa.exc.DBAPIError, connection: sa.Connection) -> bool:
    """Whether the transaction is lost, and not the operation alone."""
    return _may_go_again(error) if is_postgresql(connection) else isinstance(error, sa.exc.OperationalError)


def _may_go_again(error: sa.exc.SQLAlchemyError) -> bool:
    return _is_cut_off(error) or getattr(getattr(error, "orig", None), "sqlstate", None) in _ROLLED_BACK


def _is_cut_off(error: sa.exc.SQLAlchemyError) -> bool:
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


def _translated(error: sa.exc.SQLAlchemyError) -> Exception:
    """Ours for what the database cannot do now, or cannot hold; what is a bug of ours stays as it is.

    What cannot serve is told in many ways: a standby that a failover left read-only, by an InternalError.
    """
    if isinstance(error, sa.exc.DataError):
        return InvalidInput(f"the cloud's database cannot hold this: {error.orig}. Send other text or numbers.")
    if isinstance(error, sa.exc.IntegrityError):
        return error
    return unavailable(error) if isinstance(error, (*GONE, sa.exc.DBAPIError)) else error


def insert_ignoring(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert rows, all of the same columns, leaving those whose key is there already; returns how many were new."""
    if not rows:
        return 0
    columns = tuple(rows[0])
    if is_postgresql(connection):
        statement = _one(connection.dialect, table, columns)
        # Without preserve_rowcount SQLAlchemy forgets psycopg's count of a batch. 60 rows: 4 ms, with RETURNING 9 ms.
        done = connection.exec_driver_sql(statement, rows, execution_options={"preserve_rowcount": True})
        return int(done.rowcount)
    new = 0
    for start, count in _parts(len(rows)):
        statement, values_of = _many(connection.dialect, table, columns, count)
        values = tuple(chain.from_iterable(map(values_of, rows[start : start + count])))
        new += straight(connection, statement, values).changed
    return new


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    """Where parts of many rows begin, and how many each has: no more sizes than SQLite's driver keeps prepared.

    It gives the interpreter away for each statement that it runs, and waits until it has it back.

    >>> list(_parts(70))
    [(0, 64), (64, 6)]
    """
    for start in range(0, rows, _LARGEST_PART):
        yield start, min(_LARGEST_PART, rows - start)


# Put together once, and handed to the driver as they are: SQLAlchemy's own way takes twice as long for each row.


@lru_cache(maxsize=64)
def _one(dialect: sa.Dialect, table: sa.Table, columns: tuple[str, ...]) -> str:
    """The statement for one row of PostgreSQL, whose driver takes rows by name."""
    inserting = postgresql.insert(table).on_conflict_do_nothing()
    return str(inserting.compile(dialect=dialect, column_keys=list(columns)))


@lru_cache(maxsize=256)
def _many(
    dialect: sa.Dialect, table: sa.Table, columns: tuple[str, ...], rows: int
) -> tuple[str, Callable[[dict[str, Any]], tuple[Any, ...]]]:
    """The statement for so many rows of SQLite, and what takes the values of each in its order."""
    compiled = sqlite.insert(table).on_conflict_do_nothing().compile(dialect=dialect, column_keys=list(columns))
    assert isinstance(compiled, SQLCompiler)
    names = list(compiled.positiontup or ())
    one = f"({', '.join('?' * len(names))})"
    text = str(compiled)
    assert text.count(one) == 1, text
    many = text.replace(one, ", ".join([one] * rows))
    if len(names) > 1:
        return many, itemgetter(*names)
    return many, lambda row: (row[names[0]],)
