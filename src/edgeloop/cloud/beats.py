"""What devices say of how they fare is answered first, and kept a moment later, of all devices at once.

A beat is a report that says what its sender said before, but for the counts in its health; and before was kept, by this
process. Rules kept here: news waits for its commit, and so does whatever a node brings; a beat is kept only where
nothing else was kept of its device since, by any replica; where beats could not be kept the log says so, and the next
reports wait for their commits. A cloud that is killed forgets the beats of its last second. Neighbour: `hub`; source:
docs/adr/0041.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import DeviceReport, Health, SourceHealth

_log = structlog.get_logger(__name__)

_EVERY_S = 1.0


class _Kept(NamedTuple):
    """What was committed of a device: a digest of what it said, and when it said it."""

    digest: bytes
    seen_s: float


class Beats:
    """Used from one event loop. every_s: how long a beat waits for others."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float] = time.time, every_s: float = _EVERY_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s
        self._kept: dict[str, _Kept] = {}
        self._waiting: dict[str, tuple[DeviceReport, float]] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    def is_beat(self, sender: str, reports: Sequence[DeviceReport]) -> bool:
        """Whether a sender's reports hold nothing but how it fares."""
        if len(reports) != 1 or reports[0].device_id != sender or sender not in self._kept:
            return False
        update = reports[0].update
        # Another replica may have heard of a later state of an update that goes on.
        is_settled = update is None or update.state.is_final
        return is_settled and self._kept[sender].digest == _digest(reports[0])

    def put(self, report: DeviceReport) -> None:
        """Keep a beat within a moment."""
        self._waiting[report.device_id] = (report, self._clock() - report.age_s)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_all())

    def forget(self, sender: str) -> None:
        """News of a sender is about to be committed: what was said before it is of no use."""
        self._kept.pop(sender, None)
        self._waiting.pop(sender, None)

    def note_kept(self, sender: str, reports: Sequence[DeviceReport], *, now_s: float) -> None:
        """What a sender brought was committed, as of then: its beats are measured by what it said of itself."""
        for report in reports:
            if report.device_id == sender:
                self._kept[sender] = _Kept(_digest(report), now_s - report.age_s)

    async def close(self) -> None:
        """Keep what waits."""
        self._ending.set()
        if self._keeping is not None:
            await self._keeping

    async def _keep_all(self) -> None:
        """One save at a time, until nothing waits."""
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._ending.wait()
            try:
                await self._keep()
            except EdgeloopError as error:
                self._give_up()
                _log.warning("beats_not_kept", code=error.code, detail=str(error))
            except Exception as error:  # noqa: BLE001 - the outer guard: reports are kept without it
                self._give_up()
                _log.error("beats_broke", exc_info=error)
        self._keeping = None

    def _give_up(self) -> None:
        """Whoever reports next waits for its commit, and hears of it where that fails, too."""
        self._kept.clear()
        self._waiting.clear()

    async def _keep(self) -> None:
        waiting, self._waiting = self._waiting, {}
        measured = {device_id: self._kept[device_id] for device_id in waiting if device_id in self._kept}
        beats = [fleet.Beat(*waiting[device_id], before.seen_s) for device_id, before in measured.items()]
        kept = await self._database.write(lambda connection: fleet.save_beats(connection, beats), alone=False)
        for device_id, before in measured.items():
            if self._kept.get(device_id) is not before:
                continue  # news came meanwhile
            if device_id in kept:
                self._kept[device_id] = before._replace(seen_s=waiting[device_id][1])
            else:
                self.forget(device_id)


def _digest(report: DeviceReport) -> bytes:
    """Of all that it says but for counts."""
    health = report.health
    told = Health(
        drift_alarm=health.drift_alarm, storage=health.storage, source=SourceHealth(trouble=health.source.trouble)
    )
    return hashlib.blake2b(to_msgpack(msgspec.structs.replace(report, health=told)), digest_size=16).digest()
