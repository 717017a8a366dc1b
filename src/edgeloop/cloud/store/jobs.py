"""Jobs for toolchain workers: claimed under a lease, so that a worker that dies gives its job back."""

import secrets

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.tables import jobs
from edgeloop.contracts.api import JobRequest, JobUpdate, JobView
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.states import JobState

_SKEW_S = 60.0
"""By so much replicas' clocks may differ."""


def artifact_key(job_id: str, name: str) -> str:
    """Where an artifact is among the blobs."""
    return f"jobs/{job_id}/{name}"


def add_job(connection: sa.Connection, request: JobRequest, *, now_s: float) -> JobView:
    """Queue a job."""
    job_id = secrets.token_hex(8)
    connection.execute(
        jobs.insert().values(
            job_id=job_id,
            kind=request.kind,
            bundle=request.bundle,
            parent=request.parent,
            recipe=to_json(request.recipe).decode(),
            state=JobState.QUEUED,
            progress=0.0,
            message="waits for a worker",
            artifacts="[]",
            report="{}",
            created_at_s=now_s,
        )
    )
    return get_job(connection, job_id)


def claim_job(connection: sa.Connection, worker: str, *, now_s: float, lease_s: float) -> JobView | None:
    """Give the oldest open job to a worker: a queued one, or one whose worker's lease ran out."""
    # A lease that ends later than one that begins now was given by a clock that has been set back since.
    ran_out = sa.or_(jobs.c.lease_until_s < now_s, jobs.c.lease_until_s > now_s + lease_s + _SKEW_S)
    is_open = sa.or_(jobs.c.state == JobState.QUEUED, sa.and_(jobs.c.state == JobState.RUNNING, ran_out))
    row = connection.execute(sa.select(jobs.c.job_id).where(is_open).order_by(jobs.c.created_at_s).limit(1)).first()
    if row is None:
        return None
    connection.execute(
        jobs.update()
        .where(jobs.c.job_id == row.job_id)
        .values(state=JobState.RUNNING, worker=worker, lease_until_s=now_s + lease_s, progress=0.0, message="started")
    )
    return get_job(connection, row.job_id)


def update_job(connection: sa.Connection, job_id: str, update: JobUpdate, *, now_s: float, lease_s: float) -> JobView:
    """Keep a worker's word. Raises Refused if the job is another worker's by now, or over."""
    job = get_job(connection, job_id)
    if job.worker != update.worker or job.state is not JobState.RUNNING:
        raise Refused(f"job {job_id} is {job.state} with worker {job.worker!r}, not running with {update.worker!r}")
    connection.execute(
        jobs.update()
        .where(jobs.c.job_id == job_id)
        .values(
            state=update.state,
            progress=update.progress,
            message=update.message,
            report=to_json(update.report).decode(),
            lease_until_s=now_s + lease_s,
        )
    )
    return get_job(connection, job_id)


def add_artifact(connection: sa.Connection, job_id: str, name: str) -> None:
    """List an artifact whose bytes are a blob already."""
    names = sorted({*get_job(connection, job_id).artifacts, name})
    connection.execute(jobs.update().where(jobs.c.job_id == job_id).values(artifacts=to_json(names).decode()))


def get_job(connection: sa.Connection, job_id: str) -> JobView:
    """One job. Raises NotFound."""
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}")
    return _view(row)


def list_jobs(connection: sa.Connection, *, bundle: str | None) -> list[JobView]:
    """Jobs, oldest first."""
    query = sa.select(jobs).order_by(jobs.c.created_at_s)
    if bundle is not None:
        query = query.where(jobs.c.bundle == bundle)
    return [_view(row) for row in connection.execute(query)]


def _view(row: sa.Row[tuple[object, ...]]) -> JobView:
    return JobView(
        job_id=row.job_id,
        kind=row.kind,
        bundle=row.bundle,
        parent=row.parent,
        recipe=msgspec.json.decode(row.recipe),
        state=JobState(row.state),
        worker=row.worker,
        progress=row.progress,
        message=row.message,
        artifacts=tuple(msgspec.json.decode(row.artifacts)),
        report=msgspec.json.decode(row.report),
    )
