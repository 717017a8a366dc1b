"""A real PostgreSQL for tests: a cluster of the test run's own, on loopback, gone with it.

server = PostgresServer(); server.start()      a second or two; skips the test where PostgreSQL is not installed
url = server.new_database()                    empty; or a copy of `template`
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest

from processes import free_port

_READY_TIMEOUT_S = 60.0
_UNPRIVILEGED = ("postgres", "nobody")


class PostgresServer:
    """One cluster. `stop` it. syncs: what is committed survives a power cut, which no test needs, and figures do."""

    def __init__(self, *, syncs: bool = False) -> None:
        self._syncs = syncs
        self._programs = _find_programs()
        self._user = _unprivileged_user()
        self._numbers = count(1)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="edgeloop-postgres-"))
        self._handle: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the cluster if there is none yet, and answer."""
        data = self.folder / "data"
        if not data.exists():
            if self._user is not None:
                shutil.chown(self.folder, self._user)
            self._run("initdb", "-D", str(data), "-U", "edgeloop", "--auth=trust", "-E", "UTF8", "--locale=C", "-N")
        settings = {
            "fsync": "on" if self._syncs else "off",
            "listen_addresses": "127.0.0.1",
            "shared_buffers": "32MB",
            "max_connections": "200",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", data, "-p", str(self.port), "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self._handle = subprocess.Popen(
                command, user=self._user, stdout=log, stderr=log, cwd="/", env=_environment()
            )
        import psycopg  # the fixture skips where it is not installed

        until_s = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < until_s and self._handle.poll() is None:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def new_database(self, template: str = "template0") -> str:
        """The URL of a new database, a copy of the template."""
        name = f"cloud_{next(self._numbers)}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, name: str) -> str:
        """A database of this cluster by its name."""
        return f"postgresql+psycopg://edgeloop@127.0.0.1:{self.port}/{name}"

    def administer(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        import psycopg

        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def halt(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT disconnects everybody, SIGQUIT is a crash. `start` brings it back."""
        if self._handle is not None:
            self._handle.send_signal(how)
            self._handle.wait(30)
            self._handle = None

    def stop(self) -> None:
        """End the server and remove what it kept."""
        self.halt(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _conninfo(self, name: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=edgeloop dbname={name} connect_timeout=5"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, user=self._user, cwd="/", env=_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def _find_programs() -> Path:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed here; on Debian: apt-get install postgresql")
    return Path(found).resolve().parent


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: who runs it instead; None for whoever runs the tests."""
    if os.getuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip(f"PostgreSQL refuses to run as root, and there is no user {' or '.join(_UNPRIVILEGED)} here")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C"}
