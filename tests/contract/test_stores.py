"""One suite over the cloud's store: on a fresh database, and on one that was migrated down and up again; and over
the blobs, in a folder and in memory."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from builders import LABELS, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.cloud.store import analysis, fleet, inbox, jobs, registry
from edgeloop.cloud.store.blobs import Blobs, folder_blobs, memory_blobs
from edgeloop.cloud.store.database import Database, insert_ignoring
from edgeloop.cloud.store.tables import api_tokens, metadata
from edgeloop.contracts.api import DriftRow, JobRequest, JobUpdate, JobView, JoinTokenRequest, LabelRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Alert, DeviceReport, Event, Health
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.states import JobState
from small_cloud import enrol_request, event, reading, sample

CAMERA = "camera-1"


def _config(connection: sa.Connection) -> Config:
    """Alembic's settings as the database itself uses them."""
    from edgeloop.cloud import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'cloud.db'}"


def _down_and_up(database: Database) -> None:
    with database.engine.begin() as connection:
        command.downgrade(_config(connection), "base")
    with database.engine.begin() as connection:
        command.upgrade(_config(connection), "head")


@pytest.fixture(params=["fresh", "down and up"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database(_url(tmp_path))
    if request.param == "down and up":
        _down_and_up(opened)
    yield opened
    opened.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Database]:
    opened = Database(_url(tmp_path))
    yield opened
    opened.close()


def _add(database: Database, *events: Event) -> int:
    return database.write_now(lambda c: inbox.add_events(c, events))


def _enrol(database: Database, name: str = CAMERA) -> None:
    secret = database.write_now(lambda c: fleet.make_join_token(c, JoinTokenRequest(), now_s=0.0))
    database.write_now(lambda c: fleet.enrol(c, enrol_request(name, secret), now_s=0.0))


# ---- inbox


def test_new_events_are_counted_as_new(database: Database) -> None:
    assert _add(database, event(1), event(2)) == 2


def test_events_that_are_there_are_not_new(database: Database) -> None:
    _add(database, event(1), event(2))
    assert _add(database, event(2), event(3)) == 1


def test_empty_batch_adds_nothing(database: Database) -> None:
    assert _add(database) == 0


def test_event_twice_in_a_batch_is_one(database: Database) -> None:
    assert _add(database, event(1), event(1)) == 1


def test_first_word_on_an_identity_stands(database: Database) -> None:
    _add(database, event(1, reading("top_left")))
    _add(database, event(1, reading("bottom_right")))
    (view,) = database.read_now(lambda c: inbox.list_readings(c, CAMERA, after=0, limit=10))
    assert view.reading.prediction.label == "top_left"


def test_sample_under_an_identity_that_is_taken_leaves_no_trace(database: Database) -> None:
    _add(database, event(1))
    _add(database, event(1, sample()))
    assert database.read_now(lambda c: inbox.list_samples(c, device_id=None, labelled=None, limit=10)) == []


def test_events_are_counted_by_device_and_epoch(database: Database) -> None:
    _add(database, event(1), event(2, sample(b"12345")), event(9, Alert(what="w", detail="d")), event(1, epoch=8))
    _add(database, event(4, device_id="camera-2"))
    rows = database.read_now(inbox.count_events)
    told = {(row.device_id, row.epoch): (row.readings, row.samples, row.alerts, row.distinct) for row in rows}
    assert told == {(CAMERA, 7): (1, 1, 1, 3), (CAMERA, 8): (1, 0, 0, 1), ("camera-2", 7): (1, 0, 0, 1)}


def test_counts_say_the_newest_sequence_and_the_samples_bytes(database: Database) -> None:
    _add(database, event(1), event(2, sample(b"12345")), event(4, sample(b"123")))
    (row,) = database.read_now(inbox.count_events)
    assert (row.max_sequence, row.sample_bytes) == (4, 8)


def test_counts_of_an_empty_inbox_are_none(database: Database) -> None:
    assert database.read_now(inbox.count_events) == []


def test_largest_identity_is_kept(database: Database) -> None:
    largest = event(2**63 - 1, epoch=2**63 - 1, at_ms=2**63 - 1)
    _add(database, largest)
    (view,) = database.read_now(lambda c: inbox.list_readings(c, CAMERA, after=0, limit=10))
    assert (view.epoch, view.sequence, view.at_ms) == (2**63 - 1,) * 3


def test_readings_come_in_the_order_that_they_were_made(database: Database) -> None:
    _add(database, event(3), event(1), event(2, sample()), event(1, epoch=6))
    views = database.read_now(lambda c: inbox.list_readings(c, CAMERA, after=0, limit=10))
    assert [(view.row, view.epoch, view.sequence) for view in views] == [(1, 6, 1), (2, 7, 1), (3, 7, 3)]


def test_pages_of_readings_follow_one_another(database: Database) -> None:
    _add(database, *(event(index + 1) for index in range(7)))

    def page(after: int) -> list[int]:
        views = database.read_now(lambda c: inbox.list_readings(c, CAMERA, after=after, limit=3))
        assert [view.row for view in views] == list(range(after + 1, after + 1 + len(views)))
        return [view.sequence for view in views]

    assert [page(0), page(3), page(6), page(7)] == [[1, 2, 3], [4, 5, 6], [7], []]


def test_readings_of_another_device_are_not_shown(database: Database) -> None:
    _add(database, event(1, device_id="camera-2"))
    assert database.read_now(lambda c: inbox.list_readings(c, CAMERA, after=0, limit=10)) == []


# ---- samples


def _samples(database: Database, *, device_id: str | None = None, labelled: bool | None = None, limit: int = 10):
    return database.read_now(lambda c: inbox.list_samples(c, device_id=device_id, labelled=labelled, limit=limit))


def test_sample_shows_what_its_reading_predicted(database: Database) -> None:
    _add(database, event(1, reading("top_right", margin=0.25)), event(2, sample(b"12345")))
    (view,) = _samples(database)
    assert (view.sample_id, view.predicted, view.margin, view.bundle, view.size_bytes) == (
        "camera-1.7.2",
        "top_right",
        0.25,
        "tiny@1.0.0",
        5,
    )


def test_sample_whose_reading_has_not_come_yet_is_shown_without(database: Database) -> None:
    _add(database, event(2, sample()))
    (view,) = _samples(database)
    assert (view.predicted, view.bundle) == (None, "")


def test_newest_samples_come_first(database: Database) -> None:
    _add(database, event(2, sample(), at_ms=10), event(4, sample(), at_ms=30), event(6, sample(), at_ms=20))
    assert [view.at_ms for view in _samples(database, limit=2)] == [30, 20]


def test_samples_are_chosen_by_device(database: Database) -> None:
    _add(database, event(2, sample()), event(2, sample(), device_id="camera-2"))
    assert [view.device_id for view in _samples(database, device_id="camera-2")] == ["camera-2"]


def test_samples_are_chosen_by_whether_they_are_labelled(database: Database) -> None:
    _add(database, event(2, sample()), event(4, sample()))
    database.write_now(lambda c: inbox.set_label(c, "camera-1.7.4", LabelRequest(label="x", by="me"), now_s=1.0))
    told = [[view.sample_id for view in _samples(database, labelled=wanted)] for wanted in (True, False)]
    assert told == [["camera-1.7.4"], ["camera-1.7.2"]]


def test_label_is_kept_with_who_gave_it(database: Database) -> None:
    _add(database, event(2, sample()))
    view = database.write_now(lambda c: inbox.set_label(c, "camera-1.7.2", LabelRequest(label="x", by="me"), now_s=1.0))
    assert (view.label, view.labelled_by) == ("x", "me")


def test_second_label_corrects_the_first(database: Database) -> None:
    _add(database, event(2, sample()))
    for label in ("x", "y"):
        request = LabelRequest(label=label, by="me")
        database.write_now(lambda c, request=request: inbox.set_label(c, "camera-1.7.2", request, now_s=1.0))
    assert [view.label for view in _samples(database)] == ["y"]


def test_repeated_sample_keeps_its_label(database: Database) -> None:
    _add(database, event(2, sample()))
    database.write_now(lambda c: inbox.set_label(c, "camera-1.7.2", LabelRequest(label="x", by="me"), now_s=1.0))
    _add(database, event(2, sample()))
    assert [view.label for view in _samples(database)] == ["x"]


def test_sample_leads_to_its_bytes(database: Database) -> None:
    _add(database, event(2, sample(b"12345")))
    _, key = database.read_now(lambda c: inbox.get_sample(c, "camera-1.7.2"))
    assert key == inbox.sample_key(digest(b"12345"))


@pytest.mark.parametrize("sample_id", ["camera-1.7.3", "camera-9.7.2", "camera-1.8.2"])
def test_sample_that_is_not_there_is_not_found(database: Database, sample_id: str) -> None:
    _add(database, event(2, sample()))
    with pytest.raises(NotFound, match=sample_id):
        database.read_now(lambda c: inbox.get_sample(c, sample_id))
    with pytest.raises(NotFound):
        database.write_now(lambda c: inbox.set_label(c, sample_id, LabelRequest(label="x", by="me"), now_s=1.0))


@pytest.mark.parametrize(
    "sample_id", ["", "x", "a.b.c", "a.1", "a.1.2.3", "a.-1.2", "a.1.²", "a.\u0661.2",
     f"a.{2**63}.1", f"a.1.{'9' * 5000}"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_sample_id_that_is_none_is_invalid_input(fresh: Database, sample_id: str) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        fresh.read_now(lambda c: inbox.get_sample(c, sample_id))


# ---- jobs


def _job(database: Database, *, now_s: float = 0.0, bundle: str = "tiny@1.0.0") -> JobView:
    request = JobRequest(kind="train", bundle=bundle, recipe={"epochs": 3, "rate": 0.5, "fast": True, "kind": "x"})
    return database.write_now(lambda c: jobs.add_job(c, request, now_s=now_s))


def _claim(database: Database, worker: str, *, now_s: float, lease_s: float = 60.0) -> JobView | None:
    return database.write_now(lambda c: jobs.claim_job(c, worker, now_s=now_s, lease_s=lease_s))


def _update(database: Database, job: JobView, worker: str, state: JobState, *, now_s: float = 0.0) -> JobView:
    update = JobUpdate(worker=worker, state=state, progress=0.5, message="half", report={"accuracy": 0.9})
    return database.write_now(lambda c: jobs.update_job(c, job.job_id, update, now_s=now_s, lease_s=60.0))


def test_job_is_kept_as_it_was_asked_for(database: Database) -> None:
    job = _job(database)
    assert (job.state, job.worker, job.recipe) == (
        JobState.QUEUED,
        None,
        {"epochs": 3, "rate": 0.5, "fast": True, "kind": "x"},
    )


def test_oldest_open_job_is_claimed_first(database: Database) -> None:
    second, first = _job(database, now_s=2.0), _job(database, now_s=1.0)
    claimed = [_claim(database, "w", now_s=3.0), _claim(database, "w", now_s=3.0)]
    assert [job.job_id for job in claimed if job] == [first.job_id, second.job_id]


def test_nothing_is_claimed_where_nothing_waits(database: Database) -> None:
    assert _claim(database, "w", now_s=0.0) is None


def test_claimed_job_is_not_given_to_another(database: Database) -> None:
    _job(database)
    _claim(database, "w1", now_s=0.0)
    assert _claim(database, "w2", now_s=59.0) is None


def test_job_whose_lease_ran_out_is_given_to_another(database: Database) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0, lease_s=60.0)
    again = _claim(database, "w2", now_s=61.0)
    assert again is not None
    assert (again.job_id, again.worker, again.state) == (job.job_id, "w2", JobState.RUNNING)


def test_worker_that_lost_its_job_is_refused(database: Database) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0)
    _claim(database, "w2", now_s=61.0)
    with pytest.raises(Refused, match="w2"):
        _update(database, job, "w1", JobState.DONE)


def test_refused_word_changes_nothing(database: Database) -> None:
    job = _job(database)
    before = _claim(database, "w1", now_s=0.0)
    with pytest.raises(Refused):
        _update(database, job, "w2", JobState.DONE)
    assert database.read_now(lambda c: jobs.get_job(c, job.job_id)) == before


def test_word_of_its_worker_renews_the_lease(database: Database) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0)
    _update(database, job, "w1", JobState.RUNNING, now_s=50.0)
    assert _claim(database, "w2", now_s=100.0) is None


def test_word_of_its_worker_is_kept(database: Database) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0)
    told = _update(database, job, "w1", JobState.DONE)
    assert (told.state, told.progress, told.message, told.report) == (JobState.DONE, 0.5, "half", {"accuracy": 0.9})


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED])
def test_job_that_is_over_is_not_given_out_again(database: Database, state: JobState) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0)
    _update(database, job, "w1", state)
    assert _claim(database, "w2", now_s=1e9) is None


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED])
def test_job_that_is_over_takes_no_further_word(database: Database, state: JobState) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=0.0)
    _update(database, job, "w1", state)
    with pytest.raises(Refused, match=state):
        _update(database, job, "w1", JobState.RUNNING)


def test_job_that_nobody_claimed_takes_no_word(database: Database) -> None:
    job = _job(database)
    with pytest.raises(Refused):
        _update(database, job, "w1", JobState.DONE)


def test_workers_that_ask_at_once_get_different_jobs(database: Database) -> None:
    for index in range(10):
        _job(database, now_s=float(index))
    claimed: list[JobView | None] = []
    threads = [
        threading.Thread(target=lambda name=f"w{index}": claimed.append(_claim(database, name, now_s=20.0)))
        for index in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.job_id for job in claimed if job}) == 10


def test_artifacts_are_listed_once_and_sorted(database: Database) -> None:
    job = _job(database)
    for name in ("b", "a", "b"):
        database.write_now(lambda c, name=name: jobs.add_artifact(c, job.job_id, name))
    assert database.read_now(lambda c: jobs.get_job(c, job.job_id)).artifacts == ("a", "b")


def test_jobs_are_listed_by_bundle(database: Database) -> None:
    _job(database, bundle="tiny@1.0.0")
    wanted = _job(database, bundle="tiny@2.0.0")
    assert database.read_now(lambda c: jobs.list_jobs(c, bundle="tiny@2.0.0")) == [wanted]


def test_job_that_is_not_there_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound):
        database.read_now(lambda c: jobs.get_job(c, "nothing"))


# ---- analysis


def _drift(database: Database, *, last: int = 200) -> list[DriftRow]:
    return database.read_now(lambda c: analysis.drift(c, "tiny@1.0.0", last=last))


def _readings(count: int, *, start: int = 1, device_id: str = CAMERA, **made: float) -> list[Event]:
    return [event(start + index, reading(**made), device_id=device_id) for index in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "drifted"),
    [
        ({"novelty": 0.0, "energy_z": 0.0}, False),
        ({"novelty": 0.9, "energy_z": 0.9}, False),
        ({"novelty": 1.1, "energy_z": 0.0}, True),
        ({"novelty": 0.0, "energy_z": 1.1}, True),
        ({"novelty": -3.0, "energy_z": -3.0}, False),
        ({}, False),
    ],
    ids=str,
)
def test_device_has_drifted_when_its_mean_is_a_standard_deviation_off(
    database: Database, made: dict[str, float], drifted: bool
) -> None:
    _enrol(database)
    _add(database, *_readings(40, **made))
    assert [row.drifted for row in _drift(database)] == [drifted]


def test_drifted_device_is_told_apart_from_a_clean_one(database: Database) -> None:
    _enrol(database)
    _enrol(database, "camera-2")
    _add(database, *_readings(40, novelty=3.0), *_readings(40, device_id="camera-2", novelty=0.1))
    assert {row.device_id: row.drifted for row in _drift(database)} == {CAMERA: True, "camera-2": False}


def test_verdict_says_the_figure_and_the_bound(database: Database) -> None:
    _enrol(database)
    _add(database, *_readings(40, novelty=3.0))
    assert _drift(database)[0].why == "mean novelty +3.00 std of clean data, bound +1.00"


def test_few_readings_give_no_verdict(database: Database) -> None:
    _enrol(database)
    _add(database, *_readings(analysis.MIN_READINGS - 1, novelty=9.0))
    (row,) = _drift(database)
    assert (row.drifted, "only 29 readings" in row.why) == (False, True)


def test_just_enough_readings_give_a_verdict(database: Database) -> None:
    _enrol(database)
    _add(database, *_readings(analysis.MIN_READINGS, novelty=9.0))
    assert _drift(database)[0].drifted


def test_only_the_newest_readings_are_judged(database: Database) -> None:
    _enrol(database)
    _add(database, *_readings(200, novelty=9.0), *_readings(50, start=201, novelty=0.0))
    (row,) = _drift(database, last=50)
    assert (row.readings, row.novelty_mean, row.drifted) == (50, 0.0, False)


def test_means_are_those_of_the_readings(database: Database) -> None:
    _enrol(database)
    _add(database, *_readings(2, novelty=1.0, energy_z=-2.0, margin=0.5), *_readings(2, start=3, margin=1.0))
    (row,) = _drift(database)
    assert (row.readings, row.margin_mean, row.novelty_mean, row.energy_z_mean) == (4, 0.75, 1.0, -2.0)


def test_readings_of_another_bundle_are_not_judged(database: Database) -> None:
    _enrol(database)
    _add(database, event(1, reading(novelty=9.0, bundle="tiny@2.0.0")))
    assert _drift(database) == []


def _report(database: Database, *, alarm: bool, active: str) -> None:
    health = Health(drift_alarm=alarm, drift_reason="novelty" if alarm else "")
    said = DeviceReport(device_id=CAMERA, known_generation=0, active=active, health=health)
    database.write_now(lambda c: fleet.save_reports(c, (said,), now_s=1.0))


@pytest.mark.parametrize(
    ("alarm", "active", "drifted"),
    [(True, "tiny@1.0.0", True), (False, "tiny@1.0.0", False), (True, "tiny@2.0.0", False)],
    ids=["on", "off", "of another bundle"],
)
def test_devices_own_alarm_counts_from_the_first_reading(
    database: Database, alarm: bool, active: str, drifted: bool
) -> None:
    _enrol(database)
    _report(database, alarm=alarm, active=active)
    _add(database, event(1))
    (row,) = _drift(database)
    assert (row.device_alarm, row.drifted) == (drifted, drifted)


def test_accuracy_is_the_share_right_among_labelled_samples(database: Database) -> None:
    _enrol(database)
    for index in range(4):
        _add(database, event(2 * index + 1, reading(LABELS[0])), event(2 * index + 2, sample()))
    for sequence, label in ((2, LABELS[0]), (4, LABELS[1]), (6, LABELS[0])):
        request = LabelRequest(label=label, by="me")
        database.write_now(lambda c, s=sequence, r=request: inbox.set_label(c, f"camera-1.7.{s}", r, now_s=1.0))
    (row,) = _drift(database)
    assert (row.labelled, row.labelled_accuracy) == (3, pytest.approx(2 / 3))


def test_accuracy_without_labels_is_none(database: Database) -> None:
    _enrol(database)
    _add(database, event(1), event(2, sample()))
    (row,) = _drift(database)
    assert (row.labelled, row.labelled_accuracy) == (0, None)


# ---- registry


def _list(database: Database, version: str, targets_version: int, *, now_s: float = 0.0) -> None:
    manifest = make_parts(version=version).manifest
    signed = (targets_version, b"signed")
    database.write_now(lambda c: registry.add_bundle(c, manifest, to_json(manifest), signed, now_s=now_s))


def _first_targets(database: Database) -> None:
    from edgeloop.cloud.store.tables import signed_targets

    row = signed_targets.insert().values(version=1, metadata=b"first", published_at_s=0.0)
    database.write_now(lambda c: c.execute(row))


def test_manifest_is_kept_byte_for_byte(database: Database) -> None:
    _first_targets(database)
    _list(database, "1.0.0", 2)
    kept = database.read_now(lambda c: registry.manifest_bytes(c, BundleRef("tiny", "1.0.0")))
    assert kept == to_json(make_parts(version="1.0.0").manifest)


def test_newest_version_is_by_number(database: Database) -> None:
    _first_targets(database)
    for targets_version, version in ((2, "1.10.0"), (3, "1.9.0")):
        _list(database, version, targets_version)
    assert database.read_now(lambda c: registry.newest_bundle(c, "tiny")).version == "1.10.0"


def test_bundles_are_listed_as_they_were_published(database: Database) -> None:
    _first_targets(database)
    for targets_version, version in ((2, "1.10.0"), (3, "1.9.0")):
        _list(database, version, targets_version, now_s=float(targets_version))
    assert [view.version for view in database.read_now(registry.list_bundles)] == ["1.10.0", "1.9.0"]


def test_version_that_is_taken_is_refused(database: Database) -> None:
    _first_targets(database)
    _list(database, "1.0.0", 2)
    with pytest.raises(Refused, match="published already"):
        _list(database, "1.0.0", 3)


@pytest.mark.parametrize("targets_version", [1, 3])
def test_targets_that_do_not_follow_the_newest_are_refused(database: Database, targets_version: int) -> None:
    _first_targets(database)
    with pytest.raises(Refused, match="in between"):
        _list(database, "1.0.0", targets_version)


def test_bundle_that_is_not_there_is_not_found(database: Database) -> None:
    ref = BundleRef("tiny", "1.0.0")
    for ask in (registry.get_bundle, registry.manifest_bytes):
        with pytest.raises(NotFound, match=r"tiny@1\.0\.0"):
            database.read_now(lambda c, ask=ask: ask(c, ref))
    with pytest.raises(NotFound):
        database.read_now(lambda c: registry.newest_bundle(c, "tiny"))
    with pytest.raises(NotFound, match="cloud init"):
        database.read_now(registry.newest_targets)


# ---- the writer


def _token(name: str) -> "sa.Insert":
    return api_tokens.insert().values(secret_hash=name, name=name, created_at_s=0.0)


def _names(folder: Path) -> list[str]:
    """What another process would see in the file."""
    connection = sqlite3.connect(folder / "cloud.db")
    try:
        return [name for (name,) in connection.execute("SELECT name FROM api_tokens ORDER BY name")]
    finally:
        connection.close()


def test_awaited_write_is_in_the_file(fresh: Database, tmp_path: Path) -> None:
    asyncio.run(fresh.write(lambda c: c.execute(_token("a")).rowcount))
    assert _names(tmp_path) == ["a"]


def test_every_commit_reaches_the_disk(fresh: Database) -> None:
    def settings(connection: sa.Connection) -> tuple[object, object]:
        ask = connection.exec_driver_sql
        return ask("PRAGMA synchronous").scalar(), ask("PRAGMA journal_mode").scalar()

    assert (fresh.write_now(settings), fresh.read_now(settings)) == ((2, "wal"), (2, "wal"))


def _hold(database: Database) -> tuple[threading.Event, threading.Event]:
    """Keep the writer busy: (it has begun, let it go)."""
    begun, go = threading.Event(), threading.Event()

    def wait(connection: sa.Connection) -> None:
        begun.set()
        go.wait(10)

    database._writer.submit(wait)
    assert begun.wait(10)
    return begun, go


def test_operation_that_fails_does_not_undo_the_others_of_its_group(fresh: Database, tmp_path: Path) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.execute(_token("b"))
        raise Refused("no")

    _, go = _hold(fresh)
    first = fresh._writer.submit(lambda c: c.execute(_token("a")).rowcount)
    failing = fresh._writer.submit(fail)
    last = fresh._writer.submit(lambda c: c.execute(_token("c")).rowcount)
    go.set()
    assert (first.result(10), last.result(10)) == (1, 1)
    with pytest.raises(Refused):
        failing.result(10)
    assert _names(tmp_path) == ["a", "c"]


def test_operation_that_breaks_a_constraint_does_not_undo_the_others(fresh: Database, tmp_path: Path) -> None:
    _, go = _hold(fresh)
    futures = [fresh._writer.submit(lambda c, n=name: c.execute(_token(n)).rowcount) for name in ("a", "a", "b")]
    go.set()
    assert [future.exception(10) is None for future in futures] == [True, False, True]
    assert _names(tmp_path) == ["a", "b"]


def test_writes_that_wait_are_committed_together(fresh: Database) -> None:
    commits: list[object] = []
    sa.event.listen(fresh.engine, "commit", commits.append)
    _, go = _hold(fresh)
    futures = [fresh._writer.submit(lambda c, n=f"{index}": c.execute(_token(n)).rowcount) for index in range(50)]
    go.set()
    assert [future.result(10) for future in futures] == [1] * 50
    assert len(commits) == 2


def test_writes_of_many_threads_are_all_kept(fresh: Database, tmp_path: Path) -> None:
    def write(name: str) -> None:
        for index in range(20):
            token = _token(f"{name}-{index}")
            fresh.write_now(lambda c, token=token: c.execute(token).rowcount)

    threads = [threading.Thread(target=write, args=(f"{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_names(tmp_path)) == 160


def test_write_whose_caller_gave_up_does_not_stop_the_writer(fresh: Database) -> None:
    async def scenario() -> int:
        _, go = _hold(fresh)
        waiting = asyncio.create_task(fresh.write(lambda c: c.execute(_token("a")).rowcount))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, CancelledError)):
            await waiting
        go.set()
        async with asyncio.timeout(5):
            return await fresh.write(lambda c: c.execute(_token("b")).rowcount)

    assert asyncio.run(scenario()) == 1


def test_what_is_queued_is_committed_before_it_closes(tmp_path: Path) -> None:
    database = Database(_url(tmp_path))
    _, go = _hold(database)
    future = database._writer.submit(lambda c: c.execute(_token("a")).rowcount)
    go.set()
    database.close()
    assert (future.result(0), _names(tmp_path)) == (1, ["a"])


def test_write_after_closing_is_unavailable(tmp_path: Path) -> None:
    database = Database(_url(tmp_path))
    database.close()
    future = database._writer.submit(lambda c: 1)
    with pytest.raises(Unavailable):
        future.result(2)


def test_failure_of_the_database_is_unavailable(fresh: Database) -> None:
    with pytest.raises(Unavailable, match="no such table"):
        fresh.write_now(lambda c: c.exec_driver_sql("INSERT INTO nowhere VALUES (1)").rowcount)
    with pytest.raises(Unavailable, match="no such table"):
        fresh.read_now(lambda c: c.exec_driver_sql("SELECT * FROM nowhere").all())


def test_insert_counts_what_was_new(fresh: Database) -> None:
    rows = [{"secret_hash": name, "name": name, "created_at_s": 0.0} for name in ("a", "b")]
    more = [*rows, {"secret_hash": "c", "name": "c", "created_at_s": 0.0}]
    counts = [fresh.write_now(lambda c, r=r: insert_ignoring(c, api_tokens, r)) for r in (rows, more, [])]
    assert counts == [2, 1, 0]


# ---- migrations


def test_migrations_end_where_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_downgrade_leaves_no_table_behind_even_with_data(fresh: Database) -> None:
    _enrol(fresh)
    _add(fresh, event(1), event(2, sample()))
    with fresh.engine.begin() as connection:
        command.downgrade(_config(connection), "base")
    with fresh.engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


def test_reopened_database_keeps_its_data(tmp_path: Path) -> None:
    for expected in ([], ["a"]):
        database = Database(_url(tmp_path))
        assert _names(tmp_path) == expected
        if not expected:
            database.write_now(lambda c: c.execute(_token("a")).rowcount)
        database.close()


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0" + bytes(4000)]
)
def test_file_that_is_no_database_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cloud.db").write_bytes(content)
    with pytest.raises(Corrupt, match="backup"):
        Database(_url(tmp_path))


def test_database_of_a_newer_edgeloop_is_turned_down(tmp_path: Path) -> None:
    Database(_url(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "cloud.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(EdgeloopError, match="9999"):
        Database(_url(tmp_path))


# ---- blobs


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return folder_blobs(tmp_path / "blobs") if request.param == "folder" else memory_blobs()


@pytest.mark.parametrize("data", [b"x", b"", bytes(range(256)) * 5000], ids=["one byte", "empty", "large"])
def test_blob_is_read_as_it_was_put(blobs: Blobs, data: bytes) -> None:
    asyncio.run(blobs.put("a/b", data))
    assert asyncio.run(blobs.get("a/b")) == data


def test_part_of_a_blob_is_read(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"0123456789"))
    assert asyncio.run(blobs.get("a/b", start=3, stop=7)) == b"3456"


def test_same_key_again_replaces(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"old and long"))
    asyncio.run(blobs.put("a/b", b"new"))
    assert asyncio.run(blobs.get("a/b")) == b"new"


def test_size_of_a_blob_is_known(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"12345"))
    assert asyncio.run(blobs.size_bytes("a/b")) == 5


@pytest.mark.parametrize("key", ["a/c", "a", "b/b"])
def test_blob_that_is_not_there_has_no_size(blobs: Blobs, key: str) -> None:
    asyncio.run(blobs.put("a/b", b"12345"))
    assert asyncio.run(blobs.size_bytes(key)) is None


@pytest.mark.parametrize("part", [{}, {"start": 0, "stop": 1}], ids=["whole", "part"])
def test_blob_that_is_not_there_is_not_found(blobs: Blobs, part: dict[str, int]) -> None:
    with pytest.raises(NotFound, match="a/c"):
        asyncio.run(blobs.get("a/c", **part))


def test_many_at_once_are_kept_apart(blobs: Blobs) -> None:
    async def scenario() -> list[bytes]:
        await asyncio.gather(*(blobs.put(f"k/{index}", f"{index}".encode()) for index in range(50)))
        return await asyncio.gather(*(blobs.get(f"k/{index}") for index in range(50)))

    assert asyncio.run(scenario()) == [f"{index}".encode() for index in range(50)]


def test_folder_outlives_the_process_that_filled_it(tmp_path: Path) -> None:
    asyncio.run(folder_blobs(tmp_path / "blobs").put("a/b", b"x"))
    assert asyncio.run(folder_blobs(tmp_path / "blobs").get("a/b")) == b"x"


def test_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    blobs = folder_blobs(tmp_path / "blobs")
    (tmp_path / "blobs" / "a").write_bytes(b"a file where a folder is needed")
    with pytest.raises(Unavailable):
        asyncio.run(blobs.put("a/b", b"x"))
