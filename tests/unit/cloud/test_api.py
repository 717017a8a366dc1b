"""The REST API through its real client, over the real app in this process."""

import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from litestar.testing import TestClient

from builders import make_bundle, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.cloud.app import make_app
from edgeloop.cloud.hub import CloudHub
from edgeloop.cloud.store import inbox
from edgeloop.contracts.api import (
    JobRequest,
    JobUpdate,
    JoinTokenRequest,
    LabelRequest,
    PublishRequest,
    RolloutRequest,
)
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import ErrorReply, SendRequest
from edgeloop.contracts.states import JobState, RolloutState
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.seal import Keyring
from small_cloud import SmallCloud, enrol_request, event, reading, sample

CAMERA = "camera-1"


@dataclass
class Office:
    """An operator at a cloud: the API's client, the raw HTTP client below it, and the cloud itself."""

    api: CloudApi
    http: TestClient
    cloud: SmallCloud
    folder: Path

    def publish(self, version: str = "1.0.0") -> None:
        """Publish the tiny bundle as a person does."""
        publish(make_bundle(self.folder, version=version), self.api, targets_key=self.cloud.targets_key)

    def fill_inbox(self, data: bytes = b"pixels", *, media: str = "image/png") -> str:
        """One device, one reading and its sample; returns the sample's id."""
        self.cloud.enrol(CAMERA)
        asyncio.run(self.cloud.stores.blobs.put(inbox.sample_key(digest(data)), data))
        batch = (event(1), event(2, sample(data, media=media)))
        self.cloud.database.write_now(lambda c: inbox.add_events(c, batch))
        return f"{CAMERA}.7.2"


@pytest.fixture
def office(cloud: SmallCloud, tmp_path: Path) -> Iterator[Office]:
    app = make_app(cloud.config, cloud.stores, cloud.waker)
    operator = read_operator(cloud.config.folder / "operator.json")
    with TestClient(app, base_url="http://cloud.test", raise_server_exceptions=False) as http:
        http.headers["authorization"] = f"Bearer {operator.token}"
        yield Office(CloudApi(operator, client=http), http, cloud, tmp_path)


def _error(content: bytes) -> ErrorReply:
    return msgspec.json.decode(content, type=ErrorReply)


# ---- tokens


def _routes(office: Office) -> list[tuple[str, str]]:
    """Method and path of every route that the schema lists."""
    schema = office.http.get("/api/schema/openapi.json").json()
    return [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic b3A6b3A=", "Bearer é"],
    ids=repr,
)
def test_without_the_operators_token_it_is_refused(office: Office, header: str | None) -> None:
    del office.http.headers["authorization"]
    headers = {} if header is None else {"authorization": header.encode()}
    response = office.http.get("/api/v1/status", headers=headers)
    assert (response.status_code, _error(response.content).code) == (403, "refused")


def test_no_route_is_open_without_a_token(office: Office) -> None:
    routes = _routes(office)
    del office.http.headers["authorization"]
    answers = {(method, path): office.http.request(method, path).status_code for method, path in routes}
    assert len(answers) > 15
    assert set(answers.values()) == {403}


def test_client_with_another_token_is_refused(office: Office) -> None:
    office.http.headers["authorization"] = "Bearer " + "x" * 43
    with pytest.raises(Refused, match="operator file"):
        office.api.status()


def test_refusal_says_how_a_token_is_sent(office: Office) -> None:
    del office.http.headers["authorization"]
    assert "Authorization: Bearer" in _error(office.http.get("/api/v1/status").content).message


# ---- every method of the client


def test_status_counts(office: Office) -> None:
    office.publish()
    office.fill_inbox()
    status = office.api.status()
    assert (status.devices, status.bundles, status.events, status.samples) == (1, 1, 2, 1)


def test_join_token_admits_a_device(office: Office) -> None:
    token = office.api.make_join_token(JoinTokenRequest(uses=2, labels={"site": "hall"}))
    secret = parse_join_token(token.token).secret
    office.cloud.clock.now_s = token.expires_at_s - 1
    asyncio.run(office.cloud.hub.enrol(enrol_request(CAMERA, secret)))
    assert [(view.device_id, view.labels) for view in office.api.devices()] == [(CAMERA, {"site": "hall"})]


def test_join_token_stands_for_this_clouds_roots(office: Office) -> None:
    join = parse_join_token(office.api.make_join_token(JoinTokenRequest()).token)
    join.check_roots(*office.cloud.roots.newest())


def test_bundle_is_published_through_the_api(office: Office) -> None:
    office.publish()
    assert [view.manifest for view in office.api.bundles()] == [make_parts().manifest]


def test_signed_targets_are_the_newest(office: Office) -> None:
    before = office.api.signed_targets()
    office.publish()
    assert (b'"version":1' in before, b'"version":2' in office.api.signed_targets()) == (True, True)


def test_file_that_was_put_is_no_longer_missing(office: Office) -> None:
    office.api.put_file(digest(b"a"), b"a")
    assert office.api.missing_files([digest(b"a"), digest(b"b")]) == [digest(b"b")]


def test_unsigned_bundle_is_refused(office: Office) -> None:
    current = office.api.signed_targets()
    with pytest.raises(Refused):
        office.api.publish(PublishRequest(manifest=to_json(make_parts().manifest), targets_metadata=current))


def test_rollout_is_started_shown_and_aborted(office: Office) -> None:
    office.publish()
    office.cloud.enrol("a", "b")
    view = office.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0"))
    assert office.api.rollout(view.rollout_id) == view
    assert office.api.rollouts() == [view]
    ended = office.api.abort_rollout(view.rollout_id, "a second thought")
    assert (ended.state, ended.reason) == (RolloutState.ABORTED, "a second thought")


def test_rollouts_are_paged(office: Office) -> None:
    office.publish()
    office.cloud.enrol("a")
    views = [office.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0")).rollout_id for _ in range(3)]
    assert [view.rollout_id for view in office.api.rollouts()] == views
    pages = [office.http.get("/api/v1/rollouts", params={"limit": 2, "after": after}).json() for after in views]
    assert [[view["rollout_id"] for view in page] for page in pages] == [views[1:], views[2:], []]
    assert office.http.get("/api/v1/rollouts", params={"after": "never"}).status_code == 404
    assert office.http.get("/api/v1/rollouts", params={"limit": 101}).status_code == 400


def test_rollout_is_paused_resumed_and_aborted_without_going_back(office: Office) -> None:
    office.publish()
    office.cloud.enrol("a", "b")
    view = office.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0"))
    assert office.api.pause_rollout(view.rollout_id).state is RolloutState.PAUSED
    assert office.api.resume_rollout(view.rollout_id).state is RolloutState.RUNNING
    office.api.abort_rollout(view.rollout_id, "enough", keep=True)
    assert [one.desired for one in office.api.devices()] == ["tiny@1.0.0", None]


def test_samples_are_shown_and_labelled(office: Office) -> None:
    sample_id = office.fill_inbox()
    assert [view.sample_id for view in office.api.samples(device_id=CAMERA, labelled=False, limit=5)] == [sample_id]
    assert office.api.label(sample_id, LabelRequest(label="top_left", by="me")).label == "top_left"
    assert [view.labelled_by for view in office.api.samples(labelled=True)] == ["me"]


def test_samples_own_bytes_are_served(office: Office) -> None:
    sample_id = office.fill_inbox(b"some pixels")
    assert office.api.sample_data(sample_id) == b"some pixels"


@pytest.mark.parametrize("media", ["text/html", "", "a\r\nset-cookie: x=1", "☃", "x" * 5000], ids=lambda m: repr(m[:9]))
def test_media_type_that_a_device_claims_does_no_harm(office: Office, media: str) -> None:
    sample_id = office.fill_inbox(b"<script>", media=media)
    response = office.http.get(f"/api/v1/samples/{sample_id}/data")
    assert (response.status_code, response.content) == (200, b"<script>")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"].startswith("attachment")
    assert re.fullmatch(r"[a-z]+/[a-z0-9.+-]+(; charset=utf-8)?", response.headers["content-type"])


def test_samples_lie_sealed_in_the_bucket_where_the_cloud_has_a_key(office: Office) -> None:
    office.cloud.enrol(CAMERA)
    sealing = msgspec.structs.replace(office.cloud.stores, keyring=Keyring((b"k" * 32,)))
    plain_id = f"{CAMERA}.7.1"
    for stores, one in ((office.cloud.stores, event(1, sample(b"old"))), (sealing, event(2, sample(b"some pixels")))):
        hub = CloudHub(stores, office.cloud.conductor, office.cloud.waker)
        asyncio.run(hub.send(CAMERA, SendRequest(events=(one,))))
    lying = [path.read_bytes() for path in office.cloud.config.blobs_folder.rglob("*") if path.is_file()]
    assert (b"old" in lying, any(b"pixels" in data for data in lying)) == (True, False)
    with pytest.raises(Unavailable, match="--sample-key"):
        office.api.sample_data(f"{CAMERA}.7.2")
    app = make_app(office.cloud.config, sealing, office.cloud.waker)
    with TestClient(app, base_url="http://cloud.test") as http:
        http.headers["authorization"] = office.http.headers["authorization"]
        api = CloudApi(Operator(url="http://cloud.test", token="t"), client=http)
        assert [api.sample_data(one) for one in (plain_id, f"{CAMERA}.7.2")] == [b"old", b"some pixels"]


def test_drift_is_shown(office: Office) -> None:
    office.fill_inbox()
    assert [(row.device_id, row.readings) for row in office.api.drift("tiny@1.0.0")] == [(CAMERA, 1)]


def test_events_are_counted(office: Office) -> None:
    office.fill_inbox()
    assert [(row.device_id, row.readings, row.samples) for row in office.api.event_counts()] == [(CAMERA, 1, 1)]


def test_counts_are_paged_by_device(office: Office) -> None:
    for name in ("a", "b", "c"):
        office.cloud.enrol(name)
        batch = tuple(event(1, device_id=name, epoch=epoch) for epoch in (7, 8))
        asyncio.run(office.cloud.hub.send(name, SendRequest(events=batch)))
    counts = [(row.device_id, row.epoch) for row in office.api.event_counts()]
    assert counts == [(name, epoch) for name in ("a", "b", "c") for epoch in (7, 8)]
    for after, names in (("a", "bbcc"), ("b", "cc"), ("c", "")):
        rows = office.http.get("/api/v1/events/counts", params={"after": after, "limit": 2}).json()
        assert "".join(row["device_id"] for row in rows) == names


def test_readings_are_paged(office: Office) -> None:
    office.cloud.enrol(CAMERA)
    batch = tuple(event(index + 1) for index in range(3))
    office.cloud.database.write_now(lambda c: inbox.add_events(c, batch))
    assert [view.sequence for view in office.api.readings(CAMERA, after=1, limit=1)] == [2]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_one_strange_reading_does_not_hide_the_others(office: Office, number: float) -> None:
    office.cloud.enrol(CAMERA)
    strange = (event(3, reading(margin=number)), event(5, reading(novelty=number)))
    batch = SendRequest(events=(event(1), *strange, event(4, sample()), event(6, sample())))
    asyncio.run(office.cloud.hub.send(CAMERA, batch))
    assert office.api.readings(CAMERA)[0].sequence == 1
    assert len(office.api.samples()) == 2
    assert len(office.api.drift("tiny@1.0.0")) == 1


def test_job_goes_from_hand_to_hand(office: Office) -> None:
    job = office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0", recipe={"epochs": 3}))
    claimed = office.api.claim_job("w1")
    assert claimed is not None
    assert (claimed.job_id, claimed.worker) == (job.job_id, "w1")
    office.api.put_artifact(job.job_id, "tiny-1.0.0.edgeloop", b"made")
    done = office.api.update_job(job.job_id, JobUpdate(worker="w1", state=JobState.DONE, progress=1.0))
    assert (done.state, done.artifacts) == (JobState.DONE, ("tiny-1.0.0.edgeloop",))
    assert office.api.artifact(job.job_id, "tiny-1.0.0.edgeloop") == b"made"
    assert office.api.job(job.job_id) == done
    assert office.api.jobs() == office.api.jobs(bundle="tiny@1.0.0") == [done]
    assert office.api.jobs(bundle="tiny@2.0.0") == []


def test_no_job_is_no_job(office: Office) -> None:
    assert office.api.claim_job("w1") is None


def test_job_of_another_worker_is_refused(office: Office) -> None:
    job = office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    office.api.claim_job("w1")
    with pytest.raises(Refused, match="w2"):
        office.api.update_job(job.job_id, JobUpdate(worker="w2", state=JobState.DONE))


def test_keys_and_their_spans_are_told(office: Office) -> None:
    told = office.api.keys()
    assert {role.repository for role in told.roles} == {"images", "director"}


def test_every_method_of_the_client_is_used_in_this_folder() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    methods = [name for name, _ in inspect.getmembers(CloudApi, inspect.isfunction) if not name.startswith("_")]
    used = set(re.findall(r"\.([a-z_]+)\(", text))
    assert [name for name in methods if name not in used] == []


def test_closing_the_client_closes_its_connections() -> None:
    with CloudApi(Operator(url="http://127.0.0.1:9", token="t")) as api:
        http = api._client
    assert http.is_closed


# ---- what is wrong is said


@pytest.mark.parametrize("sample_id", ["x", "a.b.c", "a.1", "a.1.²", f"a.{2**63}.1", "a.1.2.3", "..%2f..%2fcloud.db"])
def test_sample_id_that_is_none_is_turned_down(office: Office, sample_id: str) -> None:
    for response in (
        office.http.get(f"/api/v1/samples/{sample_id}/data"),
        office.http.put(f"/api/v1/samples/{sample_id}/label", content=to_json(LabelRequest(label="x", by="me"))),
    ):
        assert response.status_code in (400, 404)
        assert _error(response.content).code in ("invalid_input", "not_found")


def test_message_on_a_bad_sample_id_says_what_one_looks_like(office: Office) -> None:
    with pytest.raises(InvalidInput, match=r"DEVICE\.EPOCH\.SEQUENCE"):
        office.api.sample_data("x")


@pytest.mark.parametrize(
    "name", ["..", "../x", "..%2fx", "%2e%2e%2fx", ".hidden", "UPPER", "a b", "a%00b", "é", "x" * 101, "a%5cb", "-x"]
)
def test_artifact_name_that_is_not_allowed_is_turned_down(office: Office, name: str) -> None:
    job = office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    response = office.http.put(f"/api/v1/jobs/{job.job_id}/artifacts/{name}", content=b"evil")
    assert response.status_code in (400, 404, 405)
    assert office.api.job(job.job_id).artifacts == ()


def test_message_on_a_bad_artifact_name_says_what_is_allowed(office: Office) -> None:
    job = office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    with pytest.raises(InvalidInput, match="lower-case letters"):
        office.api.put_artifact(job.job_id, "UPPER", b"")


def test_artifact_that_was_never_made_is_not_found(office: Office) -> None:
    job = office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    with pytest.raises(NotFound, match="it has none"):
        office.api.artifact(job.job_id, "x")


def test_artifact_for_a_job_that_is_not_there_is_not_found(office: Office) -> None:
    with pytest.raises(NotFound, match="nothing"):
        office.api.put_artifact("nothing", "x", b"")


@pytest.mark.parametrize("bundle", ["tiny", "tiny@1", "tiny@01.0.0", "Tiny@1.0.0", "tiny@1.0.0\n", "../x@1.0.0", ""])
def test_bundle_ref_that_is_none_is_invalid_input(office: Office, bundle: str) -> None:
    office.cloud.enrol("a")
    for ask in (
        lambda: office.api.drift(bundle),
        lambda: office.api.start_rollout(RolloutRequest(bundle=bundle)),
        lambda: office.api.submit_job(JobRequest(kind="train", bundle=bundle)),
    ):
        with pytest.raises(InvalidInput, match="NAME@MAJOR"):
            ask()


def test_retraining_without_a_parent_is_invalid_input(office: Office) -> None:
    with pytest.raises(InvalidInput, match="parent"):
        office.api.submit_job(JobRequest(kind="retrain", bundle="tiny@1.0.0"))


@pytest.mark.parametrize("parent", ["tiny", "../x"])
def test_parent_that_is_no_bundle_ref_is_invalid_input(office: Office, parent: str) -> None:
    with pytest.raises(InvalidInput, match="NAME@MAJOR"):
        office.api.submit_job(JobRequest(kind="retrain", bundle="tiny@1.1.0", parent=parent))


@pytest.mark.parametrize("sha256", ["x", "A" * 64, "a" * 63, "..%2fx"])
def test_hash_that_is_none_is_turned_down(office: Office, sha256: str) -> None:
    assert office.http.put(f"/api/v1/files/{sha256}", content=b"x").status_code in (400, 404)


def test_hash_that_is_none_is_not_looked_for(office: Office) -> None:
    with pytest.raises(InvalidInput, match="SHA-256"):
        office.api.missing_files(["../../cloud.db"])


def test_file_of_another_hash_is_invalid_input(office: Office) -> None:
    with pytest.raises(InvalidInput, match="hash"):
        office.api.put_file(digest(b"a"), b"b")


@pytest.mark.parametrize("path", ["join-tokens", "bundles", "rollouts", "jobs", "jobs/claim", "files/missing"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"5", b'"x"', b"null"], ids=repr)
def test_body_that_is_not_the_wanted_json_is_invalid_input(office: Office, path: str, body: bytes) -> None:
    response = office.http.post(f"/api/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, _error(response.content).code) == (400, "invalid_input")


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("join-tokens", {"uses": 0}, "uses"),
        ("join-tokens", {"valid_s": -1}, "valid_s"),
        ("jobs", {"kind": "steal", "bundle": "tiny@1.0.0"}, "kind"),
        ("jobs", {"kind": "train"}, "bundle"),
        ("rollouts", {"bundle": "tiny@1.0.0", "gate": {"max_failed": -1}}, "max_failed"),
        ("jobs/claim", {"worker": ""}, "worker"),
    ],
)
def test_message_names_the_field_that_is_wrong(office: Office, path: str, body: object, word: str) -> None:
    response = office.http.post(f"/api/v1/{path}", json=body)
    assert (response.status_code, word in _error(response.content).message) == (400, True)


@pytest.mark.parametrize(
    "query",
    [f"devices/{CAMERA}/readings?after=-1", f"devices/{CAMERA}/readings?after={10**30}", "samples?limit=0",
     "samples?limit=10001", "samples?limit=x", "samples?labelled=perhaps", "analysis/drift", "analysis/drift?bundle=x"],
)  # fmt: skip
def test_query_that_is_wrong_is_invalid_input(office: Office, query: str) -> None:
    response = office.http.get(f"/api/v1/{query}")
    assert (response.status_code, _error(response.content).code) == (400, "invalid_input")


@pytest.mark.parametrize("path", ["rollouts/nothing", "jobs/nothing", "nothing", "samples/camera-1.1.1/data"])
def test_what_is_not_there_is_not_found(office: Office, path: str) -> None:
    response = office.http.get(f"/api/v1/{path}")
    assert (response.status_code, _error(response.content).code) == (404, "not_found")


def test_request_of_a_newer_schema_is_turned_down(office: Office) -> None:
    request = PublishRequest(manifest=b"{}", targets_metadata=b"{}", schema=99)
    for ask in (
        lambda: office.api.publish(request),
        lambda: office.api.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0", schema=99)),
    ):
        with pytest.raises(InvalidInput, match="schema version 99"):
            ask()


# ---- schema


def test_schema_lists_the_routes(office: Office) -> None:
    listed = {path for _, path in _routes(office)}
    assert {
        "/api/v1/status",
        "/api/v1/join-tokens",
        "/api/v1/bundles",
        "/api/v1/rollouts/{rollout_id}/abort",
        "/api/v1/samples/{sample_id}/label",
        "/api/v1/jobs/{job_id}/artifacts/{name}",
    } <= listed


def test_schema_leaves_the_devices_routes_out(office: Office) -> None:
    assert not any(path.startswith("/v1") for _, path in _routes(office))


def test_schema_names_the_types_of_the_contract(office: Office) -> None:
    schemas = office.http.get("/api/schema/openapi.json").json()["components"]["schemas"]
    assert {"RolloutRequest", "JobView", "DriftRow"} <= {name.rpartition("_")[2] for name in schemas}
