"""The uplink's verbs as messages; docs/wire.md draws them.

Every message bears a schema version. Byte fields are raw in MessagePack and base64 in JSON. Neighbours:
`transport.uplink` sends them, `hub.routes` receives them, `contracts.codec` turns them into bytes.
"""

from typing import Annotated

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.names import BundleRef, Name, Sha256, Version
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Kind, Reason, UpdateState
from edgeloop.contracts.strict import Share
from edgeloop.contracts.window import Window

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Millis = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

MAX_WAIT_S = 60.0
"""The longest that a sync may be held open."""

MAX_BATCH_EVENTS = 2000
MAX_BODY_BYTES = 16 * 1024 * 1024
"""Bounds on one request; a hub refuses more."""

MAX_TARGETS_BYTES = 8_000_000
"""The largest list of all that is published, signed, that a device takes."""

MAX_TRUST_BYTES = 1024 * 1024
"""The most signed metadata in one answer: of what does not fit, each file is asked for by itself."""

MAX_ALONG_BYTES = 64 * 1024
"""The most bytes of bundles' files that come along with signed metadata."""

MAX_PLACES = 256
"""Of so many repositories one request may ask for the metadata: a node, for itself and its devices."""

MAX_REPORT_BYTES = 64 * 1024
"""The largest report that a hub takes, as MessagePack: a node passes on those of all its devices in one request."""

MAX_SAMPLE_BYTES = 12 * 1024 * 1024
"""The largest input that travels as a sample: it must fit into a request with room for the rest."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is."""

    architecture: str
    system: str
    cpu_count: int
    memory_bytes: int
    engines: dict[EngineName, str]
    edgeloop: str


# ---- enrol


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for an identity.

    possession: the device key's signature over contracts.join.enrol_statement, which holds on every hop; the
    request around it is signed by the device, or by the node that carries it. via: that node, None when the
    device stands straight on the hub. roots: the join token's fingerprint; the reply brings the roots that the token
    was made for, from which the joiner follows to those of now.

    made_at_ms, fresh: when the device asked, since 1970, and its signature over contracts.join.fresh_statement. Without
    them, as an older device asks, a device that is known already can neither move to another hub nor come back.
    """

    device_id: Name
    kind: Kind
    join_secret: str
    public_key: bytes
    profile: Profile
    possession: bytes = b""
    made_at_ms: Millis = 0
    fresh: bytes = b""
    via: Name | None = None
    roots: str = ""
    schema: int = SCHEMA


class EnrolReply(msgspec.Struct, frozen=True, kw_only=True):
    """The identity, and the roots of trust: the joiner checks them against its token's fingerprint."""

    device_id: Name
    images_root: bytes
    director_root: bytes
    schema: int = SCHEMA


# ---- sync


LEAST_TIMED = 5
"""Readings on watch before their median latency is judged: the first ones find every cache cold."""


class WatchBounds(msgspec.Struct, frozen=True, kw_only=True):
    """When a device on watch goes back to its old version by itself.

    min_readings: readings on watch before a verdict, and of those so many that the old version answered, too; 0 for no
    watch: the version is confirmed as soon as it is active. max_error_rate: share of readings that failed.
    max_latency_ratio: new median latency over old, judged over LEAST_TIMED readings at least, and only where the new
    one is above latency_floor_ms, since below it nobody notices and noise decides. deadline_s: with fewer readings by
    then, what there is decides; a week at most, so that it comes to an end.

    Old against new, None to leave it unjudged (a device whose input drifted is expected to differ), each as a share
    of the readings that both answered: max_disagreement: their labels differ. max_score_shift: how many top scores
    lie elsewhere, see WatchStats. max_empty_rise: how many more answers are empty than the old version's.
    """

    min_readings: Count = 20
    max_disagreement: Share | None = 0.1
    max_error_rate: Share = 0.02
    max_latency_ratio: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 3.0
    latency_floor_ms: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 5.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0.0, le=604_800.0)] = 600.0
    max_score_shift: Share | None = 0.5
    max_empty_rise: Share | None = 0.2


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs what: one device's part of the director's signed metadata.

    generation grows by one with each assignment to this device. manifest_sha256 ties it to one content. window: when
    it may be put to work, None for at any time; it is fetched and tried beforehand.
    """

    generation: Count
    rollout_id: str
    bundle: str
    manifest_sha256: str
    watch: WatchBounds = WatchBounds()
    window: Window | None = None
    schema: int = SCHEMA

    @property
    def ref(self) -> BundleRef:
        """The bundle version that is assigned."""
        return BundleRef.parse(self.bundle)


class WatchStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a device saw of a new version beside the old one so far.

    compared: readings that the old version answered, too; of those: disagreements, empty and shadow_empty (answers of
    the new and the old version without a label), and score_shift: the largest share of top scores by which the two
    versions' distributions lie apart, where scores nearer than 0.2 count as equal. Of a regression and an anomaly, it
    is 0.2 times the middle 80 % of the old version's scores.
    """

    readings: Count = 0
    disagreements: Count = 0
    errors: Count = 0
    latency_p50_ms: float = 0.0
    shadow_latency_p50_ms: float = 0.0
    compared: Count = 0
    empty: Count = 0
    shadow_empty: Count = 0
    score_shift: float = 0.0


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a device's latest update goes."""

    generation: Count
    rollout_id: str
    bundle: str
    state: UpdateState
    reason: str = ""
    watch: WatchStats | None = None


class SourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a device's source does. Counts since the agent's process started: dropped: inputs that gave way to newer
    ones. skipped: passed over to keep to a rate. stalled: times that it gave nothing for too long. reopened: times
    that it came back. trouble: why nothing can be read now, empty while something can.
    """

    dropped: Count = 0
    skipped: Count = 0
    stalled: Count = 0
    reopened: Count = 0
    trouble: str = ""


class Amount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """So many events, and their bytes as they are queued."""

    rows: Count = 0
    size_bytes: Count = 0


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a class of events since the outbox was made: appended is the sum of the others, at any instant.

    pending: waits to go up. acknowledged: the hub has it. evicted: gave way to what is worth more. expired: waited for
    longer than its class may. rejected: set aside, since it cannot be read or the hub will not take it. dropped: set
    aside, and then given up by a person.
    """

    appended: Amount = Amount()
    pending: Amount = Amount()
    acknowledged: Amount = Amount()
    evicted: Amount = Amount()
    expired: Amount = Amount()
    rejected: Amount = Amount()
    dropped: Amount = Amount()


class Spending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A day's budget of bytes. limit_bytes: 0 for none. spent: bytes since the day began, by class of event or
    `download`. owed_bytes: spent by the days before beyond what they had. waits: the classes that wait for the next
    day.
    """

    limit_bytes: Count = 0
    spent: dict[str, Count] = {}
    owed_bytes: Count = 0
    waits: tuple[str, ...] = ()


class TrustHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a device stands with what is signed. expires_at_s: until when what it has is good, since 1970; 0 before it
    asked. trouble: why what is signed was refused, or that it is about to expire; empty while all is well.
    """

    expires_at_s: float = 0.0
    trouble: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """readings, cached, infer_errors, dropped: since the agent's process started. outbox_*: what waits now.

    cached: readings whose answer was taken from an earlier input. infer_errors: inputs that could not be had or
    answered; error_reason: why the last of them. outbox: accounts by class: alert, sample, reading; dropped counts what
    never found a place in it, and what was evicted. storage: why nothing can be written on the disk, empty while it
    can.
    """

    readings: Count = 0
    cached: Count = 0
    infer_errors: Count = 0
    error_reason: str = ""
    source: SourceHealth = SourceHealth()
    dropped: Count = 0
    outbox_rows: Count = 0
    outbox_bytes: Count = 0
    drift_alarm: bool = False
    drift_reason: str = ""
    clock_ms: int = 0
    outbox: dict[str, Account] = {}
    day: Spending = msgspec.field(default_factory=Spending)
    storage: str = ""
    trust: TrustHealth = TrustHealth()


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one device says of itself; a node's sync carries one for itself and one for each of its devices.

    age_s: how long ago the device said it, when a node says it again.
    """

    device_id: Name
    known_generation: Count
    active: str | None = None
    engine: str | None = None
    previous: str | None = None
    update: UpdateReport | None = None
    health: Health = msgspec.field(default_factory=Health)
    profile: Profile | None = None
    age_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class SyncRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Report, and wait up to wait_s for a newer desired state than the sender knows of.

    known: generations by device, beyond those that the reports state: a node says what it has passed on to devices
    that have nothing to report just now.
    """

    reports: tuple[DeviceReport, ...]
    known: dict[Name, Count] = {}
    wait_s: Annotated[float, msgspec.Meta(ge=0.0, le=MAX_WAIT_S)] = 0.0
    schema: int = SCHEMA

    def generations(self) -> dict[str, int]:
        """The newest desired state that the sender knows of, by device."""
        return {report.device_id: report.known_generation for report in self.reports} | self.known


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """A nudge: the director has metadata of this generation for this device. The truth is in that metadata.

    revoked: nothing is taken from the device any more; for the node that carries for it.
    """

    device_id: Name
    generation: Count
    revoked: bool = False


class RejectedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report that the hub did not take, and why. All else in the request was taken."""

    device_id: Name
    reason: str


class SyncReply(msgspec.Struct, frozen=True, kw_only=True):
    """Newer desired states, if any. upstream_reachable: False while this hub has lost the hub above it."""

    desired: tuple[Desired, ...] = ()
    upstream_reachable: bool = True
    rejected: tuple[RejectedReport, ...] = ()
    schema: int = SCHEMA


# ---- trust

Place = Annotated[str, msgspec.Meta(pattern=r"^(?:images|director/[a-z0-9][a-z0-9-]{0,62})\Z")]
"""Where a TUF repository's metadata is: what exists, or what one device runs."""


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Versions of the metadata that the asker has of one repository; 0 for none."""

    root: Count = 0
    timestamp: Count = 0
    snapshot: Count = 0
    targets: Count = 0


class TrustRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for all signed metadata that is not held.

    along_bytes: most bytes of small files of what is newly assigned that are to come with it; 0 for none.
    """

    held: Annotated[dict[Place, Held], msgspec.Meta(max_length=MAX_PLACES)]
    along_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_ALONG_BYTES)] = 0
    schema: int = SCHEMA


class TrustReply(msgspec.Struct, frozen=True, kw_only=True):
    """Files by the paths at which each could be fetched. Nothing here is believed for coming in this way.

    whole: places of which all that differs from what is held is here: a root that is not among it is not there, a
    timestamp that is not is the one that is held. along: of bundles, files that the asker will want next.
    """

    whole: tuple[Place, ...] = ()
    metadata: dict[str, bytes] = {}
    along: dict[str, bytes] = {}
    schema: int = SCHEMA


# ---- fetch


class PatchOffer(msgspec.Struct, frozen=True, kw_only=True):
    """There is a patch: how large it is, and the hash of its own bytes. It is not signed and need not be: what it makes
    is held to the hash that the targets key signed.
    """

    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    schema: int = SCHEMA


# ---- send


class Reading(msgspec.Struct, frozen=True, kw_only=True, tag="reading", tag_field="kind"):
    """One thing that a device saw. source: what the sensor calls it. shadow_label: the old version's answer."""

    source: str
    prediction: Prediction
    shadow_label: str | None = None
    sent_sample: bool = False


class Sample(msgspec.Struct, frozen=True, kw_only=True, tag="sample", tag_field="kind"):
    """An input that was worth sending, with why. Its reading is the event just before it: sequence - 1."""

    source: str
    reason: Reason
    media: str
    data: bytes


class Alert(msgspec.Struct, frozen=True, kw_only=True, tag="alert", tag_field="kind"):
    """Something that a person should hear of: a refused update, a roll-back, a drift alarm, a source that is away."""

    what: str
    detail: str


Body = Reading | Sample | Alert


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an outbox. (device_id, epoch, sequence) is its identity on every hop.

    epoch: drawn at random when the outbox was made, so that a device that lost its disk does not repeat itself.
    at_ms: the device's clock, milliseconds since 1970 UTC.
    """

    device_id: Name
    epoch: Count
    sequence: Sequence
    at_ms: Millis
    body: Body


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of events."""

    events: Annotated[tuple[Event, ...], msgspec.Meta(max_length=MAX_BATCH_EVENTS)]
    schema: int = SCHEMA


class Rejected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that the hub will never take, and why. reused: it has another event of this identity; under a new epoch
    it would take this one.
    """

    index: Count
    reason: str
    reused: bool = False


class SendReply(msgspec.Struct, frozen=True, kw_only=True):
    """Sent only after commit. accepted + repeated + len(rejected) is the size of the batch."""

    accepted: Count
    repeated: Count
    rejected: tuple[Rejected, ...] = ()
    schema: int = SCHEMA


# ---- infer


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An input for a model of the tier above. version None: the newest published."""

    name: Name
    data: bytes
    version: Version | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 2000
    schema: int = SCHEMA


class InferReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of the tier above."""

    prediction: Prediction
    schema: int = SCHEMA


# ---- errors


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Any hub's answer that is not the wanted one. server_time_s lets a device with a wrong clock sign again.

    retry_after_s: too much was asked for; when there is room again.
    """

    code: str
    message: str
    server_time_s: float | None = None
    retry_after_s: float | None = None
    schema: int = SCHEMA
