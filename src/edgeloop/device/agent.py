"""The device at work: the inference loop on its thread, and beside it sync, send and update."""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Alert, Desired, DeviceReport, Health, Profile, UpdateReport
from edgeloop.contracts.states import UpdateState
from edgeloop.device.config import DeviceConfig, Pace
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.select import Selector
from edgeloop.device.slots import Slots
from edgeloop.device.sources import Source
from edgeloop.device.state import Versions
from edgeloop.device.supply import HubSupply
from edgeloop.device.update import Updater
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Backoff, Sender
from edgeloop.transport.syncing import SyncLoop
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)
_JOIN_S = 5.0


class Agent:
    """One device. Made and run on one event loop."""

    def __init__(
        self, config: DeviceConfig, member: Membership, uplink: Uplink, source: Source | None, *, profile: Profile
    ) -> None:
        self._config = config
        self._member = member
        self._profile = profile
        self._keep = Keep(config.folder / "device.db")
        self._versions = Versions(self._keep)
        self._outbox = open_outbox(config.folder, member.device_id, max_bytes=config.outbox_max_bytes)
        self._slots = Slots()
        self._supply = HubSupply(uplink, member, config.folder / "trust")
        self._updater = Updater(
            versions=self._versions,
            shelf=Shelf(config.folder / "bundles"),
            slots=self._slots,
            supply=self._supply,
            engines=config.engines,
            pace=Pace(config.folder / "races", threads=config.threads, race_s=config.race_s),
            on_change=self._on_change,
        )
        self._loop = self._inference(source) if source is not None else None
        self._sync = SyncLoop(
            uplink,
            reports=lambda: (self.report(),),
            on_desired=self._on_desired,
            wait_s=config.sync_wait_s,
            longest_backoff_s=config.longest_backoff_s,
        )
        self._sender = Sender(
            self._outbox, uplink, every_s=config.send_every_s, longest_wait_s=config.longest_backoff_s
        )
        self._wanted = asyncio.Event()
        self._wanted_generation = self._versions.known_generation
        self._alerted: set[tuple[int, str]] = set()

    async def run(self) -> None:
        """Work until cancelled; what is under way is taken up at the next start."""
        stop = threading.Event()
        await asyncio.to_thread(self._updater.start)
        thread = None
        if self._loop is not None:
            thread = threading.Thread(target=self._loop.run, args=(stop,), name="inference", daemon=True)
            thread.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sync.run())
                group.create_task(self._sender.run())
                group.create_task(self._updates())
        finally:
            stop.set()
            if thread is not None:
                await asyncio.to_thread(thread.join, _JOIN_S)
            self._outbox.close()
            self._keep.close()

    def report(self) -> DeviceReport:
        """What the hub is told of this device."""
        slot = self._slots.current
        active, previous = self._versions.active, self._versions.previous
        return DeviceReport(
            device_id=self._member.device_id,
            known_generation=max(self._wanted_generation, self._versions.known_generation),
            active=active.bundle if active else None,
            engine=f"{slot.predictor.variant.engine} {slot.predictor.variant.precision}" if slot else None,
            previous=previous.bundle if previous else None,
            update=self._update_report(),
            health=self._health(),
            profile=self._profile,
        )

    def _inference(self, source: Source) -> InferenceLoop:
        selector = Selector(self._config.select, rng=random.Random(self._config.seed))  # noqa: S311 - sampling, not secrecy
        return InferenceLoop(
            source,
            self._slots,
            selector,
            self._outbox,
            shadow_share=self._config.shadow_share,
            seed=self._config.seed,
        )

    async def _updates(self) -> None:
        """One update at a time; a newer wish ends the one before, which every state allows."""
        task = asyncio.create_task(self._insist(self._updater.resume))
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await _end(task)
                generation = self._wanted_generation
                task = asyncio.create_task(self._insist(lambda wanted=generation: self._bring_to(wanted)))  # type: ignore[misc]
        finally:
            await _end(task)

    async def _bring_to(self, generation: int) -> None:
        assignment = await self._supply.assignment()
        active = self._versions.active
        if active and (assignment is None or assignment.manifest_sha256 != active.manifest_sha256):
            self._updater.withdraw("something else is wanted of this device now")
        await self._updater.take(assignment, generation=generation)

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step of an update until it comes to an end; a failure is told, waited out and tried again."""
        backoff = Backoff(longest_s=self._config.longest_backoff_s)
        while True:
            try:
                await step()
            except EdgeloopError as error:
                wait_s = backoff.failed()
                _log.warning("update_waits", code=error.code, detail=str(error), retry_in_s=round(wait_s, 2))
            except Exception as error:  # noqa: BLE001 - the outer guard: an update must not end the device
                wait_s = backoff.failed()
                _log.error("update_broke", retry_in_s=round(wait_s, 2), exc_info=error)
            else:
                return
            await asyncio.sleep(wait_s)

    def _on_desired(self, desired: Desired) -> None:
        if desired.device_id == self._member.device_id and desired.generation > self._wanted_generation:
            self._wanted_generation = desired.generation
            self._wanted.set()

    def _on_change(self) -> None:
        self._alert_if_failed()
        self._sync.changed()

    def _alert_if_failed(self) -> None:
        update = self._versions.update
        if update is None or update.state not in (UpdateState.REFUSED, UpdateState.ROLLED_BACK):
            return
        key = (update.assignment.generation, update.state)
        if key not in self._alerted:
            self._alerted.add(key)
            detail = f"{update.assignment.bundle}: {update.reason}"
            self._outbox.append([Alert(what=update.state, detail=detail)], at_ms=int(time.time() * 1000))

    def _update_report(self) -> UpdateReport | None:
        update = self._versions.update
        if update is None:
            return None
        slot = self._slots.current
        on_watch = update.state is UpdateState.ACTIVE and slot is not None and slot.watch is not None
        return update.report(slot.watch.stats() if on_watch and slot and slot.watch else None)

    def _health(self) -> Health:
        stats = self._outbox.stats()
        slot = self._slots.current
        loop = self._loop
        return Health(
            readings=loop.readings if loop else 0,
            infer_errors=loop.errors if loop else 0,
            dropped=(loop.dropped if loop else 0) + stats.evicted_rows,
            outbox_rows=stats.pending_rows,
            outbox_bytes=stats.pending_bytes,
            drift_alarm=slot.drift.is_on if slot else False,
            drift_reason=slot.drift.reason if slot else "",
            clock_ms=int(time.time() * 1000),
        )


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it is gone. Unlike awaiting it, this keeps a cancellation of our own."""
    task.cancel()
    await asyncio.wait([task])


def open_outbox(folder: Path, device_id: str, *, max_bytes: int = 256 * 1024 * 1024) -> Outbox:
    """A device's outbox in its state folder."""
    return Outbox(folder / "outbox.db", device_id, max_bytes=max_bytes)
