"""One suite over the cloud's store: on SQLite and on PostgreSQL.

Neighbours: `test_migrations` over the steps between, `test_blobs` over what lies outside the database.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from builders import LABELS, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.cloud.store import access, analysis, cutting, fleet, inbox, jobs, registry, rollouts
from edgeloop.cloud.store.database import Database, TooLate, insert_ignoring
from edgeloop.cloud.store.engine import open_engine
from edgeloop.cloud.store.tables import api_tokens, metadata, rollout_devices
from edgeloop.contracts.access import Role
from edgeloop.contracts.api import (
    DriftRow,
    JobRequest,
    JobUpdate,
    JobView,
    JoinTokenRequest,
    LabelRequest,
    RolloutRequest,
)
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Alert, Assignment, DeviceReport, Event, Health, UpdateReport
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.states import JobState, Outcome, UpdateState
from postgres import PostgresServer
from small_cloud import enrol_request, event, reading, sample, update_report

CAMERA = "camera-1"


def _url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """A migrated, empty database."""
    if kind == "postgresql":
        return request.getfixturevalue("postgres").new_database("cloud_1")
    return f"sqlite:///{folder / 'cloud.db'}"


@pytest.fixture(scope="module")
def on_postgresql(postgres: PostgresServer) -> Iterator[Database]:
    opened = Database(postgres.new_database("cloud_1"))
    yield opened
    opened.close()


def _empty(database: Database) -> Database:
    def operation(connection: sa.Connection) -> None:
        # Only a superuser may, as tests are: it lets the log be emptied that nobody else can change.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table in metadata.sorted_tables:
            connection.execute(table.delete())

    database.write_now(operation)
    return database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """For what leaves nothing but rows behind."""
    if request.param == "postgresql":
        yield _empty(request.getfixturevalue("on_postgresql"))
        return
    opened = Database(_url(request.param, request, tmp_path))
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database(_url(request.param, request, tmp_path))
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _url(request.param, request, tmp_path)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'cloud.db'}")
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


def test_job_that_was_leased_by_a_clock_that_was_wrong_is_given_to_another(database: Database) -> None:
    job = _job(database)
    _claim(database, "w1", now_s=1e9, lease_s=60.0)
    assert _claim(database, "w2", now_s=1e9 - 30.0) is None
    claimed = _claim(database, "w2", now_s=1000.0)
    assert claimed is not None
    assert (claimed.job_id, claimed.worker) == (job.job_id, "w2")


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


def test_beat_is_kept_where_nothing_else_was_since_of_whoever_is_not_revoked(database: Database) -> None:
    names = ("camera-1", "camera-2", "camera-3")
    for name in names:
        _enrol(database, name)
    said = [DeviceReport(device_id=name, known_generation=0) for name in names]
    database.write_now(lambda c: fleet.save_reports(c, tuple(said), now_s=1.1))
    database.write_now(lambda c: fleet.save_reports(c, (said[1],), now_s=1.2))
    database.write_now(lambda c: fleet.revoke(c, "camera-3", now_s=1.3))
    beats = [fleet.Beat(msgspec.structs.replace(one, health=Health(readings=7)), 61.1, 1.1) for one in said]
    assert database.write_now(lambda c: fleet.save_beats(c, beats)) == {"camera-1"}
    views = {view.device_id: view for view in database.read_now(fleet.list_devices)}
    assert [views[name].last_seen_s for name in names] == [61.1, 1.2, 1.1]
    assert [view.report.health.readings for view in views.values() if view.report] == [7, 0, 0]


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


def _add_token(name: str) -> Callable[[sa.Connection], int]:
    def operation(connection: sa.Connection) -> int:
        connection.execute(_token(name))
        return 1

    return operation


def _names(url: str) -> list[str]:
    """What another process would see."""
    other = open_engine(url)
    try:
        with other.connect() as connection:
            return list(connection.execute(sa.select(api_tokens.c.name).order_by(api_tokens.c.name)).scalars())
    finally:
        other.dispose()


def _url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def test_awaited_write_is_in_the_database(fresh: Database) -> None:
    asyncio.run(fresh.write(_add_token("a")))
    assert _names(_url_of(fresh)) == ["a"]


def test_every_commit_reaches_the_disk_on_postgresql(postgres: PostgresServer) -> None:
    url = postgres.new_database("cloud_1")
    postgres.administer(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    database = Database(url)

    def setting(connection: sa.Connection) -> object:
        return connection.exec_driver_sql("SHOW synchronous_commit").scalar()

    told = database.write_now(setting), database.read_now(setting)
    database.close()
    assert told == ("on", "on")


def test_every_commit_reaches_the_disk_on_sqlite(sqlite: Database) -> None:
    def settings(connection: sa.Connection) -> tuple[object, object]:
        ask = connection.exec_driver_sql
        return ask("PRAGMA synchronous").scalar(), ask("PRAGMA journal_mode").scalar()

    assert (sqlite.write_now(settings), sqlite.read_now(settings)) == ((2, "wal"), (2, "wal"))


def _hold(database: Database) -> tuple[threading.Event, threading.Event]:
    """Keep the writer busy: (it has begun, let it go)."""
    begun, go = threading.Event(), threading.Event()

    def wait(connection: sa.Connection) -> None:
        begun.set()
        go.wait(10)

    database._writer.submit(wait)
    assert begun.wait(10)
    return begun, go


def test_operation_that_fails_does_not_undo_the_others_of_its_group(fresh: Database) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.execute(_token("b"))
        raise Refused("no")

    _, go = _hold(fresh)
    first = fresh._writer.submit(_add_token("a"))
    failing = fresh._writer.submit(fail)
    last = fresh._writer.submit(_add_token("c"))
    go.set()
    assert (first.result(10), last.result(10)) == (1, 1)
    with pytest.raises(Refused):
        failing.result(10)
    assert _names(_url_of(fresh)) == ["a", "c"]


def test_operation_that_breaks_a_constraint_does_not_undo_the_others(fresh: Database) -> None:
    _, go = _hold(fresh)
    futures = [fresh._writer.submit(_add_token(name)) for name in ("a", "a", "b")]
    go.set()
    assert [future.exception(10) is None for future in futures] == [True, False, True]
    assert _names(_url_of(fresh)) == ["a", "b"]


def test_writes_that_wait_are_committed_together(fresh: Database) -> None:
    commits: list[object] = []
    sa.event.listen(fresh.engine, "commit", commits.append)
    _, go = _hold(fresh)
    futures = [fresh._writer.submit(_add_token(f"{index}")) for index in range(50)]
    go.set()
    assert [future.result(10) for future in futures] == [1] * 50
    assert len(commits) == 2


def test_writes_of_many_threads_are_all_kept(fresh: Database) -> None:
    def write(name: str) -> None:
        for index in range(20):
            fresh.write_now(_add_token(f"{name}-{index}"))

    threads = [threading.Thread(target=write, args=(f"{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_names(_url_of(fresh))) == 160


def test_write_whose_caller_gave_up_does_not_stop_the_writer(fresh: Database) -> None:
    async def scenario() -> int:
        _, go = _hold(fresh)
        waiting = asyncio.create_task(fresh.write(_add_token("a")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, CancelledError)):
            await waiting
        go.set()
        async with asyncio.timeout(5):
            return await fresh.write(_add_token("b"))

    assert asyncio.run(scenario()) == 1


def test_write_whose_time_is_over_before_its_turn_is_left_out_and_told(fresh: Database) -> None:
    async def scenario() -> None:
        _, go = _hold(fresh)
        late = asyncio.create_task(fresh.write(_add_token("a"), until_s=time.monotonic() + 0.3))
        patient = asyncio.create_task(fresh.write(_add_token("b"), until_s=time.monotonic() + 600.0))
        whenever = asyncio.create_task(fresh.write(_add_token("c")))
        await asyncio.sleep(0.5)
        with pytest.raises(TooLate):
            await fresh.write(_add_token("d"), until_s=time.monotonic() + 0.1)  # what it would have to wait for has
        go.set()
        with pytest.raises(TooLate):
            await late
        await asyncio.gather(patient, whenever)

    asyncio.run(scenario())
    assert _names(_url_of(fresh)) == ["b", "c"]


def test_queue_is_as_long_as_the_oldest_that_is_being_written_has_waited(fresh: Database) -> None:
    assert fresh.queue_s() == 0.0
    _, go = _hold(fresh)
    first_s = fresh.queue_s()
    time.sleep(0.01)
    assert fresh.queue_s() >= first_s + 0.01
    go.set()
    fresh.write_now(_add_token("a"))
    while fresh.queue_s() > 0.0:  # it is told a moment after whoever waits
        time.sleep(0.001)


class _Groups:
    """Has the writer commit in groups of its choice, and notes how many operations were in each."""

    def __init__(self, database: Database, *, commit_s: float = 0.0) -> None:
        self._database = database
        self._commits = 0
        self._commit_s = commit_s
        self._sizes: Counter[int] = Counter()
        sa.event.listen(database.engine, "commit", self._committed)

    def _committed(self, _connection: sa.Connection) -> None:
        self._commits += 1
        time.sleep(self._commit_s)

    def _work(self, _connection: sa.Connection, *, for_s: float) -> None:
        self._sizes[self._commits] += 1
        time.sleep(for_s)

    def sizes(self, count: int, *, for_s: float = 0.0) -> list[int]:
        """Of the groups in which so many were done that waited together."""
        self._sizes.clear()
        _, go = _hold(self._database)
        futures = [self._database._writer.submit(partial(self._work, for_s=for_s)) for _ in range(count)]
        go.set()
        for future in futures:
            future.result(60)
        return list(self._sizes.values())


def test_groups_that_took_long_are_followed_by_smaller_ones_and_grow_again(fresh: Database) -> None:
    groups = _Groups(fresh)
    assert groups.sizes(100, for_s=0.008) == [100]
    smaller = groups.sizes(100)
    assert (smaller[0] <= 65, sum(smaller)) == (True, 100)
    for _ in range(30):
        if groups.sizes(100) == [100]:
            return
    pytest.fail("they did not grow again")


def test_commit_that_takes_long_makes_no_smaller_groups(fresh: Database) -> None:
    groups = _Groups(fresh, commit_s=0.6)
    assert [groups.sizes(100) for _ in range(2)] == [[100], [100]]


def test_those_whom_it_is_too_late_for_make_no_larger_groups(fresh: Database) -> None:
    async def come_too_late() -> None:
        _, go = _hold(fresh)
        until_s = time.monotonic() + 0.2
        late = [asyncio.create_task(fresh.write(_add_token(f"{one}"), until_s=until_s)) for one in range(400)]
        await asyncio.sleep(0.3)
        go.set()
        told = await asyncio.gather(*late, return_exceptions=True)
        assert {type(one) for one in told} == {TooLate}

    groups = _Groups(fresh)
    assert groups.sizes(100, for_s=0.02) == [100]
    asyncio.run(come_too_late())
    assert groups.sizes(100)[0] <= 25


def test_what_is_queued_is_committed_before_it_closes(url: str) -> None:
    database = Database(url)
    _, go = _hold(database)
    future = database._writer.submit(_add_token("a"))
    go.set()
    database.close()
    assert (future.result(0), _names(url)) == (1, ["a"])


def test_write_after_closing_is_unavailable(url: str) -> None:
    database = Database(url)
    database.close()
    future = database._writer.submit(lambda c: 1)
    with pytest.raises(Unavailable):
        future.result(2)


def test_failure_of_the_database_is_unavailable(sqlite: Database) -> None:
    with pytest.raises(Unavailable, match="no such table"):
        sqlite.write_now(lambda c: c.exec_driver_sql("INSERT INTO nowhere VALUES (1)").rowcount)
    with pytest.raises(Unavailable, match="no such table"):
        sqlite.read_now(lambda c: c.exec_driver_sql("SELECT * FROM nowhere").all())


def test_insert_counts_what_was_new(fresh: Database) -> None:
    rows = [{"secret_hash": name, "name": name, "created_at_s": 0.0} for name in ("a", "b")]
    more = [*rows, {"secret_hash": "c", "name": "c", "created_at_s": 0.0}]
    counts = [fresh.write_now(lambda c, r=r: insert_ignoring(c, api_tokens, r)) for r in (rows, more, [])]
    assert counts == [2, 1, 0]


# ---- several replicas on one PostgreSQL


@pytest.fixture
def pair(postgres: PostgresServer) -> Iterator[tuple[Database, Database]]:
    """What two replicas open."""
    url = postgres.new_database("cloud_1")
    first, second = Database(url), Database(url)
    yield first, second
    first.close()
    second.close()


def _at_once(*calls: Callable[[], object]) -> list[object]:
    """What each gave, or raised, when all began together."""
    gate = threading.Barrier(len(calls))

    def call(one: Callable[[], object]) -> object:
        gate.wait()
        try:
            return one()
        except EdgeloopError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_token_for_one_admits_one_whichever_replica_is_asked(pair: tuple[Database, Database]) -> None:
    for number in range(10):
        secret = pair[0].write_now(lambda c: fleet.make_join_token(c, JoinTokenRequest(uses=1), now_s=0.0))
        requests = [enrol_request(f"camera-{number}-{index}", secret) for index in range(2)]
        told = _at_once(
            *(
                lambda database=database, request=request: database.write_now(
                    lambda c: fleet.enrol(c, request, now_s=0.0)
                )
                for database, request in zip(pair, requests, strict=True)
            )
        )
        assert sorted(isinstance(one, Refused) for one in told) == [False, True]


def test_job_goes_to_one_worker_whichever_replica_is_asked(pair: tuple[Database, Database]) -> None:
    for _ in range(10):
        job = _job(pair[0])
        claims = _at_once(*(lambda one=one: _claim(one, "w", now_s=0.0) for one in pair))
        assert [claim.job_id for claim in claims if isinstance(claim, JobView)] == [job.job_id]


def test_batch_that_reaches_both_replicas_counts_once(pair: tuple[Database, Database]) -> None:
    batch = [event(index + 1) for index in range(200)]
    new = _at_once(*(lambda one=one: one.write_now(lambda c: inbox.add_events(c, batch), alone=False) for one in pair))
    assert sum(count for count in new if isinstance(count, int)) == 200


def _begin_rollout(connection: sa.Connection) -> Assignment:
    """A rollout to one device, which is given the bundle."""
    request = RolloutRequest(bundle="tiny@1.0.0", waves=("100%",))
    rollout_id = rollouts.add_rollout(connection, request, bundle="tiny@1.0.0", sizes=(1,), devices=[CAMERA], now_s=1.0)
    wanted = Assignment(generation=0, rollout_id=rollout_id, bundle="tiny@1.0.0", manifest_sha256="0" * 64)
    generation = fleet.assign(connection, CAMERA, wanted, now_s=1.0)
    rollouts.note_assigned(connection, rollout_id, CAMERA, generation=generation, before=None, now_s=1.0)
    return msgspec.structs.replace(wanted, generation=generation)


def test_device_that_confirms_while_the_rollout_is_aborted_elsewhere_stays_confirmed(
    pair: tuple[Database, Database],
) -> None:
    """Its word is committed by the other replica between this one's read and its write."""
    _enrol(pair[0])
    given = pair[0].write_now(_begin_rollout)
    rollout_id = given.rollout_id

    def said(state: UpdateState) -> list[tuple[str, UpdateReport]]:
        return [(CAMERA, update_report(given, state))]

    pair[1].write_now(lambda c: rollouts.note_reports(c, said(UpdateState.ACTIVE), now_s=2.0), alone=False)
    was = pair[0].read_now(lambda c: rollouts.get_row(c, rollout_id, CAMERA))
    assert pair[1].write_now(lambda c: rollouts.note_outcome(c, was, Outcome.UNREACHABLE, "silent"))
    assert not pair[0].write_now(lambda c: rollouts.note_outcome(c, was, Outcome.ROLLED_BACK, "told to go back"))
    was = pair[0].read_now(lambda c: rollouts.get_row(c, rollout_id, CAMERA))
    pair[1].write_now(lambda c: rollouts.note_reports(c, said(UpdateState.CONFIRMED), now_s=3.0), alone=False)
    assert not pair[0].write_now(lambda c: rollouts.note_outcome(c, was, Outcome.ROLLED_BACK, "told to go back"))
    now = pair[0].read_now(lambda c: rollouts.get_row(c, rollout_id, CAMERA))
    assert (now.outcome, now.reason) == (Outcome.CONFIRMED, "")


def test_rollouts_that_are_over_cost_a_look_nothing(sqlite: Database) -> None:
    """Whose part is over in all of them is not read again; counted in steps of SQLite's machine."""
    _enrol(sqlite)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def of_a_look() -> int:
        nonlocal steps

        def look(connection: sa.Connection) -> list[rollouts.Given]:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(count, 1)
            try:
                return rollouts.given(connection)
            finally:
                driver.set_progress_handler(None, 0)

        steps = 0
        assert [one.outcome for one in sqlite.read_now(look)] == [Outcome.UNREACHABLE]
        return steps

    def end_another(connection: sa.Connection, outcome: Outcome) -> None:
        given = _begin_rollout(connection)
        was = rollouts.get_row(connection, given.rollout_id, CAMERA)
        rollouts.note_outcome(connection, was, outcome, "over")

    for _ in range(50):
        sqlite.write_now(partial(end_another, outcome=Outcome.CONFIRMED))
    sqlite.write_now(partial(end_another, outcome=Outcome.UNREACHABLE))
    after_many = of_a_look()
    sqlite.write_now(lambda c: c.execute(rollout_devices.delete().where(rollout_devices.c.outcome == "confirmed")))
    assert 0 < of_a_look() == after_many


def test_report_whose_reason_holds_a_nul_is_kept_without_it(database: Database) -> None:
    _enrol(database)
    given = database.write_now(_begin_rollout)
    said = update_report(given, UpdateState.REFUSED, reason="the engine ended:\0segmentation fault")
    whole = DeviceReport(device_id=CAMERA, known_generation=given.generation, update=said)

    def keep(connection: sa.Connection) -> bool:
        fleet.save_reports(connection, (whole,), now_s=2.0)
        return rollouts.note_reports(connection, [(CAMERA, said)], now_s=2.0)

    assert database.write_now(keep)
    row = database.read_now(lambda c: rollouts.get_row(c, given.rollout_id, CAMERA))
    assert (row.outcome, row.reason) == (Outcome.REFUSED, "the engine ended:\ufffdsegmentation fault")


def test_groups_that_wait_for_each_other_in_a_circle_go_again(pair: tuple[Database, Database]) -> None:
    """Deadlock: each holds the row that the other one wants."""
    for name in "ab":
        pair[0].write_now(_add_token(name))
    met = threading.Barrier(2)

    def rename(first: str, second: str) -> Callable[[sa.Connection], None]:
        tries: list[int] = []

        def operation(connection: sa.Connection) -> None:
            tries.append(1)
            for index, name in enumerate((first, second)):
                row = api_tokens.update().where(api_tokens.c.secret_hash == name)
                connection.execute(row.values(created_at_s=api_tokens.c.created_at_s + 1))
                if index == 0 and len(tries) == 1:
                    met.wait(10)

        return operation

    told = _at_once(
        lambda: pair[0].write_now(rename("a", "b"), alone=False),
        lambda: pair[1].write_now(rename("b", "a"), alone=False),
    )
    times = pair[0].read_now(lambda c: list(c.execute(sa.select(api_tokens.c.created_at_s)).scalars()))
    assert (told, times) == ([None, None], [2.0, 2.0])


def test_who_decides_waits_for_the_other_who_decides(pair: tuple[Database, Database]) -> None:
    _, go = _hold(pair[0])
    waiting = pair[1]._writer.submit(_add_token("a"))
    with pytest.raises(TimeoutError):
        waiting.result(0.2)
    assert pair[1].read_now(lambda c: c.execute(sa.select(api_tokens)).first()) is None
    go.set()
    assert waiting.result(10) == 1


# ---- a PostgreSQL that goes away


def test_reads_and_writes_go_on_after_the_server_came_back(postgres: PostgresServer) -> None:
    database = Database(postgres.new_database("cloud_1"))
    database.write_now(_add_token("a"))
    database.read_now(lambda c: c.execute(sa.select(api_tokens)).all())
    postgres.halt()
    try:
        with pytest.raises(Unavailable):
            database.read_now(lambda c: c.execute(sa.select(api_tokens)).all())
        with pytest.raises(Unavailable, match="try again"):
            database.write_now(_add_token("b"))
    finally:
        postgres.start()
    told = database.read_now(lambda c: list(c.execute(sa.select(api_tokens.c.name)).scalars()))
    new = database.write_now(_add_token("c"))
    database.close()
    assert (told, new) == (["a"], 1)


def test_first_request_after_a_restart_is_served(postgres: PostgresServer) -> None:
    database = Database(postgres.new_database("cloud_1"))
    database.write_now(_add_token("a"))
    database.read_now(lambda c: c.execute(sa.select(api_tokens)).all())
    postgres.halt()
    postgres.start()
    told = database.read_now(lambda c: list(c.execute(sa.select(api_tokens.c.name)).scalars()))
    new = database.write_now(_add_token("b"))
    database.close()
    assert (told, new) == (["a"], 1)


def test_text_that_postgresql_cannot_hold_is_invalid_input(postgres: PostgresServer) -> None:
    database = Database(postgres.new_database("cloud_1"))
    try:
        with pytest.raises(InvalidInput, match="NUL"):
            database.write_now(_add_token("a\0b"))
        with pytest.raises(InvalidInput, match="NUL"):
            database.read_now(lambda c: c.execute(sa.select(api_tokens).where(api_tokens.c.name == "a\0b")).all())
        with pytest.raises(InvalidInput, match="too long"):
            database.write_now(_add_token("a" * 1000))
    finally:
        database.close()


def test_commuting_write_does_not_wait_for_who_decides(pair: tuple[Database, Database]) -> None:
    _, go = _hold(pair[0])
    try:
        assert pair[1].write_now(lambda c: inbox.add_events(c, (event(1),)), alone=False) == 1
    finally:
        go.set()


# ---- the access log's older part


def test_log_is_cut_at_a_line_and_stays_append_only(fresh: Database) -> None:
    who = access.Caller("alice", Role.OWNER)

    def add(connection: sa.Connection) -> list[int]:
        return [
            access.note_request(connection, who, action="a", target="t", address="x", now_s=at_s)
            for at_s in (10.0, 30.0, 20.0, 40.0)
        ]

    numbers = fresh.write_now(add)
    older = fresh.read_now(lambda c: cutting.older_than(c, 25.0))
    assert [one.entry for one in older] == numbers[:1], "a line between newer ones stays: the cut leaves no gap"
    fresh.write_now(lambda c: cutting.cut(c, numbers[0], sha256="0" * 64, now_s=50.0))
    left = fresh.read_now(lambda c: access.list_log(c, before=None, limit=10))
    assert [one.action for one in left] == ["cut-log", "a", "a", "a"]
    assert [one.entry for one in left[1:]] == numbers[:0:-1]
    for table in ("access_log", "access_outcomes"):
        with pytest.raises((sa.exc.DBAPIError, Unavailable), match="append-only"):
            fresh.write_now(lambda c, table=table: c.execute(sa.text(f"DELETE FROM {table}")))


def test_sender_that_was_revoked_is_refused_within_the_transaction(fresh: Database) -> None:
    _enrol(fresh)
    fresh.read_now(lambda c: fleet.require_good_standing(c, CAMERA))
    fresh.write_now(lambda c: fleet.revoke(c, CAMERA, now_s=1.0))
    with pytest.raises(Refused, match="was revoked"):
        fresh.write_now(lambda c: fleet.require_good_standing(c, CAMERA))
