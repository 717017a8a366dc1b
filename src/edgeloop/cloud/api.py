"""The REST API for people's tools and workers; its OpenAPI comes from the same types (contracts.api).

Every route wants an operator's token. Neighbours: `transport.cloud_api` is the client; `app` mounts this.
"""

import re
import time
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, Router, get, post, put
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from edgeloop import __version__
from edgeloop.cloud import publish as publishing
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.hub import Stores
from edgeloop.cloud.store import analysis, fleet, inbox, jobs, registry, rollouts
from edgeloop.contracts.api import (
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
    LabelRequest,
    PublishRequest,
    ReadingView,
    RolloutRequest,
    RolloutView,
    SampleView,
    Status,
)
from edgeloop.contracts.codec import require_known_schema
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.join import Join, roots_fingerprint
from edgeloop.contracts.names import BundleRef

_ARTIFACT = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_MEDIA = re.compile(r"(?:image|audio|application)/[a-z0-9.+-]{1,60}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Limit = Annotated[int, QueryParameter(ge=1, le=10_000)]
AnyRequest = Request[Any, Any, Any]


class Services(msgspec.Struct, frozen=True):
    """What the routes work with."""

    config: CloudConfig
    stores: Stores
    conductor: Conductor


Cloud = NamedDependency[Services]


class AbortRequest(msgspec.Struct, frozen=True):
    """Why a rollout is stopped."""

    reason: str


def api_router(services: Services) -> Router:
    """The routes under /api/v1."""

    async def operators_only(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            if await services.stores.database.read(lambda c: fleet.is_api_token(c, token)):
                return
            raise Refused("this token is not one of this cloud's; use the operator file that 'cloud init' wrote")
        raise Refused("no token; send 'Authorization: Bearer TOKEN' with the token of the operator file")

    return Router(
        path="/api/v1",
        route_handlers=[FleetRoutes, BundleRoutes, RolloutRoutes, InboxRoutes, JobRoutes],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        guards=[operators_only],
    )


class FleetRoutes(Controller):
    """Devices, tokens, the cloud in a line."""

    path = "/"
    tags = ["fleet"]

    @get("/status")
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

    @post("/join-tokens")
    async def make_join_token(self, services: Cloud, data: JSONBody[JoinTokenRequest]) -> JoinToken:
        """A token that admits devices; it is shown this once."""
        now_s = time.time()
        secret = await services.stores.database.write(lambda c: fleet.make_join_token(c, data, now_s=now_s))
        fingerprint = roots_fingerprint(services.stores.images.root, services.stores.director.root)
        return JoinToken(token=str(Join(secret, fingerprint)), uses=data.uses, expires_at_s=now_s + data.valid_s)

    @get("/devices")
    async def devices(self, services: Cloud) -> list[DeviceView]:
        """All devices and nodes."""
        return await services.stores.database.read(fleet.list_devices)

    @get("/devices/{device_id:str}/readings")
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


class BundleRoutes(Controller):
    """What is published, and publishing."""

    path = "/"
    tags = ["bundles"]

    @get("/bundles")
    async def bundles(self, services: Cloud) -> list[BundleView]:
        """All published bundles."""
        return await services.stores.database.read(registry.list_bundles)

    @post("/bundles")
    async def publish(self, services: Cloud, data: JSONBody[PublishRequest]) -> BundleView:
        """List a bundle whose files were handed over, with metadata signed by the targets key."""
        known = require_known_schema(data, "the request (PublishRequest)")
        return await publishing.publish(services.stores, known, now_s=time.time())

    @get("/targets", media_type="application/octet-stream")
    async def targets(self, services: Cloud) -> bytes:
        """The newest signed targets metadata."""
        return (await services.stores.database.read(registry.newest_targets)).metadata

    @post("/files/missing", status_code=200)
    async def missing(self, services: Cloud, data: JSONBody[list[str]]) -> list[str]:
        """Which of these files the cloud lacks."""
        return await publishing.missing_files(services.stores, [_sha256(one) for one in data])

    @put("/files/{sha256:str}", status_code=204)
    async def put_file(self, services: Cloud, sha256: FromPath[str], request: AnyRequest) -> None:
        """Hand over a bundle's file."""
        await publishing.take_file(services.stores, _sha256(sha256), await request.body())


class RolloutRoutes(Controller):
    """Bringing bundles to devices."""

    path = "/rollouts"
    tags = ["rollouts"]

    @get("/")
    async def rollouts(self, services: Cloud) -> list[RolloutView]:
        """All rollouts."""
        return await services.stores.database.read(rollouts.list_rollouts)

    @post("/")
    async def start(self, services: Cloud, data: JSONBody[RolloutRequest]) -> RolloutView:
        """Begin one."""
        return await services.conductor.start(data)

    @get("/{rollout_id:str}")
    async def rollout(self, services: Cloud, rollout_id: FromPath[str]) -> RolloutView:
        """One rollout."""
        return await services.stores.database.read(lambda c: rollouts.get_rollout(c, rollout_id))

    @post("/{rollout_id:str}/abort", status_code=200)
    async def abort(self, services: Cloud, rollout_id: FromPath[str], data: JSONBody[AbortRequest]) -> RolloutView:
        """Stop one."""
        return await services.conductor.abort(rollout_id, data.reason)


class InboxRoutes(Controller):
    """What came up, what people say of it, and what follows from it."""

    path = "/"
    tags = ["inbox"]

    @get("/events/counts")
    async def counts(self, services: Cloud) -> list[EventCount]:
        """How much is here, by device and epoch."""
        return await services.stores.database.read(inbox.count_events)

    @get("/samples")
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

    @get("/samples/{sample_id:str}/data")
    async def sample_data(self, services: Cloud, sample_id: FromPath[str]) -> Response[bytes]:
        """A sample's own bytes."""
        view, key = await services.stores.database.read(lambda c: inbox.get_sample(c, sample_id))
        headers = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
        media = view.media if _MEDIA.fullmatch(view.media) else "application/octet-stream"  # a device's own word
        return Response(await services.stores.blobs.get(key), media_type=media, headers=headers)

    @put("/samples/{sample_id:str}/label")
    async def label(self, services: Cloud, sample_id: FromPath[str], data: JSONBody[LabelRequest]) -> SampleView:
        """Say what a sample shows."""
        return await services.stores.database.write(lambda c: inbox.set_label(c, sample_id, data, now_s=time.time()))

    @get("/analysis/drift")
    async def drift(self, services: Cloud, bundle: FromQuery[str], last: Limit = 200) -> list[DriftRow]:
        """Which devices' input has drifted."""
        ref = str(BundleRef.parse(bundle))
        return await services.stores.database.read(lambda c: analysis.drift(c, ref, last=last))


class JobRoutes(Controller):
    """Work for toolchain workers."""

    path = "/jobs"
    tags = ["jobs"]

    @get("/")
    async def jobs(self, services: Cloud, bundle: FromQuery[str | None] = None) -> list[JobView]:
        """Jobs, oldest first."""
        return await services.stores.database.read(lambda c: jobs.list_jobs(c, bundle=bundle))

    @post("/")
    async def submit(self, services: Cloud, data: JSONBody[JobRequest]) -> JobView:
        """Queue a job."""
        require_known_schema(data, "the request (JobRequest)")
        BundleRef.parse(data.bundle)
        if data.parent is not None:
            BundleRef.parse(data.parent)
        elif data.kind == "retrain":
            raise InvalidInput("a retrain job needs a parent, such as digits@1.0.0")
        return await services.stores.database.write(lambda c: jobs.add_job(c, data, now_s=time.time()))

    @post("/claim", status_code=200)
    async def claim(self, services: Cloud, data: JSONBody[JobClaim]) -> JobView | None:
        """Take the oldest open job."""
        lease_s = services.config.job_lease_s
        return await services.stores.database.write(
            lambda c: jobs.claim_job(c, data.worker, now_s=time.time(), lease_s=lease_s)
        )

    @get("/{job_id:str}")
    async def job(self, services: Cloud, job_id: FromPath[str]) -> JobView:
        """One job."""
        return await services.stores.database.read(lambda c: jobs.get_job(c, job_id))

    @put("/{job_id:str}")
    async def update(self, services: Cloud, job_id: FromPath[str], data: JSONBody[JobUpdate]) -> JobView:
        """A worker's word on its job."""
        lease_s = services.config.job_lease_s
        return await services.stores.database.write(
            lambda c: jobs.update_job(c, job_id, data, now_s=time.time(), lease_s=lease_s)
        )

    @put("/{job_id:str}/artifacts/{name:str}", status_code=204)
    async def put_artifact(
        self, services: Cloud, job_id: FromPath[str], name: FromPath[str], request: AnyRequest
    ) -> None:
        """Hand over what a job made."""
        key = jobs.artifact_key(job_id, _artifact(name))
        await services.stores.database.read(lambda c: jobs.get_job(c, job_id))
        await services.stores.blobs.put(key, await request.body())
        await services.stores.database.write(lambda c: jobs.add_artifact(c, job_id, name))

    @get("/{job_id:str}/artifacts/{name:str}", media_type="application/octet-stream")
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
