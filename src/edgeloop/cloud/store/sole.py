"""SQLite is for one serving process: a second one would not hear what the first one changes, nor know its nonces."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from edgeloop.bundle.durable import translated
from edgeloop.contracts.errors import Unavailable


@contextmanager
def sole_server(url: sa.URL) -> Iterator[None]:
    """Be the only one who serves this SQLite file, or changes its schema backwards; nothing to hold on PostgreSQL.

    Raises Unavailable if another process is. The lock goes with the process, however it ends.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        yield
        return
    path = Path(f"{url.database}.lock")
    with translated(path, doing="write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(
                f"another process serves {url.database}: end it first. SQLite is for one process; several replicas "
                "need PostgreSQL (--database postgresql+psycopg://...)"
            ) from error
        yield
