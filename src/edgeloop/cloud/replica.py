"""One of several replicas on one PostgreSQL: hears the others' news, and conducts if no other does.

Rules kept here, over one connection of its own:
- news of a device that any replica commits wakes whoever waits for it here (`store.news`);
- one replica at a time conducts, holding a lock that its session loses when the replica dies, is cut off or stands
  still for SILENCE_S; then another takes over within a beat;
- when the connection was lost, everybody who waits is woken, since news may have been missed.

Correctness does not hang on the conductor being one: each of its steps is one transaction that reads anew and
excludes all others (`store.locks.DECIDING`). Needs PostgreSQL 14 (idle_session_timeout), and a connection that is the
server's own: through a pooler only in its session mode.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import structlog

from edgeloop.backoff import Backoff
from edgeloop.cloud.store import locks
from edgeloop.cloud.store.engine import POSTGRESQL_CONNECT
from edgeloop.cloud.store.news import CHANNEL
from edgeloop.hub.waker import Waker

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_log = structlog.get_logger(__name__)

BEAT_S = 1.0
"""How often a replica says that it lives, and asks whether nobody conducts."""

SILENCE_S = 10
"""A replica that says nothing for so long is cut off by PostgreSQL."""


class Replica:
    """Runs until cancelled. conduct: what the conducting replica does; cancelled when it conducts no more."""

    def __init__(self, engine: sa.Engine, waker: Waker, conduct: Callable[[], Awaitable[None]]) -> None:
        self._engine = engine
        self._waker = waker
        self._conduct = conduct

    async def run(self) -> None:
        """Stay connected; take part again after each loss."""
        import psycopg  # not installed where SQLite is all there is

        backoff = Backoff(first_s=0.1, longest_s=5.0)
        while True:
            try:
                async with await self._connect() as connection:
                    await self._take_part(connection)
                    backoff.succeeded()
                    self._waker.wake_all()
                    await self._attend(connection)
            except psycopg.Error as error:
                _log.warning("replica_cut_off", detail=str(error).strip())
            await asyncio.sleep(backoff.failed())

    async def _connect(self) -> "AsyncConnection[Any]":
        from psycopg import AsyncConnection

        _, settings = self._engine.dialect.create_connect_args(self._engine.url)
        return await AsyncConnection.connect(**{**settings, **POSTGRESQL_CONNECT}, autocommit=True)

    async def _take_part(self, connection: "AsyncConnection[Any]") -> None:
        await connection.execute(f"SET idle_session_timeout = '{SILENCE_S}s'")
        await connection.execute(locks.share_for_session(locks.SERVING))
        await connection.execute(f"LISTEN {CHANNEL}")

    async def _attend(self, connection: "AsyncConnection[Any]") -> None:
        conducting: asyncio.Task[None] | None = None
        try:
            while True:
                if conducting is None:
                    answer = await connection.execute(locks.try_for_session(locks.CONDUCTING))
                    row = await answer.fetchone()
                    if row is not None and row[0]:
                        _log.info("replica_conducts")
                        conducting = asyncio.ensure_future(self._conduct())
                else:
                    await connection.execute("SELECT 1")
                    if conducting.done():
                        conducting.result()
                async for told in connection.notifies(timeout=BEAT_S):
                    self._waker.wake([told.payload])
        finally:
            if conducting is not None:
                conducting.cancel()
                with suppress(asyncio.CancelledError):
                    await conducting
