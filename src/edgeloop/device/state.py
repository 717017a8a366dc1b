"""What a device remembers of its versions, in its Keep."""

from typing import Any

import msgspec

from edgeloop.contracts.messages import Assignment, UpdateReport, WatchStats
from edgeloop.contracts.names import BundleRef, version_key
from edgeloop.contracts.states import UpdateState
from edgeloop.transport.keep import Keep


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
    """The newest assignment and how far it has come. tries: how often it was taken up again while accepting."""

    assignment: Assignment
    state: UpdateState
    reason: str = ""
    since_s: float = 0.0
    tries: int = 0

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


class Versions:
    """Which version runs, which came before it, which is the oldest allowed, and what was turned down."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

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
        return self._keep.get("previous", Installed)

    @property
    def floor(self) -> BundleRef | None:
        """The newest version that was confirmed here; nothing older is taken."""
        return self._keep.get("floor", BundleRef)

    @property
    def update(self) -> Update | None:
        """The newest update."""
        return self._keep.get("update", Update)

    def turned_down(self, manifest_sha256: str) -> str | None:
        """Why this content was refused or rolled back here before, if it was."""
        return (self._keep.get("turned_down", dict[str, str]) or {}).get(manifest_sha256)

    def note(self, update: Update) -> None:
        """Keep how far the update is."""
        self._keep.set({"update": update, "known_generation": update.assignment.generation})

    def note_nothing_wanted(self, generation: int) -> None:
        """The director wants nothing of this device as of this generation."""
        self._keep.set({"known_generation": generation})

    def switch(self, installed: Installed, update: Update) -> None:
        """The one atomic switch: run `installed` from now on, and keep what ran before."""
        self._keep.set({"active": installed, "previous": self.active, "update": update})

    def confirm(self, update: Update) -> None:
        """Trust what runs; the floor rises to it."""
        active = self.active
        assert active is not None
        floor = self.floor
        rises = floor is None or floor.name != active.ref.name
        if floor is not None and not rises:
            rises = version_key(active.ref.version) > version_key(floor.version)
        self._keep.set({"update": update, "floor": active.ref if rises else floor})

    def go_back(self, update: Update, *, for_good: bool) -> None:
        """Run the previous version again; for_good: and never try this content again."""
        changes = {"active": self.previous, "previous": None, "update": update}
        self._keep.set(changes | (self._turned_down_with(update) if for_good else {}))

    def fall_back(self, broken: Installed, reason: str) -> None:
        """Run the previous version, since the active one does not load; its update, if it is the newest, failed."""
        changes: dict[str, Any] = {"active": self.previous, "previous": None}
        update = self.update
        if update is not None and update.assignment.manifest_sha256 == broken.manifest_sha256:
            changes["update"] = msgspec.structs.replace(update, state=UpdateState.ROLLED_BACK, reason=reason)
        self._keep.set(changes)

    def refuse(self, update: Update, *, for_good: bool) -> None:
        """Nothing changes; for_good: and never try this content again."""
        changes = {"update": update, "known_generation": update.assignment.generation}
        self._keep.set(changes | (self._turned_down_with(update) if for_good else {}))

    def _turned_down_with(self, update: Update) -> dict[str, dict[str, str]]:
        before = self._keep.get("turned_down", dict[str, str]) or {}
        return {"turned_down": before | {update.assignment.manifest_sha256: update.reason}}
