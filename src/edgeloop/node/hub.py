"""The node as a hub: a cloud to its devices, a device to its cloud.

Rules kept here: events are acknowledged once they are in the node's own outbox, durable, whether the hub above is
there or away; devices that enrolled through this node are known to it, so they can prove themselves while the
cloud is away, until it hears that one was revoked; a device hears of a new desired state as soon as the node does.
What a device reports goes up once; all of it again after a sync that failed, and now and then, since whoever is above
may have forgotten it. Questions go to `answer`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.messages import (
    MAX_BODY_BYTES,
    MAX_REPORT_BYTES,
    Desired,
    DeviceReport,
    EnrolReply,
    EnrolRequest,
    Health,
    InferReply,
    InferRequest,
    RejectedReport,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustReply,
    TrustRequest,
)
from edgeloop.hub.batches import answered, sort_out
from edgeloop.hub.port import Served
from edgeloop.hub.reports import sort_out_reports
from edgeloop.hub.together import IMAGES, device_of, devices_of
from edgeloop.hub.waker import Waker
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.words import CarriedWords
from edgeloop.transport.budget import DOWNLOAD, Budget
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.syncing import SyncLoop
from edgeloop.transport.uplink import Uplink

_CHILD = "child "
"""How the names of devices that enrolled here begin, among what is kept."""
_TELL_ALL_EVERY_S = 300.0
_MOST_REPORTS = MAX_BODY_BYTES // MAX_REPORT_BYTES - 2
"""So many fit into one request, however large each is."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A device that enrolled through this node. speaker: who sends for it, itself or a node below. revoked: the hub
    above said so; nothing is taken from it until it enrols anew.
    """

    public_key: bytes
    speaker: str
    revoked: bool = False


class NodeHub:
    """Implements hub.port.Hub. Belongs to one event loop.

    budget: of a day's bytes; meter: which downloads wait for it. clock_s: seconds that pass.
    """

    def __init__(  # noqa: PLR0913 - what it works with, each of another kind
        self,
        uplink: Uplink,
        *,
        keep: Keep,
        cache: Cache,
        outbox: Outbox,
        answering: Answering,
        waker: Waker,
        budget: Budget,
        meter: Meter,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = uplink.identity.device_id
        self._keep = keep
        self._cache = cache
        self._outbox = outbox
        self._uplink = uplink
        self._answering = answering
        self._waker = waker
        self._budget = budget
        self._meter = meter
        self._clock_s = clock_s
        self._children = _remembered(keep)
        # Devices by the node below that speaks for them; it may speak no more for some of them.
        self._carried_by: dict[str, set[str]] = {}
        for one, child in self._children.items():
            self._note_carried(one, child)
        self._reports: dict[str, tuple[float, DeviceReport]] = {}
        # Whose newest report the hub above has, as far as is known: a sync that fails begins that anew.
        self._told: set[str] = set()
        # Of the last requests, of which two are under way at most.
        self._lately: deque[list[str]] = deque(maxlen=2)
        self._told_all_at_s = float("-inf")
        self._desired: dict[str, int] = keep.get("desired", dict[str, int]) or {}
        self._words = CarriedWords(uplink, keep, cache, told=self._told_of, clock_s=clock_s)
        self.sync_loop: SyncLoop | None = None

    def device_count(self) -> int:
        """How many devices enrolled here, and are known."""
        return len(self._children)

    async def close(self) -> None:
        """End what is being asked above."""
        await self._words.close()

    async def public_key(self, device_id: str) -> bytes | None:
        """See Hub.public_key."""
        child = self._children.get(device_id)
        return child.public_key if child and not child.revoked else None

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """See Hub.enrol: the cloud decides, the node carries and remembers."""
        reply = await self._uplink.enrol(msgspec.structs.replace(request, via=self._node_id))
        child = Child(public_key=request.public_key, speaker=request.via or request.device_id)
        children = self._children | {request.device_id: child}
        # Known only once it is kept: who is answered now must be known after a restart, too. On the loop, where nothing
        # else changes who is known meanwhile, such as a revocation.
        self._keep.set({_CHILD + request.device_id: child})
        self._children = children
        self._note_carried(request.device_id, child)
        return reply

    async def sync(self, device_id: str, request: SyncRequest) -> SyncReply:
        """See Hub.sync."""
        known = request.generations()
        self._check_carries(device_id, known)
        rejected = self._hear(device_id, request.reports)
        wait_s = request.wait_s
        del request  # what was said is taken: a held sync holds none of it
        with self._waker.listening([device_id]) as news:
            newer = self._newer(device_id, known)
            if not newer and wait_s > 0 and await news.wait(wait_s):
                newer = self._newer(device_id, known)
        if self._is_revoked(device_id):
            raise Refused(f"{device_id!r} was revoked; nothing is taken from it any more")
        return SyncReply(desired=newer, upstream_reachable=self._is_reachable(), rejected=rejected)

    async def trust(self, device_id: str, request: TrustRequest) -> TrustReply:
        """See Hub.trust."""
        heard = {one for one in devices_of(request.held) if self._may_speak_for(device_id, one)}
        held = {place: one for place, one in request.held.items() if place == IMAGES or device_of(place) in heard}
        return await self._words.newer(msgspec.structs.replace(request, held=held))

    async def fetch(self, device_id: str, path: str) -> Served:
        """See Hub.fetch."""
        if path.startswith("director/"):
            other = path.split("/")[1]
            self._check_carries(device_id, [other])
            if self._is_revoked(other):
                raise Refused(f"{other!r} was revoked; nothing is given to it any more")
        # A node below this one asks for all of its devices: each has its own share.
        asker = path.split("/")[1] if path.startswith("director/") else device_id
        return await self._cache.get(path, asker=asker)

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        """See Hub.send."""
        taken, rejected = sort_out(request, device_id, lambda other: self._may_speak_for(device_id, other))
        new, repeated = await asyncio.to_thread(self._outbox.accept, taken)
        reused = await asyncio.to_thread(self._outbox.reused, taken) if repeated else ()
        return answered(request, taken, rejected, new=new, reused=reused)

    async def infer(self, device_id: str, request: InferRequest) -> InferReply:
        """See Hub.infer."""
        return await self._answering.infer(request)

    def reports(self) -> tuple[DeviceReport, ...]:
        """What the hub above is told: of this node, and of each device what it said since this was asked last."""
        own = DeviceReport(
            device_id=self._node_id, known_generation=self._desired.get(self._node_id, 0), health=self._health()
        )
        now_s = self._clock_s()
        if now_s - self._told_all_at_s >= _TELL_ALL_EVERY_S:
            self._told.clear()
            self._told_all_at_s = now_s
        due = [one for one in self._reports if one not in self._told]
        if len(due) > _MOST_REPORTS and self.sync_loop is not None:
            self.sync_loop.changed()  # the rest goes with the next one
        due = due[:_MOST_REPORTS]
        self._told.update(due)
        self._lately.append(due)
        return (own, *(_aged(report, now_s - since_s) for since_s, report in map(self._reports.__getitem__, due)))

    def on_sync_failed(self, error: Exception) -> None:
        """What the hub above has of the reports is not known: all of them are due. Where it turned them down, a device
        may have moved to another hub: what is known is taken anew. Where it asked for patience, it keeps what it has.
        """
        if isinstance(error, Unavailable) and error.retry_after_s:
            self._told.difference_update(*self._lately)
            return
        self._told.clear()
        if isinstance(error, Refused):
            self._reports.clear()
            self._desired.clear()

    def known(self) -> dict[str, int]:
        """Which desired states this node has heard of, for devices that are there and devices that are not."""
        return dict(self._desired)

    def on_desired(self, news: tuple[Desired, ...]) -> None:
        """The hub above has newer desired states for devices of ours: a rollout, for all of them at once."""
        newer = [one for one in news if one.generation > self._desired.get(one.device_id, 0)]
        if not newer:
            return
        known = self._desired | {one.device_id: one.generation for one in newer}
        revoked = {
            one.device_id: msgspec.structs.replace(child, revoked=True)
            for one in newer
            if one.revoked and (child := self._children.get(one.device_id)) is not None
        }
        self._children = self._children | revoked
        for device_id in revoked:
            self._reports.pop(device_id, None)
        # Known only once it is kept: while there is no room for it, the hub above says it again. In one go: the disk
        # takes as long for a thousand as for one.
        self._keep.set({"desired": known, **{_CHILD + device_id: child for device_id, child in revoked.items()}})
        self._desired = known
        self._waker.wake({self._speaker_of(one.device_id) for one in newer} | {one.device_id for one in newer})

    def _note_carried(self, device_id: str, child: Child) -> None:
        if child.speaker != device_id:
            self._carried_by.setdefault(child.speaker, set()).add(device_id)

    def _told_of(self) -> dict[str, int]:
        """The newest assignments that the hub above has told of, of devices that are served."""
        return {
            one: number for one, number in self._desired.items() if one in self._children and not self._is_revoked(one)
        }

    def _health(self) -> Health:
        """Of the node's own disk: what it carries for others waits there."""
        stats = self._outbox.stats()
        day = self._budget.spending(stats.accounts)
        if self._meter.is_waiting:
            day = msgspec.structs.replace(day, waits=(*day.waits, DOWNLOAD))
        return Health(
            dropped=stats.evicted_rows,
            outbox_rows=stats.pending_rows,
            outbox_bytes=stats.pending_bytes,
            clock_ms=int(time.time() * 1000),
            outbox=stats.accounts,
            day=day,
            storage=self._outbox.trouble,
        )

    def _hear(self, sender: str, given: tuple[DeviceReport, ...]) -> tuple[RejectedReport, ...]:
        """Take what devices say; returns what is not taken."""
        reports, rejected = sort_out_reports(given, sender)
        for report in reports:
            self._take(report)
        return rejected

    def _take(self, report: DeviceReport) -> None:
        _, before = self._reports.get(report.device_id, (0.0, None))
        self._reports[report.device_id] = (self._clock_s() - report.age_s, report)
        self._told.discard(report.device_id)
        is_news = before is None or (before.update, before.active) != (report.update, report.active)
        if is_news and self.sync_loop is not None:
            self.sync_loop.changed()

    def _newer(self, sender: str, known: dict[str, int]) -> tuple[Desired, ...]:
        return tuple(
            Desired(device_id=one, generation=generation, revoked=self._is_revoked(one))
            for one in (sender, *self._carried_by.get(sender, ()))
            if (generation := self._desired.get(one, 0)) > known.get(one, 0) and self._speaks_for(sender, one)
        )

    def _is_reachable(self) -> bool:
        return self.sync_loop is not None and self.sync_loop.is_reachable

    def _check_carries(self, device_id: str, others: Iterable[str]) -> None:
        for other in others:
            if not self._speaks_for(device_id, other):
                raise Refused(f"{device_id!r} may not speak for {other!r}: it did not enrol through it")

    def _speaker_of(self, device_id: str) -> str:
        child = self._children.get(device_id)
        return device_id if child is None else child.speaker

    def _speaks_for(self, speaker: str, device_id: str) -> bool:
        child = self._children.get(device_id)
        return child is not None and speaker in (device_id, child.speaker)

    def _may_speak_for(self, speaker: str, device_id: str) -> bool:
        return self._speaks_for(speaker, device_id) and not self._is_revoked(device_id)

    def _is_revoked(self, device_id: str) -> bool:
        child = self._children.get(device_id)
        return child is not None and child.revoked


def _remembered(keep: Keep) -> dict[str, Child]:
    """The devices that enrolled here. Each is a value of its own, so that damage costs only those that it hits."""
    together = keep.get("children", dict[str, Child])  # as nodes before this kept them
    if together is not None:
        keep.put_in_force({"children": None, **{_CHILD + name: child for name, child in together.items()}})
    return keep.under(_CHILD, Child)


def _aged(report: DeviceReport, age_s: float) -> DeviceReport:
    return msgspec.structs.replace(report, age_s=max(0.0, age_s))
