"""Take a device from one version to the next, safe against a kill at any instant.

downloading → verifying → accepting → active (on watch) → confirmed, or refused, or rolled back with the reason.
Each state is on the disk before its work begins, and its work can be done again; so after a kill `resume` takes
up where it was. Rules kept here: nothing runs that was not accepted by replaying its golden samples on this very
machine; the switch is one atomic write after everything it needs is fsynced; the version before stays on the
disk; going back needs no network; what was turned down once is not tried again.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from edgeloop.bundle.archive import Bundle, digest, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError, Refused
from edgeloop.contracts.manifest import EngineName, Manifest, Variant
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device.config import Pace
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.state import Installed, Update, Versions
from edgeloop.device.watch import Unhealthy, Watch, verdict
from edgeloop.runtime.candidates import candidates

if TYPE_CHECKING:
    from edgeloop.runtime.predictor import Predictor

_log = structlog.get_logger(__name__)
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_WATCH_EVERY_S = 0.1
_MOST_TRIES = 3


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

    def __init__(
        self,
        *,
        versions: Versions,
        shelf: Shelf,
        slots: Slots,
        supply: Supply,
        engines: Iterable[EngineName],
        pace: Pace,
        on_change: Callable[[], None],
    ) -> None:
        self._versions = versions
        self._shelf = shelf
        self._slots = slots
        self._supply = supply
        self._engines = tuple(engines)
        self._pace = pace
        self._on_change = on_change

    def start(self) -> None:
        """Run what was active when the device last stopped; no network. A version that no longer loads is left."""
        while (active := self._versions.active) is not None:
            update = self._versions.update
            on_watch = update is not None and update.state is UpdateState.ACTIVE
            try:
                self._run(active, on_watch=on_watch)
            except EdgeloopError as error:
                _log.error("active_version_does_not_load", bundle=active.bundle, detail=str(error))
                self._shelf.forget(active.ref)
                self._versions.fall_back(active, f"does not load any more: {error}")
                self._on_change()
            else:
                return

    async def resume(self) -> None:
        """Take up an update that a stop or kill broke off."""
        update = self._versions.update
        if update is None or update.state.is_final:
            return
        if update.state is UpdateState.ACTIVE:
            await self._watch(update)
        elif update.state is UpdateState.ACCEPTING and update.tries + 1 >= _MOST_TRIES:
            # The model runs inside the agent: one that crashes its engine takes the agent down with it.
            reason = f"the agent did not survive trying it on this machine, {_MOST_TRIES} times"
            self._refuse(update.assignment, reason, for_good=True)
        else:
            tries = update.tries + (update.state is UpdateState.ACCEPTING)
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

    async def _advance(self, assignment: Assignment, *, tries: int = 0) -> None:
        try:
            self._check_wanted(assignment)
            bundle = await self._download(assignment, tries=tries)
            installed = await self._accept(assignment, bundle, tries=tries)
        except (Refused, Corrupt) as error:
            self._refuse(assignment, str(error), for_good=isinstance(error, _NotAccepted))
            return
        self._activate(assignment, installed)
        update = self._versions.update
        assert update is not None
        await self._watch(update)

    def _check_wanted(self, assignment: Assignment) -> None:
        from edgeloop.transport.trust import require_not_older  # brings python-tuf, see supply

        before = self._versions.turned_down(assignment.manifest_sha256)
        if before is not None:
            raise Refused(f"turned down here before: {before}")
        require_not_older(assignment.ref, self._versions.floor)

    async def _download(self, assignment: Assignment, *, tries: int) -> Bundle:
        """Manifest, golden samples, reference and the first candidate's file; other candidates only when needed."""
        self._note(assignment, UpdateState.DOWNLOADING, tries=tries)
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
        for sha256 in [*_shared_files(manifest), able[0].file]:
            await self._bring(manifest, sha256)
        self._note(assignment, UpdateState.VERIFYING, tries=tries)
        bundle = Bundle(manifest, self._shelf, manifest_bytes=manifest_bytes)
        for sha256 in [*_shared_files(manifest), able[0].file]:
            await asyncio.to_thread(bundle.read, sha256)
        return bundle

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
        """Replay the golden samples through one candidate after another; the first that passes is installed."""
        self._note(assignment, UpdateState.ACCEPTING, tries=tries)
        failures = []
        for variant in candidates(bundle.manifest, self._engines):
            await self._bring(bundle.manifest, variant.file)
            failure = await asyncio.to_thread(self._replay, bundle, variant)
            if failure is None:
                self._shelf.put_manifest(bundle.manifest_bytes)
                return Installed(assignment.bundle, variant.file, assignment.manifest_sha256)
            failures.append(f"{variant.engine} {variant.precision}: {failure}")
        raise _NotAccepted("; ".join(failures))

    def _replay(self, bundle: Bundle, variant: Variant) -> str | None:
        from edgeloop.runtime.predictor import Predictor
        from edgeloop.runtime.replay import golden_failure, replay

        try:
            # What answers wrong is told so before anything is raced; the budget is for the setting that the race chose.
            failure = _with(Predictor(bundle, variant), lambda one: golden_failure(bundle, variant, one))
            if failure is not None:
                return failure
            return _with(self._fastest(bundle, variant), lambda one: replay(bundle, variant, one).failure)
        except EdgeloopError as error:
            return f"does not run: {error}"

    def _activate(self, assignment: Assignment, installed: Installed) -> None:
        update = Update(assignment=assignment, state=UpdateState.ACTIVE, since_s=time.time())
        self._versions.switch(installed, update)
        self._run(installed, on_watch=True)
        self._tell(update)

    def _run(self, installed: Installed, *, on_watch: bool) -> None:
        """Load a version, with the one before it as its shadow while on watch, and put it to work."""
        predictor = self._load(installed)
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
        self._slots.put(Slot(predictor, shadow=shadow, watch=Watch()))

    def _load(self, installed: Installed) -> "Predictor":
        bundle = self._shelf.open(installed.ref)
        for variant in bundle.manifest.variants:
            if variant.file == installed.variant:
                return self._fastest(bundle, variant)
        raise Corrupt(f"{installed.bundle} has no variant {installed.variant[:12]} any more")

    def _fastest(self, bundle: Bundle, variant: Variant) -> "Predictor":
        """The variant in the setting that answers soonest here: raced once, then remembered.

        NumPy, OpenCV and the engines come with the first model: an agent that has none holds 40 MB less.
        """
        from edgeloop.runtime.load import load_fastest

        return load_fastest(
            bundle,
            [variant],
            threads=self._pace.threads,
            race_s=self._pace.race_s,
            folder=self._pace.races,
            lean=True,
        )

    async def _watch(self, update: Update) -> None:
        """Wait for the verdict on the active version, and act on it."""
        while True:
            slot = self._slots.current
            if slot is None or slot.watch is None:
                return
            stats = slot.watch.stats()
            found = verdict(stats, update.assignment.watch, age_s=time.time() - update.since_s)
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

    def _note(self, assignment: Assignment, state: UpdateState, *, reason: str = "", tries: int = 0) -> None:
        update = Update(assignment=assignment, state=state, reason=reason, since_s=time.time(), tries=tries)
        self._versions.note(update)
        self._tell(update)

    def _tell(self, update: Update) -> None:
        _log.info("update", bundle=update.assignment.bundle, state=update.state, reason=update.reason)
        self._on_change()

    def _tidy(self) -> None:
        """Keep what runs and what came before it."""
        kept = {one.ref for one in (self._versions.active, self._versions.previous) if one is not None}
        self._shelf.prune(kept)


def _with(predictor: "Predictor", asked: "Callable[[Predictor], str | None]") -> str | None:
    try:
        return asked(predictor)
    finally:
        predictor.close()


def _shared_files(manifest: Manifest) -> list[str]:
    """What a device needs besides a variant."""
    needed = [manifest.golden.inputs, manifest.golden.outputs]
    if manifest.reference is not None:
        needed += [manifest.reference.class_means, manifest.reference.feature_std]
    return needed
