"""Which of the kept versions is at work, and in whose shadow: from what the disk says to processes that answer.

Rules kept here: what is at work already is not loaded again, so that going back costs no reading; a version whose files
are damaged or gone is left, and so is one that `blame` speaks against; one that does not load for another reason (an
engine that is not there, a disk that failed once) stays what is to run, is tried again, and an older one stands in for
it meanwhile; what was loaded and is not put to work is closed. Safe to call from any thread, but for `loading`.
Neighbours: `update` decides what is to run, `state` remembers it, `slots` holds it.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec
import structlog

from edgeloop.backoff import Backoff
from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.states import UpdateState
from edgeloop.device import blame
from edgeloop.device.accept import Acceptance
from edgeloop.device.sense import takes_the_same
from edgeloop.device.slots import AtWork, Slot, Slots
from edgeloop.device.state import Ended, Installed, Update, Versions
from edgeloop.device.watch import Watch
from edgeloop.device.worker import Died

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_FIRST_AGAIN_S = 1.0
_LONGEST_AGAIN_S = 60.0
_CLEAN = Ended()


class Duty:
    """One device's versions at work. on_change: told when one was left. clock: in seconds, which never goes back."""

    def __init__(
        self,
        versions: Versions,
        shelf: Shelf,
        slots: Slots,
        acceptance: Acceptance,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions
        self._shelf = shelf
        self._slots = slots
        self._acceptance = acceptance
        self._on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._backoff = Backoff(first_s=_FIRST_AGAIN_S, longest_s=_LONGEST_AGAIN_S)
        self._again_at_s: float | None = None
        self.trouble = ""
        """Why the version that is to run does not, "" if it does."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to try again what did not load."""
        return self._again_at_s is not None and self._clock() >= self._again_at_s

    @property
    def is_on_watch(self) -> bool:
        """Whether the active version is not trusted yet."""
        update = self._versions.update
        return update is not None and update.state is UpdateState.ACTIVE

    def start(self) -> None:
        """Run what the disk says is active; no network. See the module's rules for what does not load."""
        while (active := self._versions.active) is not None:
            try:
                slot = self._slot_of(self._load_or_wait(active), on_watch=self.is_on_watch)
            except (Corrupt, NotFound) as error:
                _log.error("active_version_is_damaged", bundle=active.bundle, detail=str(error))
                with suppress(Unavailable):  # what the disk does not give up it is asked for another time
                    self._shelf.forget(active.ref)
                if self._versions.fall_back(active, f"does not load any more: {error}"):
                    self._on_change()
            except EdgeloopError as error:
                if not self._is_left_for(active, error):
                    self._stand_in_for(active, error)
                    return
            else:
                if self._put_if_active(active, slot):
                    return
        with self._lock:
            self._slots.put(None)
            self._rest()

    def run(self, version: AtWork, *, on_watch: bool) -> None:
        """Put a version to work, with the one before it as its shadow while on watch."""
        slot = self._slot_of(version, on_watch=on_watch)
        with self._lock:
            self._slots.put(slot)
            self._rest()

    def leave(self, update: Update, *, for_good: bool) -> None:
        """Go back from what is on watch, at once, also while the disk takes nothing. update: how it ended. for_good:
        and never try this content again. Where it was left meanwhile, see `heed`, that stands."""
        left, previous = self._versions.active, self._versions.previous
        if left is not None and left.manifest_sha256 == update.assignment.manifest_sha256:
            shadow = None if previous is None else self._at_work(previous)
            if shadow is not None:
                self._slots.put(Slot(shadow))
            if self._versions.go_back(left, update, for_good=for_good):
                self._unlist(left)
        self.start()

    def _slot_of(self, version: AtWork, *, on_watch: bool) -> Slot:
        if not on_watch:
            return Slot(version)
        previous = self._versions.previous
        shadow = None
        if previous is not None:
            try:
                shadow = self.load(previous)
                shadow.forget()  # else it has answers ready for what comes again: nothing to compare latencies with
            except EdgeloopError as error:
                _log.warning("shadow_does_not_load", bundle=previous.bundle, detail=str(error))
        compares = shadow is not None and takes_the_same(shadow.manifest, version.manifest)
        return Slot(version, shadow=shadow, watch=Watch(compares=compares))

    def _put_if_active(self, installed: Installed, slot: Slot) -> bool:
        """Whether it is still what is to run: loading takes a while, and another may have come meanwhile."""
        with self._lock:
            is_active = self._versions.active == installed
            if is_active:
                self._slots.put(slot)
                self._rest()
        if not is_active:
            for one in slot.versions:
                self.drop(one)
        return is_active

    def _rest(self) -> None:
        """Nothing is to be tried again."""
        self._backoff.succeeded()
        self._again_at_s, self.trouble = None, ""

    def _is_left_for(self, active: Installed, error: EdgeloopError) -> bool:
        """A crash while it loads counts like one while it answers."""
        if not isinstance(error, Died):
            return False
        self._count_death(active.bundle, error)
        if self.blamed() is None:
            return False
        self.heed(_CLEAN)
        return True

    def _stand_in_for(self, active: Installed, error: EdgeloopError) -> None:
        """Nothing on the disk changes: the newest of the older versions that loads answers until this one does."""
        instead = self._first_that_loads()
        answers = "nothing" if instead is None else instead.manifest.ref
        self.trouble = f"{active.bundle} does not load and is tried again: {error}; {answers} answers meanwhile"
        _log.error("active_version_does_not_load", bundle=active.bundle, detail=self.trouble)
        with self._lock:
            current = self._slots.current
            stands_in = current is not None and current.versions == (instead,)
            if self._versions.active == active and not stands_in:
                self._slots.put(None if instead is None else Slot(instead))
            self._again_at_s = self._clock() + self._backoff.failed()
        if instead is not None:
            self.drop(instead)

    def _first_that_loads(self) -> AtWork | None:
        for one in self._versions.older:
            try:
                return self.load(one)
            except EdgeloopError as error:
                _log.warning("older_version_does_not_load", bundle=one.bundle, detail=str(error))
        return None

    def _unlist(self, left: Installed) -> None:
        """What the shelf lists may run: see `recovery`."""
        try:
            self._shelf.unlist(left.ref)
        except Unavailable as error:
            _log.warning("left_version_stays_listed", bundle=left.bundle, detail=str(error))

    def load(self, installed: Installed) -> AtWork:
        """The version, ready to answer. Raises Died, or an EdgeloopError if it does not load."""
        return self._at_work(installed) or self.load_anew(installed)

    def load_anew(self, installed: Installed) -> AtWork:
        """The same, beside the one that may be at work."""
        return self._acceptance.load(*self.open(installed), shelf=self._shelf.folder)

    async def loading(self, load: Callable[[Installed], AtWork], installed: Installed) -> AtWork:
        """Do it beside the event loop; cancelled, it leaves nothing running."""
        task = asyncio.create_task(asyncio.to_thread(load, installed))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._drop_late)
            raise

    def drop(self, version: AtWork) -> None:
        """Close what was loaded, unless it is at work."""
        slot = self._slots.current
        if slot is None or version not in slot.versions:
            version.close()

    def open(self, installed: Installed) -> tuple[Bundle, Variant]:
        """What is on the shelf of it. Raises NotFound, InvalidInput or Corrupt."""
        bundle = self._shelf.open(installed.ref)
        variant = bundle.variant(installed.variant)
        if not self._shelf.has(variant.file):
            raise NotFound(f"{installed.bundle} has lost its file {installed.variant[:12]}; it is fetched anew")
        return bundle, variant

    # ---- what died

    def hear_of_death(self, version: AtWork, death: Died) -> None:
        """A version's process died while it was to answer. Safe to call from any thread."""
        self._count_death(str(version.manifest.ref), death)

    def _count_death(self, bundle: str, death: Died) -> None:
        is_in_a_row = death.lived_s < blame.STEADY_S
        # On watch, slow ones go back for now, as killed ones do. What is trusted is left only for crashes; and what
        # died, and then does not load, answers nobody until it is left.
        is_crash = death.is_crash or (death.is_slow and not self.is_on_watch)
        self._versions.count_death(bundle, str(death), is_crash=is_crash, is_in_a_row=is_in_a_row)

    def blamed(self) -> blame.Blame | None:
        """Why the active version is to be left for what became of its processes, if it is."""
        deaths = self._versions.deaths
        if deaths is None:
            return None
        judged = blame.on_watch if self.is_on_watch else blame.trusted
        return judged(deaths, has_older=self._versions.previous is not None)

    def heed(self, ended: Ended) -> None:
        """Leave the active version on the disk if a crash of its process, or of the agent's, is its fault; `start` then
        runs the one before it."""
        active = self._versions.active
        if active is None:
            return
        found = self.blamed() or self._blamed_for(ended)
        if found is None:
            return
        _log.error("active_version_is_left", bundle=active.bundle, detail=found.reason)
        if self.is_on_watch:
            update = self._versions.update
            assert update is not None
            done = msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=found.reason)
            is_left = self._versions.go_back(active, done, for_good=found.for_good)
        else:
            is_left = self._versions.fall_back(active, found.reason)
        if is_left:
            self._unlist(active)
            self._on_change()

    def _blamed_for(self, ended: Ended) -> blame.Blame | None:
        """The same for how the agent's process before this one ended, which is counted."""
        update, has_older = self._versions.update, self._versions.previous is not None
        if ended.is_clean:
            return None
        if update is not None and self.is_on_watch:
            ends = update.tries + 1
            found = blame.agent_on_watch(ended, ends=ends, has_older=has_older)
            if found is None:
                self._versions.count(msgspec.structs.replace(update, tries=ends))
            return found
        if not blame.counts_against_trusted(ended, update):
            return None
        return blame.agent_trusted(ended, update, crashes=self._versions.count_crash(), has_older=has_older)

    def _load_or_wait(self, installed: Installed) -> AtWork:
        """A kill is no reason to leave it: its process is started for the first frame, and again."""
        try:
            return self.load(installed)
        except Died as death:
            if death.is_crash:
                raise
            _log.error("active_version_is_not_ready", bundle=installed.bundle, detail=str(death))
            return self._acceptance.load_when_asked(*self.open(installed), shelf=self._shelf.folder)

    def _at_work(self, installed: Installed) -> AtWork | None:
        """The same version, if it is at work now."""
        slot = self._slots.current
        for one in () if slot is None else slot.versions:
            if one.manifest.ref == installed.ref and one.variant.file == installed.variant:
                return one
        return None

    def _drop_late(self, task: "asyncio.Task[AtWork]") -> None:
        if not task.cancelled() and task.exception() is None:
            self.drop(task.result())


async def in_full(call: Callable[[], T]) -> T:
    """Do it beside the event loop; who is cancelled meanwhile, however often, is so only when it is done."""
    task = asyncio.create_task(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.exception()  # of what nobody waits for any more
        raise
