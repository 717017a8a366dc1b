"""The cloud as a hub: the verbs over its stores.

Rule kept here: a batch is acknowledged after its commit, and its samples are on the disk before that commit; of what a
device reports only the counts in its health may come later (`beats`).
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.archive import digest
from edgeloop.cloud.answer import PublishedModels
from edgeloop.cloud.beats import Beats
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.online import OnlineKeys
from edgeloop.cloud.patches import Patches
from edgeloop.cloud.repository import Given, MetadataName, director_metadata, images_metadata, parse_metadata_name
from edgeloop.cloud.signed import SignedWords
from edgeloop.cloud.store import fleet, inbox, registry, rollouts, roots
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.cloud.store.database import Database, Operation, TooLate
from edgeloop.cloud.store.samples import SampleBytes
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.messages import (
    Desired,
    DeviceReport,
    EnrolReply,
    EnrolRequest,
    Event,
    InferReply,
    InferRequest,
    RejectedReport,
    Sample,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustReply,
    TrustRequest,
)
from edgeloop.contracts.names import BundleRef, parse_offer_path
from edgeloop.hub.along import SmallFiles
from edgeloop.hub.batches import answered, sort_out
from edgeloop.hub.load import Load, answer_by_s
from edgeloop.hub.port import Served
from edgeloop.hub.reports import sort_out_reports
from edgeloop.hub.waker import Waker
from edgeloop.runtime.answerer import Answerer
from edgeloop.transport.seal import Keyring

T = TypeVar("T")

_MANIFEST = re.compile(r"targets/bundles/(?P<name>[a-z0-9-]{1,63})/(?P<version>[0-9.]{5,32})/manifest\.json")
_FILE = re.compile(r"targets/files/(?P<sha256>[0-9a-f]{64})")
_DIRECTOR = re.compile(r"director/(?P<device>[a-z0-9-]{1,63})/metadata/(?P<file>[a-z0-9.]{1,40})")
_IMAGES = re.compile(r"images/metadata/(?P<file>[a-z0-9.]{1,40})")


class Stores(msgspec.Struct, frozen=True):
    """What the cloud stands on."""

    database: Database
    blobs: Blobs
    online: OnlineKeys
    keyring: Keyring | None = None

    @property
    def samples(self) -> SampleBytes:
        """The samples' bytes, sealed where there is a keyring."""
        return SampleBytes(self.blobs, self.keyring)


class CloudHub:
    """Implements hub.port.Hub."""

    def __init__(
        self,
        stores: Stores,
        conductor: Conductor,
        waker: Waker,
        load: Load | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load or Load()
        self._database = stores.database
        self._blobs = stores.blobs
        self._stores = stores
        self._conductor = conductor
        self._waker = waker
        self._clock = clock
        self._answerer = Answerer(PublishedModels(stores.database, stores.blobs))
        self._patches = Patches(stores.database, stores.blobs)
        self._signed = SignedWords(stores.database, stores.online, SmallFiles(self._read), clock=clock)
        self._beats = Beats(stores.database, clock=clock)

    async def public_key(self, device_id: str) -> bytes | None:
        """See Hub.public_key."""
        found = await self._database.look(fleet.PUBLIC_KEY, device_id=device_id)
        return bytes(found[0][0]) if found else None

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """See Hub.enrol."""
        await self._database.write(lambda connection: fleet.enrol(connection, request, now_s=self._clock()))
        known = await self._database.read(roots.read_roots)
        images_root, director_root = known.pair(request.roots)
        return EnrolReply(device_id=request.device_id, images_root=images_root, director_root=director_root)

    async def sync(self, device_id: str, request: SyncRequest) -> SyncReply:
        """See Hub.sync."""
        known, wait_s = request.generations(), request.wait_s
        await self._check_carries(device_id, known)

        # One event a sender: news of a device that a node carries for wakes the node, however new the device is.
        with self._waker.listening([device_id]) as news:
            newer, rejected = await self._hear(device_id, request.reports, known)
            del request  # what was said is kept: thousands wait here, and hold none of it
            if not newer and wait_s > 0 and await news.wait(wait_s):
                newer = await self._newer(device_id, known)
        return SyncReply(desired=newer, rejected=rejected)

    async def _hear(
        self, sender: str, given: tuple[DeviceReport, ...], known: dict[str, int]
    ) -> tuple[tuple[Desired, ...], tuple[RejectedReport, ...]]:
        """What is newer than known once reports are kept, or put aside to be; and which are not taken."""
        reports, rejected = sort_out_reports(given, sender)
        if self._beats.is_beat(sender, reports):
            self._beats.put(reports[0])
            return await self._newer(sender, known), rejected
        return await self._keep(sender, reports, known), rejected

    async def _newer(self, sender: str, known: dict[str, int]) -> tuple[Desired, ...]:
        if len(known) > 1:  # a node's thousands of rows are not for the event loop
            return await self._database.read(lambda connection: fleet.newer_desired(connection, sender, known))
        return fleet.newer_of(await self._database.look(fleet.ASSIGNED_TO, sender=sender), sender, known)

    async def _keep(self, sender: str, reports: tuple[DeviceReport, ...], known: dict[str, int]) -> tuple[Desired, ...]:
        """Commit what was said; returns what is newer than known."""

        def take(connection: sa.Connection) -> tuple[bool, tuple[Desired, ...], float]:
            now_s = self._clock()
            newer = fleet.newer_desired(connection, sender, known)
            return self._take(connection, sender, reports, now_s=now_s), newer, now_s

        self._beats.forget(sender)
        news, newer, now_s = await self._written(take)
        self._beats.note_kept(sender, reports, now_s=now_s)
        if news:
            self._conductor.nudge()
        return newer

    def _take(self, connection: sa.Connection, sender: str, given: tuple[DeviceReport, ...], *, now_s: float) -> bool:
        """Keep reports, but for those of revoked devices; True if any of them brings news of an update."""
        reports = given
        if any(report.device_id != sender for report in given):
            heard = fleet.in_good_standing(connection, sender)
            reports = tuple(report for report in given if report.device_id in heard)
        fleet.save_reports(connection, reports, now_s=now_s)
        updates = [(report.device_id, report.update) for report in reports if report.update is not None]
        return rollouts.note_reports(connection, updates, now_s=now_s)

    async def trust(self, device_id: str, request: TrustRequest) -> TrustReply:
        """See Hub.trust."""
        return await self._signed.newer(device_id, request)

    async def fetch(self, device_id: str, path: str) -> Served:
        """See Hub.fetch."""
        if found := _FILE.fullmatch(path):
            return await self._served_file(found["sha256"])
        if found := _MANIFEST.fullmatch(path):
            ref = BundleRef(found["name"], found["version"])
            data = await self._database.read(lambda connection: registry.manifest_bytes(connection, ref))
            return _served(data, immutable=True)
        if found := _IMAGES.fullmatch(path):
            return await self._images_metadata(found["file"])
        if found := _DIRECTOR.fullmatch(path):
            await self._check_may_have(device_id, found["device"])
            return await self._director_metadata(found["device"], found["file"])
        if (patch := parse_offer_path(path)) is not None:
            return _served(await self._patches.offer(patch), immutable=False)
        raise NotFound(f"there is no file {path!r} here")

    async def _read(self, path: str) -> bytes:
        """A manifest or a file of a bundle. Raises as `fetch`."""
        served = await self.fetch("", path)
        return await served.read(0, served.size_bytes)

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        """See Hub.send."""
        mine = {device_id}
        if any(event.device_id != device_id for event in request.events):
            mine = await self._database.read(lambda connection: fleet.in_good_standing(connection, device_id))
        taken, rejected = sort_out(request, device_id, mine.__contains__)
        blobs = {digest(event.body.data): event.body.data for event in taken if isinstance(event.body, Sample)}
        for sha256, data in blobs.items():
            await self._stores.samples.put(inbox.sample_key(sha256), data)

        def add(connection: sa.Connection) -> tuple[int, tuple[Event, ...], set[str]]:
            # Its body may have been on the way for minutes: what counts is how it stands when this is committed.
            fleet.require_good_standing(connection, device_id)
            new = inbox.add_events(connection, taken)
            removed = inbox.claim_blobs(connection, blobs, now_s=self._clock()) if blobs else set[str]()
            return new, inbox.reused(connection, taken) if new < len(taken) else (), removed

        new, reused, removed = await self._written(add)
        for sha256 in removed:  # by one who tidied, after they were put here and before rows named them
            await self._stores.samples.put(inbox.sample_key(sha256), blobs[sha256])
        return answered(request, taken, rejected, new=new, reused=reused)

    async def _written(self, operation: Operation[T]) -> T:
        """What it gave, once that is committed. Raises Busy where its turn would come too late for whoever asks."""
        try:
            return await self._database.write(operation, alone=False, until_s=answer_by_s.get())
        except TooLate as error:
            raise self._load.busy() from error

    async def close(self) -> None:
        """Keep what was put aside, let go of the loaded models, and of patches that are being made."""
        await self._beats.close()
        await self._patches.close()
        await self._answerer.close()

    async def infer(self, device_id: str, request: InferRequest) -> InferReply:
        """See Hub.infer."""
        return await self._answerer.infer(request)

    async def _check_carries(self, device_id: str, others: Iterable[str]) -> None:
        strangers = set(others) - {device_id}
        if not strangers:
            return
        mine = await self._database.read(lambda connection: fleet.carried_by(connection, device_id))
        if strangers - mine:
            raise Refused(f"{device_id!r} may not speak for {min(strangers - mine)!r}: it did not enrol through it")

    async def _check_may_have(self, device_id: str, other: str) -> None:
        """Whose assignments are served: one's own, and those of carried devices while they are in good standing."""
        await self._check_carries(device_id, [other])
        if other != device_id and await self.public_key(other) is None:
            raise fleet.revoked(other)

    async def _images_metadata(self, file: str) -> Served:
        name, find_key = parse_metadata_name(file), self._stores.online.find

        def operation(connection: sa.Connection) -> bytes:
            known, targets = roots.read_roots(connection).images, registry.newest_targets(connection)
            return images_metadata(name, roots=known, targets=targets, find_key=find_key, now_s=self._clock())

        return _metadata(name, await self._database.read(operation))

    async def _director_metadata(self, device_id: str, file: str) -> Served:
        name, find_key = parse_metadata_name(file), self._stores.online.find

        def operation(connection: sa.Connection) -> bytes:
            known, told = roots.read_roots(connection).director, fleet.assigned(connection, device_id)
            given = Given(device_id, told.generation, told.assignment, told.assigned_at_s, told.floor)
            return director_metadata(name, roots=known, given=given, find_key=find_key, now_s=self._clock())

        return _metadata(name, await self._database.read(operation))

    async def _served_file(self, sha256: str) -> Served:
        """What has this hash: a file of a bundle or, if there is none, a patch."""
        try:
            return await self._served_blob(registry.file_key(sha256))
        except NotFound:
            return await self._served_blob(await self._patches.key_of(sha256))

    async def _served_blob(self, key: str) -> Served:
        size_bytes = await self._blobs.size_bytes(key)
        if size_bytes is None:
            raise NotFound(f"there is no file {key.rpartition('/')[2][:12]} here")

        async def read(start: int, stop: int) -> bytes:
            return await self._blobs.get(key, start=start, stop=stop)

        return Served(size_bytes, True, read)


def _metadata(name: MetadataName, data: bytes) -> Served:
    return _served(data, immutable=name.version is not None)


def _served(data: bytes, *, immutable: bool) -> Served:
    async def read(start: int, stop: int) -> bytes:
        return data[start:stop]

    return Served(len(data), immutable, read)
