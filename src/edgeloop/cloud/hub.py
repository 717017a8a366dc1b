"""The cloud as a hub: the five verbs over its stores.

Rule kept here: a batch is acknowledged after its commit, and its samples are on the disk before that commit.
"""

import re
import time
from collections.abc import Callable, Iterable

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.archive import digest
from edgeloop.cloud.answer import Answerer
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.repository import Director, Images, parse_metadata_name
from edgeloop.cloud.store import fleet, inbox, registry, rollouts
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.messages import (
    Desired,
    DeviceReport,
    EnrolReply,
    EnrolRequest,
    InferReply,
    InferRequest,
    Sample,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
)
from edgeloop.contracts.names import BundleRef
from edgeloop.hub.batches import sort_out
from edgeloop.hub.port import Served
from edgeloop.hub.waker import Waker, wait_for_news

_MANIFEST = re.compile(r"targets/bundles/(?P<name>[a-z0-9-]{1,63})/(?P<version>[0-9.]{5,32})/manifest\.json")
_FILE = re.compile(r"targets/files/(?P<sha256>[0-9a-f]{64})")
_DIRECTOR = re.compile(r"director/(?P<device>[a-z0-9-]{1,63})/metadata/(?P<file>[a-z0-9.]{1,40})")
_IMAGES = re.compile(r"images/metadata/(?P<file>[a-z0-9.]{1,40})")


class Stores(msgspec.Struct, frozen=True):
    """What the cloud stands on."""

    database: Database
    blobs: Blobs
    images: Images
    director: Director


class CloudHub:
    """Implements hub.port.Hub."""

    def __init__(
        self, stores: Stores, conductor: Conductor, waker: Waker, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = stores.database
        self._blobs = stores.blobs
        self._stores = stores
        self._conductor = conductor
        self._waker = waker
        self._clock = clock
        self._answerer = Answerer(stores.database, stores.blobs)

    async def public_key(self, device_id: str) -> bytes | None:
        """See Hub.public_key."""
        return await self._database.read(lambda connection: fleet.public_key(connection, device_id))

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """See Hub.enrol."""
        await self._database.write(lambda connection: fleet.enrol(connection, request, now_s=self._clock()))
        return EnrolReply(
            device_id=request.device_id,
            images_root=self._stores.images.root,
            director_root=self._stores.director.root,
        )

    async def sync(self, device_id: str, request: SyncRequest) -> SyncReply:
        """See Hub.sync."""
        known = request.generations()
        await self._check_carries(device_id, known)

        def newer_than_known(connection: sa.Connection) -> dict[str, int]:
            return fleet.newer_generations(connection, device_id, known)

        # One event a sender: news of a device that a node carries for wakes the node, however new the device is.
        with self._waker.listening([device_id]) as event:
            news = await self._database.write(lambda connection: self._take(connection, request.reports))
            newer = await self._database.read(newer_than_known)
            if news:
                self._conductor.nudge()
            if not newer and request.wait_s > 0 and await wait_for_news(event, request.wait_s):
                newer = await self._database.read(newer_than_known)
        desired = tuple(Desired(device_id=one, generation=generation) for one, generation in newer.items())
        return SyncReply(desired=desired)

    def _take(self, connection: sa.Connection, reports: tuple[DeviceReport, ...]) -> bool:
        """Keep reports; True if any of them brings news of an update."""
        fleet.save_reports(connection, reports, now_s=self._clock())
        updates = [(report.device_id, report.update) for report in reports if report.update is not None]
        return rollouts.note_reports(connection, updates)

    async def fetch(self, device_id: str, path: str) -> Served:
        """See Hub.fetch."""
        if found := _FILE.fullmatch(path):
            return await self._served_blob(registry.file_key(found["sha256"]))
        if found := _MANIFEST.fullmatch(path):
            ref = BundleRef(found["name"], found["version"])
            data = await self._database.read(lambda connection: registry.manifest_bytes(connection, ref))
            return _served(data, immutable=True)
        if found := _IMAGES.fullmatch(path):
            return await self._images_metadata(found["file"])
        if found := _DIRECTOR.fullmatch(path):
            await self._check_carries(device_id, [found["device"]])
            return await self._director_metadata(found["device"], found["file"])
        raise NotFound(f"there is no file {path!r} here")

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        """See Hub.send."""
        mine = await self._database.read(lambda connection: fleet.carried_by(connection, device_id))
        taken, rejected = sort_out(request, device_id, mine.__contains__)
        for event in taken:
            if isinstance(event.body, Sample):
                await self._blobs.put(inbox.sample_key(digest(event.body.data)), event.body.data)
        new = await self._database.write(lambda connection: inbox.add_events(connection, taken))
        return SendReply(accepted=new, repeated=len(taken) - new, rejected=rejected)

    async def close(self) -> None:
        """Let go of the loaded models."""
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

    async def _images_metadata(self, file: str) -> Served:
        name = parse_metadata_name(file)
        targets = await self._database.read(registry.newest_targets)
        data = self._stores.images.metadata(
            name, targets=targets.metadata, published_at_s=targets.published_at_s, now_s=self._clock()
        )
        return _served(data, immutable=name.version is not None)

    async def _director_metadata(self, device_id: str, file: str) -> Served:
        name = parse_metadata_name(file)
        given = await self._database.read(lambda connection: fleet.assigned(connection, device_id))
        data = self._stores.director.metadata(
            name,
            generation=given.generation,
            assignment=given.assignment,
            assigned_at_s=given.assigned_at_s,
            now_s=self._clock(),
        )
        return _served(data, immutable=name.version is not None)

    async def _served_blob(self, key: str) -> Served:
        size_bytes = await self._blobs.size_bytes(key)
        if size_bytes is None:
            raise NotFound(f"there is no file {key.rpartition('/')[2][:12]} here")

        async def read(start: int, stop: int) -> bytes:
            return await self._blobs.get(key, start=start, stop=stop)

        return Served(size_bytes, True, read)


def _served(data: bytes, *, immutable: bool) -> Served:
    async def read(start: int, stop: int) -> bytes:
        return data[start:stop]

    return Served(len(data), immutable, read)
