"""The words for where things stand, shared by every tier."""

from enum import StrEnum


class UpdateState(StrEnum):
    """Where a device is with a bundle that it was assigned. The last three are final.

    WAITING: accepted, and waits for its maintenance window; told only by devices whose assignment has one.
    """

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    ACCEPTING = "accepting"
    WAITING = "waiting"
    ACTIVE = "active"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"

    @property
    def is_final(self) -> bool:
        """True when the device will do nothing more about this bundle."""
        return self in (UpdateState.CONFIRMED, UpdateState.REFUSED, UpdateState.ROLLED_BACK)


class Outcome(StrEnum):
    """What a rollout came to on one device: refused: nothing changed; unreachable: nothing was heard for too long.

    An unreachable device is taken up again when it is heard of.
    """

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    UNREACHABLE = "unreachable"

    @classmethod
    def of(cls, state: UpdateState) -> "Outcome | None":
        """What a device's own word means for its rollout; None: it is still at work."""
        return cls(state.value) if state.is_final else None


class RolloutState(StrEnum):
    """Where a rollout is. The last two are final. QUEUED: none of its first devices has had its turn yet."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTED = "aborted"

    @property
    def is_final(self) -> bool:
        """True when nothing more will be done about it."""
        return self in (RolloutState.COMPLETED, RolloutState.ABORTED)


class JobState(StrEnum):
    """Where a worker's job is. The last two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Kind(StrEnum):
    """What enrolled: something that runs models, or something that carries for others."""

    DEVICE = "device"
    NODE = "node"


class Reason(StrEnum):
    """Why a sample was sent up."""

    UNSURE = "unsure"
    NOVEL = "novel"
    DISAGREES = "disagrees"
    AUDIT = "audit"
