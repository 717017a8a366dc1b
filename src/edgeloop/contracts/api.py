"""What people's tools and workers say to the cloud: the REST API's types.

Neighbours: `cloud.api` serves them (and its OpenAPI comes from them), `transport.cloud_api` is their client.
"""

from typing import Annotated, Literal

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import Count, DeviceReport, Reading, WatchBounds, WatchStats
from edgeloop.contracts.names import Name, Sha256, Version
from edgeloop.contracts.states import JobState, Kind, Outcome, Reason, RolloutState, UpdateState
from edgeloop.contracts.strict import Share
from edgeloop.contracts.window import Window

LabelText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""A label's name or value."""


class JoinTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a join token that admits `uses` devices within `valid_s` seconds, with these labels.

    note: what it is for, shown in the list of tokens.
    """

    uses: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    valid_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 86_400.0
    labels: Annotated[dict[LabelText, LabelText], msgspec.Meta(max_length=64)] = {}
    note: Annotated[str, msgspec.Meta(max_length=200)] = ""


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """The token as a device is given it; it is shown once, the cloud keeps its hash only.

    token_id: what lists and 'fleet token-revoke' call it.
    """

    token: str
    uses: int
    expires_at_s: float
    token_id: str = ""


class JoinTokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A join token without its secret. admitted: the devices that joined with it."""

    token_id: str
    note: str
    labels: dict[str, str]
    uses: int
    uses_left: int
    made_at_s: float | None
    made_by: str
    expires_at_s: float
    revoked_at_s: float | None
    admitted: tuple[Name, ...]


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device as the cloud knows it. last_seen_s is None until its first sync.

    revoked_at_s: since when nothing is taken from it, None for a device in good standing. may_rejoin: a revoked one
    may enrol again. joined_with: the join token's id, None where it is not known. unreadable: why its stored report,
    which its next one replaces, cannot be read; empty where it can.
    """

    device_id: Name
    kind: Kind
    via: Name | None
    labels: dict[str, str]
    enrolled_at_s: float
    last_seen_s: float | None
    desired: str | None
    report: DeviceReport | None
    revoked_at_s: float | None = None
    may_rejoin: bool = False
    joined_with: str | None = None
    unreadable: str = ""


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest, and targets metadata that was signed with the targets key, wherever that key is kept."""

    manifest: bytes
    targets_metadata: bytes
    schema: int = SCHEMA


class BundleView(msgspec.Struct, frozen=True, kw_only=True):
    """A published bundle."""

    name: Name
    version: Version
    manifest_sha256: Sha256
    published_at_s: float
    manifest: Manifest


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold before the next wave.

    max_failed: devices that may refuse or roll back before the rollout aborts, or come to no end after the version ran
    on them; or this share of all its devices, if that is more. watch: each device's own bounds. Devices whose input has
    drifted by the cloud's analysis are not compared with the old version when spare_drifted is set.

    unreachable_after_s: a device that was not heard of for so long is left behind as unreachable. wave_deadline_s: so
    is one that has not come to an end so long after it was given the bundle, a day more where there is a maintenance
    window; if nobody of a wave has come to one, the rollout aborts. stuck_after_s: so is one whose update did not move
    on for so long.

    max_accuracy_drop: by how much fewer labelled samples the new version may get right than the version before, as a
    share; None to leave it unjudged. It is judged where each of them has min_labelled labelled samples on this
    rollout's devices, and where chance alone would show such a drop in 5 % of cases at most (two-proportion z test).
    """

    max_failed: Count = 0
    max_failed_share: Share = 0.0
    wave_deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    spare_drifted: bool = True
    watch: WatchBounds = WatchBounds()
    unreachable_after_s: Annotated[float, msgspec.Meta(gt=0)] = 1800.0
    stuck_after_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0
    max_accuracy_drop: Share | None = 0.05
    min_labelled: Annotated[int, msgspec.Meta(ge=1)] = 30


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Bring a bundle to a group of devices.

    group: "all", or LABEL=VALUE; or several with commas between, all of which a device must have. waves: cumulative,
    each a count ("1") or a share of the group ("25%"); the last must be "100%". first: device ids to take before the
    others. window: the hours in which devices may put it to work.
    """

    bundle: str
    group: str = "all"
    waves: tuple[str, ...] = ("1", "100%")
    first: tuple[Name, ...] = ()
    gate: Gate = Gate()
    window: Window | None = None


class AbortRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Why a rollout is stopped. keep: devices that have begun go on; else those that have not confirmed go back."""

    reason: str
    keep: bool = False


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout.

    state: its own last word; None: its wave has not begun, or it has not answered yet. outcome: None while it has not
    come to an end. behind: the rollout that it must come to an end with before its turn. since_s: when it was given
    the bundle or moved on last, None before. watch: what it counts while on watch.
    """

    device_id: Name
    wave: int
    state: UpdateState | None
    reason: str
    outcome: Outcome | None = None
    behind: str | None = None
    since_s: float | None = None
    watch: WatchStats | None = None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it stands. wave counts from 1; 0: none has begun."""

    rollout_id: str
    bundle: str
    group: str
    waves: tuple[int, ...]
    wave: int
    state: RolloutState
    reason: str
    started_at_s: float
    ended_at_s: float | None
    devices: tuple[RolloutDevice, ...]
    window: Window | None = None


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A sample in the cloud, with what the device predicted and, when given, a person's label."""

    sample_id: str
    device_id: Name
    source: str
    at_ms: int
    reason: Reason
    media: str
    size_bytes: int
    bundle: str
    predicted: str | None
    margin: float
    label: str | None
    labelled_by: str | None


class ReadingView(msgspec.Struct, frozen=True, kw_only=True):
    """A reading as the cloud holds it. row: counts from 1 in the order of (epoch, sequence), for paging."""

    row: int
    epoch: int
    sequence: int
    at_ms: int
    received_ms: int
    reading: Reading


class LabelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A person's word on what a sample shows."""

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    by: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class DriftRow(msgspec.Struct, frozen=True, kw_only=True):
    """One device's recent readings under one bundle, beside what clean data looked like to that bundle.

    novelty_mean, energy_z_mean: in standard deviations of clean data, None when no reading has them.
    labelled_accuracy: share right among its labelled samples, None without labels; selected samples are harder
    than the average reading, so it is no accuracy of the device. drifted: the verdict; why: the figure and the
    bound behind it.
    """

    device_id: Name
    bundle: str
    readings: int
    margin_mean: float
    novelty_mean: float | None
    energy_z_mean: float | None
    device_alarm: bool
    labelled: int
    labelled_accuracy: float | None
    drifted: bool
    why: str


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Work for a toolchain worker. kind: "train" or "retrain"; recipe: that step's recipe as plain data."""

    kind: Annotated[str, msgspec.Meta(pattern="^(train|retrain)$")]
    bundle: str
    recipe: dict[str, str | int | float | bool] = {}
    parent: str | None = None
    schema: int = SCHEMA


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands. artifacts: names that can be fetched under the job."""

    job_id: str
    kind: str
    bundle: str
    recipe: dict[str, str | int | float | bool]
    parent: str | None
    state: JobState
    worker: str | None
    progress: Share
    message: str
    artifacts: tuple[str, ...]
    report: dict[str, str | int | float | bool]


class JobUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's word on its job; it also renews the worker's lease."""

    worker: str
    state: JobState
    progress: Share = 0.0
    message: str = ""
    report: dict[str, str | int | float | bool] = {}


class JobClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker asks for work."""

    worker: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The cloud in a line."""

    edgeloop: str
    time_s: float
    devices: int
    bundles: int
    events: int
    samples: int


class EventCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many events the cloud holds of one device's epoch, and how many distinct sequences among them.

    removed: how many it held and let go of since, by age.
    """

    device_id: Name
    epoch: int
    readings: int
    samples: int
    alerts: int
    distinct: int
    max_sequence: int
    sample_bytes: int
    removed: int = 0


# ---- keys


class KeyRole(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs one role of a repository. is_offline: the server does not hold its keys.

    version, expires_at_s: of what is signed now; None where the server signs when it is asked. warning: why somebody
    should see to it, empty while nobody need.
    """

    repository: str
    role: str
    key_ids: tuple[str, ...]
    threshold: int
    is_offline: bool
    version: int | None = None
    expires_at_s: float | None = None
    warning: str = ""


class KeysView(msgspec.Struct, frozen=True, kw_only=True):
    """Both repositories' roles, and the signed metadata that a change begins from: newest roots, newest targets."""

    roles: tuple[KeyRole, ...]
    images_root: bytes
    director_root: bytes
    targets: bytes


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """New roots, new targets metadata, or both, signed where the offline keys are; what stays as it is is None."""

    images_root: bytes | None = None
    director_root: bytes | None = None
    targets: bytes | None = None
    schema: int = SCHEMA


class OnlineKeyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the server to make a key of its own, which counts once a root names it. repository: images or director."""

    repository: Literal["images", "director"]


class OnlineKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a key that the server made. public_key: 32 raw bytes of Ed25519."""

    key_id: str
    public_key: bytes
