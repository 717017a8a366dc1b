"""News of devices to all replicas, as part of the transaction that makes them news. On SQLite there is one process.

Neighbour: `cloud.replica` listens. Source: PostgreSQL 15, NOTIFY: sent at the commit, or never.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from edgeloop.cloud.store.engine import is_postgresql

CHANNEL = "edgeloop_news"
"""Each notification is one device id."""


def tell(connection: sa.Connection, device_ids: Iterable[str | None]) -> None:
    """Wake whoever waits for news of these devices, on any replica, when this transaction is committed."""
    if is_postgresql(connection):
        for device_id in device_ids:
            if device_id is not None:
                connection.execute(sa.select(sa.func.pg_notify(CHANNEL, device_id)))
