"""What people's tools and workers say to the cloud: the REST API's types.

Neighbours: `cloud.api` serves them (and its OpenAPI comes from them), `transport.cloud_api` is their client.
"""

from typing import Annotated

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import Count, DeviceReport, Reading, WatchBounds
from edgeloop.contracts.names import Name, Sha256, Version
from edgeloop.contracts.states import JobState, Kind, Reason, RolloutState, UpdateState
from edgeloop.contracts.strict import Share


class JoinTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a join token that admits `uses` devices within `valid_s` seconds, with these labels."""

    uses: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    valid_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0
    labels: dict[str, str] = {}


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """The token as a device is given it; it is shown once, the cloud keeps its hash only."""

    token: str
    uses: int
    expires_at_s: float


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device as the cloud knows it. last_seen_s is None until its first sync."""

    device_id: Name
    kind: Kind
    via: Name | None
    labels: dict[str, str]
    enrolled_at_s: float
    last_seen_s: float | None
    desired: str | None
    report: DeviceReport | None


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

    max_failed: devices that may refuse or roll back before the rollout aborts. watch: each device's own bounds.
    wave_deadline_s: a wave that has not come to an end by then aborts the rollout. Devices whose input has
    drifted by the cloud's analysis are not judged by disagreement when spare_drifted is set.
    """

    max_failed: Count = 0
    wave_deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    spare_drifted: bool = True
    watch: WatchBounds = WatchBounds()


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Bring a bundle to a group of devices.

    group: "all", or LABEL=VALUE. waves: cumulative, each a count ("1") or a share of the group ("25%"); the
    last must be "100%". first: device ids to take before the others.
    """

    bundle: str
    group: str = "all"
    waves: tuple[str, ...] = ("1", "100%")
    first: tuple[Name, ...] = ()
    gate: Gate = Gate()


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout. state None: its wave has not begun, or it has not answered yet."""

    device_id: Name
    wave: int
    state: UpdateState | None
    reason: str


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it stands. wave counts from 1."""

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
    """How many events the cloud holds of one device's epoch, and how many distinct sequences among them."""

    device_id: Name
    epoch: int
    readings: int
    samples: int
    alerts: int
    distinct: int
    max_sequence: int
    sample_bytes: int
