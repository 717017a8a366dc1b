"""The log of SQLite is moved into its file while others write, and begins anew."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from edgeloop.cloud.store import checkpoints
from edgeloop.cloud.store.checkpoints import Checkpoints
from edgeloop.cloud.store.engine import LOG_PAGES, open_engine

PAGE_BYTES = 4096


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = open_engine(f"sqlite:///{tmp_path / 'cloud.db'}")
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE held (body BLOB)")
    yield made
    made.dispose()


@pytest.fixture
def moving(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkpoints]:
    monkeypatch.setattr(checkpoints, "_EVERY_S", 0.01)
    made = Checkpoints(engine)
    yield made
    made.close()


def _write(engine: sa.Engine, pages: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO held VALUES (?)", (b"x" * pages * PAGE_BYTES,))


def _bytes(engine: sa.Engine, ending: str = "") -> int:
    return Path(f"{engine.url.database}{ending}").stat().st_size


def _until(holds: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 30
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.01)
    return holds()


def test_a_commit_leaves_the_log_alone(engine: sa.Engine) -> None:
    _write(engine, 2_000)  # twice what SQLite would take for long
    assert _bytes(engine) < 100 * PAGE_BYTES
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar() == LOG_PAGES


def test_what_was_committed_is_moved_into_the_file(engine: sa.Engine, moving: Checkpoints) -> None:
    _write(engine, 2_000)
    moving.committed()
    assert _until(lambda: _bytes(engine) > 2_000 * PAGE_BYTES)


def test_a_log_does_not_grow_without_an_end(
    engine: sa.Engine, moving: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_LONG_PAGES", 100)
    for _ in range(60):
        _write(engine, 200)
        moving.committed()
        time.sleep(0.02)
    assert _until(lambda: _bytes(engine) > 60 * 200 * PAGE_BYTES)
    assert _bytes(engine, "-wal") < 30 * 200 * PAGE_BYTES


def test_a_log_that_cannot_be_moved_is_told_once_and_tried_again(engine: sa.Engine, tmp_path: Path) -> None:
    mover = checkpoints._Mover(engine)
    _write(engine, 10)
    good, engine.raw_connection = engine.raw_connection, _broken  # type: ignore[method-assign]
    with capture_logs() as told:
        assert [mover.move(), mover.move()] == [0, 0]
        engine.raw_connection = good  # type: ignore[method-assign]
        assert mover.move() > 0
    mover.close()
    assert [one["event"] for one in told] == ["checkpoint_failed"]


def _broken() -> None:
    raise sqlite3.OperationalError("disk I/O error")
