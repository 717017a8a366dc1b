"""What replicas on one PostgreSQL agree on by advisory locks. On SQLite there is one process, and nothing to agree on.

Source: PostgreSQL 15, 13.3.5 "Advisory Locks". Rule: a transaction takes its advisory lock before any row, so that two
groups of writes never wait for each other in a circle.
"""

import sqlalchemy as sa

from edgeloop.cloud.store.engine import is_postgresql

_OURS = 0x6564_676C
"""The first of a lock's two numbers, "edgl": apart from locks of other programs in the same database."""

DECIDING = 1
"""Held by a transaction that reads, decides, and writes what follows."""

MIGRATING = 2
"""Held by a transaction that changes the schema."""

SERVING = 3
"""Shared by the sessions of all replicas that serve."""

CONDUCTING = 4
"""Held by the session of the replica that carries rollouts forward."""


TIDYING = 5
"""Held by a transaction that removes what is too old; shared by those that add events."""


def share_for_transaction(connection: sa.Connection, lock: int) -> None:
    """Wait until nobody holds a lock alone, and share it until the transaction ends. Does nothing on SQLite."""
    if is_postgresql(connection):
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_OURS, lock)))


def take_for_transaction(connection: sa.Connection, lock: int) -> None:
    """Wait for a lock; it is let go with the transaction. Does nothing on SQLite."""
    if is_postgresql(connection):
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OURS, lock)))


def try_for_transaction(connection: sa.Connection, lock: int) -> bool:
    """Take a lock if it is free now; True always on SQLite."""
    if not is_postgresql(connection):
        return True
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_OURS, lock))).scalar())


def try_for_session(lock: int) -> str:
    """SQL that takes a lock for as long as the session lives, if it is free; answers with a boolean."""
    return f"SELECT pg_try_advisory_lock({_OURS}, {lock})"


def share_for_session(lock: int) -> str:
    """SQL that shares a lock with other sessions for as long as this one lives."""
    return f"SELECT pg_advisory_lock_shared({_OURS}, {lock})"
