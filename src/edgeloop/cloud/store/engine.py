"""Engines: SQLite or PostgreSQL by URL, with what each needs to keep this store's promises.

The promises, on both: what is committed survives a power cut; nobody waits without an end; a transaction sees its own
savepoints; and a database on another machine is one that proved itself, unless somebody chose otherwise.
Neighbours: `database` runs operations on an engine, `replica` asks PostgreSQL who else serves.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.names import is_loopback

_SQLITE_WAIT_S = 10
_LOCK_WAIT_S = 10
_POOL = 5
_POOL_MORE = 45

_POSTGRESQL_SETTINGS = (
    f"SET lock_timeout = '{_LOCK_WAIT_S}s'",
    # A replica that was frozen in mid-transaction must not hold up the others.
    "SET idle_in_transaction_session_timeout = '30s'",
    "SET timezone = 'UTC'",
)

LOG_PAGES = 16_384
"""How long SQLite's log may become, 64 MB, before a commit has to wait until it was moved: see `checkpoints`."""

GONE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What SQLAlchemy raises where the database cannot serve now."""


def parse_url(text: str) -> sa.URL:
    """The address of a database, with the driver that edgeloop uses. Raises InvalidInput.

    >>> parse_url("postgresql://db.example/edgeloop").drivername
    'postgresql+psycopg'
    """
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise InvalidInput(
            f"this is no database address; expected {_EXPECTED}. Mind that a password's special characters are "
            "written as %40 and the like"
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise InvalidInput(f"a database of kind {url.drivername!r} is not spoken here; expected {_EXPECTED}")
    return url


_EXPECTED = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"


def open_engine(text: str) -> sa.Engine:
    """An engine that connects when it is first used. Raises InvalidInput on an address that is none."""
    url = parse_url(text)
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


def is_postgresql(bind: sa.Connection | sa.Engine) -> bool:
    """Whether several replicas may share this database."""
    return bind.dialect.name == "postgresql"


def unavailable(error: Exception, *, became: str = "Nothing of this request was kept") -> Unavailable:
    """What a failure of the database means to whoever asked."""
    cause = getattr(error, "orig", None) or error
    return Unavailable(f"the cloud's database cannot serve: {cause}. {became}; try again.")


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": _SQLITE_WAIT_S})

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        # pysqlite begins transactions late and by itself; savepoints need them begun at once, by us.
        connection.isolation_level = None
        log = f"wal_autocheckpoint = {LOG_PAGES}"
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", log):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _require_verified(url: sa.URL) -> None:
    """Raise InvalidInput unless the server is on this machine, or the address says how it proves itself.

    libpq's own default takes whatever answers, and is content without TLS. What the address does not say, libpq takes
    from its environment (PGHOST, PGSSLMODE and others): so it is asked.
    """
    from psycopg import pq

    said = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    if said.get("sslmode") in ("allow", "disable", "prefer"):
        said["sslmode"] = ""  # as good as not said
    said |= {"host": url.host} if url.host else {}
    said |= {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    named = f"{said.get('host', '')},{said.get('hostaddr', '')}".split(",")
    elsewhere = [host for host in map(_without_port, named) if host and host[0] not in "/@" and not is_loopback(host)]
    if said.get("service"):
        elsewhere.append(f"whatever service {said['service']!r} names")
    if elsewhere and not said.get("sslmode"):
        raise InvalidInput(
            f"the address of PostgreSQL at {elsewhere[0]} does not say how that server proves that it is the right "
            "one. Add ?sslmode=verify-full (with &sslrootcert=FILE for a private authority, &sslrootcert=system for a "
            "public one); or choose another mode of libpq's, such as ?sslmode=disable where nobody else is on the "
            "network."
        )


def _without_port(host: str) -> str:
    """As SQLAlchemy lets several hosts be named, HOST:PORT; an IPv6 address has more colons."""
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _postgresql(url: sa.URL) -> sa.Engine:
    try:
        _require_verified(url)
        engine = sa.create_engine(
            url, connect_args=POSTGRESQL_CONNECT, pool_size=_POOL, max_overflow=_POOL_MORE, pool_timeout=_LOCK_WAIT_S
        )
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "a PostgreSQL database needs psycopg, which is not installed: pip install 'edgeloop[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.autocommit = True
        for statement in _POSTGRESQL_SETTINGS:
            connection.execute(statement)
        # Acknowledged means on the disk, whatever the server's default is; a stronger setting is left alone.
        if connection.execute("SHOW synchronous_commit").fetchone()[0] == "off":
            connection.execute("SET synchronous_commit = on")
        connection.autocommit = False

    return engine


POSTGRESQL_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "edgeloop",
}
"""How every connection is made: a host that vanished is noticed within half a minute."""
