"""The steps of the schema, on SQLite and on PostgreSQL, each with rows in every table.

Whatever step is added is tested by this as it is: rows are made from the tables' own columns. A step that reads what is
in a column needs a value that it understands: put it into _MEANT.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgeloop.cloud import migrations
from edgeloop.cloud.store import locks
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.engine import open_engine, parse_url
from edgeloop.cloud.store.schema import BASE, known_versions, migrate, version_of
from edgeloop.cloud.store.sole import sole_server
from edgeloop.cloud.store.tables import api_tokens, metadata
from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused, Unavailable
from postgres import PostgresServer

NEWEST = known_versions()[-1]
_MEANT: dict[str, Any] = {"state": "running", "kind": "device", "rollouts.waves": "[1]"}
"""Values that a step understands, by column or TABLE.COLUMN."""

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_database()
    return f"sqlite:///{tmp_path / 'cloud.db'}"


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    opened = open_engine(url)
    yield opened
    opened.dispose()


def _tables(connection: sa.Connection) -> list[sa.Table]:
    reflected = sa.MetaData()
    reflected.reflect(connection)
    return [table for table in reflected.sorted_tables if table.name != "alembic_version"]


def _value(table: sa.Table, column: sa.Column[Any]) -> Any:
    """One for each type; the same one everywhere, so that foreign keys hold."""
    for name in (f"{table.name}.{column.name}", column.name):
        if name in _MEANT:
            return _MEANT[name]
    made = {str: "x", bytes: b"x", int: 1, float: 1.0, bool: False}[column.type.python_type]
    return "{}" if isinstance(column.type, sa.Text) and column.name != "id" else made


def _fill(connection: sa.Connection) -> None:
    """One row in every table that has none."""
    for table in _tables(connection):
        if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0:
            connection.execute(table.insert().values({column.name: _value(table, column) for column in table.columns}))


def _rows(connection: sa.Connection) -> Rows:
    return {
        table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
        for table in _tables(connection)
    }


def _holds(after: Rows, before: Rows) -> bool:
    """Whether every row of every table that is in both still has the values that it had."""
    return all(
        [{name: row[name] for name in row if name in old} for row, old in zip(rows, before[table], strict=True)]
        == [{name: old[name] for name in old if name in row} for row, old in zip(rows, before[table], strict=True)]
        for table, rows in after.items()
        if table in before
    )


def _told(index: Any) -> Any:
    """An index with its conditions as texts, which can be compared."""
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return index | {"dialect_options": options}


def _schema(connection: sa.Connection) -> Any:
    """Everything that a step could have forgotten to undo."""
    inspector = sa.inspect(connection)
    return {
        name: {
            "columns": sorted(
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            ),
            "key": inspector.get_pk_constraint(name),
            "foreign": sorted(inspector.get_foreign_keys(name), key=str),
            "indexes": sorted((_told(index) for index in inspector.get_indexes(name)), key=str),
            "unique": sorted(inspector.get_unique_constraints(name), key=str),
        }
        for name in sorted(inspector.get_table_names())
    }


def test_every_step_up_keeps_the_rows_and_every_step_down_restores_them(engine: sa.Engine) -> None:
    at: dict[str, tuple[Any, Rows]] = {}
    for version in known_versions():
        migrate(engine, to=version)
        with engine.begin() as connection:
            rows = _rows(connection)
            assert not at or _holds(rows, list(at.values())[-1][1]), f"{version} lost something"
            _fill(connection)
            at[version] = (_schema(connection), _rows(connection))
            assert all(at[version][1].values()), "the test itself left a table empty"
    for version in reversed(known_versions()[:-1]):
        migrate(engine, to=version, lose_roots=True)
        with engine.connect() as connection:
            schema, rows = at[version]
            assert _schema(connection) == schema, f"the way back to {version} left the schema changed"
            assert _rows(connection) == rows, f"the way back to {version} lost something"


def _insert(connection: sa.Connection, table_name: str, /, **values: Any) -> None:
    """A row of a table as it is now; what is not given has some value of its type."""
    table = sa.Table(table_name, sa.MetaData(), autoload_with=connection)
    needed = {column.name: _value(table, column) for column in table.columns if not column.nullable}
    connection.execute(table.insert().values({**needed, **values}))


_WAVE_S = 77.0


@pytest.mark.parametrize(
    ("rollout", "generation", "state", "outcome"),
    [
        ("running", None, None, None),
        ("running", 1, None, None),
        ("running", 1, "downloading", None),
        ("running", 1, "active", None),
        ("running", 1, "confirmed", "confirmed"),
        ("running", 1, "refused", "refused"),
        ("running", 1, "rolled_back", "rolled_back"),
        ("completed", 1, "refused", "refused"),
        ("aborted", None, None, None),
        ("aborted", 1, None, "refused"),
        ("aborted", 1, "downloading", "refused"),
        ("aborted", 1, "verifying", "refused"),
        ("aborted", 1, "accepting", "refused"),
        ("aborted", 1, "active", "rolled_back"),
        ("aborted", 1, "confirmed", "confirmed"),
        ("aborted", 1, "rolled_back", "rolled_back"),
    ],
)
def test_what_a_device_said_last_becomes_what_its_rollout_came_to(
    engine: sa.Engine, rollout: str, generation: int | None, state: str | None, outcome: str | None
) -> None:
    migrate(engine, to="0003")
    with engine.begin() as connection:
        _insert(connection, "rollouts", rollout_id="r", state=rollout, wave_started_at_s=_WAVE_S)
        _insert(connection, "devices", device_id="d")
        member = {"rollout_id": "r", "device_id": "d", "generation": generation, "state": state, "reason": "why"}
        _insert(connection, "rollout_devices", **member)
    migrate(engine)
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(metadata.tables["rollout_devices"])).all()
    since_s = None if generation is None else _WAVE_S
    assert (row.outcome, row.since_s, row.state, row.reason) == (outcome, since_s, state, "why")


@pytest.mark.parametrize(
    ("state", "before", "reason", "ended_at_s"),
    [
        ("queued", "aborted", "it was queued when the schema went back", _WAVE_S),
        ("running", "running", "", None),
        ("paused", "aborted", "it was paused when the schema went back", _WAVE_S),
        ("completed", "completed", "", None),
        ("aborted", "aborted", "", None),
    ],
)
def test_rollout_that_the_older_schema_cannot_tell_is_ended(
    engine: sa.Engine, state: str, before: str, reason: str, ended_at_s: float | None
) -> None:
    migrate(engine)
    report = '{"update":{"state":"waiting"}}'
    with engine.begin() as connection:
        _insert(connection, "rollouts", rollout_id="r", state=state, reason="", wave_started_at_s=_WAVE_S)
        _insert(connection, "devices", device_id="d", report=report)
        _insert(connection, "rollout_devices", rollout_id="r", device_id="d", state="waiting")
    migrate(engine, to="0003")
    with engine.connect() as connection:
        rows = _rows(connection)
    (rollout,) = rows["rollouts"]
    assert (rollout["state"], rollout["reason"], rollout["ended_at_s"]) == (before, reason, ended_at_s)
    assert rows["rollout_devices"][0]["state"] == "accepting"
    assert rows["devices"][0]["report"] == report.replace("waiting", "accepting")


def test_who_had_a_token_before_there_were_roles_owns_the_cloud(engine: sa.Engine) -> None:
    migrate(engine, to="0004")
    with engine.begin() as connection:
        _insert(connection, "api_tokens", name="ana")
    migrate(engine)
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(api_tokens)).all()
    assert (row.name, row.role, row.expires_at_s) == ("ana", "owner", None)


def test_way_down_and_up_again_ends_where_the_tables_say(engine: sa.Engine) -> None:
    for version in (NEWEST, BASE, NEWEST):
        migrate(engine, to=version)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_way_down_leaves_nothing_behind_even_with_rows(engine: sa.Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        _fill(connection)
    migrate(engine, to=BASE, lose_roots=True)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


@pytest.mark.parametrize("to", [BASE, "0001"])
def test_roots_of_trust_are_not_lost_unless_told(engine: sa.Engine, to: str) -> None:
    migrate(engine)
    with engine.begin() as connection:
        _fill(connection)
        before = _schema(connection), _rows(connection)
    with pytest.raises(Refused, match=f"schema {to} has no place for roots .* 1 are in this .* --lose-roots"):
        migrate(engine, to=to)
    with engine.connect() as connection:
        assert (_schema(connection), _rows(connection)) == before
    migrate(engine, to="0002")
    assert migrate(engine, to=to, lose_roots=True) == ("0002", to)


def test_every_version_can_be_told_from_the_database(engine: sa.Engine) -> None:
    told = []
    with engine.connect() as connection:
        assert version_of(connection) == BASE
    for version in known_versions():
        migrate(engine, to=version)
        with engine.connect() as connection:
            told.append(version_of(connection))
    assert told == list(known_versions())


def test_migration_says_from_where_to_where(engine: sa.Engine) -> None:
    assert [migrate(engine, to=to) for to in ("0001", None, "0001")] == [
        (BASE, "0001"),
        ("0001", NEWEST),
        (NEWEST, "0001"),
    ]


def test_versions_are_the_steps_in_their_order() -> None:
    steps = ScriptDirectory(str(Path(next(iter(migrations.__path__)))))
    assert [step.revision for step in steps.walk_revisions()] == list(reversed(known_versions()))


def test_database_that_is_up_to_date_is_opened_without_what_takes_steps(cloud_template: Path) -> None:
    url = f"sqlite:///{cloud_template / 'cloud' / 'cloud.db'}"
    code = f"import sys, edgeloop.cloud.app as app; app.Database({url!r}).close(); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_version_that_nobody_knows_is_invalid_input(engine: sa.Engine) -> None:
    with pytest.raises(InvalidInput, match=rf"no schema '9999'; known are base, 0001.*{NEWEST}"):
        migrate(engine, to="9999")


def test_database_of_a_newer_edgeloop_is_turned_down_unchanged(url: str, engine: sa.Engine) -> None:
    Database(url).close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        before = _schema(connection)
    for migrates in (True, False):
        with pytest.raises(InvalidInput, match=f"9999.*knows up to {NEWEST}"):
            Database(url, migrates=migrates)
    with engine.connect() as connection:
        assert _schema(connection) == before


def test_older_database_is_migrated_only_by_who_may(url: str, engine: sa.Engine) -> None:
    migrate(engine, to="0001")
    with pytest.raises(InvalidInput, match="cloud migrate"):
        Database(url, migrates=False)
    Database(url).close()
    Database(url, migrates=False).close()


def test_reopened_database_keeps_its_data(url: str) -> None:
    for expected in ([], ["a"]):
        database = Database(url)
        assert database.read_now(lambda c: list(c.execute(sa.select(api_tokens.c.name)).scalars())) == expected
        if not expected:
            row = {"secret_hash": "a", "name": "a", "created_at_s": 0.0}
            database.write_now(lambda c, row=row: c.execute(api_tokens.insert().values(**row)) and None)
        database.close()


def test_step_that_fails_leaves_the_database_as_it_was(engine: sa.Engine) -> None:
    """A later one of several steps meets a table that is there already; those before it are undone with it."""
    migrate(engine, to="0002")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE access_log (entry INTEGER PRIMARY KEY)")
        before = _schema(connection)
    with pytest.raises((Unavailable, Corrupt), match="access_log"):
        migrate(engine)
    with engine.connect() as connection:
        assert (version_of(connection), _schema(connection)) == ("0002", before)


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0" + bytes(4000)]
)
def test_file_that_is_no_database_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cloud.db").write_bytes(content)
    with pytest.raises(Corrupt, match="backup"):
        Database(f"sqlite:///{tmp_path / 'cloud.db'}")


@pytest.mark.parametrize("url", ["mysql://x/y", "postgresql+psycopg2://x/y", "cloud.db", "", "sqlite+aiosqlite:///x"])
def test_address_of_no_database_is_invalid_input(url: str) -> None:
    with pytest.raises(InvalidInput, match="postgresql\\+psycopg://"):
        Database(url)


# ---- who serves


def test_sqlite_file_is_served_by_one_at_a_time(tmp_path: Path) -> None:
    url = parse_url(f"sqlite:///{tmp_path / 'cloud.db'}")
    with sole_server(url), pytest.raises(Unavailable, match="another process serves"), sole_server(url):
        pass
    with sole_server(url):
        pass


def test_replicas_that_start_together_migrate_once(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    gate = threading.Barrier(4)

    def start(_: int) -> tuple[str, str]:
        engine = open_engine(url)
        gate.wait()
        try:
            return migrate(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(start, range(4)))
    assert told == [(NEWEST, NEWEST)] * 3 + [(BASE, NEWEST)]


def test_schema_goes_back_only_when_nobody_serves(postgres: PostgresServer) -> None:
    engine = open_engine(postgres.new_database("cloud_1"))
    with engine.connect() as serving:
        serving.exec_driver_sql(locks.share_for_session(locks.SERVING))
        with pytest.raises(Refused, match="a replica serves"):
            migrate(engine, to="0001")
        migrate(engine)
        serving.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    assert migrate(engine, to="0001") == (NEWEST, "0001")
    engine.dispose()
