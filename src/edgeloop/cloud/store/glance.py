"""What every request asks, handed to SQLite's driver itself: SQLAlchemy's way to it takes ten times as long as SQLite.

Outside transactions what is read by key (`Glance`), within them any statement. Neighbour: `database`.
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

from edgeloop.cloud.store.engine import is_postgresql, unavailable


def first_in(connection: sa.Connection, query: sa.Select[Any], values: dict[str, str]) -> Sequence[Any] | None:
    """The first row of a query within a transaction, None if there is none; put together once, as for a Glance."""
    rows = run_in(connection, query, values)
    return rows[0] if rows else None


def run_in(connection: sa.Connection, statement: sa.Executable, values: dict[str, Any]) -> Sequence[Sequence[Any]]:
    """Run a statement within a transaction, handed to the driver as it is; the rows that it gives. For texts and
    numbers; put together once.
    """
    text, names, constants = _compiled(connection.dialect, statement)
    given = constants | values
    if not is_postgresql(connection):
        return straight(connection, text, [given[name] for name in names]).rows
    done = connection.exec_driver_sql(text, given)
    return done.all() if done.returns_rows else ()


class Done(NamedTuple):
    """What a statement gave, and how many rows it changed."""

    rows: list[tuple[Any, ...]]
    changed: int


def straight(connection: sa.Connection, text: str, values: Sequence[Any]) -> Done:
    """SQLite's driver's own answer within the connection's transaction, which is begun if there is none.

    Raises what SQLAlchemy would.
    """
    if not connection.in_transaction():
        connection.begin()
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    try:
        cursor = driver.execute(text, values)
        return Done(cursor.fetchall(), cursor.rowcount)
    except sqlite3.Error as error:
        raise sa.exc.DBAPIError.instance(
            text, tuple(values), error, sqlite3.Error, dialect=connection.dialect
        ) from error


class Glance:
    """A connection of its own to a SQLite database, without transactions: each answer is of what is committed now."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sqlite3.Connection | None = None

    def rows(self, query: sa.Select[Any], values: dict[str, str]) -> Sequence[Sequence[Any]]:
        """What a query gives. values: of its parameters. Raises Unavailable."""
        text, names, constants = _compiled(self._engine.dialect, query)
        given = constants | values
        try:
            return self._opened().execute(text, [given[name] for name in names]).fetchall()
        except sqlite3.Error as error:
            self.close()
            raise unavailable(error) from error

    def close(self) -> None:
        """Let go of the connection; the next question opens one anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_beside(self._engine)
        return self._connection


def open_beside(engine: sa.Engine) -> sqlite3.Connection:
    """A connection to SQLite that is the caller's: the pool neither hands it out nor resets it."""
    pooled = engine.raw_connection()
    opened = cast("sqlite3.Connection", pooled.driver_connection)
    pooled.detach()
    return opened


@lru_cache(maxsize=64)
def _compiled(dialect: sa.Dialect, statement: sa.Executable) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The text, its parameters in order, and those that the statement has a value for itself."""
    assert isinstance(statement, sa.ClauseElement)
    made = statement.compile(dialect=dialect)
    assert isinstance(made, SQLCompiler)
    constants = {name: value for name, value in made.params.items() if value is not None}
    return str(made), tuple(made.positiontup or ()), constants
