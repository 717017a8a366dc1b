"""Roles, tokens, the log and revocation, over the real app in this process."""

import asyncio
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient
from typer.testing import CliRunner

from edgeloop.bundle.archive import digest
from edgeloop.cli.app import app as edgeloop
from edgeloop.cloud.app import make_app
from edgeloop.cloud.door import SCHEME
from edgeloop.cloud.store import access, fleet
from edgeloop.contracts.access import AccessEntry, AccessRequest, Role
from edgeloop.contracts.api import JobRequest, JoinTokenRequest
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import ErrorReply, SendRequest, SyncRequest
from edgeloop.contracts.states import Kind
from edgeloop.hub.limits import Limits
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from small_cloud import SmallCloud, enrol_request, event, report

CAMERA = "camera-1"
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass
class Office:
    """A cloud's app, and clients with tokens of any role."""

    cloud: SmallCloud
    http: TestClient
    owner: CloudApi

    def holder(self, role: Role, *, valid_s: float | None = None) -> CloudApi:
        """The API as somebody with a new token sees it."""
        name = f"{role}-{len(self.owner.access())}"
        made = self.owner.add_access(AccessRequest(name=name, role=role, valid_s=valid_s))
        return CloudApi(Operator(url="http://cloud.test", token=made.token), client=_As(self.http, made.token))

    def routes(self) -> list[tuple[str, str, Role]]:
        """Method, path and needed role of every route that the OpenAPI lists."""
        paths = self.http.get("/api/schema/openapi.json").json()["paths"]
        return [
            (method.upper(), path, Role(operation["security"][0][SCHEME][0]))
            for path, methods in paths.items()
            for method, operation in methods.items()
            if method in METHODS
        ]


class _As:
    """The test client with somebody's token."""

    def __init__(self, http: TestClient, token: str) -> None:
        self._http = http
        self._token = token

    def request(self, method: str, path: str, **options: object) -> object:
        headers = {**dict(options.pop("headers", {}) or {}), "authorization": f"Bearer {self._token}"}  # type: ignore[call-overload]
        return self._http.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


@pytest.fixture
def office(cloud: SmallCloud) -> Iterator[Office]:
    token = read_operator(cloud.config.folder / "operator.json").token
    app = make_app(cloud.config, cloud.stores, cloud.waker)
    with TestClient(app, base_url="http://cloud.test", raise_server_exceptions=False) as http:
        owner = CloudApi(Operator(url="http://cloud.test", token=token), client=_As(http, token))  # type: ignore[arg-type]
        yield Office(cloud, http, owner)


# ---- roles


def test_every_route_states_the_role_that_it_needs(office: Office) -> None:
    paths = office.http.get("/api/schema/openapi.json").json()["paths"]
    unstated = [
        (method, path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method in METHODS and not operation.get("security")
    ]
    assert unstated == []
    assert {role for _, _, role in office.routes()} == set(Role)


@pytest.mark.parametrize("role", list(Role))
def test_every_route_turns_down_exactly_the_roles_below_its_own(office: Office, role: Role) -> None:
    client = office.holder(role)._client
    wrong = []
    for method, path, needed in office.routes():
        status = client.request(method, path.replace("{", "").replace("}", "")).status_code
        if (status == 403) is role.covers(needed):
            wrong.append((method, path, needed, status))
    assert wrong == []


def test_whoever_had_a_token_before_roles_is_an_owner(office: Office) -> None:
    assert [(view.name, view.role, view.created_by) for view in office.owner.access()] == [("operator", Role.OWNER, "")]


def test_message_says_which_role_is_needed(office: Office) -> None:
    with pytest.raises(Refused, match=r"viewer.*make-join-token needs operator"):
        office.holder(Role.VIEWER).make_join_token(JoinTokenRequest())


# ---- tokens


def test_only_the_hash_of_a_token_is_kept(office: Office) -> None:
    made = office.owner.add_access(AccessRequest(name="alice", role=Role.VIEWER))
    files = office.cloud.config.folder.glob("cloud.db*")
    assert not any(made.token.encode() in path.read_bytes() for path in files)


def test_token_is_worth_nothing_from_the_request_after_its_revocation_on(office: Office) -> None:
    alice = office.holder(Role.OPERATOR)
    alice.status()
    (name,) = {view.name for view in office.owner.access()} - {"operator"}
    office.owner.revoke_access(name)
    with pytest.raises(Refused, match="revoked"):
        alice.status()


def test_token_expires(office: Office) -> None:
    caller = AccessRequest(name="guest", role=Role.VIEWER, valid_s=60)
    token = office.cloud.database.write_now(lambda c: access.add_token(c, caller, by="", now_s=1000.0))
    good = office.cloud.database.read_now(lambda c: access.find_caller(c, token, now_s=1059.0))
    assert good.name == "guest"
    with pytest.raises(Refused, match="expired 0 s ago"):
        office.cloud.database.read_now(lambda c: access.find_caller(c, token, now_s=1060.0))


def test_last_owner_cannot_be_removed(office: Office) -> None:
    with pytest.raises(Refused, match="last owner"):
        office.owner.revoke_access("operator")
    office.owner.status()


def test_owner_whose_token_expires_does_not_count_as_the_last(office: Office) -> None:
    office.holder(Role.OWNER, valid_s=3600)
    with pytest.raises(Refused, match="last owner"):
        office.owner.revoke_access("operator")


def test_owner_may_go_when_another_one_stays(office: Office) -> None:
    second = office.holder(Role.OWNER)
    second.revoke_access("operator")
    with pytest.raises(Refused):
        office.owner.status()
    second.status()


def test_name_has_one_token(office: Office) -> None:
    office.owner.add_access(AccessRequest(name="alice", role=Role.VIEWER))
    with pytest.raises(InvalidInput, match="has a token already"):
        office.owner.add_access(AccessRequest(name="alice", role=Role.OWNER))


@pytest.mark.parametrize("name", ["nobody", "..", "a/b", "x" * 300, "operator ", "\u2603"])
def test_revoking_a_name_that_has_none_is_told(office: Office, name: str) -> None:
    with pytest.raises((NotFound, InvalidInput)):
        office.owner.revoke_access(name)


def test_owner_is_made_at_the_database_when_all_tokens_are_lost(office: Office) -> None:
    request = AccessRequest(name="recovered-1", role=Role.OWNER)
    token = office.cloud.database.write_now(lambda c: access.recover(c, request, now_s=time.time()))
    again = CloudApi(Operator(url="http://cloud.test", token=token), client=_As(office.http, token))  # type: ignore[arg-type]
    assert [(one.who, one.action, one.target) for one in again.access_log()] == [("recover", "recover", "recovered-1")]


def test_address_with_too_many_wrong_tokens_is_held_up_and_told_for_how_long(office: Office) -> None:
    answers = [office.http.get("/api/v1/status", headers={"authorization": "Bearer x"}) for _ in range(102)]
    assert {one.status_code for one in answers[:100]} == {403}
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert msgspec.json.decode(answers[-1].content, type=ErrorReply).code == "unavailable"
    with pytest.raises(Unavailable) as held:
        office.owner.status()
    assert held.value.retry_after_s > 0


# ---- the log


def test_log_says_who_did_what_and_what_came_of_it(office: Office) -> None:
    made = office.owner.make_join_token(JoinTokenRequest(note="the hall"))
    with pytest.raises(NotFound):
        office.owner.revoke_device("nobody")
    with pytest.raises(Refused):
        office.holder(Role.VIEWER).submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    log = [(one.who, one.action, one.target, one.outcome) for one in office.owner.access_log()]
    assert log == [
        ("viewer-1", "submit", "", "refused"),
        ("operator", "add-access", "", "done"),
        ("operator", "revoke-device", "nobody", "not_found"),
        ("operator", "make-join-token", "", "done"),
    ]
    assert office.owner.access_log()[-1].detail == f"{made.token_id} for 1 the hall"


def test_looking_is_not_logged(office: Office) -> None:
    office.owner.status()
    office.owner.devices()
    assert office.owner.access_log() == []


def test_log_is_paged(office: Office) -> None:
    for _ in range(3):
        office.owner.make_join_token(JoinTokenRequest())
    newest, *_ = office.owner.access_log(limit=1)
    assert [one.entry for one in office.owner.access_log(before=newest.entry)] == [newest.entry - 1, newest.entry - 2]


@pytest.mark.parametrize("table", ["access_log", "access_outcomes"])
@pytest.mark.parametrize("change", ["UPDATE {} SET at_s = 0", "DELETE FROM {}"])
def test_database_itself_turns_down_a_change_of_the_log(office: Office, table: str, change: str) -> None:
    office.owner.make_join_token(JoinTokenRequest())
    with pytest.raises(sa.exc.IntegrityError, match="append-only"):
        office.cloud.database.write_now(lambda c: c.execute(sa.text(change.format(table))))
    assert office.owner.access_log()[0].who == "operator"


def test_no_secret_is_in_the_log(office: Office) -> None:
    join = office.owner.make_join_token(JoinTokenRequest())
    token = office.owner.add_access(AccessRequest(name="alice", role=Role.VIEWER)).token
    text = str(office.owner.access_log())
    assert parse_join_token(join.token).secret not in text
    assert token not in text


def test_refusals_of_one_token_are_counted_and_not_a_line_each(office: Office) -> None:
    """A viewer's token must not fill the disk."""
    guest = office.holder(Role.VIEWER)
    for _ in range(50):
        with pytest.raises(Refused):
            guest.submit_job(JobRequest(kind="train", bundle="tiny@1.0.0"))
    log = office.owner.access_log()
    assert len(log) < 30
    assert {one.outcome for one in log if one.who == "viewer-1"} == {"refused"}


def test_what_one_token_may_change_in_a_second_is_bounded(cloud: SmallCloud) -> None:
    config = dataclasses.replace(cloud.config, limits=Limits(entries_hz=0.001, entries_burst=3))
    headers = {"authorization": f"Bearer {read_operator(config.folder / 'operator.json').token}"}
    with TestClient(make_app(config, cloud.stores, cloud.waker), base_url="http://cloud.test") as http:
        answers = [http.post("/api/v1/join-tokens", json={}, headers=headers).status_code for _ in range(5)]
        assert http.get("/api/v1/status", headers=headers).status_code == 200, "looking goes on"
        lines = len(http.get("/api/v1/access/log", headers=headers).json())
    assert (answers, lines) == ([201, 201, 201, 429, 429], 3)


def test_outcome_stands_in_the_log_before_the_answer_begins(cloud: SmallCloud) -> None:
    """Asked below HTTP: what the log holds at the very moment at which the answer's first bytes are handed on."""
    token = read_operator(cloud.config.folder / "operator.json").token
    app = make_app(cloud.config, cloud.stores, cloud.waker)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/v1/join-tokens", "raw_path": b"/api/v1/join-tokens", "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")],
        "client": ("10.0.0.1", 1), "server": ("cloud.test", 80),
    }  # fmt: skip
    seen: list[tuple[int, list[str]]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            log = cloud.database.read_now(lambda c: access.list_log(c, before=None, limit=10))
            seen.append((message["status"], [one.outcome for one in log]))

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert seen == [(201, ["done"])]


def _log_of(cloud: SmallCloud, days_ago: list[float]) -> list[int]:
    """Lines of these ages; returns their numbers."""
    who, now_s = access.Caller("alice", Role.OWNER), time.time()

    def add(connection: sa.Connection) -> list[int]:
        numbers = []
        for days in days_ago:
            at_s = now_s - days * 86_400
            numbers.append(access.note_request(connection, who, action="a", target="t", address="x", now_s=at_s))
            access.note_outcome(connection, numbers[-1], outcome="done", detail="d", now_s=at_s)
        return numbers

    return cloud.database.write_now(add)


def test_older_part_of_the_log_is_exported_and_cut(cloud: SmallCloud, tmp_path: Path) -> None:
    _, _, newest = _log_of(cloud, [500, 400, 10])
    out = tmp_path / "log.jsonl"
    done = CliRunner().invoke(edgeloop, ["access", "cut", str(out), "--dir", str(cloud.config.folder)])
    assert done.exit_code == 0, done.output
    exported = [msgspec.json.decode(line, type=AccessEntry) for line in out.read_bytes().splitlines()]
    assert [one.outcome for one in exported] == ["done", "done"]
    cut, kept = cloud.database.read_now(lambda c: access.list_log(c, before=None, limit=10))
    assert (kept.entry, cut.action, cut.detail) == (newest, "cut-log", f"exported as {digest(out.read_bytes())}")
    for change in ("UPDATE access_log SET at_s = 0", "DELETE FROM access_log", "DELETE FROM access_outcomes"):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"):
            cloud.database.write_now(lambda c, change=change: c.execute(sa.text(change)))


def test_log_is_not_cut_into_a_file_that_is_there(cloud: SmallCloud, tmp_path: Path) -> None:
    _log_of(cloud, [500])
    (out := tmp_path / "log.jsonl").write_text("an earlier export")
    done = CliRunner().invoke(edgeloop, ["access", "cut", str(out), "--dir", str(cloud.config.folder)])
    assert (type(done.exception), out.read_text()) == (InvalidInput, "an earlier export")
    assert len(cloud.database.read_now(lambda c: access.list_log(c, before=None, limit=10))) == 1


# ---- join tokens and revocation


def _join(office: Office, token: str, name: str = CAMERA, *, key_number: int = 0) -> None:
    secret = parse_join_token(token).secret
    request = enrol_request(name, secret, key_number=key_number)
    office.cloud.clock.now_s = time.time()
    asyncio.run(office.cloud.hub.enrol(request))


def test_join_tokens_are_listed_with_whom_they_admitted(office: Office) -> None:
    made = office.owner.make_join_token(JoinTokenRequest(uses=2, labels={"site": "hall"}, note="hall"))
    _join(office, made.token)
    (view,) = office.owner.join_tokens()
    assert (view.token_id, view.uses, view.uses_left, view.made_by) == (made.token_id, 2, 1, "operator")
    assert (view.admitted, view.labels) == ((CAMERA,), {"site": "hall"})
    assert made.token not in str(view)


def test_revoked_join_token_admits_nobody_else(office: Office) -> None:
    made = office.owner.make_join_token(JoinTokenRequest(uses=2))
    _join(office, made.token)
    assert office.owner.revoke_join_token(made.token_id).revoked_at_s is not None
    with pytest.raises(Refused, match="revoked"):
        _join(office, made.token, "camera-2")
    assert [view.device_id for view in office.owner.devices()] == [CAMERA]


@pytest.mark.parametrize("wanted", ["", "%", "_" * 12, "0" * 12])
def test_join_token_that_is_not_there_is_not_found(office: Office, wanted: str) -> None:
    office.owner.make_join_token(JoinTokenRequest())
    with pytest.raises(NotFound):
        office.owner.revoke_join_token(wanted)
    assert office.owner.join_tokens()[0].revoked_at_s is None


def test_revoked_device_is_unknown_at_its_next_request(office: Office) -> None:
    office.cloud.enrol(CAMERA)
    assert office.owner.revoke_device(CAMERA).revoked_at_s is not None
    assert asyncio.run(office.cloud.hub.public_key(CAMERA)) is None


def test_held_request_of_a_device_that_is_revoked_ends(cloud: SmallCloud) -> None:
    cloud.enrol(CAMERA)

    async def revoked_while_waiting() -> None:
        waiting = asyncio.create_task(cloud.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA),), wait_s=30.0)))
        while not cloud.waker._waiting:
            await asyncio.sleep(0)
        await cloud.database.write(lambda c: fleet.revoke(c, CAMERA, now_s=1.0))
        cloud.conductor.wake({CAMERA})
        async with asyncio.timeout(10):
            await waiting

    with pytest.raises(Refused, match="was revoked"):
        asyncio.run(revoked_while_waiting())


def test_revoked_device_may_not_come_back_by_itself(office: Office) -> None:
    token = office.owner.make_join_token(JoinTokenRequest(uses=9)).token
    _join(office, token)
    office.owner.revoke_device(CAMERA)
    for key_number in (0, 1):
        with pytest.raises(Refused, match="fleet allow"):
            _join(office, token, key_number=key_number)
    assert asyncio.run(office.cloud.hub.public_key(CAMERA)) is None


def test_revoked_device_comes_back_with_a_new_key_once_that_is_allowed(office: Office) -> None:
    token = office.owner.make_join_token(JoinTokenRequest(uses=2)).token
    _join(office, token)
    before = asyncio.run(office.cloud.hub.public_key(CAMERA))
    office.owner.revoke_device(CAMERA)
    assert office.owner.allow_device(CAMERA).may_rejoin
    assert asyncio.run(office.cloud.hub.public_key(CAMERA)) is None  # not before it enrols
    _join(office, token, key_number=1)
    after = asyncio.run(office.cloud.hub.public_key(CAMERA))
    assert after not in (None, before)
    office.owner.revoke_device(CAMERA)
    with pytest.raises(Refused, match="fleet allow"):
        _join(office, token)  # the permission was for once


def test_device_in_good_standing_needs_no_permission(office: Office) -> None:
    office.cloud.enrol(CAMERA)
    with pytest.raises(InvalidInput, match="was not revoked"):
        office.owner.allow_device(CAMERA)


def test_node_hears_of_a_revoked_device_and_may_not_speak_for_it(cloud: SmallCloud) -> None:
    cloud.enrol("gateway", kind=Kind.NODE)
    cloud.enrol(CAMERA, "camera-2", via="gateway")
    cloud.database.write_now(lambda c: fleet.revoke(c, CAMERA, now_s=1.0))
    said = SyncRequest(reports=(report("gateway"), report(CAMERA), report("camera-2")))
    reply = asyncio.run(cloud.hub.sync("gateway", said))
    assert [(one.device_id, one.revoked) for one in reply.desired] == [(CAMERA, True)]
    batch = SendRequest(events=(event(1), event(1, device_id="camera-2")))
    sent = asyncio.run(cloud.hub.send("gateway", batch))
    assert (sent.accepted, [one.index for one in sent.rejected]) == (1, [0])
    with pytest.raises(Refused, match="was revoked"):
        asyncio.run(cloud.hub.fetch("gateway", f"director/{CAMERA}/metadata/timestamp.json"))
    seen = {view.device_id: view.last_seen_s for view in cloud.database.read_now(fleet.list_devices)}
    assert (seen[CAMERA], seen["camera-2"] is None) == (None, False)
