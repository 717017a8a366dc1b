"""A worker: asks a cloud for jobs, does them, hands back what it made. One at a time."""

import functools
import socket
import threading
import time
from collections.abc import Callable

import structlog

from edgeloop.contracts.api import JobUpdate, JobView
from edgeloop.contracts.errors import EdgeloopError, Refused, Unavailable
from edgeloop.contracts.states import JobState
from edgeloop.toolchain.jobs import Made
from edgeloop.toolchain.progress import Progress
from edgeloop.transport.cloud_api import CloudApi

_log = structlog.get_logger(__name__)
_TELL_EVERY_S = 0.3
_POLL_S = 0.5
_UPLOAD_TRIES = 20

Doer = Callable[[JobView, CloudApi, Progress], Made]


class Worker:
    """Works until `stop` is set."""

    def __init__(self, api: CloudApi, do: Doer, *, name: str = "", poll_s: float = _POLL_S) -> None:
        self._api = api
        self._do = do
        self._name = name or socket.gethostname()
        self._poll_s = poll_s
        self._told_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Take jobs as they come; a cloud that is away is waited for."""
        while not stop.is_set():
            try:
                worked = self.work_once()
            except Unavailable as error:
                _log.warning("cloud_away", detail=str(error))
                worked = False
            if not worked:
                stop.wait(self._poll_s)

    def work_once(self) -> bool:
        """Do one job if there is one. Raises Unavailable if the cloud cannot be asked."""
        job = self._api.claim_job(self._name)
        if job is None:
            return False
        _log.info("job_claimed", job_id=job.job_id, kind=job.kind, bundle=job.bundle)
        try:
            made = self._do(job, self._api, lambda share, message: self._tell(job, share, message))
        except EdgeloopError as error:
            self._end(job, JobState.FAILED, str(error), {})
        except Exception as error:  # noqa: BLE001 - the outer guard: one job must not end the worker
            _log.error("job_broke", job_id=job.job_id, exc_info=error)
            self._end(job, JobState.FAILED, f"{type(error).__name__}: {error}", {})
        else:
            self._hand_over(job, made)
        return True

    def _end(self, job: JobView, state: JobState, message: str, report: dict[str, str | int | float | bool]) -> None:
        update = JobUpdate(worker=self._name, state=state, progress=1.0, message=message[:2000], report=report)
        try:
            self._insist(lambda: self._api.update_job(job.job_id, update))
        except Refused as error:
            # Its lease ran out and another worker has it: theirs counts.
            _log.warning("job_not_ours_any_more", job_id=job.job_id, detail=str(error))
            return
        _log.info("job_ended", job_id=job.job_id, state=state, message=message)

    def _hand_over(self, job: JobView, made: Made) -> None:
        try:
            for name, data in made.artifacts.items():
                self._insist(functools.partial(self._api.put_artifact, job.job_id, name, data))
        except EdgeloopError as error:
            if isinstance(error, Unavailable):
                raise
            _log.warning("job_not_taken", job_id=job.job_id, detail=str(error))
            self._end(job, JobState.FAILED, f"the cloud does not take what was made: {error}", {})
            return
        self._end(job, JobState.DONE, "done", made.report)

    def _insist(self, call: Callable[[], object]) -> None:
        """Hours of work are not thrown away because the cloud restarts just now."""
        for _ in range(_UPLOAD_TRIES - 1):
            try:
                call()
            except Unavailable:
                time.sleep(self._poll_s)
            else:
                return
        call()

    def _tell(self, job: JobView, share: float, message: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _TELL_EVERY_S and share < 1:
            return
        self._told_s = now_s
        update = JobUpdate(worker=self._name, state=JobState.RUNNING, progress=min(1.0, share), message=message)
        try:
            self._api.update_job(job.job_id, update)
        except Unavailable as error:
            _log.warning("progress_not_told", detail=str(error))
