"""Moving what was committed from SQLite's log into its file, beside the writer.

SQLite leaves that to whoever commits: with 10,000 devices a commit took up to half a second, every second or so, and
whoever waited for it, too. Here a thread does nearly all of it while commits go on; what came meanwhile, the writer
moves between two transactions, so that the log begins anew and does not grow without an end.
Source: sqlite.org/wal.html, "Application-Initiated Checkpoints" and "Avoiding Excessively Large WAL Files".

What is committed is safe in the log already: nothing is lost where this fails, and the writer does it by itself when
the log has grown to `engine.LOG_PAGES`. Neighbour: `database`.
"""

import sqlite3
import threading

import sqlalchemy as sa
import structlog

from edgeloop.cloud.store.glance import open_beside

_log = structlog.get_logger(__name__)
_EVERY_S = 0.5
_LONG_PAGES = 4_000
"""16 MB of log: then it is to begin anew."""


class Checkpoints:
    """One a database, with a thread of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._beside = _Mover(engine)
        self._between = _Mover(engine)
        self._is_due = threading.Event()
        self._is_over = threading.Event()
        self._is_long = False
        self._thread = threading.Thread(target=self._run, name="cloud-checkpoints", daemon=True)
        self._thread.start()

    def committed(self) -> None:
        """By the writer, after its commits and outside any transaction."""
        if self._is_long:
            self._is_long = False
            self._between.move()
        self._is_due.set()

    def close(self) -> None:
        """End the thread, once the writer has ended."""
        self._is_over.set()
        self._is_due.set()
        self._thread.join()
        self._beside.close()
        self._between.close()

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            self._is_due.wait()
            self._is_due.clear()
            self._is_long = self._beside.move() >= _LONG_PAGES


class _Mover:
    """A connection of its own. Used from one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sqlite3.Connection | None = None
        self._has_failed = False

    def move(self) -> int:
        """Move what no reader of an older state is in the way of; returns the pages that the log had, 0 if it failed.

        PASSIVE neither waits for others nor has them wait.
        """
        try:
            if self._connection is None:
                self._connection = open_beside(self._engine)
            _, pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
            self.close()
            if not self._has_failed:  # one line, not one each half second for as long as the disk is full
                _log.warning("checkpoint_failed", detail=f"{error}; the database's log grows until this succeeds")
            self._has_failed = True
            return 0
        self._has_failed = False
        return int(pages)

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
