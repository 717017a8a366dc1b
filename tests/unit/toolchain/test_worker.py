import threading
from collections.abc import Callable

import pytest

from edgeloop.contracts.api import JobUpdate, JobView
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused, Unavailable
from edgeloop.contracts.states import JobState
from edgeloop.toolchain.jobs import Made
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.worker import Doer, Worker

MADE = Made({"model.keras": b"model", "bundle.edgeloop": b"bundle"}, {"accuracy_float": 0.9})


def _job(job_id: str) -> JobView:
    return JobView(
        job_id=job_id,
        kind="train",
        bundle="tiny@1.0.0",
        recipe={},
        parent=None,
        state=JobState.RUNNING,
        worker="w",
        progress=0.0,
        message="",
        artifacts=(),
        report={},
    )


class FakeCloud:
    """CloudApi's part that a worker uses, over a cloud in memory. `fail` may raise for any call, by its name."""

    def __init__(self, *job_ids: str) -> None:
        self.queue = list(job_ids)
        self.updates: list[tuple[str, JobUpdate]] = []
        self.artifacts: dict[tuple[str, str], bytes] = {}
        self.claims = 0
        self.fail: Callable[[str], None] = lambda call: None
        self.when_idle: Callable[[], None] = lambda: None

    def claim_job(self, worker: str) -> JobView | None:
        """See CloudApi.claim_job."""
        self.claims += 1
        self.fail("claim_job")
        if not self.queue:
            self.when_idle()
            return None
        return _job(self.queue.pop(0))

    def update_job(self, job_id: str, update: JobUpdate) -> JobView:
        """See CloudApi.update_job."""
        self.fail("update_job")
        self.updates.append((job_id, update))
        return _job(job_id)

    def put_artifact(self, job_id: str, name: str, data: bytes) -> None:
        """See CloudApi.put_artifact."""
        self.fail("put_artifact")
        self.artifacts[job_id, name] = data

    @property
    def ends(self) -> list[tuple[str, JobState, str]]:
        """How jobs ended."""
        return [(job, u.state, u.message) for job, u in self.updates if u.state is not JobState.RUNNING]


class Failing:
    """Raises for the first calls of some names."""

    def __init__(self, error: type[EdgeloopError], *calls: str, times: int = 1) -> None:
        self._error = error
        self._calls = calls
        self._left = times

    def __call__(self, call: str) -> None:
        """Raise while there are failures left for this call."""
        if call in self._calls and self._left:
            self._left -= 1
            raise self._error("no")


def _does(result: Made | Exception = MADE) -> Doer:
    def do(job: JobView, api: object, progress: Progress) -> Made:
        if isinstance(result, Exception):
            raise result
        return result

    return do


def _worker(cloud: FakeCloud, do: Doer) -> Worker:
    return Worker(cloud, do, name="w", poll_s=0.0)  # type: ignore[arg-type]


def _run_until_idle(cloud: FakeCloud, do: Doer) -> None:
    stop = threading.Event()
    cloud.when_idle = stop.set
    _worker(cloud, do).run(stop)


def test_no_job_is_no_work() -> None:
    assert not _worker(FakeCloud(), _does()).work_once()


def test_done_job_is_told() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does()).work_once()
    assert cloud.ends == [("j1", JobState.DONE, "done")]


def test_report_of_a_done_job_is_handed_over() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does()).work_once()
    assert cloud.updates[-1][1].report == {"accuracy_float": 0.9}


def test_artifacts_are_there_before_the_job_is_done() -> None:
    cloud = FakeCloud("j1")
    seen: list[int] = []
    cloud.fail = lambda call: seen.append(len(cloud.artifacts)) if call == "update_job" else None
    _worker(cloud, _does()).work_once()
    assert (seen, cloud.artifacts) == (
        [2],
        {("j1", "model.keras"): b"model", ("j1", "bundle.edgeloop"): b"bundle"},
    )


def test_failed_job_is_told_with_its_message() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does(InvalidInput("there are no labelled samples"))).work_once()
    assert cloud.ends == [("j1", JobState.FAILED, "there are no labelled samples")]


def test_failed_job_hands_nothing_over() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does(InvalidInput("no"))).work_once()
    assert cloud.artifacts == {}


def test_crash_in_a_job_is_told_with_its_kind() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does(ZeroDivisionError("division by zero"))).work_once()
    assert cloud.ends == [("j1", JobState.FAILED, "ZeroDivisionError: division by zero")]


def test_crash_in_a_job_does_not_end_the_worker() -> None:
    cloud = FakeCloud("j1", "j2")
    _run_until_idle(cloud, _does(RuntimeError("broken")))
    assert [job for job, _, _ in cloud.ends] == ["j1", "j2"]


def test_long_message_is_cut() -> None:
    cloud = FakeCloud("j1")
    _worker(cloud, _does(InvalidInput("x" * 5000))).work_once()
    assert len(cloud.updates[-1][1].message) == 2000


def test_cloud_that_is_away_is_waited_for() -> None:
    cloud = FakeCloud("j1")
    cloud.fail = Failing(Unavailable, "claim_job", times=3)
    _run_until_idle(cloud, _does())
    assert (cloud.ends[0][1], cloud.claims) == (JobState.DONE, 3 + 2)


@pytest.mark.parametrize("call", ["put_artifact", "update_job"])
def test_finished_work_is_handed_over_when_the_cloud_is_back(call: str) -> None:
    cloud = FakeCloud("j1")
    cloud.fail = Failing(Unavailable, call, times=5)
    _worker(cloud, _does()).work_once()
    assert (cloud.ends, len(cloud.artifacts)) == ([("j1", JobState.DONE, "done")], 2)


def test_worker_goes_on_when_the_cloud_stays_away() -> None:
    cloud = FakeCloud("j1", "j2")
    cloud.fail = Failing(Unavailable, "put_artifact", times=20)
    _run_until_idle(cloud, _does())
    assert cloud.ends == [("j2", JobState.DONE, "done")]


@pytest.mark.parametrize("call", ["put_artifact", "update_job"])
def test_job_that_was_given_to_another_meanwhile_does_not_end_the_worker(call: str) -> None:
    cloud = FakeCloud("j1", "j2")
    cloud.fail = Failing(Refused, call, times=1)
    _run_until_idle(cloud, _does())
    assert cloud.ends[-1] == ("j2", JobState.DONE, "done")


def test_job_lost_while_it_is_told_of_does_not_end_the_worker() -> None:
    cloud = FakeCloud("j1", "j2")
    cloud.fail = Failing(Refused, "update_job", times=2)

    def do(job: JobView, api: object, progress: Progress) -> Made:
        progress(1.0, "nearly there")
        return MADE

    _run_until_idle(cloud, do)
    assert cloud.ends == [("j2", JobState.DONE, "done")]


def test_progress_is_told() -> None:
    cloud = FakeCloud("j1")

    def do(job: JobView, api: object, progress: Progress) -> Made:
        progress(1.0, "packing")
        return MADE

    _worker(cloud, do).work_once()
    first = cloud.updates[0][1]
    assert (first.state, first.progress, first.message) == (JobState.RUNNING, 1.0, "packing")


def test_progress_is_not_told_at_every_step() -> None:
    cloud = FakeCloud("j1")

    def do(job: JobView, api: object, progress: Progress) -> Made:
        for step in range(1000):
            progress(step / 10_000, "training")
        return MADE

    _worker(cloud, do).work_once()
    assert len(cloud.updates) < 100


def test_progress_that_cannot_be_told_does_not_end_the_job() -> None:
    cloud = FakeCloud("j1")
    cloud.fail = Failing(Unavailable, "update_job", times=1)

    def do(job: JobView, api: object, progress: Progress) -> Made:
        progress(1.0, "packing")
        return MADE

    _worker(cloud, do).work_once()
    assert cloud.ends == [("j1", JobState.DONE, "done")]


def test_stopped_worker_asks_for_nothing() -> None:
    cloud = FakeCloud("j1")
    stop = threading.Event()
    stop.set()
    _worker(cloud, _does()).run(stop)
    assert cloud.claims == 0
