"""Lets go of what the cloud was told to keep for a time only, bit by bit beside its work, with an account.

Rule kept here: between two transactions it rests for longer than they take, so that devices' batches go first.
Neighbour: `store.tidying` says what goes.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
import structlog

from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import require_founded
from edgeloop.cloud.store import inbox, tidying
from edgeloop.cloud.store.blobs import open_blobs
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.engine import is_postgresql, parse_url
from edgeloop.cloud.store.samples import SampleBytes
from edgeloop.cloud.store.sole import sole_server
from edgeloop.cloud.store.tidying import Keep, Removed
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Unavailable

T = TypeVar("T")
_log = structlog.get_logger(__name__)

EVERY_S = 3600.0
"""How often a serving cloud looks for what is old enough."""

GRACE_S = 6 * 3600.0
"""For so long a sample's bytes stay when its row is gone: a backup that has begun reads them after its rows."""

LEAST_S = 3600.0
"""Nothing is kept for less: a device that heard no answer sends again for a while."""

_BLOBS_AT_ONCE = 20
_REMOVING_S = 2.0
"""The most that a bucket is waited for at once: what devices send waits as long."""
_REST = 4.0


class Tidier:
    """One who tidies; on PostgreSQL, one of the replicas."""

    def __init__(
        self, database: Database, samples: SampleBytes, keep: Keep, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._samples = samples
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """Tidy at once and then every hour, until cancelled; returns where everything is kept for ever."""
        while self._keep.shortest_s is not None:
            try:
                removed = await self.tidy()
            except EdgeloopError as error:
                _log.warning("tidying_failed", code=error.code, detail=str(error))
            except Exception as error:  # noqa: BLE001 - the outer guard: rollouts go on beside it
                _log.error("tidying_broke", exc_info=error)
            else:
                _log.info("tidied", **account(removed))
            await asyncio.sleep(EVERY_S)

    async def tidy(self, *, grace_s: float = GRACE_S) -> Removed:
        """Remove all that is too old now, and the bytes of samples that are gone for longer than grace_s."""
        total = Removed()
        for name in await self._database.read(tidying.device_ids):
            try:
                await self._tidy_device(name, total)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - one device's rows must not keep all others' for ever
                _log.error("device_not_tidied", device_id=name, exc_info=error)
                total.devices_passed_over += 1
        is_more = True
        while is_more:
            count, is_more = await self._transact(partial(self._remove_blobs, grace_s=grace_s))
            total.blobs += count
        await self._transact(partial(tidying.forget_marks, before_s=self._clock() - GRACE_S))
        return total

    async def _tidy_device(self, name: str, total: Removed) -> None:
        epoch = await self._database.read(partial(tidying.next_epoch, device_id=name, after=-1))
        while epoch is not None:
            await self._tidy_epoch((name, epoch), total)
            epoch = await self._database.read(partial(tidying.next_epoch, device_id=name, after=epoch))

    async def _tidy_epoch(self, epoch: tuple[str, int], total: Removed) -> None:
        after: int | None = -1
        while after is not None:
            step = partial(tidying.remove_some, epoch=epoch, keep=self._keep, after=after, now_s=self._clock())
            removed, after = await self._transact(step)
            total.add(removed)

    def _remove_blobs(self, connection: sa.Connection, *, grace_s: float) -> tuple[int, bool]:
        """Returns how many are gone, and whether to go on now: not where the store of blobs fails, until next time."""
        now_s = self._clock()
        hashes, is_more = tidying.due_blobs(connection, before_s=now_s - grace_s, limit=_BLOBS_AT_ONCE)
        wanted = {inbox.sample_key(sha256): sha256 for sha256 in hashes}
        gone, why = asyncio.run(self._samples.remove(list(wanted), timeout_s=_REMOVING_S))
        tidying.mark_gone(connection, [wanted[key] for key in gone], now_s=now_s)
        if why:
            _log.warning("blobs_not_removed", count=len(hashes) - len(gone), detail=why)
        return len(gone), is_more and not why

    async def _transact(self, operation: Callable[[sa.Connection], T]) -> T:
        began_s = time.monotonic()
        if is_postgresql(self._database.engine):
            result = await self._database.transact(operation)
        else:
            result = await self._database.write(operation)
        await asyncio.sleep(_REST * (time.monotonic() - began_s))
        return result


def require_sane(keep: Keep) -> Keep:
    """The same. Raises InvalidInput on an age below LEAST_S."""
    for name in keep.__struct_fields__:
        age_s = getattr(keep, name)
        if age_s is not None and age_s < LEAST_S:
            raise InvalidInput(f"{name.removesuffix('_s')} would be kept for {age_s:g} s; an hour is the least")
    return keep


def tidy_cloud(config: CloudConfig, keep: Keep) -> Removed:
    """Tidy a cloud at once, bytes included. Raises Unavailable while a SQLite cloud is served: it tidies by itself.

    Raises InvalidInput where nothing is to be removed, or what is too young; NotFound if there is no cloud.
    """
    if require_sane(keep).shortest_s is None:
        raise InvalidInput("say what is kept for a time only: --keep-readings, --keep-alerts or --keep-samples")
    require_founded(config)
    url = parse_url(config.sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise NotFound(f"there is no database {url.database}; name the cloud's folder with --dir")
    with sole_server(url):
        database = Database(config.sqlalchemy_url, migrates=False)
        try:
            samples = SampleBytes(open_blobs(config.blobs_folder, config.blobs_url))
            return asyncio.run(Tidier(database, samples, keep).tidy(grace_s=0.0))
        finally:
            database.close()


def account(removed: Removed) -> dict[str, int]:
    """For the log and for machines."""
    return {name: getattr(removed, name) for name in removed.__struct_fields__}
