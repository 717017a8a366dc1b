"""The REST API for people's tools and workers; its OpenAPI comes from the same types (contracts.api).

Every route states the role that it needs, and `door` asks for it. Neighbours: `transport.cloud_api` is the client;
`app` mounts this.
"""

import re
import time
from typing import Annotated

import msgspec
import sqlalchemy as sa
from litestar import Controller, Response, Router, delete, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.types import ASGIApp

from edgeloop import __version__
from edgeloop.cloud import publish as publishing
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.door import OPERATOR, OWNER, UNLOGGED, VIEWER, AnyRequest, Doorkeeper, caller_of, note
from edgeloop.cloud.hub import Stores
from edgeloop.cloud.keys_api import KeyRoutes
from edgeloop.cloud.store import access, analysis, fleet, inbox, jobs, registry, rollouts, roots
from edgeloop.contracts.access import AccessEntry, AccessRequest, AccessToken, AccessView
from edgeloop.contracts.api import (
    AbortRequest,
    BundleView,
    DeviceView,
    DriftRow,
    EventCount,
    JobClaim,
    JobRequest,
    JobUpdate,
    JobView,
    JoinToken,
    JoinTokenRequest,
    JoinTokenView,
    LabelRequest,
    PublishRequest,
    ReadingView,
    RolloutRequest,
    RolloutView,
    SampleView,
    Status,
)
from edgeloop.contracts.codec import require_known_schema
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.join import Join, secret_hash, token_id
from edgeloop.contracts.names import BundleRef
from edgeloop.hub.tls import ServerFiles, authority_der

_ARTIFACT = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_MEDIA = re.compile(r"(?:image|audio|application)/[a-z0-9.+-]{1,60}|text/csv")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Limit = Annotated[int, QueryParameter(ge=1, le=10_000)]
Page = Annotated[int, QueryParameter(ge=1, le=100)]
"""Of what is large: a rollout has a row for each device."""


class Services(msgspec.Struct, frozen=True):
    """What the routes work with."""

    config: CloudConfig
    stores: Stores
    conductor: Conductor


Cloud = NamedDependency[Services]


def api_router(services: Services) -> Router:
    """The routes under /api/v1."""

    door = Doorkeeper(services.stores.database, services.config.limits)

    def before(app: ASGIApp) -> ASGIApp:  # not the method itself: Litestar copies what it is given, to the depths
        return door.before(app)

    return Router(
        path="/api/v1",
        route_handlers=[FleetRoutes, AccessRoutes, BundleRoutes, KeyRoutes, RolloutRoutes, InboxRoutes, JobRoutes],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "stores": Provide(lambda: services.stores, sync_to_thread=False),
        },
        middleware=[before],
    )


class FleetRoutes(Controller):
    """Devices, tokens, the cloud in a line."""

    path = "/"
    tags = ["fleet"]

    @get("/status", security=VIEWER)
    async def status(self, services: Cloud) -> Status:
        """The cloud in a line."""
        database = services.stores.database
        counts = await database.read(inbox.count_events)
        return Status(
            edgeloop=__version__,
            time_s=time.time(),
            devices=len(await database.read(fleet.list_devices)),
            bundles=len(await database.read(registry.list_bundles)),
            events=sum(row.distinct for row in counts),
            samples=sum(row.samples for row in counts),
        )

    @post("/join-tokens", security=OPERATOR)
    async def make_join_token(
        self, services: Cloud, request: AnyRequest, data: JSONBody[JoinTokenRequest]
    ) -> JoinToken:
        """A token that admits devices; it is shown this once."""
        now_s, by = time.time(), caller_of(request).name
        secret = await services.stores.database.write(lambda c: fleet.make_join_token(c, data, now_s=now_s, by=by))
        fingerprint = (await services.stores.database.read(roots.read_roots)).fingerprint()
        made = JoinToken(
            token=str(Join(secret, fingerprint, authority_der(ServerFiles(services.config.tls)))),
            uses=data.uses,
            expires_at_s=now_s + data.valid_s,
            token_id=token_id(secret_hash(secret)),
        )
        note(request, f"{made.token_id} for {data.uses} {data.note}")
        return made

    @get("/join-tokens", security=VIEWER)
    async def join_tokens(self, services: Cloud) -> list[JoinTokenView]:
        """All join tokens, without their secrets, newest first."""
        return await services.stores.database.read(fleet.list_join_tokens)

    @post("/join-tokens/{token:str}/revoke", status_code=200, security=OPERATOR)
    async def revoke_join_token(self, services: Cloud, token: FromPath[str]) -> JoinTokenView:
        """Let nobody else in with a token."""
        return await services.stores.database.write(lambda c: fleet.revoke_join_token(c, token, now_s=time.time()))

    @post("/devices/{device_id:str}/revoke", status_code=200, security=OPERATOR)
    async def revoke_device(self, services: Cloud, device_id: FromPath[str]) -> DeviceView:
        """Take nothing from a device, from its next request on; one that is held open ends."""

        def operation(connection: sa.Connection) -> set[str]:
            fleet.revoke(connection, device_id, now_s=time.time())
            return fleet.with_carriers(connection, {device_id})

        services.conductor.wake(await services.stores.database.write(operation))
        return await services.stores.database.read(lambda c: fleet.get_device(c, device_id))

    @post("/devices/{device_id:str}/allow", status_code=200, security=OPERATOR)
    async def allow_device(self, services: Cloud, device_id: FromPath[str]) -> DeviceView:
        """Let a revoked device enrol again, with a join token."""
        await services.stores.database.write(lambda c: fleet.allow_rejoin(c, device_id))
        return await services.stores.database.read(lambda c: fleet.get_device(c, device_id))

    @get("/devices", security=VIEWER)
    async def devices(self, services: Cloud) -> list[DeviceView]:
        """All devices and nodes."""
        return await services.stores.database.read(fleet.list_devices)

    @get("/devices/{device_id:str}/readings", security=VIEWER)
    async def readings(
        self,
        services: Cloud,
        device_id: FromPath[str],
        after: Annotated[int, QueryParameter(ge=0, le=2**62)] = 0,
        limit: Limit = 1000,
    ) -> list[ReadingView]:
        """A device's readings in the order that it made them."""
        return await services.stores.database.read(
            lambda c: inbox.list_readings(c, device_id, after=after, limit=limit)
        )


class AccessRoutes(Controller):
    """Who may do what, and who did what."""

    path = "/access"
    tags = ["access"]

    @get("/", security=OWNER)
    async def tokens(self, services: Cloud) -> list[AccessView]:
        """Who has a token."""
        return await services.stores.database.read(access.list_tokens)

    @post("/", security=OWNER)
    async def add_access(self, services: Cloud, request: AnyRequest, data: JSONBody[AccessRequest]) -> AccessToken:
        """A token for somebody; it is shown this once."""
        now_s, by = time.time(), caller_of(request).name
        token = await services.stores.database.write(lambda c: access.add_token(c, data, by=by, now_s=now_s))
        note(request, f"{data.name} {data.role}")
        expires_at_s = None if data.valid_s is None else now_s + data.valid_s
        return AccessToken(name=data.name, role=data.role, token=token, expires_at_s=expires_at_s)

    @delete("/{name:str}", security=OWNER)
    async def revoke_access(self, services: Cloud, name: FromPath[str]) -> None:
        """Take somebody's token back, from the next request on."""
        await services.stores.database.write(lambda c: access.revoke_token(c, name))

    @get("/log", security=OWNER)
    async def access_log(
        self,
        services: Cloud,
        before: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)] = None,
        limit: Limit = 100,
    ) -> list[AccessEntry]:
        """What was done, newest first, or before an entry."""
        return await services.stores.database.read(lambda c: access.list_log(c, before=before, limit=limit))


class BundleRoutes(Controller):
    """What is published, and publishing."""

    path = "/"
    tags = ["bundles"]

    @get("/bundles", security=VIEWER)
    async def bundles(self, services: Cloud) -> list[BundleView]:
        """All published bundles."""
        return await services.stores.database.read(registry.list_bundles)

    @post("/bundles", security=OPERATOR)
    async def publish(self, services: Cloud, request: AnyRequest, data: JSONBody[PublishRequest]) -> BundleView:
        """List a bundle whose files were handed over, with metadata signed by the targets key."""
        known = require_known_schema(data, "the request (PublishRequest)")
        made = await publishing.publish(services.stores, known, now_s=time.time())
        note(request, f"{made.name}@{made.version}")
        return made

    @get("/targets", security=VIEWER, media_type="application/octet-stream")
    async def targets(self, services: Cloud) -> bytes:
        """The newest signed targets metadata."""
        return (await services.stores.database.read(registry.newest_targets)).metadata

    @post("/files/missing", status_code=200, security=OPERATOR, opt=UNLOGGED)
    async def missing(self, services: Cloud, data: JSONBody[list[str]]) -> list[str]:
        """Which of these files the cloud lacks."""
        return await publishing.missing_files(services.stores, [_sha256(one) for one in data])

    @put("/files/{sha256:str}", status_code=204, security=OPERATOR)
    async def put_file(self, services: Cloud, sha256: FromPath[str], request: AnyRequest) -> None:
        """Hand over a bundle's file."""
        await publishing.take_file(services.stores, _sha256(sha256), await request.body())


class RolloutRoutes(Controller):
    """Bringing bundles to devices."""

    path = "/rollouts"
    tags = ["rollouts"]

    @get("/", security=VIEWER)
    async def rollouts(
        self, services: Cloud, after: FromQuery[str | None] = None, limit: Page = 100
    ) -> list[RolloutView]:
        """Rollouts, oldest first; after the one with this id."""
        return await services.stores.database.read(lambda c: rollouts.list_rollouts(c, after=after, limit=limit))

    @post("/", security=OPERATOR)
    async def start(self, services: Cloud, request: AnyRequest, data: JSONBody[RolloutRequest]) -> RolloutView:
        """Begin one."""
        view = await services.conductor.start(data)
        note(request, f"{view.rollout_id} {view.bundle} to {view.group}")
        return view

    @get("/{rollout_id:str}", security=VIEWER)
    async def rollout(self, services: Cloud, rollout_id: FromPath[str]) -> RolloutView:
        """One rollout."""
        return await services.stores.database.read(lambda c: rollouts.get_rollout(c, rollout_id))

    @post("/{rollout_id:str}/abort", status_code=200, security=OPERATOR)
    async def abort(self, services: Cloud, rollout_id: FromPath[str], data: JSONBody[AbortRequest]) -> RolloutView:
        """Stop one."""
        return await services.conductor.abort(rollout_id, data)

    @post("/{rollout_id:str}/pause", status_code=200, security=OPERATOR)
    async def pause(self, services: Cloud, rollout_id: FromPath[str]) -> RolloutView:
        """Begin nothing more of one until it is resumed."""
        return await services.conductor.pause(rollout_id)

    @post("/{rollout_id:str}/resume", status_code=200, security=OPERATOR)
    async def resume(self, services: Cloud, rollout_id: FromPath[str]) -> RolloutView:
        """Go on with a paused one."""
        return await services.conductor.resume(rollout_id)


class InboxRoutes(Controller):
    """What came up, what people say of it, and what follows from it."""

    path = "/"
    tags = ["inbox"]

    @get("/events/counts", security=VIEWER)
    async def counts(
        self, services: Cloud, after: FromQuery[str | None] = None, limit: Limit = 1000
    ) -> list[EventCount]:
        """How much is here, by device and epoch, of so many devices; after the one with this id."""
        return await services.stores.database.read(lambda c: inbox.count_events(c, after=after, most_devices=limit))

    @get("/samples", security=VIEWER)
    async def samples(
        self,
        services: Cloud,
        device_id: FromQuery[str | None] = None,
        labelled: FromQuery[bool | None] = None,
        limit: Limit = 1000,
    ) -> list[SampleView]:
        """Samples, newest first."""
        return await services.stores.database.read(
            lambda c: inbox.list_samples(c, device_id=device_id, labelled=labelled, limit=limit)
        )

    @get("/samples/{sample_id:str}/data", security=VIEWER)
    async def sample_data(self, services: Cloud, sample_id: FromPath[str]) -> Response[bytes]:
        """A sample's own bytes."""
        view, key = await services.stores.database.read(lambda c: inbox.get_sample(c, sample_id))
        headers = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
        media = view.media if _MEDIA.fullmatch(view.media) else "application/octet-stream"  # a device's own word
        return Response(await services.stores.samples.get(key), media_type=media, headers=headers)

    @put("/samples/{sample_id:str}/label", security=OPERATOR)
    async def label(self, services: Cloud, sample_id: FromPath[str], data: JSONBody[LabelRequest]) -> SampleView:
        """Say what a sample shows."""
        return await services.stores.database.write(lambda c: inbox.set_label(c, sample_id, data, now_s=time.time()))

    @get("/analysis/drift", security=VIEWER)
    async def drift(self, services: Cloud, bundle: FromQuery[str], last: Limit = 200) -> list[DriftRow]:
        """Which devices' input has drifted."""
        ref = str(BundleRef.parse(bundle))
        return await services.stores.database.read(lambda c: analysis.drift(c, ref, last=last))


class JobRoutes(Controller):
    """Work for toolchain workers."""

    path = "/jobs"
    tags = ["jobs"]

    @get("/", security=VIEWER)
    async def jobs(self, services: Cloud, bundle: FromQuery[str | None] = None) -> list[JobView]:
        """Jobs, oldest first."""
        return await services.stores.database.read(lambda c: jobs.list_jobs(c, bundle=bundle))

    @post("/", security=OPERATOR)
    async def submit(self, services: Cloud, request: AnyRequest, data: JSONBody[JobRequest]) -> JobView:
        """Queue a job."""
        require_known_schema(data, "the request (JobRequest)")
        BundleRef.parse(data.bundle)
        if data.parent is not None:
            BundleRef.parse(data.parent)
        elif data.kind == "retrain":
            raise InvalidInput("a retrain job needs a parent, such as digits@1.0.0")
        job = await services.stores.database.write(lambda c: jobs.add_job(c, data, now_s=time.time()))
        note(request, f"{job.job_id} {job.kind} {job.bundle}")
        return job

    @post("/claim", status_code=200, security=OPERATOR, opt=UNLOGGED)
    async def claim(self, services: Cloud, data: JSONBody[JobClaim]) -> JobView | None:
        """Take the oldest open job."""
        lease_s = services.config.job_lease_s
        return await services.stores.database.write(
            lambda c: jobs.claim_job(c, data.worker, now_s=time.time(), lease_s=lease_s)
        )

    @get("/{job_id:str}", security=VIEWER)
    async def job(self, services: Cloud, job_id: FromPath[str]) -> JobView:
        """One job."""
        return await services.stores.database.read(lambda c: jobs.get_job(c, job_id))

    @put("/{job_id:str}", security=OPERATOR, opt=UNLOGGED)
    async def update(self, services: Cloud, job_id: FromPath[str], data: JSONBody[JobUpdate]) -> JobView:
        """A worker's word on its job."""
        lease_s = services.config.job_lease_s
        return await services.stores.database.write(
            lambda c: jobs.update_job(c, job_id, data, now_s=time.time(), lease_s=lease_s)
        )

    @put("/{job_id:str}/artifacts/{name:str}", status_code=204, security=OPERATOR)
    async def put_artifact(
        self, services: Cloud, job_id: FromPath[str], name: FromPath[str], request: AnyRequest
    ) -> None:
        """Hand over what a job made."""
        key = jobs.artifact_key(job_id, _artifact(name))
        await services.stores.database.read(lambda c: jobs.get_job(c, job_id))
        await services.stores.blobs.put(key, await request.body())
        await services.stores.database.write(lambda c: jobs.add_artifact(c, job_id, name))

    @get("/{job_id:str}/artifacts/{name:str}", security=VIEWER, media_type="application/octet-stream")
    async def artifact(self, services: Cloud, job_id: FromPath[str], name: FromPath[str]) -> bytes:
        """What a job made."""
        job = await services.stores.database.read(lambda c: jobs.get_job(c, job_id))
        if name not in job.artifacts:
            raise NotFound(f"job {job_id} has no artifact {name!r}; it has {', '.join(job.artifacts) or 'none'}")
        return await services.stores.blobs.get(jobs.artifact_key(job_id, name))


def _artifact(name: str) -> str:
    if not _ARTIFACT.fullmatch(name):
        raise InvalidInput(f"artifact name {name!r} is not allowed; use lower-case letters, digits, dots and dashes")
    return name


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise InvalidInput(f"{text!r} is no SHA-256 in lower-case hex")
    return text
