"""What the hub asks the store for on every request is found by index, and one bad write spoils no other."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.glance import straight
from edgeloop.cloud.store.tables import assignments, devices
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.messages import Desired, DeviceReport


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'cloud.db'}")
    opened.write_now(_fill)
    yield opened
    opened.close()


def _fill(connection: sa.Connection) -> None:
    for name, via in (("node-1", None), ("cam-1", "node-1"), ("cam-2", "node-1"), ("cam-3", None)):
        connection.execute(
            devices.insert().values(
                device_id=name, public_key=b"k" * 32, kind="device", via=via, labels="{}", enrolled_at_s=1.0
            )
        )
        connection.execute(assignments.insert().values(device_id=name, generation=2, assigned_at_s=1.0, body=None))


@pytest.mark.parametrize("ask", [
    lambda c: fleet.public_key(c, "cam-1"),
    lambda c: fleet.in_good_standing(c, "node-1"),
    lambda c: fleet.newer_desired(c, "node-1", {}),
    lambda c: fleet.save_reports(c, (DeviceReport(device_id="cam-1", known_generation=1),), now_s=1.0),
])  # fmt: skip
def test_no_request_of_a_device_looks_through_the_whole_fleet(
    database: Database, ask: Callable[[sa.Connection], object]
) -> None:
    asked: list[str] = []

    def traced(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_trace_callback(asked.append)
        ask(connection)
        driver.set_trace_callback(None)

    database.write_now(traced)
    looked = [statement for statement in asked if statement.startswith(("SELECT", "UPDATE"))]
    assert looked
    with database.engine.connect() as connection:
        for statement in looked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
            assert plan
            assert not [row for row in plan if "SCAN" in str(row)], (statement, plan)


def test_what_the_driver_refuses_is_told_as_by_sqlalchemy(database: Database) -> None:
    with database.engine.connect() as connection:
        with pytest.raises(sa.exc.OperationalError, match="no such table: missing"):
            straight(connection, "SELECT * FROM missing", ())
        with pytest.raises(sa.exc.OperationalError, match="Could not decode"):
            straight(connection, "SELECT CAST(x'ff' AS TEXT)", ())
        with pytest.raises(sa.exc.IntegrityError):
            straight(connection, "INSERT INTO assignments VALUES (?, 1, 1.0, NULL)", ("cam-1",))


def test_what_the_driver_is_handed_is_part_of_the_transaction(database: Database) -> None:
    with database.engine.connect() as connection:
        straight(connection, "DELETE FROM assignments", ())
        assert connection.in_transaction()
        assert fleet.newer_desired(connection, "cam-3", {}) == ()
    assert database.read_now(lambda c: fleet.newer_desired(c, "cam-3", {})) != ()


def test_a_node_hears_of_the_devices_that_it_carries(database: Database) -> None:
    newer = database.read_now(lambda c: fleet.newer_desired(c, "node-1", {"cam-2": 2}))
    assert set(newer) == {Desired(device_id="node-1", generation=2), Desired(device_id="cam-1", generation=2)}


def test_what_goes_wrong_in_a_group_is_undone_alone(database: Database) -> None:
    def bad(connection: sa.Connection) -> None:
        connection.execute(devices.update().values(labels="spoiled"))
        raise Refused("no")

    def good(connection: sa.Connection) -> None:
        connection.execute(devices.update().where(devices.c.device_id == "cam-3").values(kind="node"))

    futures = [database._writer.submit(one) for one in (good, bad, good)]
    assert isinstance(futures[1].exception(timeout=10), Refused)
    for future in (futures[0], futures[2]):
        assert future.result(timeout=10) is None
    rows = database.read_now(lambda c: c.execute(sa.select(devices.c.kind, devices.c.labels)).all())
    assert {row.labels for row in rows} == {"{}"}
    assert [row.kind for row in rows].count("node") == 1
