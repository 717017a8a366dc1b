"""Used nonces in the database, so that a request is answered once by all replicas together.

All requests that wait share one statement. Its commit does not wait for the disk: after a crash of PostgreSQL itself,
a request of its last second (three times wal_writer_delay) could be repeated; a crash of a replica loses nothing.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.tables import used_nonces

_LARGEST_GROUP = 1000
_SWEEP_EVERY_S = 60.0
_Key = tuple[str, str]


class SharedNonces:
    """Implements hub.proof.Nonces on PostgreSQL; used from one event loop."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._waiting: list[tuple[_Key, float, asyncio.Future[bool]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._swept_at_s = 0.0

    def oldest_s(self) -> float:
        """See Nonces.oldest_s: the database outlives its servers."""
        return 0.0

    async def use(self, device_id: str, nonce: str, *, until_s: float) -> bool:
        """See Nonces.use. Raises Unavailable if the database cannot say."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(((device_id, nonce), until_s, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_LARGEST_GROUP], self._waiting[_LARGEST_GROUP:]
            rows = {key: until_s for key, until_s, _ in group}
            try:
                new = await self._database.transact(partial(self._insert, rows))
            except Exception as error:  # noqa: BLE001 - handed to those who wait: nobody else would answer them
                for *_, future in group:
                    if not future.done():
                        future.set_exception(error)
                continue
            for key, _, future in group:
                if not future.done():
                    future.set_result(key in new)
                    # The same nonce twice in a group is good for the first.
                    new.discard(key)

    def _insert(self, rows: dict[_Key, float], connection: sa.Connection) -> set[_Key]:
        """Those that were not used before."""
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        now_s = self._clock()
        if now_s - self._swept_at_s > _SWEEP_EVERY_S:
            self._swept_at_s = now_s
            connection.execute(used_nonces.delete().where(used_nonces.c.expires_at_s < now_s))
        # In order, so that two replicas never wait for each other in a circle.
        values = [
            {"device_id": device_id, "nonce": nonce, "expires_at_s": rows[device_id, nonce]}
            for device_id, nonce in sorted(rows)
        ]
        statement = insert(used_nonces).values(values).on_conflict_do_nothing()
        done = connection.execute(statement.returning(used_nonces.c.device_id, used_nonces.c.nonce))
        return {(row.device_id, row.nonce) for row in done}
