"""The device at work: the inference loop on its thread, and beside it sync, send and update."""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from edgeloop.backoff import Backoff
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.messages import (
    Alert,
    Assignment,
    Desired,
    DeviceReport,
    Health,
    Profile,
    SourceHealth,
    UpdateReport,
)
from edgeloop.contracts.states import UpdateState
from edgeloop.device.accept import Acceptance
from edgeloop.device.blame import STEADY_S
from edgeloop.device.config import DeviceConfig, Pace
from edgeloop.device.duty import in_full
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.metered import MeteredSupply
from edgeloop.device.often import often
from edgeloop.device.patched import PatchedSupply
from edgeloop.device.record import Record
from edgeloop.device.recovery import open_or_begin_anew
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses, opener, resume_after
from edgeloop.device.slots import Slots
from edgeloop.device.state import KEPT, Ended, Versions
from edgeloop.device.supply import HubSupply
from edgeloop.device.update import Updater
from edgeloop.transport import reopen, syncing
from edgeloop.transport.again import FIRST_WAIT_S, asked_wait_s
from edgeloop.transport.budget import DOWNLOAD, Budget, DaySettings
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.seal import Keyring
from edgeloop.transport.sender import Sender
from edgeloop.transport.syncing import SyncLoop
from edgeloop.transport.uplink import Uplink
from edgeloop.transport.worth import NO_BOUNDS, SAMPLE

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_JOIN_S = 5.0
_FIRST_WAIT_S = 0.5
_RETRY_EVERY_S = 1.0
OUTBOX = "outbox.db"
"""In a device's folder, and in a node's."""
_LOOK_EVERY_S = 0.5
_QUIET = (UpdateState.DOWNLOADING, UpdateState.VERIFYING)
"""States of an update that are told with whatever is told next."""


class Agent:
    """One device. Made and run on one event loop. crash: what the process before this one died of, see `crash`.
    keyring: what samples are sealed with on the disk.
    """

    def __init__(
        self,
        config: DeviceConfig,
        member: Membership,
        uplink: Uplink,
        *,
        profile: Profile,
        crash: str = "",
        keyring: Keyring | None = None,
    ) -> None:
        self._config = config
        self._member = member
        self._profile = profile
        self._crash = crash
        shelf = Shelf(config.folder / "bundles")
        self._keep, self._lost = open_or_begin_anew(
            config.folder / "device.db", shelf, config.engines, kept=config.keep_versions
        )
        self._versions = Versions(self._keep, kept=config.keep_versions)
        self._outbox = reopen.open_or_begin_anew(
            config.folder / OUTBOX, member.device_id, bounds=config.outbox, keyring=keyring
        )
        self._record = Record(self._outbox)
        self._budget = Budget(self._keep, limit_bytes=config.day_bytes, begins_h=config.day_begins_h)
        day = DaySettings(limit_bytes=config.day_bytes, begins_h=config.day_begins_h)
        _write_down(self._keep, {"day_settings": day, KEPT: config.keep_versions})
        self._slots = Slots()
        self._signed = HubSupply(uplink, member, config.folder / "trust")
        self._metered = MeteredSupply(self._signed, uplink, self._budget, on_wait=self._on_change)
        self._supply = PatchedSupply(self._metered, uplink)
        self._updater = Updater(
            versions=self._versions,
            shelf=shelf,
            slots=self._slots,
            supply=self._supply,
            engines=config.engines,
            acceptance=Acceptance(
                Pace(
                    config.folder / "races",
                    threads=config.threads,
                    race_s=config.race_s,
                    accept_s=config.accept_s,
                    answer_s=config.answer_s,
                    cache=config.cache,
                )
            ),
            on_change=self._on_change,
            patience=config.patience,
        )
        self._senses = self._sensing(config.source) if config.source is not None else None
        self._loop = self._inference(self._senses) if self._senses is not None else None
        self._sync = SyncLoop(
            uplink,
            reports=lambda: (self.report(),),
            on_desired=self._on_desired,
            pace=syncing.Pace(config.sync_wait_s, config.longest_backoff_s, hold_back_s=syncing.HOLD_BACK_S),
        )
        self._sender = Sender(
            self._outbox,
            uplink,
            every_s=config.send_every_s,
            longest_wait_s=config.longest_backoff_s,
            budget=self._budget,
        )
        self._wanted = asyncio.Event()
        self._wanted_generation = self._versions.known_generation
        self._heard_wish_s = 0.0
        self._told_trouble = ""

    async def run(self) -> None:
        """Work until cancelled; what is under way is taken up at the next start."""
        ended = self._begin()
        is_clean = False
        try:
            if self._lost:
                self._record.keep([Alert(what="storage", detail=self._lost)])
            await in_full(partial(self._updater.start, ended))
            is_clean = True
            self._alert_if_failed()
            await self._work()
        except asyncio.CancelledError:
            is_clean = True  # told to stop while it loaded
            raise
        finally:
            self._slots.put(None)
            if is_clean:  # what fails at each start is to be left after some
                self._end()
            self._budget.close()
            self._outbox.close()
            self._keep.close()

    async def _work(self) -> None:
        stop = threading.Event()
        thread = None
        if self._loop is not None:
            thread = threading.Thread(target=self._loop.run, args=(stop,), name="inference", daemon=True)
            thread.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sync.run())
                group.create_task(self._sender.run())
                group.create_task(self._updates())
                group.create_task(self._often(self._make_up, every_s=_RETRY_EVERY_S))
                group.create_task(self._often(self._load_again, every_s=_LOOK_EVERY_S))
                group.create_task(self._often(self._wishes, every_s=_LOOK_EVERY_S))
                group.create_task(self._grow_steady())
                group.create_task(self._signed.keep_fresh())
        finally:
            stop.set()
            if thread is not None:
                await asyncio.to_thread(thread.join, _JOIN_S)

    def report(self) -> DeviceReport:
        """What the hub is told of this device."""
        slot = self._slots.current
        active, previous = self._versions.active, self._versions.previous
        return DeviceReport(
            device_id=self._member.device_id,
            known_generation=max(self._wanted_generation, self._versions.known_generation),
            active=active.bundle if active else None,
            engine=f"{slot.active.variant.engine} {slot.active.variant.precision}" if slot else None,
            previous=previous.bundle if previous else None,
            update=self._update_report(),
            health=self._health(),
            profile=self._profile,
        )

    def _sensing(self, source: str) -> Senses:
        config = self._config
        return Senses(
            source,
            opener(source, rate_hz=config.rate_hz),
            self._slots,
            after=resume_after(source, self._keep, self._outbox),
            backoff=Backoff(first_s=_FIRST_WAIT_S, longest_s=config.longest_backoff_s),
        )

    def _inference(self, senses: Senses) -> InferenceLoop:
        config = self._config
        selector = Selector(
            config.select,
            rng=random.Random(config.seed),  # noqa: S311 - sampling, not secrecy
            room_bytes=self._sample_room_bytes if config.day_bytes else None,
        )
        return InferenceLoop(
            senses,
            selector,
            self._record,
            shadow_share=config.shadow_share,
            seed=config.seed,
            on_death=self._updater.hear_of_death,
        )

    def _sample_room_bytes(self) -> int:
        """More samples than a day can carry are not worth the room that they take from readings."""
        waiting = self._outbox.waiting_bytes(SAMPLE)
        return self._budget.most_bytes(SAMPLE) - waiting

    async def _often(self, look: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        await often(look, every_s=every_s, longest_wait_s=self._config.longest_backoff_s)

    async def _make_up(self) -> None:
        """What the disk did not take is written once it takes it, also while nothing is sensed."""
        await asyncio.to_thread(self._record.retry)
        with suppress(Unavailable):  # it was logged as it came into force
            await asyncio.to_thread(self._versions.save)

    async def _load_again(self) -> None:
        """The version that is to run, where it did not load; beside updates, which this must not hold up nor end."""
        trouble, told = self._updater.trouble, self._told_trouble
        self._told_trouble = trouble
        if trouble and not told:
            self._record.keep([Alert(what="load", detail=trouble)])
            self._sync.changed()
        if self._updater.is_due:
            await in_full(self._updater.try_again)

    async def _updates(self) -> None:
        """One update at a time; a newer wish ends the one before, which every state allows."""
        task = asyncio.create_task(self._insist(self._next))
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await _end(task)
                task = asyncio.create_task(self._insist(self._next))
        finally:
            await _end(task)

    async def _next(self) -> None:
        """What crashes is left first, then comes what is wanted here at the device, then what the hub wants."""
        await in_full(self._go_back_here)
        if self._wanted_generation > self._versions.known_generation:
            await self._bring_to(self._wanted_generation)
        else:
            await self._updater.resume()

    def _go_back_here(self) -> None:
        """Never twice at once: what is newly wanted while this loads would else find the same wish."""
        self._updater.leave_if_it_crashes()
        wish = self._versions.wish
        told = "" if wish is None else self._updater.grant(wish)
        if told:
            self._record.keep([Alert(what=UpdateState.ROLLED_BACK, detail=told)])

    async def _wishes(self) -> None:
        """Somebody at the device may leave one at any time, see `rollback`; and a version may crash at any time."""
        if self._updater.is_crashing:
            self._wanted.set()
        wish = self._versions.wish
        if wish is not None and wish.at_s != self._heard_wish_s:
            self._heard_wish_s = wish.at_s
            self._wanted.set()

    async def _grow_steady(self) -> None:
        await asyncio.sleep(STEADY_S)
        await self._insist(partial(asyncio.to_thread, self._versions.forget_crashes))

    def _begin(self) -> Ended:
        try:
            return self._versions.begin(self._crash)
        except Unavailable as error:  # a full disk is no reason not to work: only the mark of a start is missing
            _log.warning("start_not_noted", detail=str(error))
            return Ended(is_clean=not self._crash, crash=self._crash)

    def _end(self) -> None:
        try:
            self._versions.end()
        except Unavailable as error:  # then it counts as killed, which alone means nothing
            _log.warning("end_not_noted", detail=str(error))

    async def _bring_to(self, generation: int) -> None:
        assignment = await self._wanted_by(generation)
        active = self._versions.active
        if active and (assignment is None or assignment.manifest_sha256 != active.manifest_sha256):
            await self._updater.withdraw("something else is wanted of this device now")
        await self._updater.take(assignment, generation=generation)

    async def _wanted_by(self, generation: int) -> Assignment | None:
        """What is wanted as of this generation, however long it takes to hear of it. What is on watch is judged
        meanwhile: while the hub is away, nobody else takes a bad version back."""
        judging = asyncio.create_task(self._insist(self._updater.judge))
        try:
            return await self._insist(partial(self._ask, generation))
        finally:
            await _end(judging)

    async def _ask(self, generation: int) -> Assignment | None:
        assignment = await self._supply.assignment()
        self._signed.require_generation(generation)
        return assignment

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step of an update until it comes to an end; a failure is told, waited out and tried again."""
        backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=self._config.longest_backoff_s)
        while True:
            try:
                return await step()
            except EdgeloopError as error:
                wait_s = asked_wait_s(error, backoff)
                _log.warning("update_waits", code=error.code, detail=str(error), retry_in_s=round(wait_s, 2))
            except Exception as error:  # noqa: BLE001 - the outer guard: an update must not end the device
                wait_s = backoff.failed()
                _log.error("update_broke", retry_in_s=round(wait_s, 2), exc_info=error)
            await asyncio.sleep(wait_s)

    def _on_desired(self, news: tuple[Desired, ...]) -> None:
        for desired in news:
            if desired.device_id == self._member.device_id and desired.generation > self._wanted_generation:
                self._wanted_generation = desired.generation
                self._wanted.set()

    def _on_change(self) -> None:
        self._alert_if_failed()
        update = self._versions.update
        # From accepting on, what is tried may take the machine with it: the hub must have heard of that before.
        self._sync.changed(at_once=update is None or update.state not in _QUIET)

    def _alert_if_failed(self) -> None:
        update = self._versions.update
        if update is None or update.state not in (UpdateState.REFUSED, UpdateState.ROLLED_BACK):
            return
        told = (update.assignment.generation, str(update.state), update.reason)
        if self._keep.get("alerted", tuple[int, str, str]) != told:
            self._keep.put_in_force({"alerted": told})
            detail = f"{update.assignment.bundle}: {update.reason}"
            self._record.keep([Alert(what=update.state, detail=detail)])

    def _update_report(self) -> UpdateReport | None:
        update = self._versions.update
        if update is None:
            return None
        slot = self._slots.current
        watch = slot.watch if slot is not None and update.state is UpdateState.ACTIVE else None
        return update.report(None if watch is None else watch.stats())

    def _health(self) -> Health:
        stats = self._outbox.stats()
        slot = self._slots.current
        loop = self._loop
        day = self._budget.spending(stats.accounts)
        if self._metered.is_waiting:
            day = msgspec.structs.replace(day, waits=(*day.waits, DOWNLOAD))
        return Health(
            readings=loop.readings if loop else 0,
            cached=loop.cached if loop else 0,
            infer_errors=loop.errors if loop else 0,
            error_reason=loop.error_reason if loop else "",
            source=self._senses.health() if self._senses else SourceHealth(),
            dropped=self._record.dropped + stats.evicted_rows,
            outbox_rows=stats.pending_rows,
            outbox_bytes=stats.pending_bytes,
            drift_alarm=slot.drift.is_on if slot else False,
            drift_reason=slot.drift.reason if slot else "",
            clock_ms=int(time.time() * 1000),
            outbox=stats.accounts,
            day=day,
            storage=self._record.trouble or self._outbox.trouble,
            trust=self._signed.trust,
        )


def _write_down(keep: Keep, settings: Mapping[str, object]) -> None:
    """For `device status` and `device rollback`. A full disk is no reason not to run."""
    changed = {name: value for name, value in settings.items() if keep.get(name, type(value)) != value}
    if not changed:
        return
    try:
        keep.set(changed)
    except Unavailable as error:
        _log.error("settings_not_written_down", detail=str(error))


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it is gone, however often we are cancelled meanwhile; that is raised then."""
    task.cancel()
    cut: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cut = error
    if cut is not None:
        raise cut


def open_outbox(folder: Path, device_id: str, *, keyring: Keyring | None = None) -> Outbox:
    """A device's outbox in its state folder, for who only looks into it: nothing of it is given up."""
    return Outbox(folder / OUTBOX, device_id, bounds=NO_BOUNDS, keyring=keyring)
