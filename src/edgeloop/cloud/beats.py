"""What devices say of how they fare is answered first, and kept a moment later, of all devices at once.

A beat is a report that says what its sender said before, but for its health; and before was kept. Rules kept here: what
is news, and whatever a node brings, is no beat and waits for its commit; a beat that could not be kept is told in the
log, and until something was kept again there are no beats. A cloud that is killed forgets those of its last second,
which the devices say anew within a minute. Neighbour: `hub`; source: docs/adr/0041.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa
import structlog

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import DeviceReport, Health

_log = structlog.get_logger(__name__)

_EVERY_S = 1.0
_NOT_SAID = Health()


class Beats:
    """Used from one event loop. every_s: how long a beat waits for others."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float] = time.time, every_s: float = _EVERY_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s
        self._kept: dict[str, bytes] = {}
        self._waiting: dict[str, tuple[DeviceReport, float]] = {}
        self._keeping: asyncio.Task[None] | None = None

    def is_beat(self, sender: str, reports: Sequence[DeviceReport]) -> bool:
        """Whether a sender's reports hold nothing but its own health."""
        if len(reports) != 1 or reports[0].device_id != sender:
            return False
        return self._kept.get(sender) == _digest(reports[0])

    def put(self, report: DeviceReport) -> None:
        """Keep a beat within a moment."""
        self._waiting[report.device_id] = (report, self._clock() - report.age_s)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_soon())

    def note_kept(self, sender: str, reports: Sequence[DeviceReport]) -> None:
        """What a sender said of itself was committed: beats are measured by it, and older ones are of no use."""
        for report in reports:
            self._waiting.pop(report.device_id, None)
            if report.device_id == sender:
                self._kept[sender] = _digest(report)

    async def close(self) -> None:
        """Keep what waits."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            await self._keep()

    async def _keep_soon(self) -> None:
        await asyncio.sleep(self._every_s)
        self._keeping = None
        await self._keep()

    async def _keep(self) -> None:
        beats, self._waiting = self._waiting, {}

        def save(connection: sa.Connection) -> None:
            fleet.save_beats(connection, beats.values())

        try:
            await self._database.write(save, alone=False)
        except EdgeloopError as error:
            # Whoever reports next waits for its commit, and hears of it where that fails, too.
            self._kept.clear()
            _log.warning("beats_not_kept", devices=len(beats), code=error.code, detail=str(error))


def _digest(report: DeviceReport) -> bytes:
    """Of all that it says but for its health."""
    return hashlib.blake2b(to_msgpack(msgspec.structs.replace(report, health=_NOT_SAID)), digest_size=16).digest()
