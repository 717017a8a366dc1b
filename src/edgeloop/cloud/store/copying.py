"""A database's rows elsewhere: a snapshot of any database as one SQLite file, and such a file's rows into another one.

Each reads in one transaction, so what it copies belongs together, however busy the cloud is.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from edgeloop.cloud.store.engine import is_postgresql, open_engine, unavailable
from edgeloop.cloud.store.restores import is_unfinished, note_whole
from edgeloop.cloud.store.schema import BASE, migrate, version_of
from edgeloop.contracts.errors import InvalidInput, NotFound

_ROWS_AT_ONCE = 1000
_LEFT_OUT = ("alembic_version", "used_nonces")
"""Each database has its own version; nonces are of this minute."""


def snapshot(url: str, file: Path) -> str:
    """Write everything to a new SQLite file, while the database is in use; returns the schema's version.

    Raises NotFound if there is no cloud in it.
    """
    engine = open_engine(url)
    try:
        if engine.url.get_backend_name() == "sqlite":
            _snapshot_sqlite(Path(engine.url.database or ""), file)
        else:
            _snapshot_postgresql(engine, file)
        return _settle(file)
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error, became="Nothing was written") from error
    finally:
        engine.dispose()


def pour(file: Path, url: str) -> None:
    """Put the rows of a snapshot of the newest version into an empty database: all of them, or none.

    What a restore that was cut short left there goes first.

    Raises Refused if somebody serves that all the same; InvalidInput if there is anything else in it, or if it cannot
    hold what there is.
    """
    source, target = open_engine(f"sqlite:///{file}"), open_engine(url)
    try:
        if _is_left_over(target):
            migrate(target, to=BASE, lose_roots=True)
        migrate(target)
        with source.connect() as reading, target.begin() as writing:
            _copy(reading, writing)
    except sa.exc.DataError as error:
        raise InvalidInput(f"the database cannot hold what the backup has: {error.orig}") from error
    except sa.exc.OperationalError as error:
        raise unavailable(error, became="Nothing was restored") from error
    finally:
        source.dispose()
        target.dispose()


def _snapshot_sqlite(path: Path, file: Path) -> None:
    if not path.is_file():
        raise NotFound(f"there is no database {path}; name the cloud's folder with --dir, or the --database")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(file)) as target:
        source.backup(target)  # in one step: with WAL, writers go on meanwhile


def _snapshot_postgresql(engine: sa.Engine, file: Path) -> None:
    copy = open_engine(f"sqlite:///{file}")
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as reading:
            version = version_of(reading)
            if version != BASE:
                migrate(copy, to=version)
                with copy.begin() as writing:
                    _copy(reading, writing)
    finally:
        copy.dispose()


def _settle(file: Path) -> str:
    """The version; the file is left without anything beside it."""
    engine = open_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        version = version_of(connection)
    engine.dispose()
    if version == BASE:
        raise NotFound("there is no cloud in this database; 'edgeloop cloud init' makes one")
    compact(file)
    return version


def compact(file: Path) -> None:
    """Bring an SQLite file that nobody uses into the one file."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def require_empty(url: str) -> None:
    """Raise InvalidInput if there is anything in a database, but what a restore that was cut short left."""
    engine = open_engine(url)
    try:
        if _is_left_over(engine):
            return
        with engine.connect() as connection:
            for table in _tables(connection):
                if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
                    raise InvalidInput(
                        f"there is something in the database already (in {table.name}); restore into an empty one"
                    )
    except sa.exc.OperationalError as error:
        raise unavailable(error, became="Nothing was restored") from error
    finally:
        engine.dispose()


def note_in_service(url: str) -> None:
    """What was poured into a database is not left over from now on."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            note_whole(connection)
    except sa.exc.OperationalError as error:
        raise unavailable(error, became="It was restored, and can be served") from error
    finally:
        engine.dispose()


def is_left_over(url: str) -> bool:
    """Whether a restore that was cut short left what is in a database."""
    engine = open_engine(url)
    try:
        return _is_left_over(engine)
    except sa.exc.DatabaseError:  # whatever it is, it is not ours
        return False
    finally:
        engine.dispose()


def _is_left_over(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        found = sa.inspect(connection)
        columns = found.get_columns("restores") if found.has_table("restores") else []
        return any(column["name"] == "is_whole" for column in columns) and is_unfinished(connection)


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """As they are, those first that others refer to."""
    found = sa.MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name not in _LEFT_OUT]


def _copy(reading: sa.Connection, writing: sa.Connection) -> None:
    targets = {table.name: table for table in _tables(writing)}
    for table in _tables(reading):
        rows = reading.execution_options(yield_per=_ROWS_AT_ONCE).execute(sa.select(table))
        for part in rows.mappings().partitions():
            writing.execute(targets[table.name].insert(), [dict(row) for row in part])
    if is_postgresql(writing):
        for table in targets.values():
            _count_on(writing, table)


def _count_on(connection: sa.Connection, table: sa.Table) -> None:
    """A column that PostgreSQL counts up by itself goes on after the rows that came with their numbers."""
    column = table.autoincrement_column
    if column is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, sa.select(sa.func.max(column)).scalar_subquery())))
