"""What a device remembers of its versions, in its Keep."""

import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import Assignment, UpdateReport, WatchStats
from edgeloop.contracts.names import BundleRef, version_key
from edgeloop.contracts.states import UpdateState
from edgeloop.transport.keep import Keep

KEPT_VERSIONS = 3
"""What runs and two before it, unless told otherwise."""

KEPT = "kept_versions"
"""Where an agent writes down how many it keeps, for who changes its versions while it is not at work."""


class Installed(msgspec.Struct, frozen=True):
    """A version that was accepted here, and the variant (file hash) that it runs."""

    bundle: str
    variant: str
    manifest_sha256: str

    @property
    def ref(self) -> BundleRef:
        """The bundle version."""
        return BundleRef.parse(self.bundle)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """The newest assignment and how far it has come.

    tries: how often the agent's process did not survive this state. spent_s: how long it is on watch so far.
    download_s: how long its downloads were under way so far, all of them. accepted: while it waits for its hours.
    """

    assignment: Assignment
    state: UpdateState
    reason: str = ""
    since_s: float = 0.0
    tries: int = 0
    spent_s: float = 0.0
    download_s: float = 0.0
    accepted: Installed | None = None

    def report(self, watch: WatchStats | None = None) -> UpdateReport:
        """What the hub is told of it."""
        return UpdateReport(
            generation=self.assignment.generation,
            rollout_id=self.assignment.rollout_id,
            bundle=self.assignment.bundle,
            state=self.state,
            reason=self.reason,
            watch=watch,
        )


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent's process before this one ended. crash: by which fatal error, "" if by none that left a trace: it
    stopped cleanly, or was killed, or the power went."""

    is_clean: bool = True
    crash: str = ""


class Deaths(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the processes in which one version answered, since it was put to work.

    crashes: in a row, each within a minute of its process's start; crash: the last one. kills: from outside; kill: the
    last one.
    """

    manifest_sha256: str
    crashes: int = 0
    crash: str = ""
    kills: int = 0
    kill: str = ""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody at the device wants a kept version to run. at_s: by the device's clock."""

    bundle: str
    at_s: float


class Versions:
    """Which version runs, which came before it, which is the oldest allowed, and what was turned down.

    kept: how many versions stay, with the one that runs; None for as many as the agent keeps here. Safe to use from
    many threads: who leaves a version says which one, and does nothing where another runs by now.
    """

    def __init__(self, keep: Keep, *, kept: int | None = None) -> None:
        self._keep = keep
        self._kept = kept
        self._lock = threading.RLock()

    @property
    def known_generation(self) -> int:
        """The newest assignment that was taken in hand."""
        return self._keep.get("known_generation", int) or 0

    @property
    def active(self) -> Installed | None:
        """What runs."""
        return self._keep.get("active", Installed)

    @property
    def previous(self) -> Installed | None:
        """What to go back to."""
        return next(iter(self.older), None)

    @property
    def older(self) -> tuple[Installed, ...]:
        """What can be gone back to: what ran last first."""
        older = self._keep.get("older", tuple[Installed, ...])
        if older is not None:
            return older
        before = self._keep.get("previous", Installed)  # as edgeloop kept it while it kept one
        return () if before is None else (before,)

    @property
    def floor(self) -> BundleRef | None:
        """The newest version that was confirmed here; nothing older is taken."""
        return self._keep.get("floor", BundleRef)

    @property
    def update(self) -> Update | None:
        """The newest update."""
        return self._keep.get("update", Update)

    @property
    def wish(self) -> Wish | None:
        """What somebody at the device wants and did not get yet."""
        return self._keep.get("wish", Wish)

    @property
    def wish_failed(self) -> str | None:
        """Why the last wish could not be granted."""
        return self._keep.get("wish_failed", str)

    def turned_down(self, manifest_sha256: str) -> str | None:
        """Why this content was refused or rolled back here before, if it was."""
        return self._all_turned_down().get(manifest_sha256)

    # ---- the agent's process

    def begin(self, crash: str) -> Ended:
        """The agent's process begins; says how the one before it ended. crash: what it left of a fatal error."""
        ended = Ended(is_clean=self._keep.get("at_work", bool) is None and not crash, crash=crash)
        self._keep.set({"at_work": True})
        return ended

    def end(self) -> None:
        """It ends as it should."""
        self._keep.set({"at_work": None})

    def count_crash(self) -> int:
        """One more crash of the version that runs and is trusted; returns how many in a row."""
        crashes = (self._keep.get("crashes", int) or 0) + 1
        self._keep.put_in_force({"crashes": crashes})
        return crashes

    def forget_crashes(self) -> None:
        """It has run for long enough."""
        if self._keep.get("crashes", int) is not None:
            self._keep.put_in_force({"crashes": None})

    # ---- the processes in which the active version answers

    @property
    def deaths(self) -> Deaths | None:
        """What became of them."""
        active, found = self.active, self._keep.get("deaths", Deaths)
        if active is None or found is None or found.manifest_sha256 != active.manifest_sha256:
            return None
        return found

    def count_death(self, bundle: str, told: str, *, is_crash: bool, is_in_a_row: bool) -> None:
        """One of them died; of another version than the active one that means nothing. Safe to call from any thread.

        is_in_a_row: soon after its start.
        """
        with self._lock:
            active = self.active
            if active is None or active.bundle != bundle:
                return
            known = self.deaths or Deaths(manifest_sha256=active.manifest_sha256)
            if is_crash:
                known = msgspec.structs.replace(known, crashes=known.crashes * is_in_a_row + 1, crash=told)
            else:
                known = msgspec.structs.replace(known, kills=known.kills + 1, kill=told)
            self._keep.put_in_force({"deaths": known})

    # ---- from one version to another; what leaves a version is in force also while the disk takes nothing

    def save(self) -> None:
        """Write down what is in force and is not on the disk yet. Raises Unavailable while that takes nothing."""
        self._keep.save()

    def begin_with(self, found: Sequence[Installed]) -> None:
        """Nothing is remembered: the first of these runs, and the others can be gone back to."""
        if found:
            self._keep.set(self._running(found[0], tuple(found[1:])))

    def note(self, update: Update) -> None:
        """Keep how far the update is."""
        self._keep.set({"update": update, "known_generation": update.assignment.generation})

    def count(self, update: Update) -> None:
        """Keep what the same state of it has cost so far; a full disk is no reason to stop. Once it is in another state
        this means nothing."""
        with self._lock:
            known = self.update
            if known is not None and (known.assignment, known.state) == (update.assignment, update.state):
                self._keep.put_in_force({"update": update})

    def note_nothing_wanted(self, generation: int) -> None:
        """The director wants nothing of this device as of this generation: an update that is not at work yet ends."""
        changes: dict[str, Any] = {"known_generation": generation}
        update = self.update
        if update is not None and not update.state.is_final and update.state is not UpdateState.ACTIVE:
            reason = "withdrawn: nothing is wanted of this device any more"
            changes |= {"update": msgspec.structs.replace(update, state=UpdateState.REFUSED, reason=reason)}
        self._keep.set(changes)

    def switch(self, installed: Installed, update: Update) -> None:
        """The one atomic switch: run `installed` from now on, and keep what ran before."""
        with self._lock:
            active = self.active
            older = self.older if active is None else (active, *self.older)
            self._keep.set(self._running(installed, older) | {"update": update})

    def confirm(self, update: Update) -> bool:
        """Trust what runs, if that is what this update brought; the floor rises to it. Whether it is."""
        with self._lock:
            active, floor = self.active, self.floor
            if active is None or active.manifest_sha256 != update.assignment.manifest_sha256:
                return False
            rises = floor is None or floor.name != active.ref.name
            if floor is not None and not rises:
                rises = version_key(active.ref.version) > version_key(floor.version)
            self._keep.set({"update": update, "floor": active.ref if rises else floor})
            return True

    def go_back(self, left: Installed, update: Update, *, for_good: bool) -> bool:
        """Run the previous version again, if `left` still runs; for_good: and never try this content again. update: how
        its update ended. Returns whether it did."""
        with self._lock:
            if left != self.active:
                return False
            changes = self._running(self.previous, self.older[1:]) | {"update": update}
            self._keep.put_in_force(changes | (self._turned_down_with(update) if for_good else {}))
            return True

    def fall_back(self, left: Installed, reason: str) -> bool:
        """Run the previous version, since this one, if it is still the active one, does not run any more; its update,
        if it is the newest, failed. Returns whether it did."""
        with self._lock:
            if left != self.active:
                return False
            self._keep.put_in_force(self._running(self.previous, self.older[1:]) | self._failed_by(left, reason))
            return True

    def choose(self, chosen: Installed, reason: str) -> None:
        """Run a kept version because somebody at the device wants it, and take what ran by itself no more.

        The floor stays: it is what the hub is held to. Where it runs already, only the wish is done with.
        """
        done: dict[str, Any] = {"wish": None, "wish_failed": None}
        with self._lock:
            left = self.active
            if left == chosen:
                self._keep.put_in_force(done)
                return
            others = tuple(one for one in self.older if one != chosen)
            # The last to go back to, and yet the last to be forgotten.
            older = others if left is None else (*others[: self._most_older - 1], left)
            changes = self._running(chosen, older) | done
            down = {sha256: why for sha256, why in self._all_turned_down().items() if sha256 != chosen.manifest_sha256}
            if left is not None:
                down[left.manifest_sha256] = reason
                changes |= self._failed_by(left, reason)
            self._keep.put_in_force(changes | {"turned_down": down})

    def want(self, wish: Wish) -> None:
        """Leave a wish for the agent that is at work."""
        self._keep.set({"wish": wish, "wish_failed": None})

    def turn_wish_down(self, reason: str) -> None:
        """It could not be granted."""
        self._keep.set({"wish": None, "wish_failed": reason})

    def refuse(self, update: Update, *, for_good: bool) -> None:
        """Nothing changes; for_good: and never try this content again."""
        changes = {"update": update, "known_generation": update.assignment.generation}
        self._keep.set(changes | (self._turned_down_with(update) if for_good else {}))

    @property
    def _most_older(self) -> int:
        kept = self._kept or self._keep.get(KEPT, int) or KEPT_VERSIONS
        return max(2, kept) - 1

    def _running(self, active: Installed | None, older: tuple[Installed, ...]) -> dict[str, Any]:
        """What changes when another version runs; "previous" is where an older edgeloop kept what "older" holds."""
        kept = tuple(one for one in older if one != active)[: self._most_older]
        return {"active": active, "older": kept, "previous": None, "crashes": None, "deaths": None}

    def _failed_by(self, broken: Installed, reason: str) -> dict[str, Any]:
        update = self.update
        if update is None or update.assignment.manifest_sha256 != broken.manifest_sha256:
            return {}
        return {"update": msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=reason)}

    def _all_turned_down(self) -> dict[str, str]:
        """Why, by the manifest's hash."""
        return self._keep.get("turned_down", dict[str, str]) or {}

    def _turned_down_with(self, update: Update) -> dict[str, dict[str, str]]:
        return {"turned_down": self._all_turned_down() | {update.assignment.manifest_sha256: update.reason}}


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
