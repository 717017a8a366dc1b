"""Take a device from one version to the next, safe against a kill at any instant.

downloading → verifying → accepting → (waiting for its hours) → active (on watch) → confirmed, or refused, or rolled
back with the reason. Each state is on the disk before its work begins, and its work can be done again; so after a kill
`resume` takes up where it was. Each has a deadline, which counts what was spent in it and not what a clock says.

Rules kept here: nothing runs that was not accepted by replaying its golden samples on this very machine; the switch is
one atomic write after everything it needs is fsynced; versions before it stay on the disk; going back needs no network;
what was turned down once is not tried again. A model that is tried runs in a process of its own: see `accept`; what a
crash of this process means: see `blame`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from edgeloop.bundle.archive import Bundle, digest, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import EngineName, Manifest, Variant
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device import blame
from edgeloop.device.accept import Acceptance
from edgeloop.device.config import Patience
from edgeloop.device.sense import takes_the_same
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.state import Ended, Installed, Update, Versions, Wish
from edgeloop.device.watch import Unhealthy, Watch, verdict
from edgeloop.runtime.candidates import candidates

if TYPE_CHECKING:
    from edgeloop.runtime.predictor import Predictor

_log = structlog.get_logger(__name__)
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_WATCH_EVERY_S = 0.1
_NOTE_EVERY_S = 15.0
_LOOK_EVERY_S = 30.0
"""At a maintenance window: the clock may be set meanwhile."""
_CLEAN = Ended()
_PATIENCE = Patience()
_SHARE_OF_FIRST = 2 / 3
_SHORTEST_TRIAL_S = 1.0


class Supply(Protocol):
    """Where bundles come from: signed words through `assignment` and `check`, bytes through `fetch`."""

    async def assignment(self) -> Assignment | None:
        """What the director wants of this device. Raises Refused or Unavailable."""
        ...

    async def check(self, target: str, sha256: str) -> int:
        """The size in bytes of a target that the targets key signed with this hash. Raises Refused."""
        ...

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """Bring a target onto the shelf, taking up a broken-off download. Raises Unavailable or Corrupt."""
        ...


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
        self._supply = supply
        self._engines = tuple(engines)
        self._acceptance = acceptance
        self._on_change = on_change
        self._patience = patience
        self._clock = clock
        self._ended = _CLEAN

    def start(self, ended: Ended = _CLEAN) -> None:
        """Run what was active when the device last stopped; no network. A version that no longer loads is left, and
        one that takes the process down. ended: how the process before this one ended."""
        self._ended = ended
        self._heed(ended)
        while (active := self._versions.active) is not None:
            update = self._versions.update
            on_watch = update is not None and update.state is UpdateState.ACTIVE
            try:
                self._run(self._load(active), on_watch=on_watch)
            except EdgeloopError as error:
                _log.error("active_version_does_not_load", bundle=active.bundle, detail=str(error))
                self._shelf.forget(active.ref)
                self._versions.fall_back(active, f"does not load any more: {error}")
                self._on_change()
            else:
                return

    def _heed(self, ended: Ended) -> None:
        """A crash may be the fault of the version that runs."""
        active, update = self._versions.active, self._versions.update
        if active is None or ended.is_clean:
            return
        if update is not None and update.state is UpdateState.ACTIVE:
            ends = update.tries + 1
            found = blame.on_watch(ended, ends=ends, has_older=self._versions.previous is not None)
            if found is None:
                self._versions.note(msgspec.structs.replace(update, tries=ends))
                return
            done = msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=found.reason)
            self._versions.go_back(done, for_good=found.for_good)
            self._tell(done)
        elif blame.counts_against_trusted(ended, update):
            found = blame.trusted(ended, update, crashes=self._versions.count_crash())
            if found is not None:
                _log.error("active_version_crashes", bundle=active.bundle, detail=found.reason)
                self._versions.fall_back(active, found.reason)
                self._on_change()

    async def resume(self) -> None:
        """Take up an update that a stop or kill broke off."""
        ended, self._ended = self._ended, _CLEAN  # a process begins once
        update = self._versions.update
        if update is None or update.state.is_final:
            await self._race_anew()
            return
        if update.state is UpdateState.ACTIVE:
            await self._watch(update)
            return
        died_of_it = update.state in (UpdateState.ACCEPTING, UpdateState.WAITING) and not ended.is_clean
        tries = update.tries + died_of_it
        if tries >= blame.MOST_ENDS:
            # The model is tried in a process of its own, and loaded by the agent once it passed. It can still take
            # more than that down: a supply too weak for all cores at once, a service that ends with its first process
            # to run out of memory, an engine that crashes on what it has just survived.
            why = f": {ended.crash}" if ended.crash else ""
            reason = f"the agent did not survive trying it on this machine, {tries} times{why}"
            self._refuse(update.assignment, reason, for_good=True)
        elif update.state is UpdateState.WAITING and update.accepted is not None:
            await self._put_to_work(update.assignment, update.accepted, tries=tries)
        else:
            await self._advance(update.assignment, tries=tries)

    async def take(self, assignment: Assignment | None, *, generation: int) -> None:
        """Bring the device to what is assigned. Raises Unavailable when it must be tried again later."""
        if assignment is None:
            self._versions.note_nothing_wanted(generation)
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
            self._note(assignment, UpdateState.CONFIRMED, reason="it runs here already")
            return
        await self._advance(assignment)

    def withdraw(self, reason: str) -> None:
        """Go back from a version that is still on watch, since something else is wanted now."""
        update = self._versions.update
        if update is not None and update.state is UpdateState.ACTIVE:
            self._go_back(update, reason, for_good=False)

    def grant(self, wish: Wish) -> str:
        """Run a kept version because somebody at the device wants it; no network. A wish that cannot be granted changes
        nothing. Returns what is to be told of it where the newest update is another version's; else that tells it."""
        try:
            chosen = chosen_of(self._versions, wish.bundle)
            predictor = self._load(chosen)
        except EdgeloopError as error:
            _log.warning("wish_not_granted", bundle=wish.bundle, code=error.code, detail=str(error))
            self._versions.turn_wish_down(str(error))
            return ""
        left, update = self._versions.active, self._versions.update
        self._versions.choose(chosen, by_hand(chosen))
        self._slots.put(Slot(predictor))
        _log.info("rolled_back_by_hand", bundle=chosen.bundle)
        self._on_change()
        if left is None or self._versions.update != update:
            return ""
        return f"{left.bundle}: {by_hand(chosen)}"

    async def _advance(self, assignment: Assignment, *, tries: int = 0) -> None:
        try:
            self._check_wanted(assignment)
            bundle = await self._fetch(assignment, tries=tries)
            installed = await self._accept(assignment, bundle, tries=tries)
        except (Refused, Corrupt) as error:
            self._refuse(assignment, str(error), for_good=isinstance(error, _NotAccepted))
            return
        await self._put_to_work(assignment, installed, tries=tries)

    async def _put_to_work(self, assignment: Assignment, installed: Installed, *, tries: int) -> None:
        """What was accepted, in its hours; needs no network."""
        try:
            await self._wait_for_hours(assignment, installed, tries=tries)
            predictor = await asyncio.to_thread(self._load_accepted, installed)
        except (Refused, Corrupt) as error:
            self._refuse(assignment, str(error), for_good=False)
            return
        self._activate(assignment, installed, predictor)
        update = self._versions.update
        assert update is not None
        await self._watch(update)

    def _check_wanted(self, assignment: Assignment) -> None:
        from edgeloop.transport.trust import require_not_older  # brings python-tuf, see supply

        before = self._versions.turned_down(assignment.manifest_sha256)
        if before is not None:
            raise Refused(f"turned down here before: {before}")
        require_not_older(assignment.ref, self._versions.floor)

    async def _fetch(self, assignment: Assignment, *, tries: int) -> Bundle:
        """Everything that trying the first candidate takes, fetched and verified. Raises Refused when it takes too
        long; the time between tries, while the hub is away, does not count."""
        known = self._versions.update
        spent_s = 0.0
        if known is not None and known.assignment == assignment and known.state is UpdateState.DOWNLOADING:
            spent_s = known.spent_s
        limit_s = self._patience.download_s
        began_s = time.monotonic()
        update = self._note(assignment, UpdateState.DOWNLOADING, tries=tries, spent_s=spent_s)
        try:
            async with asyncio.timeout(max(0.0, limit_s - spent_s)):
                bundle, needed = await self._download(assignment)
        except TimeoutError as error:
            raise Refused(f"downloading it took longer than {limit_s:.0f} s") from error
        except Unavailable:
            spent_s += time.monotonic() - began_s
            self._versions.note(msgspec.structs.replace(update, spent_s=spent_s))
            raise
        self._note(assignment, UpdateState.VERIFYING, tries=tries)
        try:
            async with asyncio.timeout(self._patience.verify_s):
                for sha256 in needed:
                    await asyncio.to_thread(bundle.read, sha256)
        except TimeoutError as error:
            raise Refused(f"verifying it took longer than {self._patience.verify_s:.0f} s; check the disk") from error
        return bundle

    async def _download(self, assignment: Assignment) -> tuple[Bundle, Sequence[str]]:
        """Manifest, golden samples, reference and the first candidate's file; other candidates only when needed."""
        manifest_bytes = await self._manifest(assignment)
        manifest = parse_manifest(manifest_bytes)
        if manifest.ref != assignment.ref:
            raise Refused(f"the manifest is of {manifest.ref}, assigned is {assignment.bundle}")
        able = candidates(manifest, self._engines)
        if not able:
            offered = ", ".join(f"{v.engine} {v.precision}" for v in manifest.variants)
            raise Refused(
                f"no variant runs here: it offers {offered}; here there is {', '.join(self._engines) or 'no engine'}"
            )
        needed = [*_shared_files(manifest), able[0].file]
        for sha256 in needed:
            await self._bring(manifest, sha256)
        return Bundle(manifest, self._shelf, manifest_bytes=manifest_bytes), needed

    async def _manifest(self, assignment: Assignment) -> bytes:
        target = manifest_target(assignment.ref)
        sha256 = assignment.manifest_sha256
        size_bytes = await self._supply.check(target, sha256)
        if size_bytes > _MAX_MANIFEST_BYTES:
            raise Refused(f"the manifest is {size_bytes:,} bytes; at most {_MAX_MANIFEST_BYTES:,}")
        if not self._shelf.has(sha256):
            await self._supply.fetch(target, self._shelf, sha256, size_bytes)
        data = self._shelf.read(sha256)
        if digest(data) != sha256:
            raise Corrupt("the manifest on disk is damaged")
        return data

    async def _bring(self, manifest: Manifest, sha256: str) -> None:
        if self._shelf.has(sha256):
            return
        size_bytes = next(entry.size_bytes for entry in manifest.files if entry.sha256 == sha256)
        signed_bytes = await self._supply.check(file_target(sha256), sha256)
        if signed_bytes != size_bytes:
            raise Refused(f"file {sha256[:12]} is signed with {signed_bytes:,} bytes, its manifest says {size_bytes:,}")
        await self._supply.fetch(file_target(sha256), self._shelf, sha256, size_bytes)

    async def _accept(self, assignment: Assignment, bundle: Bundle, *, tries: int) -> Installed:
        """Try one candidate after another, each in a process of its own; the first that passes is installed.

        All of them together have the time that one acceptance may take; one that others follow has two thirds of what
        is left.
        """
        self._note(assignment, UpdateState.ACCEPTING, tries=tries)
        failures, are_passing = [], []
        left_s = self._acceptance.within_s
        able = candidates(bundle.manifest, self._engines)
        for index, variant in enumerate(able):
            await self._bring(bundle.manifest, variant.file)
            await asyncio.to_thread(bundle.read, variant.file)  # a disk's damage is not to be the model's
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
        self._note(assignment, UpdateState.WAITING, reason=reason, tries=tries, accepted=installed)
        while (opens_in_s := window.opens_in_s(self._clock())) > 0:
            await asyncio.sleep(min(opens_in_s, _LOOK_EVERY_S))

    def _activate(self, assignment: Assignment, installed: Installed, predictor: "Predictor") -> None:
        update = Update(assignment=assignment, state=UpdateState.ACTIVE, since_s=time.time())
        self._versions.switch(installed, update)
        self._run(predictor, on_watch=True)
        self._tell(update)

    def _run(self, predictor: "Predictor", *, on_watch: bool) -> None:
        """Put a version to work, with the one before it as its shadow while on watch."""
        if not on_watch:
            self._slots.put(Slot(predictor))
            return
        previous = self._versions.previous
        shadow = None
        if previous is not None:
            try:
                shadow = self._load(previous)
            except EdgeloopError as error:
                _log.warning("shadow_does_not_load", bundle=previous.bundle, detail=str(error))
        compares = shadow is not None and takes_the_same(shadow.manifest, predictor.manifest)
        self._slots.put(Slot(predictor, shadow=shadow, watch=Watch(compares=compares)))

    def _load_accepted(self, installed: Installed) -> "Predictor":
        """Before the switch: what the agent cannot load is not switched to."""
        try:
            return self._load(installed)
        except EdgeloopError as error:
            raise Refused(f"it passed its trial, and yet the agent cannot load it: {error}") from error

    def _load(self, installed: Installed) -> "Predictor":
        return self._acceptance.load(*self._open(installed))

    def _open(self, installed: Installed) -> tuple[Bundle, Variant]:
        bundle = self._shelf.open(installed.ref)
        for variant in bundle.manifest.variants:
            if variant.file == installed.variant:
                return bundle, variant
        raise Corrupt(f"{installed.bundle} has no variant {installed.variant[:12]} any more")

    async def _race_anew(self) -> None:
        """Where the machine or a library changed, no race is remembered: run one beside what answers meanwhile."""
        slot, active = self._slots.current, self._versions.active
        if slot is None or active is None or slot.predictor.race is not None or not self._acceptance.races:
            return
        found = await self._acceptance.judge(*self._open(active), shelf=self._shelf.folder)
        if found.failure is not None:
            _log.error("active_version_fails_its_trial", bundle=active.bundle, detail=found.failure)
            return
        self._slots.put(Slot(await asyncio.to_thread(self._load, active), drift=slot.drift))

    async def _watch(self, update: Update) -> None:
        """Wait for the verdict on the active version, and act on it."""
        began_s = noted_s = time.monotonic()
        while True:
            slot = self._slots.current
            if slot is None or slot.watch is None:
                return
            now_s = time.monotonic()
            age_s = update.spent_s + now_s - began_s
            if now_s - noted_s > _NOTE_EVERY_S:  # a device that restarts every few minutes comes to an end, too
                noted_s = now_s
                self._versions.note(msgspec.structs.replace(update, spent_s=age_s))
            bounds = update.assignment.watch
            found = verdict(slot.watch.stats(), bounds, age_s=age_s, compares=slot.watch.compares)
            if isinstance(found, Unhealthy):
                self._go_back(update, found.reason, for_good=True)
                return
            if found is not None:
                done = msgspec.structs.replace(update, state=UpdateState.CONFIRMED, reason=found.reason)
                self._versions.confirm(done)
                self._slots.put(Slot(slot.predictor, drift=slot.drift))
                self._tidy()
                self._tell(done)
                return
            await asyncio.sleep(_WATCH_EVERY_S)

    def _go_back(self, update: Update, reason: str, *, for_good: bool) -> None:
        done = msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=reason)
        self._versions.go_back(done, for_good=for_good)
        self._slots.put(None)
        self.start()
        self._tell(done)

    def _refuse(self, assignment: Assignment, reason: str, *, for_good: bool) -> None:
        """Nothing changes. for_good: the content itself was judged; else a later assignment may try it again."""
        update = Update(assignment=assignment, state=UpdateState.REFUSED, reason=reason, since_s=time.time())
        self._versions.refuse(update, for_good=for_good)
        self._tidy()
        self._tell(update)

    def _note(self, assignment: Assignment, state: UpdateState, **known: Any) -> Update:
        """Keep and tell it. known: other fields of Update."""
        update = Update(assignment=assignment, state=state, since_s=time.time(), **known)
        self._versions.note(update)
        self._tell(update)
        return update

    def _tell(self, update: Update) -> None:
        _log.info("update", bundle=update.assignment.bundle, state=update.state, reason=update.reason)
        self._on_change()

    def _tidy(self) -> None:
        """Keep what runs and what can be gone back to."""
        kept = {one.ref for one in (self._versions.active, *self._versions.older) if one is not None}
        self._shelf.prune(kept)


def chosen_of(versions: Versions, bundle: str) -> Installed:
    """The kept version that is meant by NAME@VERSION or VERSION, "" for the one before. Raises NotFound."""
    older, active = versions.older, versions.active
    for one in older:
        if bundle in ("", one.bundle, str(one.ref.version)):
            return one
    kept = ", ".join(one.bundle for one in older) or "none"
    if active is not None and bundle in (active.bundle, str(active.ref.version)):
        raise NotFound(f"{active.bundle} runs here already; older versions kept here: {kept}")
    raise NotFound(f"{bundle or 'an older version'} is not kept here; kept besides what runs: {kept}")


def by_hand(chosen: Installed) -> str:
    """Why what ran is not taken again by itself."""
    return f"rolled back by hand at the device, to {chosen.bundle}"


def _shared_files(manifest: Manifest) -> list[str]:
    """What a device needs besides a variant."""
    needed = [manifest.golden.inputs, manifest.golden.outputs]
    if manifest.reference is not None:
        needed += [manifest.reference.class_means, manifest.reference.feature_std]
    return needed
