"""What the hub asks the store for on every request is found by index, and one bad write spoils no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.database import Database
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
def test_no_request_of_a_device_looks_through_the_whole_fleet(database: Database, ask: object) -> None:
    asked: list[tuple[str, object]] = []
    note = lambda _c, _cursor, statement, parameters, *_: asked.append((statement, parameters))  # noqa: E731
    sa.event.listen(database.engine, "before_cursor_execute", note)
    database.write_now(ask)
    sa.event.remove(database.engine, "before_cursor_execute", note)
    with database.engine.connect() as connection:
        for statement, parameters in asked:
            if statement.startswith(("SELECT", "UPDATE")):
                given = parameters[0] if isinstance(parameters, list) else parameters
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
                assert not [row for row in plan if "SCAN" in str(row)], (statement, plan)


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
