"""Makes the modules beside this file (`builders`) importable from every test, and founds one cloud to copy from."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from postgres import PostgresServer
    from s3 import S3Server
    from small_cloud import SmallCloud


GARBAGE_THRESHOLDS = (50_000, 20, 20)
"""TensorFlow and PyTorch bring millions of objects, which Python would look through again and again: a tenth of the
time of the tests that train."""


def pytest_configure() -> None:
    """Look for garbage seldom; pytest looks at the end in any case."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--times N`: tests that hang on chance and ask for `turn` run so often, each time with other chances.

    `--hold-times`: bounds on times are held as they are promised, for an idle machine. Without it they
    are `slack` times as wide: what fails then is no busy machine.
    """
    parser.addoption("--times", type=int, default=1, help="run tests that ask for `turn` so often")
    parser.addoption("--hold-times", action="store_true", help="hold times to what is promised, on an idle machine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Numbers for `turn`, from 0."""
    if "turn" in metafunc.fixturenames:
        metafunc.parametrize("turn", range(metafunc.config.getoption("--times")), scope="module")


@pytest.fixture
def slack(pytestconfig: pytest.Config) -> float:
    """By how much a bound on a time is widened here."""
    return 1.0 if pytestconfig.getoption("--hold-times") else 10.0


@pytest.fixture
def anyio_backend() -> str:
    """What tests marked `anyio` run on."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and the processes that they start, remember of races stays out of the person's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cloud_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founded cloud, for copying only."""
    from small_cloud import found_template

    return found_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def cloud(cloud_template: Path, tmp_path: Path) -> "Iterator[SmallCloud]":
    """A cloud of the test's own, in tmp_path."""
    from small_cloud import SmallCloud

    opened = SmallCloud(cloud_template, tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL of the test run's own, with a migrated database to copy from, `cloud_1`; or a skip."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'edgeloop[postgres]'")
    from edgeloop.cloud.store.database import Database
    from postgres import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        Database(server.new_database()).close()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3() -> "Iterator[S3Server]":
    """An S3 server of the test run's own; or a skip."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[server]'")
    from s3 import S3Server

    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.stop()
