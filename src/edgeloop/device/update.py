"""Take a device from one version to the next, safe against a kill at any instant.

downloading → verifying → accepting → (waiting for its hours) → active (on watch) → confirmed, or refused, or rolled
back with the reason. Each state is on the disk before its work begins, and its work can be done again; so after a kill
`resume` takes up where it was. Each has a deadline, which counts what was spent in it and not what a clock says.

Rules kept here: nothing runs that was not accepted by replaying its golden samples on this very machine; the switch is
one atomic write after everything it needs is fsynced; versions before it stay on the disk; going back needs no network;
what was turned down once is not tried again. A model runs in a process of its own, when it is tried (see `accept`) and
when it is at work (see `duty`); what a crash of it means: see `blame`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
import structlog

from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError, Refused
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.states import UpdateState
from edgeloop.device import blame
from edgeloop.device.accept import Acceptance
from edgeloop.device.config import Patience
from edgeloop.device.downloads import Downloads, Supply
from edgeloop.device.duty import Duty, in_full
from edgeloop.device.progress import Progress
from edgeloop.device.slots import AtWork, Slot, Slots
from edgeloop.device.state import Ended, Installed, Update, Versions, Wish, by_hand, chosen_of
from edgeloop.device.watch import Unhealthy
from edgeloop.device.worker import Died
from edgeloop.runtime.candidates import candidates

_log = structlog.get_logger(__name__)
_WATCH_EVERY_S = 0.1
_LOOK_EVERY_S = 30.0
"""At a maintenance window: the clock may be set meanwhile."""
_CLEAN = Ended()
_PATIENCE = Patience()
_SHARE_OF_FIRST = 2 / 3
_SHORTEST_TRIAL_S = 1.0


class _NotAccepted(Refused):
    """The content was tried on this machine and did not pass."""


class Updater:
    """One device's updates, one after another."""

    def __init__(  # noqa: PLR0913 - what it works with, each of another kind
        self,
        *,
        versions: Versions,
        shelf: Shelf,
        slots: Slots,
        supply: Supply,
        engines: Iterable[EngineName],
        acceptance: Acceptance,
        on_change: Callable[[], None],
        patience: Patience = _PATIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._versions = versions
        self._shelf = shelf
        self._slots = slots
        self._engines = tuple(engines)
        self._acceptance = acceptance
        self._duty = Duty(versions, shelf, slots, acceptance, on_change=on_change)
        self._progress = Progress(versions, on_change)
        self._downloads = Downloads(supply, shelf, versions, self._progress, engines=self._engines, patience=patience)
        self._on_change = on_change
        self._patience = patience
        self._clock = clock
        self._ended = _CLEAN

    def start(self, ended: Ended = _CLEAN) -> None:
        """Run what was active when the device last stopped; no network. A version that is damaged is left, and one that
        crashes; for one that does not load now, an older one stands in. ended: how the process before this one ended.
        """
        self._ended = ended
        self._duty.heed(ended)
        self._duty.start()

    def leave_if_it_crashes(self) -> None:
        """Go back from a trusted version whose processes crash in a row; no network."""
        if self.is_crashing:
            self.start()

    def hear_of_death(self, version: AtWork, death: Died) -> None:
        """A version's process died while it was to answer: a mark on the disk. Safe to call from any thread."""
        self._duty.hear_of_death(version, death)

    @property
    def trouble(self) -> str:
        """Why the version that is to run does not load now, and what answers instead; "" if it runs."""
        return self._duty.trouble

    @property
    def is_due(self) -> bool:
        """Whether it is time to `try_again`."""
        return self._duty.is_due

    def try_again(self) -> None:
        """Load what did not load; no network. Safe to call from any thread."""
        if self._duty.is_due:
            self._duty.start()

    @property
    def is_crashing(self) -> bool:
        """Whether a trusted version is to be left."""
        return not self._duty.is_on_watch and self._duty.blamed() is not None

    async def resume(self) -> None:
        """Take up an update that a stop or kill broke off."""
        ended, self._ended = self._ended, _CLEAN  # a process begins once
        update = self._versions.update
        if update is None or update.state.is_final:
            await self._race_anew()
            return
        if update.state is UpdateState.ACTIVE:
            await self.judge()
            return
        died_of_it = update.state is UpdateState.ACCEPTING and not ended.is_clean
        tries = update.tries + died_of_it
        if tries >= blame.MOST_ENDS:
            # The model is tried in a process of its own. It can still take more than that down: a supply too weak for
            # all cores at once, a service that ends with its first process to run out of memory.
            why = f": {ended.crash}" if ended.crash else ""
            reason = f"the agent did not survive trying it on this machine, {tries} times{why}"
            self._refuse(update.assignment, reason, for_good=bool(ended.crash))
        elif update.state is UpdateState.WAITING and update.accepted is not None:
            await self._put_to_work(update.assignment, update.accepted, tries=tries)
        else:
            await self._advance(update.assignment, tries=tries)

    async def judge(self) -> None:
        """Wait for the verdict on what is on watch, if anything is, and act on it; no network."""
        update = self._versions.update
        if update is not None and update.state is UpdateState.ACTIVE:
            await self._watch(update)

    async def take(self, assignment: Assignment | None, *, generation: int) -> None:
        """Bring the device to what is assigned. Raises Unavailable when it must be tried again later."""
        if assignment is None:
            self._versions.note_nothing_wanted(generation)
            self._tidy()
            self._on_change()
            return
        active = self._versions.active
        if active is not None and active.manifest_sha256 == assignment.manifest_sha256:
            update = self._versions.update
            if update is not None and update.state is UpdateState.ACTIVE:
                still = msgspec.structs.replace(update, assignment=assignment)
                self._versions.note(still)
                await self._watch(still)
                return
            self._progress.note(assignment, UpdateState.CONFIRMED, reason="it runs here already")
            return
        await self._advance(assignment)

    async def withdraw(self, reason: str) -> None:
        """Go back from a version that is still on watch, since something else is wanted now."""
        update = self._versions.update
        if update is not None and update.state is UpdateState.ACTIVE:
            await self._go_back(update, reason, for_good=False)

    def grant(self, wish: Wish) -> str:
        """Run a kept version because somebody at the device wants it; no network. A wish that cannot be granted changes
        nothing. Returns what is to be told of it where the newest update is another version's; else that tells it."""
        try:
            chosen = chosen_of(self._versions, wish.bundle)
            version = self._duty.load(chosen)
        except EdgeloopError as error:
            _log.warning("wish_not_granted", bundle=wish.bundle, code=error.code, detail=str(error))
            self._versions.turn_wish_down(str(error))
            return ""
        left, update = self._versions.active, self._versions.update
        self._versions.choose(chosen, by_hand(chosen))
        self._duty.run(version, on_watch=False)
        _log.info("rolled_back_by_hand", bundle=chosen.bundle)
        self._on_change()
        if left is None or self._versions.update != update:
            return ""
        return f"{left.bundle}: {by_hand(chosen)}"

    async def _advance(self, assignment: Assignment, *, tries: int = 0) -> None:
        try:
            self._check_wanted(assignment)
            bundle = await self._downloads.bring(assignment, tries=tries)
            installed = await self._accept(assignment, bundle, tries=tries)
        except (Refused, Corrupt) as error:
            self._refuse(assignment, str(error), for_good=isinstance(error, _NotAccepted))
            return
        await self._put_to_work(assignment, installed, tries=tries)

    async def _put_to_work(self, assignment: Assignment, installed: Installed, *, tries: int) -> None:
        """What was accepted, in its hours; needs no network."""
        try:
            await self._wait_for_hours(assignment, installed, tries=tries)
            version = await self._duty.loading(self._load_accepted, installed)
        except (Refused, Corrupt) as error:
            self._refuse(assignment, str(error), for_good=False)
            return
        try:
            await self._activate(assignment, installed, version)
        finally:
            self._duty.drop(version)
        update = self._versions.update
        assert update is not None
        await self._watch(update)

    def _check_wanted(self, assignment: Assignment) -> None:
        from edgeloop.transport.trust import require_not_older  # brings python-tuf, see supply

        before = self._versions.turned_down(assignment.manifest_sha256)
        if before is not None:
            raise Refused(f"turned down here before: {before}")
        require_not_older(assignment.ref, self._versions.floor)

    async def _accept(self, assignment: Assignment, bundle: Bundle, *, tries: int) -> Installed:
        """Try one candidate after another, each in a process of its own; the first that passes is installed.

        All of them together have the time that one acceptance may take; one that others follow has two thirds of what
        is left.
        """
        self._progress.note(assignment, UpdateState.ACCEPTING, tries=tries)
        failures, are_passing = [], []
        left_s = self._acceptance.within_s
        able = candidates(bundle.manifest, self._engines)
        for index, variant in enumerate(able):
            # Of a later one, once those before it have failed. A disk's damage is not to be the model's.
            if await self._downloads.bring_variant(assignment, bundle, variant, tries=tries):
                self._progress.note(assignment, UpdateState.ACCEPTING, tries=tries)
            began_s = time.monotonic()
            within_s = left_s if variant is able[-1] else left_s * _SHARE_OF_FIRST
            found = await self._acceptance.judge(bundle, variant, shelf=self._shelf.folder, within_s=within_s)
            left_s -= time.monotonic() - began_s
            if found.failure is None:
                self._shelf.put_manifest(bundle.manifest_bytes)
                return Installed(assignment.bundle, variant.file, assignment.manifest_sha256)
            failures.append(f"{variant.engine} {variant.precision}: {found.failure}")
            are_passing.append(found.is_passing)
            if left_s < _SHORTEST_TRIAL_S and index + 1 < len(able):
                failures.append(f"there was no time left for {len(able) - index - 1} more")
                break
        # What another time may pass is not turned down for good.
        raise (Refused if any(are_passing) else _NotAccepted)("; ".join(failures))

    async def _wait_for_hours(self, assignment: Assignment, installed: Installed, *, tries: int) -> None:
        """Until the maintenance window opens, if there is one."""
        window = assignment.window
        if window is None or window.opens_in_s(self._clock()) == 0:
            return
        reason = f"accepted; waits for its hours, {window}"
        self._progress.note(assignment, UpdateState.WAITING, reason=reason, tries=tries, accepted=installed)
        while (opens_in_s := window.opens_in_s(self._clock())) > 0:
            await asyncio.sleep(min(opens_in_s, _LOOK_EVERY_S))

    async def _activate(self, assignment: Assignment, installed: Installed, version: AtWork) -> None:
        update = Update(assignment=assignment, state=UpdateState.ACTIVE, since_s=time.time())

        def switch() -> None:
            self._versions.switch(installed, update)
            self._duty.run(version, on_watch=True)

        await in_full(switch)
        self._progress.tell(update)

    def _load_accepted(self, installed: Installed) -> AtWork:
        """Before the switch: what cannot be loaded is not switched to."""
        try:
            return self._duty.load(installed)
        except EdgeloopError as error:
            raise Refused(f"it passed its trial, and yet it cannot be loaded to work: {error}") from error

    async def _race_anew(self) -> None:
        """Where the machine or a library changed, no race is remembered: run one beside what answers meanwhile."""
        slot, active = self._slots.current, self._versions.active
        if slot is None or active is None or slot.active.is_raced or not self._acceptance.races:
            return
        found = await self._acceptance.judge(*self._duty.open(active), shelf=self._shelf.folder)
        if found.failure is not None:
            _log.error("active_version_fails_its_trial", bundle=active.bundle, detail=found.failure)
            return
        self._slots.put(Slot(await self._duty.loading(self._duty.load_anew, active), drift=slot.drift))

    async def _watch(self, update: Update) -> None:
        """Wait for the verdict on the active version, and act on it."""
        began_s = noted_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            age_s = update.spent_s + now_s - began_s
            if now_s - noted_s > self._patience.note_every_s:
                noted_s = now_s  # a device that restarts every few minutes comes to an end, too
                self._versions.count(msgspec.structs.replace(update, spent_s=age_s))
            blamed = self._duty.blamed()
            if blamed is not None:
                await self._go_back(update, blamed.reason, for_good=blamed.for_good)
                return
            slot = self._slots.current
            if slot is not None and slot.watch is not None:
                if await self._is_judged(update, slot, age_s):
                    return
            elif not self._duty.trouble:
                return
            elif age_s > update.assignment.watch.deadline_s:
                await self._go_back(update, self._duty.trouble, for_good=False)
                return
            await asyncio.sleep(_WATCH_EVERY_S)

    async def _is_judged(self, update: Update, slot: Slot, age_s: float) -> bool:
        """Whether there is a verdict, which is done then."""
        assert slot.watch is not None
        found = slot.watch.verdict(update.assignment.watch, age_s=age_s)
        if isinstance(found, Unhealthy):
            await self._go_back(update, found.reason, for_good=True)
        elif found is not None:
            done = msgspec.structs.replace(update, state=UpdateState.CONFIRMED, reason=found.reason)
            if self._versions.confirm(done):
                self._slots.put(Slot(slot.active, drift=slot.drift))
                self._tidy()
                self._progress.tell(done)
        return found is not None

    async def _go_back(self, update: Update, reason: str, *, for_good: bool) -> None:
        done = msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=reason)
        try:
            await in_full(partial(self._duty.leave, done, for_good=for_good))
        finally:
            self._progress.tell(done)  # also where who waits for it is cancelled meanwhile: it is left all the same

    def _refuse(self, assignment: Assignment, reason: str, *, for_good: bool) -> None:
        """Nothing changes. for_good: the content itself was judged; else a later assignment may try it again."""
        update = Update(assignment=assignment, state=UpdateState.REFUSED, reason=reason, since_s=time.time())
        self._versions.refuse(update, for_good=for_good)
        self._tidy()
        self._progress.tell(update)

    def _tidy(self) -> None:
        """Keep what runs and what can be gone back to."""
        kept = {one.ref for one in (self._versions.active, *self._versions.older) if one is not None}
        self._shelf.prune(kept)
