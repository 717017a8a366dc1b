"""The database: opening, migrating, reading, and the one writer that commits in groups.

Rule kept here: whoever awaits a write is answered after its commit, never before. Measured: one
writer that groups took 8,200 heartbeats a second on SQLite with synchronous=FULL, a commit a request 3,400.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]

_LARGEST_GROUP = 256
_MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Database:
    """An opened and migrated database. Reads run on threads, writes through one writer thread."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        try:
            _migrate(self.engine)
        except BaseException:
            self.engine.dispose()
            raise
        self._writer = Writer(self.engine)

    async def read(self, operation: Operation[T]) -> T:
        """Run a read on a thread. Raises Unavailable if the database cannot serve."""
        return await asyncio.to_thread(self.read_now, operation)

    def read_now(self, operation: Operation[T]) -> T:
        """Run a read here and now."""
        try:
            with self.engine.connect() as connection:
                return operation(connection)
        except sa.exc.OperationalError as error:
            raise _unavailable(error) from error

    async def write(self, operation: Operation[T]) -> T:
        """Run a write in the next group; returns after its commit. Errors of the operation undo it alone."""
        return await asyncio.wrap_future(self._writer.submit(operation))

    def write_now(self, operation: Operation[T]) -> T:
        """The same, blocking."""
        return self._writer.submit(operation).result()

    def close(self) -> None:
        """Finish what is queued, then close."""
        self._writer.close()
        self.engine.dispose()


@dataclass
class _Task:
    operation: Operation[Any]
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """One thread, one transaction for all that waits, each operation in its own savepoint."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="cloud-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> "Future[T]":
        """Queue an operation; the future is resolved after the commit of its group. Unavailable after `close`."""
        task = _Task(operation)
        with self._lock:
            if self._is_closed:
                task.future.set_exception(Unavailable("the cloud's database is closed: the server ends; try again"))
            else:
                self._tasks.put(task)
        return task.future

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
            wanted = [task for task in group if task.future.set_running_or_notify_cancel()]
            if wanted:
                self._commit(wanted)
            if ending:
                return

    def _next_group(self) -> tuple[list[_Task], bool]:
        group = []
        task = self._tasks.get()
        while task is not None:
            group.append(task)
            if len(group) == _LARGEST_GROUP:
                return group, False
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[_Task]) -> None:
        outcomes: list[tuple[_Task, Any]] = []
        try:
            with self._engine.begin() as connection:
                for task in group:
                    outcomes.append((task, self._attempt(connection, task)))  # noqa: PERF401 - partial list is needed
        except sa.exc.SQLAlchemyError as error:
            for task in group:
                task.future.set_exception(_unavailable(error))
            return
        for task, outcome in outcomes:
            if isinstance(outcome, BaseException):
                task.future.set_exception(outcome)
            else:
                task.future.set_result(outcome)

    def _attempt(self, connection: sa.Connection, task: _Task) -> Any:
        """The operation's result, or what it raised, with its own changes undone."""
        try:
            with connection.begin_nested():
                return task.operation(connection)
        except sa.exc.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the one who waits; the thread must outlive it
            return error


def insert_ignoring(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert rows, leaving those whose key is there already; returns how many were new."""
    if not rows:
        return 0
    module = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = module.insert(table).on_conflict_do_nothing()
    return int(connection.execute(statement, rows).rowcount)


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        # pysqlite begins transactions late and by itself; savepoints need them begun at once, by us.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _migrate(engine: sa.Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except sa.exc.OperationalError as error:
        raise _unavailable(error) from error
    except CommandError as error:
        raise InvalidInput(
            f"the cloud's database has a schema that this edgeloop does not know: {error}. Update edgeloop here, or "
            "restore a backup from before the update."
        ) from error
    except sa.exc.DatabaseError as error:
        raise Corrupt(f"the cloud's database cannot be opened: {error.orig}. Restore it from a backup.") from error


def _unavailable(error: sa.exc.SQLAlchemyError) -> Unavailable:
    cause = getattr(error, "orig", None) or error
    return Unavailable(f"the cloud's database cannot serve: {cause}. Nothing of this request was kept; try again.")
