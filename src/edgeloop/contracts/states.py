"""The words for where things stand, shared by every tier."""

from enum import StrEnum


class UpdateState(StrEnum):
    """Where a device is with a bundle that it was assigned. The last three are final."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    ACCEPTING = "accepting"
    ACTIVE = "active"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"

    @property
    def is_final(self) -> bool:
        """True when the device will do nothing more about this bundle."""
        return self in (UpdateState.CONFIRMED, UpdateState.REFUSED, UpdateState.ROLLED_BACK)


class RolloutState(StrEnum):
    """Where a rollout is. The last two are final."""

    RUNNING = "running"
    COMPLETED = "completed"
    ABORTED = "aborted"


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
